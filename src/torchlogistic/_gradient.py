"""Loss and gradient of many rows, in one pass over X.

Both products of a gradient, ``X w`` and ``X' r``, read X. Done one after the other on
all rows, each reads it from main memory. Here the rows are cut into pieces that stay
in a core's cache from the first product to the second, and each thread has pieces of
its own: X is read once, by all cores. The pieces are summed in groups that do not
depend on the number of threads, so neither does the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._arrays import (
    SERIAL_COLUMNS,
    SERIAL_ENTRIES,
    Array,
    accumulator,
    as_tensor,
    namespace,
)
from ._kernels import Kernel, Kernels, find_kernel
from ._objective import Coefficients, Objective
from ._rows import Block
from ._threads import Team

PIECE_BYTES = 2**20  # of X: what stays in a core's cache
PIECE_PRODUCTS = SERIAL_COLUMNS  # multiplications
PIECE_ROWS = 64  # at least of several outputs: fewer cost more than that
# Of X that is read: where there is less, threads wait longer for Python's lock, which
# each call of NumPy gives back and takes again, than they gain.
SERIAL_BYTES = 2**25
# Of X in a piece: with shorter ones threads wait for the lock rather than compute.
SERIAL_PIECE = 2**18
STREAMED_BYTES = 2**26  # of X that passes through a device; see ``_transfer``


class Group(NamedTuple):
    """Consecutive rows, and the pieces in which X is read."""

    rows: Block
    pieces: list[Block]


class Sums(NamedTuple):
    """Sums over rows: of the gradient of the loss and, by a kernel, of the loss."""

    loss: Tensor | None  # ()
    weight: Array  # of the shape of the weight
    intercept: Array  # of the shape of the intercept


class PieceGradient:
    """The gradient of the smooth objective on many rows, by a team of threads.

    Parameters
    ----------
    objective : Objective
    team : Team
    """

    def __init__(self, objective: Objective, team: Team) -> None:
        self.objective = objective
        self.team = team
        self._kernels = Kernels()

    def evaluate(self, block: Block, coef: Coefficients) -> Tensor:
        """Logits and residuals into a block, the gradient into ``coef``.

        Returns the sum of the losses: ().
        """
        groups = block.groups = block.groups or cut(block)
        kernel = self._kernels.find(find_kernel, groups[0].pieces[0])
        team = team_for_pieces(groups, self.team)
        if kernel is None:
            sums = team.map(partial(self._sums, coef=coef), groups)
        else:
            sums = [self._kernel_sums(group, coef, kernel) for group in groups]
        weight, intercept = sums[0].weight, sums[0].intercept
        for part in sums[1:]:
            weight += part.weight
            intercept += part.intercept
        arrays = coef.arrays
        weight *= block.scale
        arrays.weight_gradient[...] = weight
        if self.objective.has_l2:
            self.objective.add_l2(coef)
        if coef.fit_intercept:
            arrays.intercept_gradient[...] = intercept * block.scale
        losses = [part.loss for part in sums if part.loss is not None]
        if len(losses) < len(sums):
            # After all rows of X: calls that follow each other find what they need.
            return self.objective.loss_sum(block, team.map)
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _sums(self, group: Group, coef: Coefficients) -> Sums:
        wide, product = accumulator(coef.values), coef.product
        like, to_logits = group.pieces[0], logits_product(coef)
        write_residual = self.objective.make_residual(coef, like, to_logits)
        weight, part = None, coef.xp.empty_like(coef.arrays.weight)
        for piece in on_device(group.pieces):
            write_residual(piece)
            product(piece.Xt, piece.r, part)
            if weight is None:
                weight = coef.xp.widened(part)
            else:
                weight += part
        # At once for all pieces, since each call has its price.
        return Sums(None, weight, coef.xp.sum(group.rows.r, wide))

    def _kernel_sums(self, group: Group, coef: Coefficients, kernel: Kernel) -> Sums:
        total: Any = None
        for piece in on_device(group.pieces):
            sums = self._kernels.run(kernel, piece, coef)
            if sums is None:
                return self._sums(group, coef)
            total = sums if total is None else [*map(torch.add, total, sums)]
        return Sums(*total)


def logits_product(coef: Coefficients) -> Any:
    """The product of X with coefficients; with zeros, where solvers start, of none."""
    values = coef.arrays.values
    at_zero = isinstance(values, np.ndarray) and not values.any()
    return _write_zeros if at_zero else coef.product


def _write_zeros(X: Array, values: Array, out: Array) -> None:
    out[...] = 0


def on_device(pieces: list[Block]) -> Iterable[Block]:
    """Pieces with X where it is computed with, each until the next one is asked for."""
    transfer = pieces[0].transfer
    if transfer is None:
        return pieces
    arrived = transfer.pieces([as_tensor(piece.X) for piece in pieces])
    pairs = zip(pieces, arrived, strict=True)
    return (replace(piece, X=X, Xt=X.T, transfer=None) for piece, X in pairs)


def write_logits(objective: Objective, block: Block, coef: Coefficients) -> Tensor:
    """Write the logits of a block of any size into it."""
    pieces = [block] if block.transfer is None else cut(block)[0].pieces
    for piece in on_device(pieces):
        objective.logits(piece, coef)
    return block.logits


def cut(block: Block) -> list[Group]:
    """Cut a block into groups of pieces."""
    if not isinstance(block.z, np.ndarray):
        X = block.X[:, : block.n_features]  # a buffer on a device may have ones
        whole = replace(block, X=X, Xt=X.T)
        if block.transfer is None:
            return [Group(block, [whole])]
        row_bytes = block.n_features * block.logits.itemsize
        return [Group(block, whole.split(max(1, STREAMED_BYTES // row_bytes)))]
    n_outputs, width = block.logits[0].numel(), block.X.shape[1]
    fitting = PIECE_BYTES // block.X.itemsize // max(width, n_outputs)
    serial = PIECE_PRODUCTS // max(width * n_outputs, 1)
    if n_outputs > 1:
        serial = max(serial, PIECE_ROWS)
    most = max(1, SERIAL_ENTRIES // n_outputs)
    piece = min(max(min(fitting, serial), 1), most)
    # As many rows in each, in whole pieces.
    even = -(-len(block) // -(-len(block) // most))
    span = min(-(-even // piece), most // piece) * piece
    return [Group(rows, rows.split(piece)) for rows in block.split(span)]


def team_for_pieces(groups: list[Group], team: Team) -> Team:
    """Those of a team who share groups of pieces: all, or one thread."""
    return team if groups[0].pieces[0].X.nbytes > SERIAL_PIECE else Team(1)


class FullGradient:
    """Loss and gradient of all rows.

    Parameters
    ----------
    objective : Objective
    block : Block
        All rows; logits and residuals are left in it.
    team : Team
    """

    def __init__(self, objective: Objective, block: Block, team: Team) -> None:
        self.objective = objective
        self.block = block
        self._given_team = team
        self.groups = block.groups = cut(block)
        self._team = team_for_pieces(self.groups, self.team_for_bytes(block.X.nbytes))
        self._pieces = PieceGradient(objective, self._team)
        ends = list(accumulate(len(group.rows) for group in self.groups))
        starts = [0, *ends[:-1]]
        self._spans = [slice(*pair) for pair in zip(starts, ends, strict=True)]

    def evaluate(self, coef: Coefficients) -> float:
        """Logits and residuals into the block, gradient into ``coef``.

        Returns the mean loss. One synchronization with the device.
        """
        loss = self._pieces.evaluate(self.block, coef)
        coef.zero_frozen()
        return loss.item() / len(self.block)

    def team_for_bytes(self, n_bytes: int) -> Team:
        """Those who share the reading of so many bytes of X."""
        return self._given_team if n_bytes > SERIAL_BYTES else Team(1)

    def _sum(self, function: Callable[[Block, slice], Any]) -> Any:
        """Mean over rows of sums that a function gives for parts of the block."""
        pairs = list(zip(self.groups, self._spans, strict=True))
        parts = self._team.map(lambda pair: function(pair[0].rows, pair[1]), pairs)
        return sum(parts[1:], parts[0]) / len(self.block)

    def project(self, coef: Coefficients, direction: Array) -> Array:
        """Change of the logits for a direction of the coefficients."""
        change = coef.xp.zeros_like(self.block.z)
        n = coef.n_features

        def project(group: Group, span: slice) -> None:
            out = change[span]
            start = 0
            for piece in on_device(group.pieces):
                coef.product(piece.X, direction[:n], out[start : start + len(piece)])
                start += len(piece)
            if coef.fit_intercept:
                coef.xp.add_row(out, direction[n:])

        tasks = zip(self.groups, self._spans, strict=True)
        self._team.run([partial(project, *pair) for pair in tasks])
        return change

    def along(self, start: Array, change: Array, step: float) -> tuple[float, float]:
        """Mean loss, and its slope, where the logits are ``start + step * change``.

        Leaves logits and residuals in the block.
        """
        wide, xp = accumulator(self.block.logits), namespace(self.block.logits)

        def sums(rows: Block, span: slice) -> Tensor:
            xp.walk(start[span], change[span], step, rows.z)
            loss = self.objective.loss_sum(rows)
            self.objective.residual(rows)
            slope = torch.sum(rows.residual * as_tensor(change[span]), dtype=wide)
            return torch.stack([loss, slope])

        loss, slope = self._sum(sums).tolist()
        return loss, slope

    def curvature_along(self, change: Array) -> float:
        """Second derivative of the mean loss where the logits move by ``change``."""
        wide = accumulator(self.block.logits)

        def sums(rows: Block, span: slice) -> Tensor:
            moved = as_tensor(change[span])
            values = self.objective.loss.curvature_along(rows.logits, moved)
            if rows.weight is not None:
                values.mul_(as_tensor(rows.weight).view(-1))
            return values.sum(dtype=wide)

        curvature: float = self._sum(sums).item()
        return curvature
