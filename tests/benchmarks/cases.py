"""The cases: what is compared with what, on which data, and what it should show."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from contest import (
    Goals,
    Scale,
    compared,
    ends_elsewhere,
    fair,
    race_to,
)
from data import Data, chapter, gaussian, several_classes
from memory import share_of_X
from peers import PEERS, Settings
from searches import (
    BATCHED,
    FULL_BATCH_SEARCHES,
    SEARCHES,
    SLOW,
    AlphaGrid,
    Grid,
    breast_cancer,
    scores_differ,
)
from solution import Solution, gradient, gradient_norm, objective
from table import Row, at_least, at_most, seconds
from timing import (
    Measure,
    Times,
    alternate,
    gathered,
    multiplied,
    read_only,
    timed,
)
from torchlogistic import TorchLogisticClassifier
from torchlogistic._gradient import FullGradient
from torchlogistic._loss import make_loss
from torchlogistic._objective import Objective, allocate_coefficients
from torchlogistic._rows import Rows, view_block
from torchlogistic._threads import Team

OWN = "torchlogistic"
SGD, LBFGS, NEWTON = (f"{OWN} {name}" for name in ("sgd", "lbfgs", "newton"))
LARGE = 1_000_000, 100


@dataclass(frozen=True)
class Case:
    """A title as it stands in the table, and a function of title and scale."""

    title: str
    run: Callable[[str, Scale], Iterator[Row]]


def large(scale: Scale) -> Data:
    return gaussian(scale.rows(LARGE[0]), scale.columns(LARGE[1]))


# Mini-batches


def whole_fit(
    title: str,
    scale: Scale,
    *,
    shape: tuple[int, int] | None,
    settings: Settings,
    goals: Goals,
    rounds: int,
) -> Iterator[Row]:
    """Whole fits of the same number of epochs."""
    X, y = chapter() if shape is None else gaussian(scale.rows(shape[0]), shape[1])
    names, rows = fair(title, goals, lambda name: ends_elsewhere(name, X, y, settings))
    yield from rows
    fits = {name: timed(partial(PEERS[name], X, y, settings)) for name in [SGD, *names]}
    times = alternate(fits, scale.rounds(rounds))
    yield from compared(title, times, SGD, goals, scale)


def epoch_of(name: str, X: np.ndarray, y: np.ndarray, s: Settings) -> Measure:
    """Seconds of an epoch without the set-up: a third of three epochs less one."""
    fits = [timed(partial(PEERS[name], X, y, replace(s, epochs=n))) for n in (1, 3)]

    def measure() -> float:
        one, three = (fit() for fit in fits)
        return max((three - one) / 2, 1e-9)

    return measure


def scaled(measure: Measure, factor: float) -> Measure:
    return lambda: measure() * factor


def epochs(title: str, scale: Scale) -> Iterator[Row]:
    """An epoch over many rows, and what reading them takes."""
    X, y = large(scale)
    s = Settings(batch_size=4096)
    # Against rows is linear, and these take long.
    parts = {"SGDClassifier": 1, "skorch": 10, "slicing loop": 1, "DataLoader loop": 10}
    goals: Goals = {"SGDClassifier": 10, "skorch": 80, "slicing loop": 8}
    goals["DataLoader loop"] = None

    def part(name: str) -> Data:
        return X[: len(X) // parts[name]], y[: len(X) // parts[name]]

    names, rows = fair(title, parts, lambda name: ends_elsewhere(name, *part(name), s))
    yield from rows
    in_order = replace(s, shuffle=False)
    measures = {SGD: epoch_of(SGD, X, y, s), "in order": epoch_of(SGD, X, y, in_order)}
    measures["limit"], measures["gathered"] = read_only(X), gathered(X, s.batch_size)
    for name in names:
        measures[name] = scaled(epoch_of(name, *part(name), s), parts[name])
    times = alternate(measures, scale.rounds(7))
    limits = {SGD: ("shuffled", 0.25), "in order": ("in order", 0.4)}
    for name, (order, goal) in limits.items():
        yield share_row(f"{title}, {order}", times, name, scale.goal(goal))
    yield bound_row(
        f"{title}, shuffled", "gathering its rows alone", times["gathered"], times
    )
    raced = {name: times[name] for name in [SGD, *names]}
    for row in compared(title, raced, SGD, goals, scale):
        few = parts[row.against] > 1
        yield replace(row, against=row.against + " (a tenth of the rows)" * few)


def share_row(title: str, times: Times, name: str, goal: float | None) -> Row:
    """The share of the limit that some work reaches."""
    pairs = zip(times["limit"], times[name], strict=True)
    share = statistics.median(limit / own for limit, own in pairs)
    return Row(
        title,
        "reading X once",
        own=seconds(statistics.median(times[name])),
        share=f"{share:.2f} of the limit",
        goal=at_least(goal, share),
    )


def bound_row(title: str, against: str, bound: list[float], times: Times) -> Row:
    """The share that some work would reach if it took no more than a part of it."""
    pairs = zip(times["limit"], bound, strict=True)
    share = statistics.median(limit / part for limit, part in pairs)
    return Row(title, against, share=f"would be {share:.2f} of the limit")


def growth(title: str, scale: Scale) -> Iterator[Row]:
    """How time grows with the number of rows."""
    sizes = [scale.rows(n) for n in (10**4, 10**5, 10**6, 10**7)]
    sizes = sorted(set(sizes))
    X, y = gaussian(sizes[-1], 20)
    s = Settings(batch_size=256)
    fits = {}
    for n in sizes:
        repeats = max(1, sizes[-1] // n // 100)
        fits[str(n)] = timed(partial(PEERS[SGD], X[:n], y[:n], s), repeats)
    alternate(fits, 1)  # warm
    times = alternate(fits, scale.rounds(5))
    medians = [statistics.median(times[str(n)]) for n in sizes]
    exponent = 1.0
    if len(sizes) > 1:
        exponent = float(np.polyfit(np.log(sizes), np.log(medians), 1)[0])
    yield Row(
        title,
        f"{sizes[0]:,} to {sizes[-1]:,} rows",
        f"exponent {exponent:.2f}",
        f"{seconds(medians[0])} to {seconds(medians[-1])}",
        goal=at_most(scale.goal(1.05), exponent),
    )


# All rows at once


def full_gradient(title: str, scale: Scale) -> Iterator[Row]:
    """Loss and gradient once, against torch's two products alone."""
    X, y = large(scale)
    full, coef = own_gradient(X, y)
    full.evaluate(coef)
    at = Solution.of(coef.weight, coef.intercept)
    np.testing.assert_allclose(
        coef.gradient, gradient(X, y, at, alpha=0.0), atol=1e-5, rtol=1e-4
    )
    tensor, w = torch.from_numpy(X), coef.weight
    r = torch.rand(len(X))
    measures = {
        OWN: timed(partial(full.evaluate, coef), 3),
        "torch's X @ w and X.T @ r": timed(lambda: (tensor @ w, tensor.T @ r), 3),
        "limit": read_only(X),
        "cached": multiplied(X),
    }
    alternate(measures, 1)  # warm
    times = alternate(measures, scale.rounds(15))
    yield share_row(title, times, OWN, scale.goal(0.5))
    cached = times.pop("cached")
    both = [sum(pair) for pair in zip(times["limit"], cached, strict=True)]
    yield bound_row(title, "reading X, and its products from the cache", both, times)
    del times["limit"]
    yield from compared(title, times, OWN, {}, scale)


def own_gradient(X: np.ndarray, y: np.ndarray) -> tuple[FullGradient, object]:
    """The package's gradient, and coefficients to evaluate it at."""
    loss = make_loss(2)
    rows = Rows(torch.from_numpy(X), loss.targets(torch.from_numpy(y), torch.float32))
    coef = allocate_coefficients(rows, loss.n_outputs, fit_intercept=True)
    coef.values.copy_(torch.linspace(-0.1, 0.1, coef.length))
    return FullGradient(Objective(loss), view_block(rows), Team()), coef


def lbfgs(title: str, scale: Scale, *, dtype: str, goal: float) -> Iterator[Row]:
    """To the same norm of the gradient."""
    X, y = large(scale)
    X = X.astype(dtype, copy=False)
    s, target = Settings(alpha=1e-4, max_iter=200), 1e-5

    def reached(solution: Solution) -> str:
        norm = gradient_norm(X, y, solution, s.alpha)
        # The norm that a solver sees in float32 is not quite the one in float64.
        return "" if norm <= 1.1 * target else f"gradient of {norm:.1e}"

    goals: Goals = {
        "LogisticRegression lbfgs": goal,
        "scikit-learn-intelex lbfgs": None,
        "torch.optim.LBFGS": None,
    }
    yield from race_to(
        title,
        (X, y),
        s,
        goals,
        scale,
        own=LBFGS,
        reached=reached,
        tols=[1e-5, 1e-6, 1e-7],
        rounds=5,
    )


def near(
    X: np.ndarray, y: np.ndarray, s: Settings, best: float, tol: float
) -> Callable[[Solution], str]:
    """Whether a solution's objective is the best one, relatively."""

    def problem(solution: Solution) -> str:
        value = objective(X, y, solution, s.alpha, s.l1_ratio)
        excess = (value - best) / best
        # Not below it either: then the best would not be the best.
        return "" if abs(excess) <= tol else f"objective {excess:+.1e} off"

    return problem


def newton(title: str, scale: Scale) -> Iterator[Row]:
    goals: Goals = {"LogisticRegression newton-cholesky": 8, "glum irls-ls": None}
    yield from to_objective(title, scale, large(scale), NEWTON, goals)


def multinomial(title: str, scale: Scale) -> Iterator[Row]:
    """Several classes, with each full-batch optimizer."""
    for n_rows, n_features, n_classes in ((10_000, 20, 4), (100_000, 50, 3)):
        size = f"{title}, {n_rows:,} x {n_features}, {n_classes} classes"
        data = several_classes(scale.rows(n_rows), scale.columns(n_features), n_classes)
        for own, peer in ((NEWTON, "newton-cholesky"), (LBFGS, "lbfgs")):
            goals: Goals = {f"LogisticRegression {peer}": None}
            name = f"{size}, {own.removeprefix(OWN)[1:]}"
            yield from to_objective(name, scale, data, own, goals)


def to_objective(
    title: str,
    scale: Scale,
    data: tuple[np.ndarray, np.ndarray],
    own: str,
    goals: Goals,
) -> Iterator[Row]:
    """To the same objective."""
    X, y = data
    s = Settings(alpha=1e-4, max_iter=30 if own == NEWTON else 1000)
    optimum = PEERS[NEWTON](X.astype(np.float64), y, replace(s, tol=1e-10))
    norm = gradient_norm(X, y, optimum, s.alpha)
    assert norm < 1e-9, f"the optimum has a gradient of {norm}"
    best = objective(X, y, optimum, s.alpha)
    yield from race_to(
        title,
        (X, y),
        s,
        goals,
        scale,
        own=own,
        reached=near(X, y, s, best, 1e-9),
        tols=[1e-3, 1e-4, 1e-5, 1e-6],
        rounds=3 if data[0].nbytes > 1e8 else 9,
    )


def elastic_net(title: str, scale: Scale) -> Iterator[Row]:
    """To the same objective, with zeros."""
    X, y = gaussian(scale.rows(20_000), scale.columns(500))
    s = Settings(alpha=0.01, l1_ratio=0.5, max_iter=1000)
    optimum = PEERS[NEWTON](X.astype(np.float64), y, replace(s, tol=1e-9))
    best = objective(X, y, optimum, s.alpha, s.l1_ratio)
    goals: Goals = {
        "LogisticRegression saga": 5,
        "skglm": None,
        "glum irls-cd": None,
        NEWTON: None,
    }
    yield from race_to(
        title,
        (X, y),
        s,
        goals,
        scale,
        own=LBFGS,
        reached=near(X, y, s, best, 1e-6),
        tols=[1e-2, 1e-3, 1e-4, 1e-5],
        rounds=3,
    )


# Searches


def grid_search(
    title: str,
    scale: Scale,
    *,
    shape: tuple[int, int] | None,
    grid: Grid | AlphaGrid,
    goals: Goals,
) -> Iterator[Row]:
    """Whole searches, the refit included."""
    searches = SEARCHES if isinstance(grid, Grid) else FULL_BATCH_SEARCHES
    rows = None if shape is None else scale.rows(shape[0])
    X, y = breast_cancer() if rows is None else gaussian(rows, shape[1])
    if not scale.full:
        grid = grid.small()
    found = {}

    def search(name: str) -> None:
        found[name] = searches[name](X, y, grid)

    measures = {name: timed(partial(search, name)) for name in [BATCHED, *goals]}
    quick = {name: measures[name] for name in measures if name not in SLOW}
    alternate(quick, 1)  # warm
    races = [alternate(quick, scale.rounds(3))]
    for name in measures.keys() & SLOW:  # once
        races.append(alternate({BATCHED: measures[BATCHED], name: measures[name]}, 1))
    tolerance = 0.01 if scale.full else 0.1  # of few rows nothing is learned
    for times in races:
        for row in compared(title, times, BATCHED, goals, scale):
            pair = found[BATCHED], found[row.against]
            problem = scores_differ(*pair, row.against, tolerance)
            yield (
                Row(title, row.against, f"not compared: {problem}") if problem else row
            )


def full_batch_searches(title: str, scale: Scale) -> Iterator[Row]:
    """Searches for the penalty with each full-batch optimizer."""
    goals = dict.fromkeys([*FULL_BATCH_SEARCHES][1:])
    for optimizer in ("lbfgs", "newton"):
        for l1_ratio in (0.0, 0.5):
            grid = AlphaGrid(optimizer, l1_ratio)
            name = f"{title}, {optimizer}{' with L1' if l1_ratio else ''}"
            yield from grid_search(name, scale, shape=None, grid=grid, goals=goals)


# Whole processes, predictions


def memory(title: str, scale: Scale) -> Iterator[Row]:
    """Peak memory over X during fit."""
    goals = {SGD: 0.15, LBFGS: 0.15, NEWTON: 0.15}
    peers = ["LogisticRegression lbfgs", "LogisticRegression newton-cholesky"]
    peers += ["SGDClassifier", "slicing loop"]
    # A process each takes seconds.
    names = [*goals, *peers] if scale.full else [SGD]
    for name in names:
        share = share_of_X(name, scale.rows(LARGE[0]), scale.columns(LARGE[1]))
        goal = at_most(scale.goal(goals.get(name)), share)
        yield Row(title, name, share=f"{share:.2f} of X", goal=goal)


def predict(
    title: str, scale: Scale, *, rows: int, repeats: int, several: bool = False
) -> Iterator[Row]:
    """Probabilities, against a LogisticRegression of the same coefficients."""
    if several:
        X, y = several_classes(scale.rows(rows), scale.columns(20), 10)
        X = X.astype(np.float32)
    else:
        X, y = large(scale)
    clf = TorchLogisticClassifier(device="cpu", epochs=1, random_state=0)
    clf.fit(X[:1000], y[:1000])
    peer = clf.to_sklearn()
    peer.coef_ = peer.coef_.astype(X.dtype)  # as its own fit would leave them
    peer.intercept_ = peer.intercept_.astype(X.dtype)
    X = X[:rows]
    np.testing.assert_allclose(clf.predict_proba(X), peer.predict_proba(X), atol=1e-5)
    contenders = {OWN: clf, "LogisticRegression": peer}
    measures = {
        name: timed(partial(each.predict_proba, X), repeats)
        for name, each in contenders.items()
    }
    times = alternate(measures, scale.rounds(11))
    yield from compared(title, times, OWN, {"LogisticRegression": 1}, scale)


def import_time(title: str, scale: Scale) -> Iterator[Row]:
    """Import in fresh processes."""

    def importing(modules: str) -> Measure:
        command = [sys.executable, "-c", f"import {modules}"]
        return timed(partial(subprocess.run, command, check=True, env=dict(os.environ)))

    parts = "torch, sklearn.linear_model, skorch"
    measures = {OWN: importing(OWN), f"import {parts}": importing(parts)}
    if scale.full:
        alternate(measures, 1)  # files are in the system's cache then
    times = alternate(measures, scale.rounds(7))
    yield from compared(title, times, OWN, {f"import {parts}": 1 / 1.1}, scale)


CASES = {
    "80x2": Case(
        "80 x 2, batch 16, 100 epochs",
        partial(
            whole_fit,
            shape=None,
            settings=Settings(batch_size=16, epochs=100),
            goals={"DataLoader loop": 12, "skorch": 25, "slicing loop": None},
            rounds=21,
        ),
    ),
    "10000x20": Case(
        "10,000 x 20, batch 64, 5 epochs",
        partial(
            whole_fit,
            shape=(10_000, 20),
            settings=Settings(batch_size=64, epochs=5),
            goals={"SGDClassifier": 1, "skorch": 40, "DataLoader loop": None},
            rounds=11,
        ),
    ),
    "100000x50": Case(
        "100,000 x 50, batch 256, 3 epochs",
        partial(
            whole_fit,
            shape=(100_000, 50),
            settings=Settings(batch_size=256, epochs=3),
            goals={"SGDClassifier": 3, "skorch": 40, "DataLoader loop": None},
            rounds=7,
        ),
    ),
    "epoch": Case("1,000,000 x 100, batch 4096, an epoch", epochs),
    "gradient": Case("full gradient, 1,000,000 x 100", full_gradient),
    "lbfgs32": Case(
        "lbfgs to a gradient of 1e-5, 1,000,000 x 100, float32",
        partial(lbfgs, dtype="float32", goal=2),
    ),
    "lbfgs64": Case(
        "lbfgs to a gradient of 1e-5, 1,000,000 x 100, float64",
        partial(lbfgs, dtype="float64", goal=2),
    ),
    "newton": Case("newton to an objective 1e-9 off, 1,000,000 x 100", newton),
    "multinomial": Case("to an objective 1e-9 off", multinomial),
    "elastic-net": Case("elastic net to 1e-6, 20,000 x 500", elastic_net),
    "search": Case(
        "4 lr x 4 epochs x 5 folds, breast cancer, batch 16",
        partial(
            grid_search,
            shape=None,
            grid=Grid(
                lr=(0.003, 0.01, 0.03, 0.1),
                epochs=(10, 20, 50, 100),
                alpha=(0.0,),
                batch_size=16,
                cv=5,
                scoring="roc_auc",
            ),
            goals={
                "GridSearchCV, torchlogistic": 8,
                "GridSearchCV, SGDClassifier": 3,
                "GridSearchCV, skorch": 150,
            },
        ),
    ),
    "search-large": Case(
        "8 lr x 3 alpha x 2 epochs x 3 folds, 100,000 x 50, batch 256",
        partial(
            grid_search,
            shape=(100_000, 50),
            grid=Grid(
                lr=(0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3),
                epochs=(1, 3),
                alpha=(1e-4, 1e-3, 1e-2),
                batch_size=256,
                cv=3,
                scoring="roc_auc",
            ),
            goals={
                "GridSearchCV, torchlogistic": 8,
                "GridSearchCV, SGDClassifier": 10,
            },
        ),
    ),
    "search-full-batch": Case("15 alpha x 5 folds, breast cancer", full_batch_searches),
    "memory": Case("memory beside X, 1,000,000 x 100", memory),
    "growth": Case("time against rows, x 20, batch 256, an epoch", growth),
    "predict1": Case("predict_proba, 1 row", partial(predict, rows=1, repeats=200)),
    "predict": Case(
        "predict_proba, 1,000,000 x 100", partial(predict, rows=LARGE[0], repeats=1)
    ),
    "predict10": Case(
        "predict_proba, 1,000,000 x 20, 10 classes",
        partial(predict, rows=LARGE[0], repeats=1, several=True),
    ),
    "import": Case("import torchlogistic", import_time),
}
