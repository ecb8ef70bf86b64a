"""Files of skorch's checkpoints.

Fits that run at the same time do not mix theirs, and each file is complete.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from skorch.callbacks import Checkpoint, TrainEndCheckpoint
from skorch.history import History

from ._warnings import warn

PRIVATE = ".fit-"  # the names of folders and copies that nobody else has
PUBLISHED = 0  # when a file was written that has been copied since


class PrivateFolder:
    """A folder inside a checkpoint's own, where it writes for the time of a fit.

    Parameters
    ----------
    checkpoint : skorch.callbacks.Checkpoint
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.target = checkpoint.dirname
        self.path = os.path.join(self.target, f"{PRIVATE}{uuid.uuid4().hex}")

    def __enter__(self) -> PrivateFolder:
        os.makedirs(self.path)
        self.checkpoint.dirname = self.path
        return self

    def __exit__(self, *error: object) -> None:
        self.checkpoint.dirname = self.target
        for name in os.listdir(self.path):
            source = os.path.join(self.path, name)
            if self._is_new(name):
                os.replace(source, os.path.join(self.target, name))
            else:
                os.remove(source)
        os.rmdir(self.path)

    def publish(self) -> None:
        """Bring what was saved to where the user wants it, each file in one step.

        A process that is killed leaves it there.
        """
        for name in os.listdir(self.path):
            if not self._is_new(name):
                continue
            source, target = (os.path.join(d, name) for d in (self.path, self.target))
            try:
                if self.checkpoint.load_best:  # at the end, from the files of this fit
                    copy = os.path.join(self.path, PRIVATE + name)
                    shutil.copyfile(source, copy)
                    os.replace(copy, target)
                    os.utime(source, ns=(PUBLISHED, PUBLISHED))
                else:
                    os.replace(source, target)
            except OSError as error:  # when the fit ends it is tried once more
                warn(f"Checkpoint {name} could not be published: {error}", UserWarning)

    def _is_new(self, name: str) -> bool:
        written = os.stat(os.path.join(self.path, name)).st_mtime_ns
        return written != PUBLISHED and not name.startswith(PRIVATE)


@contextmanager
def guarded_checkpoints(
    callbacks: Iterable[Any], history: History
) -> Iterator[list[PrivateFolder]]:
    """Let fits that run at the same time keep their checkpoints apart.

    For the time of a fit a Checkpoint or TrainEndCheckpoint writes to a folder of its
    own inside its folder. Yields these folders, to be published after each epoch; when
    the fit ends, however it ends, what is new in them is published, too. A file that
    could not be written is a warning, where skorch is silent. Epochs from before the
    callback was added are marked as not saved, since skorch counts the marks to find
    the last one that was.
    """
    folders = []
    with ExitStack() as stack:
        for callback in callbacks:
            if isinstance(callback, Checkpoint | TrainEndCheckpoint):
                checkpoint = getattr(callback, "checkpoint_", callback)
                stack.enter_context(_loud_failures(checkpoint))
                for row in history if checkpoint.event_name is not None else []:
                    row.setdefault(checkpoint.event_name, False)
                if _writes_plain_files(checkpoint):
                    folders.append(stack.enter_context(PrivateFolder(checkpoint)))
        yield folders


def _writes_plain_files(checkpoint: Checkpoint) -> bool:
    targets = [f for f in checkpoint._f_kwargs().values() if f is not None]
    return all(isinstance(f, str) and not os.path.dirname(f) for f in targets)


@contextmanager
def best_checkpoints(callbacks: Iterable[Any], history: History) -> Iterator[None]:
    """Let ``Checkpoint(load_best=True)`` find the best epoch of a run, if it saved it.

    To be entered after the last epoch, inside of :func:`guarded_checkpoints`.
    """
    with ExitStack() as stack:
        for callback in callbacks:
            loads = isinstance(callback, Checkpoint) and callback.load_best
            if loads and callback.monitor is not None:
                if not _find_best(callback, history):
                    callback.load_best = False
                    stack.callback(setattr, callback, "load_best", True)
        yield


def _find_best(checkpoint: Checkpoint, history: History) -> bool:
    """Point a checkpoint to the folder that has its last files, if there are any."""
    folder, event = checkpoint.dirname, checkpoint.event_name
    private = os.path.basename(folder).startswith(PRIVATE)
    if event is None and not private:
        return True  # it leaves no trace: skorch has to see
    if private and os.listdir(folder):
        return True
    if event is not None and any(row[event] for row in history):
        if private:  # the earlier fit that this one continues moved them
            checkpoint.dirname = os.path.dirname(folder)
        return True
    warn(
        "Checkpoint(load_best=True) has nothing to load: no epoch since it was added "
        f"was one to save (monitor={checkpoint.monitor!r}). The coefficients of the "
        "last epoch stay.",
        UserWarning,
    )
    return False


@dataclass
class _LoudSink:
    """Pass messages on, and warn of the one that tells of a failure."""

    sink: Callable[[str], None]

    def __call__(self, text: str) -> None:
        if text.startswith("Unable to save"):
            warn(text, UserWarning)
        self.sink(text)


@contextmanager
def _loud_failures(checkpoint: Checkpoint) -> Iterator[None]:
    sink = checkpoint.sink
    if sink is not print:  # skorch compares it with print to decide about verbosity
        checkpoint.sink = _LoudSink(sink)
    try:
        yield
    finally:
        checkpoint.sink = sink
