"""Rows that stay on the host and pass through a device, some at a time.

For data that do not fit in the memory of the device. Rows are collected in one of two
pinned buffers, from which the device copies them while it still computes with the rows
of the other. Each pass over the data is a copy of them, at the speed of the bus, some
twenty times less than that of the device's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

# What data may take of the memory that is free; the rest is for what is computed.
MARGIN = 0.9


def fits(device: torch.device, n_bytes: int) -> bool:
    """Whether so much fits in the memory of a device; of other than CUDA's, yes."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    # torch keeps what it does not use.
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return n_bytes <= MARGIN * (free + kept)


class Slot:
    """Room for rows on the host, and the same room on the device.

    Parameters
    ----------
    host, device : sequence of Tensor
        Pairs of the same shape, rows first.
    """

    def __init__(self, host: Sequence[Tensor], device: Sequence[Tensor]) -> None:
        self.host = host
        self.device = device
        self.sent: Any = None  # event: the rows have left the host's buffers
        self.used: Any = None  # event: the device needs its copy no more

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "sent": None, "used": None}  # events cannot be copied


S = TypeVar("S", bound=Slot)
# Writes rows into the host's room of a slot; returns how many.
Fill = Callable[[S], int]


class Transfer:
    """Sends rows from the host to a device that computes with those sent before.

    Parameters
    ----------
    device : torch.device
        On the CPU rows are copied, and nothing else happens.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pinned = device.type == "cuda"
        self._stream: Any = None
        if self.pinned:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._slots: list[Slot] = []  # of :meth:`pieces`

    def __reduce__(self) -> tuple[Any, ...]:
        return Transfer, (self.device,)  # without streams and buffers

    def run(self, slots: Sequence[S], fills: Iterable[Fill[S]]) -> Iterator[S]:
        """Fill slots in turn, and yield each when its rows are about to arrive.

        What is started on the device before the next one is asked for may use it.
        """
        for i, fill in enumerate(fills):
            slot = slots[i % len(slots)]
            self.wait(slot)
            n_rows = fill(slot)
            self.send(slot, n_rows)
            yield slot
            self.release(slot)

    def wait(self, slot: Slot) -> None:
        """Wait until the host may write into a slot again."""
        if slot.sent is not None:
            slot.sent.synchronize()

    def send(self, slot: Slot, n_rows: int) -> None:
        """Copy rows, when the device has no more use for those before."""
        pairs = list(zip(slot.host, slot.device, strict=True))
        if self._stream is None:
            for host, device in pairs:
                device[:n_rows].copy_(host[:n_rows])
            return
        current = torch.cuda.current_stream(self.device)
        # The first time, the memory may still serve what was started before.
        self._stream.wait_event(slot.used or current.record_event())
        with torch.cuda.stream(self._stream):
            for host, device in pairs:
                device[:n_rows].copy_(host[:n_rows], non_blocking=True)
            slot.sent = self._stream.record_event()
        current.wait_event(slot.sent)

    def release(self, slot: Slot) -> None:
        """Note that all that uses the device's copy of a slot has been started."""
        if self.pinned:
            slot.used = torch.cuda.current_stream(self.device).record_event()

    def pieces(self, sources: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the copies on the device of consecutive matrices on the host."""
        n_rows, width = max(map(len, sources)), sources[0].shape[1]
        room = self._slots[0].host[0].shape if self._slots else (0, width)
        if room[0] < n_rows or room[1] != width:
            self._slots = [self._allocate(n_rows, sources[0]) for _ in range(2)]

        def copy(source: Tensor) -> Fill[Slot]:
            def fill(slot: Slot) -> int:
                slot.host[0][: len(source)].copy_(source)
                return len(source)

            return fill

        arrived = self.run(self._slots, map(copy, sources))
        for source, slot in zip(sources, arrived, strict=True):
            yield slot.device[0][: len(source)]

    def _allocate(self, n_rows: int, like: Tensor) -> Slot:
        shape = n_rows, like.shape[1]
        host = torch.empty(
            shape, dtype=like.dtype, device="cpu", pin_memory=self.pinned
        )
        return Slot([host], [torch.empty_like(host, device=self.device)])
