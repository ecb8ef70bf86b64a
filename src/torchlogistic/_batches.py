"""In which order rows are visited, and how they come into the cache.

:class:`Batches` visits rows in mini-batches: it copies as many batches as stay in a
core's cache into a buffer, in the order of the epoch, and hands out views of that
buffer, made once for all epochs; where rows keep their order, long batches are views of
the data. Each row of X is read from main memory once an epoch. Of large data several
threads copy, each into a buffer of its own, and whoever has copied a chunk trains on it
when it is its turn: what one core has read, no other has to fetch from its cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from ._arrays import Array, as_array, as_tensor, namespace, send
from ._kernels import has_kernel
from ._rows import Block, Rows, buffer_block, record_block, view_block
from ._stream import RandomStream
from ._threads import Begun, Team
from ._transfer import Fill, Slot

# Bytes of X that a chunk may hold: what stays in a core's second-level cache, beside
# the rows it was copied from, while its batches are read twice, once for the logits and
# once for the gradient.
CHUNK_BYTES = {"cpu": 2**18, "cuda": 2**26}
# Batches that a chunk may hold where their updates are recorded as one CUDA graph: so
# many that its launch costs nothing, so few that it is soon recorded.
CHUNK_BATCHES = {"cuda": 512}
# Of more bytes of X, which are in no cache, threads take turns, ...
TURNS_BYTES = 2**25
# ... in larger chunks: to hand over a turn may take as long as to copy 500 KB.
TURN_BYTES = 2**21
# A batch with more bytes of X is shared by several threads: for less, a step would wait
# longer for the other threads than it takes. On CUDA such a batch is not recorded;
# smaller ones share one launch of a graph for each chunk. Other devices have no graphs.
SHARED_BYTES = {"cpu": 2**23, "cuda": CHUNK_BYTES["cuda"] // 2}
# It is copied in tasks of so many bytes.
TASK_BYTES = 2**19
# A buffer that holds several batches has a column of ones, which saves the calls for
# the intercept. Of up to so many bytes X is copied once with such a column: a row is
# then copied by one call of memcpy. More would not stay in a core's cache.
PADDED_BYTES = 2**20
# The rows of more are copied twice to leave a gap for the ones. Of batches with more
# bytes of X than these that costs more than it saves.
ONES_BYTES = 2**16


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
        padded = np.empty((len(X), X.shape[1] + 1), dtype=X.dtype)
        padded[:, :-1] = X
        padded[:, -1] = 1
        self.arrays[0] = padded

    def _targets(self, block: Block) -> list[Array]:
        targets = [block.X[:, : self.arrays[0].shape[1]], block.y]
        if block.weight is not None:
            targets.append(block.weight.reshape(-1))
        return targets

    def copy(self, rows: slice | Array, block: Block) -> None:
        """Copy consecutive rows, or those of an index of shape (len(block),)."""
        targets = self._targets(block)
        if isinstance(rows, slice):
            for source, out in zip(self.arrays, targets, strict=True):
                out[...] = source[rows]
        else:
            self._gather(rows, targets)

    def share(self, index: Array, block: Block) -> None:
        """The same by all threads of the team."""
        targets = self._targets(block)
        step = -(-len(block) // -(-block.X.nbytes // TASK_BYTES))
        pieces = [slice(i, i + step) for i in range(0, len(block), step)]
        self.team.run(
            [
                partial(self._gather, index[piece], [out[piece] for out in targets])
                for piece in pieces
            ]
        )

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


Visits = Callable[[int], Iterator[tuple[Chunk, int]]]  # those of an epoch with a seed


class Batches:
    """Visit rows in mini-batches, an epoch at a time.

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
        Threads that copy rows, and train in turn on what they have copied.
    epochs : int, default=1
        How many there will be at most: before each but the first its order is drawn
        ahead, where that pays.

    Attributes
    ----------
    shared : bool
        Whether a batch is so large that threads share its gradient.
    record : Block or None
        On the host, of batches that are not shared: targets, weights and logits of all
        rows in the order in which an epoch has visited them. They take as much memory
        as two or three columns of X for each logit.
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
        self._in_order = batch_size == n_rows or not shuffle
        self.copier = Copier(rows, team)
        self.batch_bytes = batch_size * rows.X.shape[1] * rows.X.element_size()
        most = SHARED_BYTES.get(self.device.type, SHARED_BYTES["cpu"])
        self.shared = self.in_pieces or self.batch_bytes > most
        self._epochs_left = epochs
        self._drawn: tuple[int, Begun, list[Tensor]] | None = None
        on_host = rows.transfer is None and isinstance(as_array(rows.X), np.ndarray)
        many = on_host and rows.X.nbytes > TURNS_BYTES and not self.shared
        self.n_threads = team.size if many else 1
        # Where threads take turns with batches that are views, each copies here what it
        # reads twice, which is X.
        self._buffers: list[Room] = []
        self.rooms, self._visits = self._lay_out(rows, fit_intercept)
        self._starts = range(0, n_rows, len(self.rooms[0].full.span))
        self.record: Block | None = None
        if on_host and not self.shared:
            whole = len(self._starts) == 1
            self.record = self.rooms[0].full.span if whole else record_block(rows)

    def _lay_out(self, rows: Rows, fit_intercept: bool) -> tuple[list[Room], Visits]:
        """Choose where batches lie and how they come there."""
        batch_size, n_rows = self.batch_size, self.n_rows
        fitting = CHUNK_BYTES.get(self.device.type, CHUNK_BYTES["cuda"])
        fitting //= self.batch_bytes
        fitting = min(fitting, CHUNK_BATCHES.get(self.device.type, fitting))
        in_order = self._in_order
        # The kernel of ``_triton`` needs no ones, and reads rows with them slowly.
        n_features, several = rows.X.shape[1], rows.y.dim() > 1
        if has_kernel(self.device, n_features, several=several):
            fit_intercept = False
        if rows.transfer is not None and not self.in_pieces:
            capacity = min(max(fitting, 1) * batch_size, n_rows)
            lane = partial(Lane, rows, capacity, batch_size)
            self._lanes = [lane(fit_intercept=fit_intercept) for _ in range(2)]
            return [lane.room for lane in self._lanes], self._streamed
        small = fitting > 1 and not self.in_pieces
        views = in_order and not small
        if views and self.n_threads == 1:
            return self._views(rows), self._kept
        if self.n_threads > 1:
            fitting = max(fitting, TURN_BYTES // self.batch_bytes)
        capacity = min(max(fitting, 1) * batch_size, n_rows)
        ones = fit_intercept and small
        gathers = not in_order and isinstance(as_array(rows.X), np.ndarray)
        padded = ones and gathers and rows.X.nbytes <= PADDED_BYTES
        # With several logits the sums that the ones save take longer.
        if gathers and not padded and rows.y.dim() == 1:
            ones = ones and self.batch_bytes <= ONES_BYTES
        allocate = partial(buffer_block, rows, capacity, fit_intercept=ones)
        n_rooms = min(self.n_threads, -(-n_rows // capacity))
        rooms = [Room(allocate(), batch_size, n_rows) for _ in range(n_rooms)]
        if views and capacity == batch_size:  # so long that it matters what is copied
            self._buffers = rooms
            return self._views(rows), self._kept
        if padded:
            self.copier.add_ones()
        if in_order and capacity == n_rows:  # one buffer, which stays as it is
            self.copier.copy(slice(None), rooms[0].full.span)
            return rooms, self._kept
        return rooms, self._copied

    def _views(self, rows: Rows) -> list[Room]:
        return [Room(view_block(rows), self.batch_size, self.n_rows)]

    def __iter__(self) -> Iterator[tuple[list[Block], Block]]:
        """Batches of an epoch, chunk by chunk, each with the span of its rows.

        All is done by this thread.
        """
        for chunk, start in self._visits(self._next_seed()):
            yield chunk.batches, chunk.span
            self._note(chunk, start)

    def each(self, act: Callable[[list[Block]], None]) -> None:
        """Do something with the batches of each chunk of an epoch, in their order.

        Of large data several threads do so in turn: the one whose core has the rows.
        """
        if self.n_threads == 1:
            for batches, _ in self:
                act(batches)
            return
        seed = self._next_seed()
        if self._buffers:
            self._view_each(act)
        else:
            self._copy_each(seed, act)

    def _view_each(self, act: Callable[[list[Block]], None]) -> None:
        """The same where batches are views of rows in their own order."""

        def copy(room: Room, batch: Block) -> Block:
            whole = len(batch) == self.batch_size
            (buffer,) = (room.full if whole else room.last).batches
            return batch.with_X_in(buffer)

        prepare = [partial(copy, room) for room in self._buffers]
        batches = self.rooms[0].full.batches
        self.copier.team.in_turn(batches, prepare, lambda _, batch: act([batch]))

    def _copy_each(self, seed: int, act: Callable[[list[Block]], None]) -> None:
        """The same where all of a row is copied."""

        def visit(start: int, chunk: Chunk) -> None:
            act(chunk.batches)
            self._note(chunk, start)

        with self._ordered(seed, ahead=True) as order:
            prepare = [partial(self._copy, order, room) for room in self.rooms]
            self.copier.team.in_turn(self._starts, prepare, visit)

    def _next_seed(self) -> int:
        return self.stream.epoch_seed(shuffle=self.shuffle, validation=self.validation)

    def _note(self, chunk: Chunk, start: int) -> None:
        """Keep what the loss of a chunk depends on, until the epoch ends."""
        span, record = chunk.span, self.record
        if record is None or len(self._starts) == 1:  # which is the span
            return
        rows = slice(start, start + len(span))
        record.y[rows], record.z[rows] = span.y, span.z
        if record.weight is not None:
            record.weight[rows] = span.weight

    def _kept(self, seed: int) -> Iterator[tuple[Chunk, int]]:
        yield self.rooms[0].full, 0

    def _copied(self, seed: int) -> Iterator[tuple[Chunk, int]]:
        # While a device computes, this thread has nothing to do but to start it.
        with self._ordered(seed, ahead=self.device.type != "cpu") as order:
            for start in self._starts:
                yield self._copy(order, self.rooms[0], start), start

    def _copy(self, order: Array | None, room: Room, start: int) -> Chunk:
        """Copy a chunk into a room."""
        chunk = self._chunk(room, start)
        rows = self._rows(order, start)
        if self.shared and isinstance(chunk.span.X, np.ndarray):
            self.copier.share(rows, chunk.span)
        else:
            self.copier.copy(rows, chunk.span)
        return chunk

    def _streamed(self, seed: int) -> Iterator[tuple[Chunk, int]]:
        def collect(start: int) -> Fill[Lane]:
            def fill(lane: Lane) -> int:
                n_rows = len(self._chunk(lane.room, start).span)
                self.copier.copy(self._rows(order, start), lane.source[0:n_rows])
                return n_rows

            return fill

        assert self.transfer is not None
        with self._ordered(seed, ahead=True) as order:
            arrived = self.transfer.run(self._lanes, map(collect, self._starts))
            for start, lane in zip(self._starts, arrived, strict=True):
                yield self._chunk(lane.room, start), start

    def _rows(self, order: Array | None, start: int) -> slice | Array:
        """The rows of a chunk: consecutive ones, or those that the order names."""
        rows = slice(start, min(start + self._starts.step, self.n_rows))
        return rows if order is None else order[rows]

    def _chunk(self, room: Room, start: int) -> Chunk:
        whole = start + self._starts.step <= self.n_rows
        return room.full if whole else room.last

    def _order(self, seed: int) -> Array | None:
        """The rows in the order of an epoch; None if that is their own."""
        if self._in_order:
            return None
        order = None
        if self._drawn is not None:
            drawn_seed, drawing, found = self._drawn
            drawing()  # the stream draws one at a time
            self._drawn = None
            if drawn_seed == seed:
                order = found[0]
        if order is None:
            order = self.stream.permutation(self.n_rows, seed)
        self._epochs_left -= 1
        # Rows that pass through a device are collected on the host.
        return as_array(order if self.transfer else send(order, self.device))

    @contextmanager
    def _ordered(self, seed: int, *, ahead: bool) -> Iterator[Array | None]:
        """The order of an epoch, while another thread may draw that of the next."""
        try:
            order = self._order(seed)
            if ahead:
                self._draw_ahead()
            yield order
        except BaseException:
            self.stop()
            raise

    def _draw_ahead(self) -> None:
        """Let another thread draw the order of the next epoch, if there is one."""
        if self._in_order or self._epochs_left <= 0:
            return
        seed, found = self.stream.next_seed(), []

        def draw() -> None:
            found.append(self.stream.permutation(self.n_rows, seed))

        drawing = Begun([draw])
        self._drawn = seed, drawing, found
        self.copier.team.ask(drawing, helpers=1)

    def stop(self) -> None:
        """Leave no thread at work: an interpreter that exits meanwhile aborts."""
        if self._drawn is not None:
            self._drawn[1].stop()
            self._drawn = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_drawn": None}  # threads cannot be copied
