"""Second derivatives of the objective, summed over many rows.

They are ``X'CX / n``, with the curvature C of the loss, plus the L2 penalty. X'CX is a
product ``A'A``, where A has the rows of X times the roots of C: BLAS computes it in
half the time of others.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from torch import Tensor

from ._arrays import Array, Number, accumulator, as_array, as_tensor
from ._gradient import FullGradient, on_device
from ._objective import Coefficients
from ._rows import Block

HESSIAN_ROWS = 8192  # rows of the weighted copy of X at a time
# Up to so many features the rows are shared among threads of ours. BLAS is faster with
# threads of its own, but these spin for a tenth of a second, which costs the gradients
# that follow more than that.
WIDTH, SAMPLED_WIDTH = 64, 128
PART_ROWS = 1024
PARTS = 4
MAX_SHARED = 1000  # coefficients, as each part has a Hessian of its own
# Its bytes on a device, where each piece costs the launch of a dozen kernels: some 60
# microseconds, in which it reads and writes about as much.
DEVICE_HESSIAN_BYTES = 2**27


class Hessian:
    """The Hessian of the smooth objective.

    Parameters
    ----------
    full : FullGradient
        Its block has all rows, and the logits at the coefficients.
    coef : Coefficients
    """

    def __init__(self, full: FullGradient, coef: Coefficients) -> None:
        self.full, self.coef = full, coef
        self.loss = full.objective.loss
        self.wide = accumulator(coef.values)

    def evaluate(self, stride: int = 1) -> Tensor:
        """Second derivatives at the logits in the block.

        Shape (p, p) with p coefficients, in the order of ``values.flatten()``. The loss
        is the mean over every ``stride``-th row.
        """
        block, coef = self.full.block, self.coef
        block = block if stride == 1 else block.every(stride)
        serial = self.is_serial(stride)
        sum_products = partial(self._sum_products, serial=serial)
        H, *others = self.full.each(sum_products, self.parts(block, serial=serial))
        for other in others:
            H += other
        H = as_tensor(self.complete(as_array(H), len(block), self.full.objective.l2))
        # Frozen coefficients leave the system; their gradient is zero.
        k, d = self.loss.n_outputs, coef.n_features
        ends = (0, d * k, coef.length * k)
        for start, stop, frozen in zip(ends, ends[1:], coef.frozen, strict=False):
            if frozen:
                H[start:stop] = 0
                H[:, start:stop] = 0
                H.diagonal()[start:stop] = 1
        return H

    def is_serial(self, stride: int = 1) -> bool:
        """Whether each product is computed in one thread."""
        if not isinstance(self.full.block.z, np.ndarray):
            return False
        return self.coef.n_features <= (SAMPLED_WIDTH if stride > 1 else WIDTH)

    def parts(self, block: Block, *, serial: bool) -> list[Block]:
        """Rows that have sums of their own.

        They do not depend on the number of threads, and so does their sum not.
        """
        shared = serial and self.coef.values.numel() <= MAX_SHARED
        n_parts = PARTS if shared else 1
        return in_pieces(block, max(-(-len(block) // n_parts), PART_ROWS))

    def piece_rows(self, *, serial: bool) -> int:
        """How many rows are multiplied at once."""
        if isinstance(self.full.block.z, np.ndarray):
            return PART_ROWS if serial else HESSIAN_ROWS
        columns = max(self.coef.n_features, self.loss.n_outputs**2)
        row_bytes = columns * self.coef.values.itemsize
        return max(DEVICE_HESSIAN_BYTES // row_bytes, 1)

    def zeros(self, *n_models: int) -> Tensor:
        """Zeros for sums over rows, of shape ([n_models,] length, k, length, k)."""
        shape = (self.coef.length, self.loss.n_outputs) * 2
        H = self.coef.values.new_empty((*n_models, *shape), dtype=self.wide)
        as_array(H)[...] = 0  # torch would wake its threads for it
        return H

    def _sum_products(self, block: Block, *, serial: bool) -> Tensor:
        """Sum X'CX over rows, without what symmetry gives."""
        n_rows = self.piece_rows(serial=serial)
        H, room = self.zeros(), self.room(min(n_rows, len(block)))
        for piece in on_device(in_pieces(block, n_rows)):
            roots = self.roots(piece.logits, piece.weight)
            self.add_products(piece.X, roots, as_array(H), room, serial=serial)
        return H

    def room(self, n_rows: int) -> tuple[Array, Array]:
        """Room for the weighted rows of a piece, and for their product."""
        d, empty = self.coef.n_features, self.coef.values.new_empty
        return as_array(empty((n_rows, d))), as_array(empty((d, d)))

    def roots(self, logits: Tensor, weight: Array | None) -> Array:
        """Roots of the size of the curvature: (..., k, k), without axes of length 1."""
        curvature = self.loss.curvature(logits)
        if weight is not None:
            weight = as_tensor(weight)
            axes = curvature.dim() - weight.dim()
            curvature *= weight.view(*weight.shape, *(1,) * axes)
        return self.coef.xp.sqrt(as_array(curvature.abs_()))

    def add_products(
        self,
        X: Array,
        roots: Array,
        sums: Array,
        room: tuple[Array, Array],
        *,
        serial: bool,
    ) -> None:
        """Add X'CX of the rows of a piece.

        Parameters
        ----------
        X : Array of shape (n_rows, n_features)
        roots : Array of shape (n_rows,) or (n_rows, k, k)
        sums : Array of shape (length, k, length, k)
        room : as :meth:`room` gives it
        serial : bool
            Whether to compute in this thread only.
        """
        coef, xp = self.coef, self.coef.xp
        k, d = self.loss.n_outputs, coef.n_features
        A, product = room[0][: len(X)], room[1]
        gram = xp.serial_gram if serial else xp.gram
        roots = roots.reshape(-1, k, k)
        for i in range(k):
            for j in range(i + 1):
                # C is not negative if i is j, and not positive else.
                sign = 1 if i == j else -1
                root = roots[:, i, j]
                xp.multiply(X, root[:, None], out=A)
                gram(A, product)
                sums[:d, i, :d, j] += sign * product
                if coef.fit_intercept:
                    border = sign * (A.T @ root)
                    sums[d, i, :d, j] += border
                    sums[:d, i, d, j] += border
                    sums[d, i, d, j] += sign * (root @ root)

    def complete(self, sums: Array, n_rows: int, l2: Number) -> Array:
        """The Hessian, given the sums of :meth:`add_products`, whose memory it takes.

        ``sums`` and ``l2`` may have a leading axis of models, and ``l2`` has one of
        length 1 at its end then.
        """
        k, d, length = self.loss.n_outputs, self.coef.n_features, self.coef.length
        for i in range(k):
            for j in range(i):
                sums[..., :, j, :, i] = sums[..., :, i, :, j].swapaxes(-1, -2)
        p = length * k
        sums /= n_rows
        models = sums.shape[:-4]
        diagonal = sums.reshape(*models, p * p)[..., :: p + 1]
        diagonal[..., : d * k] += l2
        return sums.reshape(*models, p, p)


def in_pieces(block: Block, size: int) -> list[Block]:
    """Blocks of so many rows; a block of no more stays as it is."""
    return [block] if len(block) <= size else block.split(size)
