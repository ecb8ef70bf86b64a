"""Measuring: seconds in alternating rounds, ratios, and the machine's limits."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from torchlogistic._gradient import PIECE_BYTES

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
            rest()
            times[name].append(measure())
    return times


def rest() -> None:
    """Wait until no other thread of this process computes.

    After a product those of BLAS look for the next one for a tenth of a second, on a
    core that whoever is measured then would miss. This thread sleeps only while they
    do: what a core has in its caches would be gone with a longer sleep.
    """
    for _ in range(100):
        others = time.process_time() - time.thread_time()
        end = time.perf_counter() + 0.01  # their time is told every few milliseconds
        while time.perf_counter() < end:
            pass
        if time.process_time() - time.thread_time() - others < 0.002:
            return
        time.sleep(0.005)


def read_only(X: np.ndarray) -> Measure:
    """A sum over X: reading it once is the least that any pass over it takes."""
    tensor = torch.from_numpy(X)
    return timed(tensor.sum)


def in_threads(work: Callable[[np.ndarray], None], rows: np.ndarray) -> None:
    """Do some work on parts of the rows, in as many threads as torch has."""
    n_threads = torch.get_num_threads()
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(work, np.array_split(rows, n_threads)))


def gathered(X: np.ndarray, batch_size: int) -> Measure:
    """Rows in a random order into buffers in the cache, as a shuffled epoch needs."""
    order = np.random.default_rng(0).permutation(len(X))

    def gather(order: np.ndarray) -> None:
        buffer = np.empty((batch_size, X.shape[1]), dtype=X.dtype)
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            X.take(part, 0, buffer[: len(part)], "clip")

    return timed(partial(in_threads, gather, order))


def multiplied(X: np.ndarray) -> Measure:
    """``X w`` and ``X' r`` of as many rows, with X in the cache."""
    n_rows = PIECE_BYTES // X[0].nbytes
    w = np.ones(X.shape[1], dtype=X.dtype)

    def multiply(starts: np.ndarray) -> None:
        piece, g = X[:n_rows].copy(), w.copy()
        z = np.empty(len(piece), dtype=X.dtype)
        for _ in starts:
            piece.dot(w, z)
            piece.T.dot(z, g)

    return timed(partial(in_threads, multiply, np.arange(0, len(X), n_rows)))


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
