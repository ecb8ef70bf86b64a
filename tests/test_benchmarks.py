"""The benchmarks run; what they show is for a quiet machine."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "benchmarks"


@pytest.fixture
def run(monkeypatch):
    """The command, in this process."""
    monkeypatch.syspath_prepend(FOLDER)

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["run.py", *arguments])
        return importlib.import_module("run").main()

    return call


def test_help_lists_the_cases(run, capsys):
    with pytest.raises(SystemExit, match="0"):
        run("--help")
    out = capsys.readouterr().out
    assert "--threads" in out
    assert "elastic-net" in out


def test_every_case_runs(tmp_path):
    """One test, since the run takes long and tests are spread over processes."""
    page = tmp_path / "table.md"
    command = [sys.executable, FOLDER / "run.py", "--smoke", "--threads", "1"]
    command += ["--markdown", page, "--plots", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = page.read_text()
    assert "not compared" not in table, "contenders ended at different solutions"
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    titles = {line.split("|")[1].strip() for line in lines[2:]}
    # The epoch has two more titles, for its shares of the limit, and the searches in
    # full batches three, for the optimizers with and without L1.
    assert len(titles) == 22
    # What the epoch and the gradient would reach if they took no more than their parts.
    assert len(re.findall(r"would be \d\.\d\d of the limit", table)) == 2
    for name in ("time_against_rows", "suboptimality"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_docs_are_for_the_full_size(run, capsys):
    with pytest.raises(SystemExit, match="2"):
        run("--docs", "--quick")
    assert "full size" in capsys.readouterr().err


def test_table_goes_between_the_marks(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    table = importlib.import_module("table")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: begin -->\nold\n<!-- table: end -->\nafter\n")
    table.fill(page, [table.Row("a case", "a peer", 2.0)])
    text = page.read_text()
    assert text.startswith("before\n<!-- table: begin -->\n")
    assert text.endswith("<!-- table: end -->\nafter\n")
    assert "| a case | a peer | 2.0 |" in text
    assert "old" not in text


def test_docs_have_the_marks():
    page = (FOLDER.parents[1] / "docs" / "benchmarks.md").read_text()
    assert page.count("<!-- table: begin -->") == 1
    assert page.count("<!-- table: end -->") == 1
