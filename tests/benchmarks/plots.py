"""The two figures of the documentation."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count, takewhile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from contest import Scale
from data import SHAPES, Data, Shape, gaussian
from peers import PEERS, Settings, present
from solution import Solution, objective

# Okabe and Ito's colours, which colour-blind readers can tell apart. The package's own
# curves are solid and thick, those of others dashed and thin.
LOOKS = {
    "torchlogistic sgd": ("#0072B2", "o"),
    "torchlogistic lbfgs": ("#D55E00", "s"),
    "torchlogistic newton": ("#009E73", "^"),
    "LogisticRegression lbfgs": ("#E69F00", "s"),
    "LogisticRegression newton-cholesky": ("#56B4E9", "^"),
    "LogisticRegression saga": ("#CC79A7", "v"),
    "SGDClassifier": ("#000000", "D"),
    "skorch": ("#CC79A7", "P"),
    "scikit-learn-intelex lbfgs": ("#000000", "D"),
    "glum irls-ls": ("#999999", "X"),
}
PRECISION = 1e-13  # below, the objective itself is not exact
PATIENCE = 4  # refits in a row that are no better: the curve has ended


def draw_curve(
    ax: Axes, name: str, x: list[float], y: list[float], more: str = ""
) -> None:
    colour, marker = LOOKS[name]
    own = name.startswith("torchlogistic")
    ax.plot(
        x,
        y,
        label=name + more,
        color=colour,
        marker=marker,
        markersize=5 if own else 4,
        linewidth=2.2 if own else 1.3,
        linestyle="-" if own else "--",
        zorder=3 if own else 2,
    )


def finish(ax: Axes, *, xlabel: str = "", ylabel: str = "", title: str = "") -> None:
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    ax.set_title(title, loc="left", fontsize=11)
    ax.grid(color="0.9", linewidth=0.7)
    ax.set_axisbelow(True)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_formatter(NullFormatter())
    ax.spines[["top", "right"]].set_visible(False)


# Time against rows

# Contender -> most rows.
GROWING = {
    "torchlogistic sgd": 10**7,
    "torchlogistic lbfgs": 10**7,
    "LogisticRegression lbfgs": 10**7,
    "SGDClassifier": 10**7,
    "skorch": 10**5,
}


def time_against_rows(folder: Path, scale: Scale) -> Path:
    """Whole fits of 10^3 to 10^7 rows of 20 features."""
    sizes = sorted({scale.rows(10**k) for k in range(3, 8)})
    X, y = gaussian(sizes[-1], 20)
    settings = Settings(alpha=1e-4, batch_size=256, epochs=1)
    figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name in present(list(GROWING)):
        PEERS[name](X[: sizes[0]], y[: sizes[0]], settings)  # warm
        # The slow ones do not take long at the sizes that they are given.
        own_sizes = [n for n in sizes if n <= max(sizes[0], scale.rows(GROWING[name]))]
        # SGDClassifier, skorch: one epoch, without a penalty, which costs them nothing.
        fits = [partial(PEERS[name], X[:n], y[:n], settings) for n in own_sizes]
        times = [median_time(fit)[0] for fit in fits]
        draw_curve(ax, name, own_sizes, times)
    finish(ax, xlabel="rows, of 20 features", ylabel="seconds of a fit")
    ax.legend(frameon=False, fontsize=9)
    path = folder / "time_against_rows.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def median_time(fit: Callable[[], Solution]) -> tuple[float, Solution]:
    """Seconds of a fit, the median of several where it is short, and its result."""
    times: list[float] = []
    while sum(times) < 0.2 and len(times) < 5:
        start = time.perf_counter()
        solution = fit()
        times.append(time.perf_counter() - start)
    return statistics.median(times), solution


# Suboptimality

CURVES = [
    "torchlogistic sgd",
    "torchlogistic lbfgs",
    "torchlogistic newton",
    "LogisticRegression lbfgs",
    "LogisticRegression newton-cholesky",
    "LogisticRegression saga",
    "scikit-learn-intelex lbfgs",
    "glum irls-ls",
]
REFERENCES = ["torchlogistic lbfgs", "LogisticRegression lbfgs"]
BUDGET = 4.0  # seconds for all refits of a curve


def suboptimality(folder: Path, scale: Scale) -> Path:
    """Objective minus optimum against seconds, on four shapes of data."""
    figure, axes = plt.subplots(2, 2, figsize=(9, 7.5), layout="constrained")
    budget = BUDGET * scale.size if scale.least_rounds == 1 else BUDGET
    names = present(CURVES)
    for ax, (title, shape) in zip(axes.flat, SHAPES.items(), strict=True):
        panel(ax, title, shape, names, scale, budget)
    for ax in axes[1]:
        ax.set_xlabel("seconds")
    for ax in axes[:, 0]:
        ax.set_ylabel("objective minus optimum")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )
    path = folder / "suboptimality.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def panel(
    ax: Axes, title: str, shape: Shape, names: list[str], scale: Scale, budget: float
) -> None:
    n_rows, n_features = scale.rows(shape.n_rows), scale.columns(shape.n_features)
    data = gaussian(
        n_rows,
        n_features,
        dtype="float64",
        correlation=shape.correlation,
        intercept=shape.intercept,
    )
    settings = Settings(
        alpha=shape.alpha, tol=1e-14, lr=0.02, momentum=0.9, batch_size="auto"
    )
    curves = {name: list(refits(name, data, settings, budget)) for name in names}
    values = [value for curve in curves.values() for _, value in curve]
    best = min(values + [converged(name, data, settings) for name in REFERENCES])
    for name, curve in curves.items():
        shown = down_to_precision([(t, v - best) for t, v in curve])
        more = ", momentum 0.9" if name == "torchlogistic sgd" else ""
        draw_curve(ax, name, *map(list, zip(*shown, strict=True)), more)
    finish(ax, title=f"{title}: {n_rows:,} x {n_features:,}")
    ax.set_ylim(bottom=PRECISION / 3)


def converged(name: str, data: Data, settings: Settings) -> float:
    """The objective where a solver ends that may take as long as it wants."""
    X, y = data
    solution = PEERS[name](X, y, replace(settings, max_iter=5000))
    return objective(X, y, solution, settings.alpha)


def down_to_precision(curve: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A curve up to where it arrives at the optimum, which is drawn at the floor."""
    above = list(takewhile(lambda point: point[1] > PRECISION, curve))
    return above + [(t, PRECISION) for t, _ in curve[len(above) : len(above) + 1]]


def refits(
    name: str, data: Data, settings: Settings, budget: float
) -> Iterator[tuple[float, float]]:
    """Seconds and objective of fits that are allowed more and more iterations.

    Each starts anew, as benchopt does it: no solver has to report where it is.
    """
    X, y = data
    few = replace(settings, epochs=1, max_iter=1)
    PEERS[name](X, y, few)  # warm
    begin, lowest, idle = time.perf_counter(), np.inf, 0
    for k in count():
        n = max(k + 1, round(1.4**k))
        allowed = replace(settings, epochs=n, max_iter=n)
        seconds, solution = median_time(partial(PEERS[name], X, y, allowed))
        value = objective(X, y, solution, settings.alpha)
        yield seconds, value
        idle = 0 if value < lowest - PRECISION else idle + 1
        lowest = min(lowest, value)
        if idle == PATIENCE or time.perf_counter() - begin > budget:
            return
