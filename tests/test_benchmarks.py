"""The benchmarks run; what they show is for a quiet machine."""

import importlib
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression

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


@pytest.mark.parametrize("optimizer", ["lbfgs", "newton", "sgd"])
def test_solver_for_benchopt(optimizer, monkeypatch):
    """What benchopt does with it, of which no more than the base class is needed."""
    benchopt = types.ModuleType("benchopt")
    benchopt.BaseSolver = object
    monkeypatch.setitem(sys.modules, "benchopt", benchopt)
    monkeypatch.syspath_prepend(FOLDER / "benchopt")
    solver = importlib.import_module("torchlogistic_solver").Solver()
    solver.optimizer = optimizer
    X, y = make_classification(200, 5, flip_y=0.2, random_state=0)
    y = 2 * y - 1
    objective = {"X": X, "y": y, "lmbd": 1.0}
    assert solver.skip(**objective) == (False, None)
    assert solver.skip(**objective, fit_intercept=True)[0]
    assert solver.skip(csr_array(X), y, 1.0)[0]
    solver.set_objective(**objective, fit_intercept=False)

    def value(beta):
        return np.logaddexp(0, -y * (X @ beta)).sum() + beta @ beta / 2

    found = []
    for n_iter in (0, 1, 200):
        solver.run(n_iter)
        found.append(value(solver.get_result()["beta"]))
    reference = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10).fit(X, y)
    least = value(reference.coef_[0])
    assert found[0] == value(np.zeros(5)) > found[1] >= found[2]
    assert found[2] == pytest.approx(least, rel=1e-2 if optimizer == "sgd" else 1e-9)


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
    # full batches and several classes three each, for the optimizers and sizes.
    assert len(titles) == 27
    # What the epoch and the gradient would reach if they took no more than their parts.
    assert len(re.findall(r"would be \d\.\d\d of the limit", table)) == 2
    for name in ("time_against_rows", "suboptimality"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


@pytest.mark.usefixtures("run")
def test_nothing_is_measured_beside_threads_that_spin(monkeypatch):
    timing = importlib.import_module("timing")
    spent, now, naps = iter([0, 0.01, 0.02, 0.03, 0.04, 0.041]), iter(range(99)), []
    clock = types.SimpleNamespace(
        process_time=lambda: next(spent),
        thread_time=lambda: 0.0,
        perf_counter=lambda: next(now),
        sleep=naps.append,
    )
    monkeypatch.setattr(timing, "time", clock)
    timing.rest()
    assert len(naps) == 2


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
