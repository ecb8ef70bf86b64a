"""Where rows live and in which order they are visited.

:class:`Rows` holds the data as tensors. :class:`Batches` visits them in mini-batches:
it copies as many batches as the processor's cache holds into one buffer, in the order
of the epoch, and hands out views of that buffer, made once for all epochs. Each row of
X is read from main memory once an epoch, and no tensor is created in the loop.

:class:`RandomStream` is the random stream of a run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._arrays import Array, Number, as_array, as_tensor, namespace, send
from ._threads import Team
from ._transfer import Fill, Slot, Transfer

# Bytes of X that a chunk may hold: what stays in a core's second-level cache while the
# batches in it are read twice, once for the logits and once for the gradient.
CHUNK_BYTES = {"cpu": 2**19, "cuda": 2**26}
# The same for batches of which not even two fit: in the cache that the cores share.
LARGE_CHUNK_BYTES = 2**22
# Batches that a chunk may hold where their updates are recorded as one CUDA graph: so
# many that its launch costs nothing, so few that it is soon recorded.
CHUNK_BATCHES = {"cuda": 512}
# Copies of more bytes are shared by several threads.
SHARED_BYTES = 2**20
DRAWS_AHEAD = 64  # numbers that the random stream draws at a time


@dataclass
class Rows:
    """Rows in memory.

    Parameters
    ----------
    X : Tensor of shape (n_rows, n_features)
    y : Tensor of shape (n_rows,) or (n_rows, n_classes)
        Targets of the loss, of the dtype of X.
    weight : Tensor of shape (n_rows,), optional
        None stands for all ones.
    transfer : Transfer, optional
        Takes rows on the host to the device that computes with them. None stands for
        rows that are where they are computed with.
    """

    X: Tensor
    y: Tensor
    weight: Tensor | None = None
    transfer: Transfer | None = None

    def __len__(self) -> int:
        return len(self.X)

    @property
    def device(self) -> torch.device:
        """The device that computes with the rows."""
        return self.X.device if self.transfer is None else self.transfer.device

    def every(self, step: int) -> Rows:
        """Every so manieth row, on that device."""
        X, y = (t[::step].to(self.device) for t in (self.X, self.y))
        weight = self.weight
        return Rows(X, y, None if weight is None else weight[::step].to(self.device))


@dataclass(slots=True)
class Block:
    """Some rows, with room for what is computed of them, as arrays of ``_arrays``.

    ``y``, ``z`` and ``r`` have the shape of the logits; ``weight`` has a last axis of
    length one where they have two axes, so that it multiplies them. ``logits`` and
    ``residual`` are tensors with the memory of ``z`` and ``r``.
    """

    X: Array  # (n_rows, n_features [+ 1]); a last column may be ones
    Xt: Array  # its transpose
    y: Array
    weight: Array | None
    z: Array
    r: Array
    logits: Tensor
    residual: Tensor
    n_features: int
    scale: Number  # 1 / n_rows
    groups: Any = None  # its pieces, once it was cut by ``_gradient``
    transfer: Transfer | None = None  # what brings X, which is on the host

    def __len__(self) -> int:
        return len(self.y)

    @property
    def features(self) -> Tensor:
        """X without the column of ones."""
        return as_tensor(self.X)[:, : self.n_features]

    @property
    def targets(self) -> Tensor:
        return as_tensor(self.y)

    def __getitem__(self, rows: slice) -> Block:
        return self.split(rows.stop - rows.start, rows)[0]

    def every(self, step: int) -> Block:
        """Every so manieth row, as views."""
        X = self.X[::step]
        columns = X, X.T, self.y[::step]
        weight = None if self.weight is None else self.weight[::step]
        tensors = self.logits[::step], self.residual[::step]
        arrays = self.z[::step], self.r[::step]
        scale = block_scale(len(X), self.y)
        return Block(
            *columns,
            weight,
            *arrays,
            *tensors,
            self.n_features,
            scale,
            None,
            self.transfer,
        )

    def split(self, size: int, rows: slice = slice(0, None)) -> list[Block]:
        """Cut into blocks of so many rows, the last one of fewer."""
        parts = [torch.split(t[rows], size) for t in (self.logits, self.residual)]
        scale = block_scale(size, self.y)
        blocks = []
        start, end, _ = rows.indices(len(self))
        for logits, residual in zip(*parts, strict=True):
            n_rows = min(size, end - start)
            piece = slice(start, start + n_rows)
            start += size
            X = self.X[piece]
            blocks.append(
                Block(
                    X,
                    X.T,
                    self.y[piece],
                    None if self.weight is None else self.weight[piece],
                    self.z[piece],
                    self.r[piece],
                    logits,
                    residual,
                    self.n_features,
                    scale if n_rows == size else block_scale(n_rows, self.y),
                    None,
                    self.transfer,
                )
            )
        return blocks


def block_scale(n_rows: int, like: Array) -> Number:
    return namespace(as_tensor(like)).number(1.0 / n_rows, like)


def make_block(
    X: Array,
    y: Array,
    weight: Array | None,
    logits: Tensor,
    residual: Tensor,
    n_features: int,
) -> Block:
    arrays = X, X.T, y, weight, as_array(logits), as_array(residual)
    scale = block_scale(len(y), y)
    return Block(*arrays, logits, residual, n_features, scale)


def buffer_block(
    rows: Rows,
    n_rows: int,
    *,
    fit_intercept: bool,
    device: torch.device | None = None,
    pinned: bool = False,
) -> Block:
    """Allocate a block for so many of the rows, with a column of ones if asked for."""
    n_features = rows.X.shape[1]
    empty = partial(
        torch.empty,
        dtype=rows.X.dtype,
        device=rows.X.device if device is None else device,
        pin_memory=pinned,
    )
    X = empty((n_rows, n_features + fit_intercept))
    X[:, n_features:] = 1.0
    y = empty((n_rows, *rows.y.shape[1:]))
    weight = None
    if rows.weight is not None:
        weight = as_array(empty((n_rows,) + (1,) * (y.dim() - 1)))
    logits, residual = torch.empty_like(y), torch.empty_like(y)
    return make_block(as_array(X), as_array(y), weight, logits, residual, n_features)


def view_block(rows: Rows) -> Block:
    """All rows as one block, without a copy of X and without a column of ones."""
    X, y, weight = rows.X, rows.y.to(rows.device), rows.weight
    if weight is not None:
        weight = weight.to(rows.device)
        weight = as_array(weight.view(-1, *(1,) * (y.dim() - 1)))
    logits, residual = torch.empty_like(y), torch.empty_like(y)
    columns = as_array(X), as_array(y), weight
    block = make_block(*columns, logits, residual, X.shape[1])
    block.transfer = rows.transfer
    return block


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

    def _targets(self, block: Block) -> list[Array]:
        targets = [block.X[:, : block.n_features], block.y]
        if block.weight is not None:
            targets.append(block.weight.reshape(-1))
        return targets

    def copy(self, rows: slice, block: Block) -> None:
        """Copy consecutive rows."""
        for source, out in zip(self.arrays, self._targets(block), strict=True):
            out[...] = source[rows]

    def gather(self, index: Array, block: Block) -> None:
        """Copy rows of an index of shape (len(block),)."""
        targets = self._targets(block)
        if not isinstance(block.X, np.ndarray) or block.X.nbytes <= SHARED_BYTES:
            self._gather(index, targets)
            return
        step = -(-len(block) // self.team.size)
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


class RandomStream:
    """The random numbers of a run, drawn as a plain PyTorch program draws them.

    The program calls ``torch.manual_seed(seed)`` and builds ``nn.Linear``, calls
    ``torch.manual_seed(seed)`` again, and iterates ``DataLoader(shuffle=True)``, and a
    validation loader if there is one, once an epoch. Each iterator of a loader draws a
    64-bit base seed for its workers, and the random sampler one for its permutation.
    All draws come from private generators on the CPU, whatever the device.

    Parameters
    ----------
    seed : int
    n_draws : int, default=0
        How many 64-bit numbers an earlier part of the run drew: with the seed, all that
        has to be kept to continue exactly.
    """

    def __init__(self, seed: int, n_draws: int = 0) -> None:
        self.seed = seed
        self.n_draws = n_draws
        self._generator = torch.Generator(device="cpu").manual_seed(seed)
        self._permutation = torch.Generator(device="cpu")
        self._ahead: list[int] = []  # drawn and not used yet, in reverse
        self._numbers(n_draws)

    def _numbers(self, n: int) -> Tensor:
        numbers = torch.empty(n, dtype=torch.int64, device="cpu")
        return numbers.random_(generator=self._generator)

    def _draw(self) -> int:
        if not self._ahead:
            self._ahead = self._numbers(DRAWS_AHEAD).tolist()
            self._ahead.reverse()
        self.n_draws += 1
        return self._ahead.pop()

    def initial_linear(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Fill the tensors of an ``nn.Linear`` as its constructor does, in float32."""
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        bound = 1 / math.sqrt(weight.shape[1])
        for tensor in (weight, bias):
            if tensor is not None:
                draw = torch.empty(tensor.shape, dtype=torch.float32, device="cpu")
                if tensor is weight:
                    torch.nn.init.kaiming_uniform_(
                        draw, a=math.sqrt(5), generator=generator
                    )
                else:
                    draw.uniform_(-bound, bound, generator=generator)
                tensor.copy_(draw)

    def epoch_seed(self, *, shuffle: bool, validation: bool) -> int:
        """Draw what one epoch draws and return the seed of its permutation."""
        self._draw()  # the loader's base seed
        seed = self._draw() if shuffle else 0
        if validation:
            self._draw()
        return seed

    def permutation(self, n_rows: int, seed: int) -> Tensor:
        """Order of the rows in the epoch of a seed: (n_rows,) of int64."""
        self._permutation.manual_seed(seed)
        return torch.randperm(n_rows, generator=self._permutation, device="cpu")


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


class Lane(Slot):
    """A chunk on the device, and where its rows are collected on the host."""

    def __init__(
        self, rows: Rows, capacity: int, batch_size: int, *, fit_intercept: bool
    ) -> None:
        assert rows.transfer is not None
        allocate = partial(buffer_block, rows, capacity, fit_intercept=fit_intercept)
        span = allocate(device=rows.device)
        self.source = allocate(pinned=rows.transfer.pinned)
        self.chunk = self.last = Chunk(span, span.split(batch_size))
        if len(rows) % capacity:
            self.last = self.chunk[: len(rows) % capacity]
        super().__init__(*map(_tensors, (self.source, span)))


def _tensors(block: Block) -> list[Tensor]:
    arrays = [block.X, block.y] + [block.weight] * (block.weight is not None)
    return [as_tensor(array) for array in arrays]


# The batches of a chunk, each ready when it is reached, and the span of all.
Visit = tuple[Iterable[Block], Block]


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
        self._full = self._last = self._lay_out(rows, fit_intercept)
        capacity = len(self._full.span)
        self._starts = range(0, n_rows, capacity)
        if n_rows % capacity:
            self._last = self._full[: n_rows % capacity]

    def _lay_out(self, rows: Rows, fit_intercept: bool) -> Chunk:
        """Choose where batches lie and how they come there; returns a full chunk."""
        batch_size, n_rows = self.batch_size, self.n_rows
        fitting = CHUNK_BYTES.get(self.device.type, CHUNK_BYTES["cuda"])
        fitting //= self.batch_bytes
        fitting = min(fitting, CHUNK_BATCHES.get(self.device.type, fitting))
        in_order = batch_size == n_rows or not self.shuffle
        if rows.transfer is not None and not self.in_pieces:
            capacity = min(max(fitting, 1) * batch_size, n_rows)
            lane = partial(Lane, rows, capacity, batch_size)
            self._lanes = [lane(fit_intercept=fit_intercept) for _ in range(2)]
            self._order = self._streamed
            return self._lanes[0].chunk
        if fitting > 1 and not self.in_pieces:
            # Small batches: copied into one buffer, many at a time.
            capacity = min(fitting * batch_size, n_rows)
            span = buffer_block(rows, capacity, fit_intercept=fit_intercept)
            kept = in_order and capacity == n_rows
            if kept:  # one buffer in the order of the rows stays as it is
                self.copier.copy(slice(None), span)
            self._order = self._kept if kept else self._copied
        elif in_order:  # read where they are
            span = view_block(rows)
            self._order = self._read_ahead
        else:
            # Sums of so many rows cost more than what a column of ones saves.
            fitting = max(LARGE_CHUNK_BYTES // self.batch_bytes, 1)
            capacity = min(fitting * batch_size, n_rows)
            span = buffer_block(rows, capacity, fit_intercept=False)
            self._order = self._copied
        return Chunk(span, span.split(batch_size))

    def __iter__(self) -> Iterator[Visit]:
        seed = self.stream.epoch_seed(shuffle=self.shuffle, validation=self.validation)
        yield from self._order(seed)

    def _kept(self, seed: int) -> Iterator[Visit]:
        yield self._full.batches, self._full.span

    def _read_ahead(self, seed: int) -> Iterator[Visit]:
        """Batches where they lie in memory, each in the cache when it is reached."""
        batches, span = self._full.batches, self._full.span
        ahead = [partial(read, block.X) for block in batches[1:]]
        if not isinstance(span.X, np.ndarray):
            ahead = []  # a device would read X twice
        yield self.copier.team.ahead(batches, ahead), span

    def _copied(self, seed: int) -> Iterator[Visit]:
        order = self._permutation(seed) if self.shuffle else None
        for start, chunk in self._chunks():
            source = slice(start, start + len(chunk.span))
            if order is None:
                self.copier.copy(source, chunk.span)
            else:
                self.copier.gather(order[source], chunk.span)
            yield chunk.batches, chunk.span

    def _streamed(self, seed: int) -> Iterator[Visit]:
        order = None
        if self.shuffle:
            order = as_array(self.stream.permutation(self.n_rows, seed))

        def collect(start: int) -> Fill[Lane]:
            def fill(lane: Lane) -> int:
                stop = min(start + self._starts.step, self.n_rows)
                host = lane.source[0 : stop - start]
                if order is None:
                    self.copier.copy(slice(start, stop), host)
                else:
                    self.copier.gather(order[start:stop], host)
                return stop - start

            return fill

        assert self.transfer is not None
        arrived = self.transfer.run(self._lanes, map(collect, self._starts))
        for start, lane in zip(self._starts, arrived, strict=True):
            whole = start + self._starts.step <= self.n_rows
            chunk = lane.chunk if whole else lane.last
            yield chunk.batches, chunk.span

    def _chunks(self) -> Iterator[tuple[int, Chunk]]:
        for start in self._starts:
            whole = start + self._starts.step <= self.n_rows
            yield start, self._full if whole else self._last

    def _permutation(self, seed: int) -> Array:
        return as_array(send(self.stream.permutation(self.n_rows, seed), self.device))


def read(X: Array) -> None:
    """Bring an array from memory into the cache."""
    X.max()
