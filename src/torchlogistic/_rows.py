"""Where rows live: their data as tensors, and blocks of them with room for results.

:class:`Rows` holds the data. A :class:`Block` is what the objective computes with: some
rows, as views or in a buffer of their own, with room for logits and residuals.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ._arrays import Array, Number, as_array, as_tensor, namespace
from ._transfer import Transfer


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
        """Every ``step``-th row, on that device."""
        X, y = (t[::step].to(self.device) for t in (self.X, self.y))
        weight = self.weight
        return Rows(X, y, None if weight is None else weight[::step].to(self.device))


@dataclass(slots=True)
class Block:
    """Some rows, with room for what is computed of them, as arrays of ``_arrays``.

    ``y``, ``z`` and ``r`` have the shape of the logits; ``weight`` has a last axis of
    length one where they have two axes, so that it multiplies them.
    """

    X: Array  # (n_rows, n_features [+ 1]); a last column may be ones
    Xt: Array  # its transpose
    y: Array
    weight: Array | None
    z: Array  # logits
    r: Array  # residuals
    n_features: int
    scale: Number  # 1 / n_rows
    groups: Any = None  # its pieces, once it was cut by ``_gradient``
    transfer: Transfer | None = None  # what brings X, which is on the host
    # Made when they are first asked for: most of many small blocks never are.
    _logits: Tensor | None = None
    _residual: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def logits(self) -> Tensor:
        """The tensor with the memory of ``z``."""
        if self._logits is None:
            self._logits = as_tensor(self.z)
        return self._logits

    @property
    def residual(self) -> Tensor:
        """The tensor with the memory of ``r``."""
        if self._residual is None:
            self._residual = as_tensor(self.r)
        return self._residual

    @property
    def features(self) -> Tensor:
        """X without the column of ones."""
        return as_tensor(self.X)[:, : self.n_features]

    @property
    def targets(self) -> Tensor:
        return as_tensor(self.y)

    def __getitem__(self, rows: slice) -> Block:
        return self._part(rows, block_scale(rows.stop - rows.start, self.y))

    def every(self, step: int) -> Block:
        """Every ``step``-th row, as views."""
        rows = slice(None, None, step)
        return self._part(rows, block_scale(len(self.y[rows]), self.y))

    def split(self, size: int) -> list[Block]:
        """Cut into blocks of so many rows, the last one of fewer."""
        n_rows = len(self)
        rest = n_rows % size
        scale = block_scale(size, self.y)
        starts = range(0, n_rows - rest, size)
        blocks = [self._part(slice(i, i + size), scale) for i in starts]
        if rest:
            blocks.append(self[n_rows - rest : n_rows])
        return blocks

    def with_X_in(self, buffer: Block) -> Block:
        """The same rows with a copy of X in a buffer, which has room for residuals."""
        buffer.X[...] = self.X
        return Block(
            buffer.X,
            buffer.Xt,
            self.y,
            self.weight,
            self.z,
            buffer.r,
            self.n_features,
            self.scale,
        )

    def _part(self, rows: slice, scale: Number) -> Block:
        X, weight = self.X[rows], self.weight
        return Block(
            X,
            X.T,
            self.y[rows],
            None if weight is None else weight[rows],
            self.z[rows],
            self.r[rows],
            self.n_features,
            scale,
            None,
            self.transfer,
        )


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
    return Block(*arrays, n_features, scale)


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


def record_block(rows: Rows) -> Block:
    """Room for the targets, weights and logits of all rows, without their X."""
    columns = Rows(rows.X[:, :0], rows.y, rows.weight)
    return buffer_block(columns, len(rows), fit_intercept=False)


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
