"""Where rows live and in which order they are visited.

:class:`Rows` holds the data as tensors. :class:`Batches` visits them in mini-batches:
it copies as many batches as the processor's cache holds into one buffer, in the order
of the epoch, and hands out views of that buffer, made once for all epochs. Each row of
X is read from main memory once an epoch, and no tensor is created in the loop.

:class:`RandomStream` is the random stream of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Bytes of X that a chunk may hold: what stays in a core's second-level cache while the
# batches in it are read twice, once for the logits and once for the gradient.
CHUNK_BYTES = {"cpu": 2**19, "cuda": 2**26}
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
    """

    X: Tensor
    y: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.X)


@dataclass(slots=True)
class Block:
    """Some rows, with room for what is computed of them.

    ``logits``, ``residual`` and ``y`` have the shape of the logits; ``weight`` has a
    last axis of length one where they have two axes, so that it multiplies them.
    """

    X: Tensor  # (n_rows, n_features [+ 1]); a last column may be ones
    features: Tensor  # X without the column of ones
    Xt: Tensor  # its transpose
    y: Tensor
    weight: Tensor | None
    logits: Tensor
    residual: Tensor
    ones: Tensor  # (1, n_rows), for sums over rows as products
    scale: float  # 1 / n_rows
    n_columns: int

    def __len__(self) -> int:
        return self.ones.shape[1]

    def __getitem__(self, rows: slice) -> Block:
        return _block(
            self.X[rows],
            self.features[rows],
            self.y[rows],
            None if self.weight is None else self.weight[rows],
            self.logits[rows],
            self.residual[rows],
        )


def _block(
    X: Tensor,
    features: Tensor,
    y: Tensor,
    weight: Tensor | None,
    logits: Tensor,
    residual: Tensor,
) -> Block:
    n_rows, n_columns = X.shape
    return Block(
        X=X,
        features=features,
        Xt=X.t(),
        y=y,
        weight=weight,
        logits=logits,
        residual=residual,
        ones=X.new_ones(()).expand(1, n_rows),
        scale=1.0 / n_rows,
        n_columns=n_columns,
    )


def buffer_block(rows: Rows, n_rows: int, *, fit_intercept: bool) -> Block:
    """Allocate a block for so many of the rows, with a column of ones if asked for."""
    n_features = rows.X.shape[1]
    X = rows.X.new_empty((n_rows, n_features + fit_intercept))
    X[:, n_features:] = 1.0
    y = X.new_empty((n_rows, *rows.y.shape[1:]))
    weight = None
    if rows.weight is not None:
        weight = X.new_empty((n_rows,) + (1,) * (y.dim() - 1))
    features = X[:, :n_features]
    return _block(X, features, y, weight, torch.empty_like(y), torch.empty_like(y))


def view_block(rows: Rows) -> Block:
    """All rows as one block, without a copy of X and without a column of ones."""
    y, weight = rows.y, rows.weight
    if weight is not None:
        weight = weight.view(-1, *(1,) * (y.dim() - 1))
    X = rows.X
    return _block(X, X, y, weight, torch.empty_like(y), torch.empty_like(y))


def copy_rows(rows: Rows, source: slice | Tensor, block: Block) -> None:
    """Copy rows, a slice or an index of shape (len(block),), into a buffer."""
    pairs = [(rows.X, block.features), (rows.y, block.y)]
    if rows.weight is not None and block.weight is not None:
        pairs.append((rows.weight, block.weight.view(-1)))
    for values, out in pairs:
        if isinstance(source, slice):
            out.copy_(values[source])
        else:
            # Six times faster than values[source] and free of a temporary.
            torch.index_select(values, 0, source, out=out)


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
    """Consecutive batches of an epoch in one buffer."""

    def __init__(self, block: Block, batch_size: int) -> None:
        self.block = block
        starts = range(0, len(block), batch_size)
        self.batches = [block[start : start + batch_size] for start in starts]


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
    ) -> None:
        self.rows = rows
        self.stream = stream
        self.shuffle = shuffle
        self.validation = validation
        self.n_rows = n_rows = len(rows)
        row_bytes = rows.X.shape[1] * rows.X.element_size()
        budget = CHUNK_BYTES.get(rows.X.device.type, CHUNK_BYTES["cuda"])
        n_batches = max(1, budget // (row_bytes * batch_size))
        capacity = min(n_batches * batch_size, n_rows)
        self._starts = range(0, n_rows, capacity)
        # Rows in their own order, a batch at a time, are read where they are.
        in_order = batch_size >= n_rows or not shuffle
        self._order: Callable[[int], Iterator[Chunk]] = self._copied
        if in_order and n_batches == 1:
            self._whole = view_block(rows)
            self._order = self._viewed
            return
        buffer = buffer_block(rows, capacity, fit_intercept=fit_intercept)
        self._full = Chunk(buffer, batch_size)
        rest = n_rows % capacity
        self._last = Chunk(buffer[:rest], batch_size) if rest else self._full
        if in_order and capacity == n_rows:
            # One buffer in the order of the rows stays as it is.
            copy_rows(rows, slice(None), buffer)
            self._order = self._kept

    def __iter__(self) -> Iterator[Chunk]:
        seed = self.stream.epoch_seed(shuffle=self.shuffle, validation=self.validation)
        return self._order(seed)

    def _viewed(self, seed: int) -> Iterator[Chunk]:
        capacity = self._starts.step
        for start in self._starts:
            yield Chunk(self._whole[start : start + capacity], capacity)

    def _kept(self, seed: int) -> Iterator[Chunk]:
        yield self._full

    def _copied(self, seed: int) -> Iterator[Chunk]:
        n_rows, capacity = self.n_rows, self._starts.step
        order = None
        if self.shuffle:
            order = self.stream.permutation(n_rows, seed).to(self.rows.X.device)
            if capacity == n_rows:
                copy_rows(self.rows, order, self._full.block)
                yield self._full
                return
        for start in self._starts:
            stop = start + capacity
            chunk = self._full if stop <= n_rows else self._last
            source = slice(start, stop) if order is None else order[start:stop]
            copy_rows(self.rows, source, chunk.block)
            yield chunk
