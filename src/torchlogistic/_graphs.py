"""Mini-batch updates as recorded CUDA graphs.

An update of a small batch is five to twenty kernels. The device needs about two
microseconds for each, the host five and more to launch it. A recorded graph is launched
once for all updates of a chunk: the chunk's batches lie in the same memory each time,
and so does all else that they use. What a graph cannot follow is a Python number, since
the number becomes a part of it. Those that change from step to step or with ``lr`` lie
in a table on the device, which is filled before each launch. After any other change the
graphs are recorded anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ._arrays import send
from ._inplace import InPlaceStep
from ._rows import Block
from ._warnings import warn

Launch = Callable[[], None]


class Recorder(Protocol):
    """Records what a function starts on a device, without doing it."""

    def record(self, function: Launch) -> Launch:
        """Returns what does it, again and again, with the same memory and numbers."""


@dataclass
class CudaRecorder:
    """Records CUDA graphs. A recording waits for the device.

    Parameters
    ----------
    device : torch.device
    """

    device: torch.device

    def record(self, function: Launch) -> Launch:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device):
            stream = capture_stream(torch.cuda.current_device())
            # Other threads of the program may go on using their devices.
            with torch.cuda.graph(
                graph, stream=stream, capture_error_mode="thread_local"
            ):
                function()
        return graph.replay


@cache  # torch's own is on the device of the first recording, for all of a process
def capture_stream(index: int) -> torch.cuda.Stream:
    """The stream of all recordings on a device: cuBLAS keeps memory for each."""
    return torch.cuda.Stream(index)  # type: ignore[no-untyped-call]


def find_recorder(device: torch.device) -> Recorder | None:
    """The recorder of a device, if it has graphs."""
    return CudaRecorder(device) if device.type == "cuda" else None


class Recording(NamedTuple):
    """The updates of one chunk."""

    launch: Launch
    # Of numbers, which the graph reads: (n_steps or 1, n_numbers), with an axis of
    # outputs more where they differ from output to output.
    table: Tensor
    n_steps: int


class GraphedSteps:
    """Does the updates of chunks, those that come again as graphs.

    A chunk's first visit is step by step, which prepares the libraries that the kernels
    come from; the second is recorded.

    Parameters
    ----------
    step : InPlaceStep
    recorder : Recorder
    """

    def __init__(self, step: InPlaceStep, recorder: Recorder | None) -> None:
        self.step = step
        self.recorder = recorder  # None after it failed
        self._constants: Any = None  # of the rule, in all recordings
        self._recordings: dict[int, Recording | None] = {}  # by the id of the batches

    def run(self, batches: Iterable[Block]) -> None:
        """Update on batches; the same list has the same memory each time."""
        recording = self._find(batches) if isinstance(batches, list) else None
        if recording is None:
            for block in batches:
                self.step.update(block, None)
            return
        (segment,) = self.step.segments
        self._fill(recording, segment.n_steps)
        recording.launch()
        segment.n_steps += recording.n_steps

    def _find(self, batches: list[Block]) -> Recording | None:
        """The recording of batches that were visited before."""
        constants = self.step.constants()
        if constants != self._constants:
            self._constants = constants
            self._recordings.clear()
        key = id(batches)
        segments = self.step.segments
        # Two if a callback froze a part for a while.
        regular = len(segments) == 1
        if regular and self.step.first_differs:
            regular = segments[0].n_steps > 0
        if key not in self._recordings or not regular:
            self._recordings.setdefault(key, None)
            return None
        if self._recordings[key] is None:
            self._recordings[key] = self._record(batches)
        return self._recordings[key]

    def __reduce__(self) -> tuple[Any, ...]:
        return GraphedSteps, (self.step, self.recorder)  # without the recordings

    def _record(self, batches: list[Block]) -> Recording | None:
        step = self.step
        if self.recorder is None:
            return None
        n_rows = len(batches) if step.follows_steps else 1
        shape = n_rows, len(step.varying), *_shape(step.numbers(1))
        table = step.coef.values.new_empty(shape)
        rows = [row.unbind() for row in table]
        numbers = [getattr(step, name) for name in step.varying]

        def updates() -> None:
            for i, block in enumerate(batches):
                step.repeat(block, rows[i % n_rows])

        try:
            launch = self.recorder.record(updates)
        except RuntimeError as error:
            self.recorder = None
            warn(
                f"Steps could not be recorded as a CUDA graph ({error}). They are "
                "started one by one, which takes longer for small batches.",
                RuntimeWarning,
            )
            return None
        finally:
            for name, number in zip(step.varying, numbers, strict=True):
                setattr(step, name, number)
        return Recording(launch, table, len(batches))

    def _fill(self, recording: Recording, n_steps: int) -> None:
        """Write the numbers of the steps after so many, without waiting."""
        table = recording.table
        steps = range(n_steps + 1, n_steps + 1 + len(table))
        rows: Any = [self.step.numbers(i) for i in steps]
        if shape := _shape(rows[0]):
            rows = np.array([[np.broadcast_to(x, shape) for x in row] for row in rows])
        numbers = torch.tensor(rows, dtype=table.dtype, device="cpu")
        table.copy_(send(numbers, table.device))


def _shape(numbers: tuple[Any, ...]) -> tuple[int, ...]:
    """() for numbers of all outputs, (n_outputs,) if one is an array."""
    return np.broadcast_shapes(*map(np.shape, numbers))
