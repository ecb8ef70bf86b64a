"""Measuring: seconds in alternating rounds, ratios, and the machine's limit."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits

Work = Callable[[], object]
Measure = Callable[[], float]  # does something and returns the seconds it took
Times = dict[str, list[float]]


class Ratio(NamedTuple):
    """Median and spread of ratios, one of each round."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, times: list[float], own: list[float]) -> Ratio:
        ratios = [a / b for a, b in zip(times, own, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        median, low, high = (f"{value:.3g}" for value in self)
        return f"{median} ({low} to {high})"


def timed(work: Work, repeats: int = 1) -> Measure:
    """Seconds that some work takes, the mean of repeats."""

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        return (time.perf_counter() - start) / repeats

    return measure


def alternate(measures: dict[str, Measure], rounds: int) -> Times:
    """Measure all in turn, round after round: what slows the machine slows all."""
    times: Times = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            times[name].append(measure())
    return times


def read_only(X: np.ndarray) -> Measure:
    """A sum over X: reading it once is the least that any pass over it takes."""
    tensor = torch.from_numpy(X)
    return timed(tensor.sum)


@contextmanager
def threads(n_threads: int | None) -> Iterator[None]:
    """Limit torch, BLAS and OpenMP."""
    if n_threads is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        with threadpool_limits(n_threads):
            yield
    finally:
        torch.set_num_threads(before)
