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
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Condition
from typing import TypeVar

import numpy as np
import torch

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
        if self.size > 1 and len(tasks) > 1:
            self.begin(tasks)()
            return
        for task in tasks:  # an epoch of a small batch would notice the queues
            task()

    def begin(self, tasks: Sequence[Task], helpers: int | None = None) -> Begun:
        """Let the other threads run tasks; returns what completes or stops them.

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
        begun = Begun(tasks)
        self._hire(helpers)
        for inbox in self._inboxes[:helpers]:
            inbox.put(begun.help)
        return begun

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
        turns, numbered = Turns(), iter(enumerate(items))

        def work(prepare: Callable[[S], T]) -> None:
            try:
                for number, item in numbered:
                    prepared = prepare(item)
                    if not turns.wait(number):
                        return
                    act(item, prepared)
                    turns.pass_on()
            except BaseException:
                turns.stop()
                raise

        begun = self.begin([partial(work, one) for one in prepare])
        try:
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
    """Whose turn it is of several threads."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._turn = 0
        self._stopped = False

    def wait(self, number: int) -> bool:
        """Wait for a turn; returns False if there will be none."""
        with self._changed:
            while self._turn != number and not self._stopped:
                self._changed.wait()
        return not self._stopped

    def pass_on(self) -> None:
        with self._changed:
            self._turn += 1
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class Begun:
    """Tasks that several threads share; to call it completes them.

    A call runs in this thread the tasks which nobody has begun, waits for those that
    somebody has, and raises the first exception in any that no earlier call has.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._n_tasks = len(tasks)
        self._todo = deque(tasks)
        self._done = SimpleQueue[BaseException | None]()
        self._n_heard = 0  # of how many endings a call has taken note

    def help(self) -> None:
        """Run the tasks that no thread has taken."""
        while True:
            try:
                task = self._todo.popleft()
            except IndexError:
                return
            try:
                task()
            except BaseException as failure:
                self._done.put(failure)
            else:
                self._done.put(None)

    def stop(self) -> None:
        """Let nobody begin another task; wait for those that somebody has begun."""
        with suppress(IndexError):
            while True:
                self._todo.popleft()
                self._n_tasks -= 1
        self._hear()

    def _hear(self) -> list[BaseException]:
        """Wait for all endings; returns the exceptions in those that were new."""
        failures = []
        while self._n_heard < self._n_tasks:
            failure = self._done.get()
            self._n_heard += 1
            if failure is not None:
                failures.append(failure)
        return failures

    def __call__(self) -> None:
        self.help()
        failures = self._hear()
        if failures:
            raise failures[0]


def _work(inbox: SimpleQueue[Task | None]) -> None:
    """Run tasks until told to stop; refers to no team, which could not end else."""
    with np.errstate(all="ignore"):  # a thread has settings of its own
        while (task := inbox.get()) is not None:
            task()
            del task
