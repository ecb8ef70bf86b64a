"""A team of threads that share the work of one step.

Work that takes longer than handing it over, some 15 microseconds, is cut into tasks.
NumPy and torch release Python's lock while they compute, so that the threads of a team
run on different cores. A team waits without spinning: where other processes need the
cores, it costs nothing but its share. torch's own threads spin, and a step of 10
microseconds can then take milliseconds.
"""

from __future__ import annotations

from _thread import start_new_thread
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import zip_longest
from queue import SimpleQueue
from typing import TypeVar

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

    def run(self, tasks: Sequence[Task]) -> None:
        """Run tasks and wait for all; one of the threads is this one.

        An exception in any of them is raised here, when all have ended; an interrupt of
        the wait at once.
        """
        self.begin(tasks)()

    def begin(self, tasks: Sequence[Task], helpers: int | None = None) -> Task:
        """Let the other threads run tasks; returns what completes them.

        That runs in this thread the tasks which nobody has begun, waits for those that
        somebody has, and raises the first exception in any. It need not be called, and
        must not be called again: it would wait for endings that it has heard of.

        Parameters
        ----------
        tasks : sequence of Task
        helpers : int, optional
            How many other threads to ask; by default as many as can have a task while
            this thread has one, too.
        """
        if helpers is None:
            helpers = len(tasks) - 1
        helpers = min(self.size - 1, helpers)
        if helpers == 0:  # of a small batch, whose epochs would notice the queues
            return partial(_run_in_turn, tasks)
        todo, done = deque(tasks), SimpleQueue[BaseException | None]()
        self._hire(helpers)
        for inbox in self._inboxes[:helpers]:
            inbox.put(partial(_run_all, todo, done))

        def complete() -> None:
            _run_all(todo, done)
            failures = [failure for failure in (done.get() for _ in tasks) if failure]
            if failures:
                raise failures[0]

        return complete

    def ahead(self, items: Sequence[T], tasks: Sequence[Task]) -> Iterator[T]:
        """Yield items, while another thread, if there is one, does a task for each.

        A task speeds up what will be done with the item after, and may fail or not be
        done at all: it is not if the other thread has yet to begin an earlier one.
        """
        for item, task in zip_longest(items, tasks):
            behind = any(inbox.qsize() for inbox in self._inboxes[:1])
            if task is not None and not behind:
                self.begin([task], helpers=1)
            yield item

    def _hire(self, n_threads: int) -> None:
        while len(self._inboxes) < n_threads:
            inbox: SimpleQueue[Task | None] = SimpleQueue()
            # Not threading.Thread, which waits until the thread runs: a millisecond or
            # two, in which this thread can do the first tasks.
            start_new_thread(_work, (inbox,))
            self._inboxes.append(inbox)

    def __reduce__(self) -> tuple[type[Team], tuple[int]]:
        return Team, (self.size,)  # without the threads

    def __del__(self) -> None:
        for inbox in self._inboxes:
            inbox.put(None)


def _run_in_turn(tasks: Sequence[Task]) -> None:
    for task in tasks:
        task()


def _run_all(todo: deque[Task], done: SimpleQueue[BaseException | None]) -> None:
    """Run the tasks that no other thread has taken; tell how each ended."""
    while True:
        try:
            task = todo.popleft()
        except IndexError:
            return
        try:
            task()
        except BaseException as failure:
            done.put(failure)
        else:
            done.put(None)


def _work(inbox: SimpleQueue[Task | None]) -> None:
    """Run tasks until told to stop; refers to no team, which could not end else."""
    with np.errstate(all="ignore"):  # a thread has settings of its own
        while (task := inbox.get()) is not None:
            task()
            del task
