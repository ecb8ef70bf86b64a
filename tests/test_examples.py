"""Every example runs, prints and draws."""

import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

import torchlogistic._plan as plan

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("plot_*.py"))


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_runs(path, capsys):
    runpy.run_path(str(path))
    assert plt.get_fignums()


def test_chapter_prints_equal_numbers(capsys):
    """What the chapter prints and what we print, column by column."""
    runpy.run_path(str(EXAMPLES[0].with_name("plot_chapter.py")))
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 21
    for line in lines:
        assert line[21:54].strip() == line[54:].strip()


def test_chapter_saves_its_figures(tmp_path, monkeypatch, capsys):
    path = EXAMPLES[0].with_name("plot_chapter.py")
    monkeypatch.setattr("sys.argv", [str(path), "--save", str(tmp_path)])
    runpy.run_path(str(path), run_name="__main__")
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {"chapter.png", "probability_line.png", "curves.png"}
    # The picture of the README is one of them, whatever the version of matplotlib.
    images = EXAMPLES[0].parents[1] / "docs" / "images"
    committed, saved = (
        plt.imread(folder / "chapter.png") for folder in (images, tmp_path)
    )
    assert committed.shape == saved.shape
    assert np.abs(committed - saved).mean() < 0.03


def test_grid_search_saves_its_figure(tmp_path, monkeypatch, capsys):
    """From one joint run, of which the surface is a part."""
    runs = []
    fit_together = plan.fit_together
    monkeypatch.setattr(
        plan,
        "fit_together",
        lambda members, folds, *advance: (
            runs.append((len(members), len(folds))) or fit_together(members, folds)
        ),
    )
    path = EXAMPLES[0].with_name("plot_grid_search.py")
    monkeypatch.setattr("sys.argv", [str(path), "--save", str(tmp_path)])
    result = runpy.run_path(str(path), run_name="__main__")
    assert [saved.name for saved in tmp_path.glob("*.png")] == ["grid_search.png"]
    assert runs == [(187, 5)]
    assert "935 models" in capsys.readouterr().out
    assert result["scores"].max() == result["search"].best_score_ > 0.995
