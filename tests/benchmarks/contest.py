"""What cases share: their size, the check before the race, the rows after it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from peers import PEERS, Settings, present
from solution import Solution, coefficients_differ, losses_differ, mean_loss
from table import Row, at_least, seconds
from timing import Ratio, Times, alternate, timed

Goals = dict[str, float | None]  # contender -> least ratio; None: only shown


@dataclass(frozen=True)
class Scale:
    """How much of a case is run.

    Parameters
    ----------
    size : float
        Share of the rows.
    most_columns : int
    effort : float
        Share of the rounds.
    least_rows, least_rounds : int
    """

    size: float = 1.0
    effort: float = 1.0
    most_columns: int = 10_000
    least_rows: int = 200
    least_rounds: int = 3

    @property
    def full(self) -> bool:
        return self.size == 1.0

    def rows(self, n: int) -> int:
        return max(min(n, self.least_rows), int(n * self.size))

    def columns(self, n: int) -> int:
        return min(n, self.most_columns)

    def rounds(self, n: int) -> int:
        return max(min(n, self.least_rounds), round(n * self.effort))

    def goal(self, value: float | None) -> float | None:
        """Goals are for the sizes that they name."""
        return value if self.full else None


SCALES = {
    "full": Scale(),
    "quick": Scale(size=0.1, effort=0.3, least_rows=5_000),
    "smoke": Scale(
        size=1e-3, effort=0, most_columns=30, least_rows=512, least_rounds=1
    ),
}


def ends_elsewhere(name: str, X: np.ndarray, y: np.ndarray, s: Settings) -> str:
    """Empty if a mini-batch contender ends where the package does."""
    own, other = (PEERS[each](X, y, s) for each in ("torchlogistic sgd", name))
    if name == "SGDClassifier":  # another order of the rows, and one at a time
        return losses_differ(mean_loss(X, y, other), mean_loss(X, y, own), 0.02)
    return coefficients_differ(own, other)


def fair(
    title: str, names: Iterable[str], check: Callable[[str], str]
) -> tuple[list[str], list[Row]]:
    """Contenders that pass a check, and rows about those that do not."""
    passed, rows = [], []
    for name in present(list(names)):
        problem = check(name)
        if problem:
            rows.append(Row(title, name, f"not compared: {problem}"))
        else:
            passed.append(name)
    return passed, rows


def compared(
    title: str, times: Times, own: str, goals: Goals, scale: Scale, share: str = ""
) -> Iterator[Row]:
    """A row for each contender but the own."""
    own_time = seconds(statistics.median(times[own]))
    for name in times:
        if name == own:
            continue
        ratio = Ratio.of(times[name], times[own])
        goal = at_least(scale.goal(goals.get(name)), ratio.median)
        yield Row(title, name, ratio, own_time, share, goal)


def race_to(
    title: str,
    data: tuple[np.ndarray, np.ndarray],
    settings: Settings,
    goals: Goals,
    scale: Scale,
    *,
    own: str,
    reached: Callable[[Solution], str],
    tols: list[float],
    rounds: int,
) -> Iterator[Row]:
    """Race of full-batch solvers to a target.

    Each runs with the loosest of some tolerances with which it reaches the target,
    since tolerances mean something else in each.
    """
    X, y = data
    chosen: dict[str, Settings] = {}

    def calibrate(name: str) -> str:
        problem = ""
        for tol in tols:
            chosen[name] = replace(settings, tol=tol)
            problem = reached(PEERS[name](X, y, chosen[name]))
            if not problem:
                return ""
        return problem

    names, rows = fair(title, [own, *goals], calibrate)
    yield from rows
    if own not in names:
        return
    fits = {name: timed(partial(PEERS[name], X, y, chosen[name])) for name in names}
    times = alternate(fits, scale.rounds(rounds))
    yield from compared(title, times, own, goals, scale)
