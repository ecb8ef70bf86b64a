"""A team of threads that share the work of one step.

Work that takes longer than handing it over, some 15 microseconds, is cut into tasks.
NumPy and torch release Python's lock while they compute, so that the threads of a team
run on different cores. A team waits without spinning: where other processes need the
cores, it costs nothing but its share. torch's own threads spin, and a step of 10
microseconds can then take milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import zip_longest
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import numpy as np
import torch

Task = Callable[[], None]
T = TypeVar("T")


class Team:
    """Threads for tasks; one of them is the caller's own.

    The others start with the first task for them and end with the team.

    Parameters
    ----------
    size : int, optional
        Number of threads; by default as many as torch uses, which joblib's workers
        limit. That setting is read, not changed.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = torch.get_num_threads() if size is None else size
        self._inboxes: list[SimpleQueue[Task | None]] = []
        self._outbox: SimpleQueue[BaseException | None] = SimpleQueue()

    def run(self, tasks: Sequence[Task]) -> None:
        """Run tasks, the first of every ``size`` in this thread; wait for all.

        An exception in any of them is raised here, when all have ended.
        """
        shares = [tasks[i :: self.size] for i in range(min(self.size, len(tasks)))]
        self._hire(len(shares) - 1)
        for inbox, share in zip(self._inboxes, shares[1:], strict=False):
            inbox.put(partial(_run_all, share))
        failures: list[BaseException | None] = []
        try:
            _run_all(shares[0])
        finally:
            failures += [self._outbox.get() for _ in shares[1:]]
        for failure in failures:
            if failure is not None:
                raise failure

    def ahead(self, items: Sequence[T], tasks: Sequence[Task]) -> Iterator[T]:
        """Yield items, while another thread, if there is one, does a task for each.

        A task speeds up what will be done with the item after, and may fail or not be
        done at all.
        """
        if self.size == 1 or not tasks:
            yield from items
            return
        pending: SimpleQueue[Task | None] = SimpleQueue()
        self._hire(1)
        self._inboxes[0].put(partial(_run_all, iter(pending.get, None)))
        try:
            for item, task in zip_longest(items, tasks):
                pending.put(task)
                yield item
        finally:
            pending.put(None)
            self._outbox.get()

    def _hire(self, n_threads: int) -> None:
        while len(self._inboxes) < n_threads:
            inbox: SimpleQueue[Task | None] = SimpleQueue()
            Thread(target=_work, args=(inbox, self._outbox), daemon=True).start()
            self._inboxes.append(inbox)

    def __reduce__(self) -> tuple[type[Team], tuple[int]]:
        return Team, (self.size,)  # without the threads

    def __del__(self) -> None:
        for inbox in self._inboxes:
            inbox.put(None)


def _run_all(tasks: Iterable[Task]) -> None:
    for task in tasks:
        task()


def _work(inbox: SimpleQueue[Any], outbox: SimpleQueue[BaseException | None]) -> None:
    """Run tasks until told to stop; refers to no team, which could not end else."""
    with np.errstate(all="ignore"):  # a thread has settings of its own
        while True:
            task = inbox.get()
            if task is None:
                return
            try:
                task()
            except BaseException as failure:
                outbox.put(failure)
            else:
                outbox.put(None)
            del task
