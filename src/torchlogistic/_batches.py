"""In which order rows are visited, and how they come into the cache.

:class:`Batches` visits rows in mini-batches: it copies as many batches as the
processor's cache holds into one buffer, in the order of the epoch, and hands out views
of that buffer, made once for all epochs. Each row of X is read from main memory once an
epoch, and no tensor is created in the loop. Of large data another thread copies what
comes next into other buffers while this thread computes, which helps before it waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np
from torch import Tensor

from ._arrays import Array, as_array, as_tensor, namespace, send
from ._rows import Block, Rows, buffer_block, view_block
from ._stream import RandomStream
from ._threads import Begun, Task, Team
from ._transfer import Fill, Slot

# Bytes of X that a chunk may hold: what stays in a core's second-level cache while the
# batches in it are read twice, once for the logits and once for the gradient.
CHUNK_BYTES = {"cpu": 2**19, "cuda": 2**26}
# The same where another thread may copy: from its cache each chunk comes to this one's
# anyhow, and larger ones are handed over less often.
AHEAD_CHUNK_BYTES = 2**20
# The same for batches of which not even two fit: in the cache that the cores share.
LARGE_CHUNK_BYTES = 2**22
# Batches that a chunk may hold where their updates are recorded as one CUDA graph: so
# many that its launch costs nothing, so few that it is soon recorded.
CHUNK_BATCHES = {"cuda": 512}
# Copies into larger chunks are cut into tasks of so many bytes, which threads share.
TASK_BYTES = 2**19
# Of more bytes of X, what comes next is copied while other threads compute: it is not
# in a cache, and takes longer than telling them.
AHEAD_BYTES = 2**22
# Chunks that have room at a time then: one that is computed with, one that is copied,
# and one for the thread that would have to wait for the other.
AHEAD_ROOMS = 3
# Up to so many bytes of X are copied once with the column of ones that a buffer has: a
# row is then copied by one call of memcpy. More would not stay in a core's cache.
PADDED_BYTES = 2**20


class Copier:
    """Copies rows into a block, with the threads of a team.

    Parameters
    ----------
    rows : Rows
    team : Team
    """

    def __init__(self, rows: Rows, team: Team) -> None:
        self.team = team
        self.xp = namespace(rows.X)
        self.arrays = [as_array(rows.X), as_array(rows.y)]
        if rows.weight is not None:
            self.arrays.append(as_array(rows.weight))

    def add_ones(self) -> None:
        """Copy from rows with a column of ones, which have no gaps in a buffer."""
        X = self.arrays[0]
        self.arrays[0] = np.ones((len(X), X.shape[1] + 1), dtype=X.dtype)
        self.arrays[0][:, :-1] = X

    def _targets(self, block: Block) -> list[Array]:
        targets = [block.X[:, : self.arrays[0].shape[1]], block.y]
        if block.weight is not None:
            targets.append(block.weight.reshape(-1))
        return targets

    def copy(self, rows: slice | Array, block: Block) -> None:
        """Copy consecutive rows, or those of an index of shape (len(block),)."""
        self.team.run(self.tasks(rows, block))

    def tasks(self, rows: slice | Array, block: Block) -> list[Task]:
        """The same as tasks, which threads may share."""
        targets = self._targets(block)
        if isinstance(rows, slice):
            return [partial(self._copy, rows, targets)]
        if not isinstance(block.X, np.ndarray) or block.X.nbytes <= AHEAD_CHUNK_BYTES:
            return [partial(self._gather, rows, targets)]
        step = -(-len(block) // -(-block.X.nbytes // TASK_BYTES))
        pieces = [slice(i, i + step) for i in range(0, len(block), step)]
        return [
            partial(self._gather, rows[piece], [out[piece] for out in targets])
            for piece in pieces
        ]

    def _copy(self, rows: slice, targets: list[Array]) -> None:
        for source, out in zip(self.arrays, targets, strict=True):
            out[...] = source[rows]

    def _gather(self, index: Array, targets: list[Array]) -> None:
        for source, out in zip(self.arrays, targets, strict=True):
            self.xp.take(source, index, out)


class Chunk:
    """Consecutive batches of an epoch.

    Parameters
    ----------
    span : Block
        The rows of all batches: their targets and logits, from which the losses are
        computed at once.
    batches : list of Block
    """

    def __init__(self, span: Block, batches: list[Block]) -> None:
        self.span = span
        self.batches = batches

    def __getitem__(self, rows: slice) -> Chunk:
        """The first so many rows; whole batches are the same objects."""
        whole, rest = divmod(rows.stop, len(self.batches[0]))
        batches = self.batches[:whole]
        if rest:
            batches.append(self.batches[whole][0:rest])
        return Chunk(self.span[0 : rows.stop], batches)


class Room:
    """Memory for one chunk at a time.

    Parameters
    ----------
    span : Block
        The memory.
    batch_size : int
    n_rows : int
        Rows of an epoch, whose last chunk may be shorter.
    """

    def __init__(self, span: Block, batch_size: int, n_rows: int) -> None:
        self.full = self.last = Chunk(span, span.split(batch_size))
        if n_rows % len(span):
            self.last = self.full[: n_rows % len(span)]


class Lane(Slot):
    """Room for a chunk on the device, and where its rows are collected on the host."""

    def __init__(
        self, rows: Rows, capacity: int, batch_size: int, *, fit_intercept: bool
    ) -> None:
        assert rows.transfer is not None
        allocate = partial(buffer_block, rows, capacity, fit_intercept=fit_intercept)
        span = allocate(device=rows.device)
        self.source = allocate(pinned=rows.transfer.pinned)
        self.room = Room(span, batch_size, len(rows))
        super().__init__(*map(_tensors, (self.source, span)))


def _tensors(block: Block) -> list[Tensor]:
    arrays = [block.X, block.y] + [block.weight] * (block.weight is not None)
    return [as_tensor(array) for array in arrays]


# The batches of a chunk, each ready when it is reached, and the span of all.
Visit = tuple[Iterable[Block], Block]
Visits = Callable[[int], Iterator[Visit]]  # those of an epoch with a seed


class Batches:
    """Visit rows in mini-batches, one epoch each time it is iterated.

    Parameters
    ----------
    rows : Rows
    batch_size : int
        At least the number of rows means all rows at once, in their own order: no sum
        over all of them depends on it.
    shuffle : bool
        Draw a new order each epoch.
    stream : RandomStream
    fit_intercept : bool
    validation : bool
        Whether a validation loader is iterated too; see :class:`RandomStream`.
    team : Team
        Threads that copy rows.
    epochs : int, default=1
        How many there will be at most: before each but the first its order is drawn
        ahead, where that pays.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        batch_size: int,
        shuffle: bool,
        stream: RandomStream,
        fit_intercept: bool,
        validation: bool,
        team: Team,
        epochs: int = 1,
    ) -> None:
        self.stream = stream
        self.shuffle = shuffle
        self.validation = validation
        self.n_rows = n_rows = len(rows)
        self.batch_size = batch_size = min(batch_size, n_rows)
        self.n_batches = -(-n_rows // batch_size)
        self.device = rows.device
        self.transfer = rows.transfer
        # A batch of all rows, which are on the host, passes through in pieces.
        self.in_pieces = rows.transfer is not None and batch_size == n_rows
        self.copier = Copier(rows, team)
        self.batch_bytes = batch_size * rows.X.shape[1] * rows.X.element_size()
        self._epochs_left = epochs
        self._drawn: tuple[int, Begun, list[Tensor]] | None = None
        # Whether another thread copies what comes next. Larger batches, whose gradient
        # threads share, are copied by all of them.
        many = rows.X.nbytes > AHEAD_BYTES and self.batch_bytes <= LARGE_CHUNK_BYTES
        self.may_be_ahead = many and self.device.type == "cpu"
        self.ahead = self.may_be_ahead and team.size > 1
        self.rooms, self._visits = self._lay_out(rows, fit_intercept)
        self._starts = range(0, n_rows, len(self.rooms[0].full.span))

    def _lay_out(self, rows: Rows, fit_intercept: bool) -> tuple[list[Room], Visits]:
        """Choose where batches lie and how they come there."""
        batch_size, n_rows = self.batch_size, self.n_rows
        fitting = CHUNK_BYTES.get(self.device.type, CHUNK_BYTES["cuda"])
        fitting //= self.batch_bytes
        fitting = min(fitting, CHUNK_BATCHES.get(self.device.type, fitting))
        in_order = batch_size == n_rows or not self.shuffle
        if rows.transfer is not None and not self.in_pieces:
            capacity = min(max(fitting, 1) * batch_size, n_rows)
            lane = partial(Lane, rows, capacity, batch_size)
            self._lanes = [lane(fit_intercept=fit_intercept) for _ in range(2)]
            return [lane.room for lane in self._lanes], self._streamed
        small = fitting > 1 and not self.in_pieces
        if in_order and not small:  # read where they are
            return [Room(view_block(rows), batch_size, n_rows)], self._read_ahead
        # Copied into a buffer: small batches many at a time. For others sums of so many
        # rows cost more than what a column of ones saves.
        if not small:
            fitting = max(LARGE_CHUNK_BYTES // self.batch_bytes, 1)
        elif self.may_be_ahead:  # or is: no sum may depend on the number of threads
            fitting = max(AHEAD_CHUNK_BYTES // self.batch_bytes, fitting)
        capacity = min(fitting * batch_size, n_rows)
        allocate = partial(
            buffer_block, rows, capacity, fit_intercept=fit_intercept and small
        )
        n_rooms = AHEAD_ROOMS if self.ahead else 1
        rooms = [Room(allocate(), batch_size, n_rows) for _ in range(n_rooms)]
        # NumPy copies rows into a buffer with gaps by way of another buffer.
        on_host = isinstance(rooms[0].full.span.X, np.ndarray)
        padded = small and fit_intercept and not in_order and on_host
        if padded and rows.X.nbytes <= PADDED_BYTES:
            self.copier.add_ones()
        if in_order and capacity == n_rows:  # one buffer, which stays as it is
            self.copier.copy(slice(None), rooms[0].full.span)
            return rooms, self._kept
        return rooms, self._copied_ahead if self.ahead else self._copied

    def __iter__(self) -> Iterator[Visit]:
        seed = self.stream.epoch_seed(shuffle=self.shuffle, validation=self.validation)
        yield from self._visits(seed)

    def _kept(self, seed: int) -> Iterator[Visit]:
        full = self.rooms[0].full
        yield full.batches, full.span

    def _read_ahead(self, seed: int) -> Iterator[Visit]:
        """Batches where they lie in memory, each in the cache when it is reached."""
        full = self.rooms[0].full
        batches, span = full.batches, full.span
        ahead = [partial(read, block.X) for block in batches[1:]]
        if not isinstance(span.X, np.ndarray):
            ahead = []  # a device would read X twice
        yield self.copier.team.ahead(batches, ahead), span

    def _copied(self, seed: int) -> Iterator[Visit]:
        order = self._permutation(seed) if self.shuffle else None
        for start in self._starts:
            chunk = self._chunk(self.rooms[0], start)
            self.copier.copy(self._rows(order, start), chunk.span)
            yield chunk.batches, chunk.span

    def _copied_ahead(self, seed: int) -> Iterator[Visit]:
        """The same, while another thread copies what comes next."""
        order = self._permutation(seed) if self.shuffle else None
        pending: deque[tuple[Chunk, Begun]] = deque()
        places = zip(cycle(self.rooms), self._starts, strict=False)
        ended = False

        def begin(n_copies: int) -> None:
            for room, start in islice(places, n_copies):
                chunk = self._chunk(room, start)
                tasks = self.copier.tasks(self._rows(order, start), chunk.span)
                pending.append((chunk, self.copier.team.begin(tasks, helpers=1)))

        try:
            begin(len(self.rooms) - 1)
            self._draw_ahead()
            while pending:
                begin(1)
                chunk, copy = pending[0]
                copy.help()
                if len(pending) > 1 and not copy.is_done:
                    pending[1][1].help()  # rather than wait
                copy()
                pending.popleft()
                yield chunk.batches, chunk.span
            ended = True
        finally:
            # Whoever stops early finds no thread at work: an interpreter that exits
            # while one is in torch aborts.
            for _, copy in pending:
                copy.stop()
            if not ended and self._drawn is not None:
                (_, drawing, _), self._drawn = self._drawn, None
                drawing.stop()

    def _streamed(self, seed: int) -> Iterator[Visit]:
        order = None
        if self.shuffle:
            order = as_array(self.stream.permutation(self.n_rows, seed))

        def collect(start: int) -> Fill[Lane]:
            def fill(lane: Lane) -> int:
                n_rows = len(self._chunk(lane.room, start).span)
                self.copier.copy(self._rows(order, start), lane.source[0:n_rows])
                return n_rows

            return fill

        assert self.transfer is not None
        arrived = self.transfer.run(self._lanes, map(collect, self._starts))
        for start, lane in zip(self._starts, arrived, strict=True):
            chunk = self._chunk(lane.room, start)
            yield chunk.batches, chunk.span

    def _rows(self, order: Array | None, start: int) -> slice | Array:
        """The rows of a chunk: consecutive ones, or those that the order names."""
        rows = slice(start, min(start + self._starts.step, self.n_rows))
        return rows if order is None else order[rows]

    def _chunk(self, room: Room, start: int) -> Chunk:
        whole = start + self._starts.step <= self.n_rows
        return room.full if whole else room.last

    def _permutation(self, seed: int) -> Array:
        order = None
        if self._drawn is not None:
            (drawn_seed, drawing, found), self._drawn = self._drawn, None
            drawing()  # the stream draws one at a time
            if drawn_seed == seed:
                order = found[0]
        if order is None:
            order = self.stream.permutation(self.n_rows, seed)
        self._epochs_left -= 1
        return as_array(send(order, self.device))

    def _draw_ahead(self) -> None:
        """Let another thread draw the order of the next epoch, if there is one."""
        if not (self.ahead and self.shuffle and self._epochs_left > 0):
            return
        seed, found = self.stream.next_seed(), []

        def draw() -> None:
            found.append(self.stream.permutation(self.n_rows, seed))

        self._drawn = seed, self.copier.team.begin([draw], helpers=1), found

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_drawn": None}  # threads cannot be copied


def read(X: Array) -> None:
    """Bring an array from memory into the cache."""
    X.max()
