"""A team of threads that share the work of one step, or take turns with steps.

Work that takes longer than handing it over, some 15 microseconds, is cut into tasks.
NumPy and torch release Python's lock while they compute, so that the threads of a team
run on different cores. A team waits without spinning: where other processes need the
cores, it costs nothing but its share. torch's own threads spin, and a step of 10
microseconds can then take milliseconds.

An interrupt (Ctrl-C) reaches the main thread between any two of its instructions. What
threads tell each other is therefore told by single calls of lists, deques and queues,
which it finds done or not done: a lock could stay locked.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from _thread import start_new_thread
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import TypeVar, cast

import numpy as np
import torch

# Each call of NumPy gives Python's lock back and takes it again, six times in the 100
# microseconds for which a thread computes with a piece of X. More threads than these
# wait for the lock rather than compute: sixteen, on as many cores, read X at 9 GB/s in
# a fit of "lbfgs", two of another machine at 13.
MOST_THREADS = 4

Task = Callable[[], None]
S = TypeVar("S")
T = TypeVar("T")


class Team:
    """Threads for tasks; one of them is the caller's own.

    The others start with the first task for them and end with the team.

    Parameters
    ----------
    size : int, optional
        Number of threads; by default as many as torch uses, which joblib's workers
        limit, up to ``MOST_THREADS``. That setting is read, not changed.
    """

    def __init__(self, size: int | None = None) -> None:
        most = min(torch.get_num_threads(), MOST_THREADS)
        self.size = most if size is None else size
        self._inboxes: list[SimpleQueue[Task | None]] = []

    def run(self, tasks: Sequence[Task]) -> None:
        """Run tasks and wait for all; one of the threads is this one.

        An exception in any of them is raised here, when all have ended; an interrupt of
        the wait at once.
        """
        if self.size > 1 and len(tasks) > 1:
            begun = Begun(tasks)
            self.ask(begun, len(tasks) - 1)
            begun()
            return
        for task in tasks:  # an epoch of a small batch would notice the queues
            task()

    def map(self, function: Callable[[S], T], items: Sequence[S]) -> list[T]:
        """Results of a function for each item."""
        if self.size == 1 or len(items) == 1:
            return [function(item) for item in items]
        results: list[T | None] = [None] * len(items)

        def work(i: int) -> None:
            results[i] = function(items[i])

        self.run([partial(work, i) for i in range(len(items))])
        return cast("list[T]", results)

    def ask(self, begun: Begun, helpers: int) -> None:
        """Let so many of the other threads, if there are as many, run tasks."""
        helpers = min(self.size - 1, helpers)
        self._hire(helpers)
        for inbox in self._inboxes[:helpers]:
            inbox.put(begun.help)

    def in_turn(
        self,
        items: Sequence[S],
        prepare: Sequence[Callable[[S], T]],
        act: Callable[[S, T], None],
    ) -> None:
        """Prepare items at the same time, and act on them in their order.

        Each thread acts on what it has prepared, while others prepare what follows.
        An exception in any thread is raised here, when all have ended.

        Parameters
        ----------
        items : sequence
        prepare : sequence of callable
            For each thread that takes part one function, with memory of its own.
        act : callable
            Its arguments are an item and what was prepared of it.
        """
        turns, numbered = Turns(len(prepare)), iter(enumerate(items))

        def work(prepare: Callable[[S], T]) -> None:
            try:
                for number, item in numbered:
                    prepared = prepare(item)
                    if not turns.wait(number):
                        return
                    act(item, prepared)
                    turns.pass_on(number)
            except BaseException:
                turns.stop()
                raise

        begun = Begun([partial(work, one) for one in prepare])
        try:
            self.ask(begun, len(prepare) - 1)
            begun()
        finally:  # an interrupt of the wait ends the others, too
            turns.stop()
            begun.stop()

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


class Turns:
    """Whose turn it is of several threads, which have taken numbers in order.

    As each has one number at a time, those that are waited for differ by less than the
    number of threads, and each has a queue of its own.
    """

    def __init__(self, n_threads: int) -> None:
        self._queues = [SimpleQueue[None]() for _ in range(n_threads)]
        self._stopped = False
        self._queues[0].put(None)

    def wait(self, number: int) -> bool:
        """Wait for the turn of a number; returns False if there will be none."""
        self._queues[number % len(self._queues)].get()
        return not self._stopped

    def pass_on(self, number: int) -> None:
        """Let the next number have its turn."""
        self._queues[(number + 1) % len(self._queues)].put(None)

    def stop(self) -> None:
        """Let nobody have a turn any more."""
        self._stopped = True
        for queue in self._queues:
            queue.put(None)


class Begun:
    """Tasks that several threads share; to call it completes them.

    A call runs in this thread the tasks which nobody has begun, waits for those that
    somebody has, and raises the first exception in any that no earlier call has.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._todo = deque(tasks)
        # Of other threads: whenever one looks for a task, and what has come of it.
        self._claims: list[None] = []
        self._endings: list[BaseException | None] = []
        self._bell = SimpleQueue[None]()  # rung after each ending
        self._n_heard = 0  # endings of which a call has taken note

    def help(self) -> None:
        """Run the tasks that no thread has taken; for another thread."""
        while True:
            self._claims.append(None)  # first: whoever waits does not overlook it
            task = self._take()
            self._endings.append(None if task is None else _failure_of(task))
            self._bell.put(None)
            if task is None:
                return

    def stop(self) -> None:
        """Let nobody begin another task; wait for those that somebody has begun."""
        self._todo.clear()
        self._wait()

    def __call__(self) -> None:
        failures = []
        while (task := self._take()) is not None:
            failures.append(_failure_of(task))
        self._wait()
        failures += self._endings[self._n_heard :]
        self._n_heard = len(self._endings)
        for failure in failures:
            if failure is not None:
                raise failure

    def _take(self) -> Task | None:
        try:
            return self._todo.popleft()
        except IndexError:
            return None

    def _wait(self) -> None:
        """Wait for what others have begun, when nothing is left to begin."""
        while len(self._endings) < len(self._claims):  # which may grow meanwhile
            self._bell.get()


def _failure_of(task: Task) -> BaseException | None:
    """Run a task; returns what it raises."""
    try:
        task()
    except BaseException as failure:
        return failure
    return None


def _work(inbox: SimpleQueue[Task | None]) -> None:
    """Run tasks until told to stop.

    It refers to no team: one that a thread refers to would never be collected.
    """
    with np.errstate(all="ignore"):  # a thread has settings of its own
        while (task := inbox.get()) is not None:
            task()
            del task


# Set in a process that began as a copy of another: by a fork after this module was
# imported, or as a worker of multiprocessing that imports it.
_forked = threading.Event()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forked.set)
if type(multiprocessing.current_process()).__name__ == "ForkProcess":
    _forked.set()


@contextmanager
def existing_threads() -> Iterator[None]:
    """Let torch, and teams, have one thread in a process that was forked.

    A fork copies one thread. torch believes to have all those of its parent, and where
    it shares work among them, waits for ever. torch has this setting for the whole
    process.
    """
    n_threads = torch.get_num_threads()
    if not _forked.is_set() or n_threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
