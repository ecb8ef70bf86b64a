"""Second derivatives of the objective, summed over many rows.

They are ``X'CX / n`` plus the L2 penalty, where the curvature C of the loss is a sum
over pairs of classes; see ``_loss``. Each pair costs one sum ``X' diag(c) X`` with its
weights c. It is a product ``A'A``, where A has the rows of X times the roots of c: BLAS
computes it in half the time of others.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from ._arrays import SERIAL_PRODUCT, Array, Number, accumulator, as_array, as_tensor
from ._gradient import FullGradient, on_device
from ._objective import Coefficients
from ._rows import Block

HESSIAN_ROWS = 8192  # rows of the weighted copy of X at a time
# Up to so many features the rows are shared among threads of ours. BLAS is faster with
# threads of its own, but these spin for a tenth of a second, which costs the gradients
# that follow more than that.
WIDTH, SAMPLED_WIDTH = 64, 128
# Up to so many coefficients of a logit, pieces are transposed: a short row is slow to
# multiply by a number.
NARROW = 32
NARROW_ROWS = 4096
NARROW_BYTES = 2**22  # of the weighted copies of a piece, for some pairs at a time
PART_ROWS = 1024
PARTS = 4
MAX_SHARED = 1000  # coefficients, as each part has sums of its own
ROOT_BYTES = 2**24  # of the roots of a piece, for all pairs
# Its bytes on a device, where each piece costs the launch of some ten kernels for each
# pair: 60 microseconds, in which it reads and writes about as much.
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
        # X is read for each pair.
        self.team = full.team_for_bytes(full.block.X.nbytes * len(self.loss.pairs))
        # Room that no thread uses: new memory costs as much as what is computed in it.
        self._spare: deque[Products] = deque()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_spare": deque()}

    def evaluate(self, stride: int = 1) -> Tensor:
        """Second derivatives at the logits in the block.

        Shape (p, p) with p coefficients, in the order of ``values.flatten()``. The loss
        is the mean over every ``stride``-th row.
        """
        block, coef = self.full.block, self.coef
        block = block if stride == 1 else block.every(stride)
        serial = self.is_serial(stride)
        sum_products = partial(self._sum_products, serial=serial)
        sums, *others = self.team.map(sum_products, self.parts(block, serial=serial))
        for other in others:
            sums += other
        H = as_tensor(self.complete(sums, len(block), self.full.objective.l2))
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

        They do not depend on the number of threads, so neither does their sum.
        """
        shared = serial and self.coef.values.numel() <= MAX_SHARED
        n_parts = PARTS if shared else 1
        return in_pieces(block, max(-(-len(block) // n_parts), PART_ROWS))

    def piece_rows(self, *, serial: bool) -> int:
        """How many rows are multiplied at once."""
        if isinstance(self.full.block.z, np.ndarray):
            n_rows = HESSIAN_ROWS
            if serial:
                n_rows = NARROW_ROWS if self.coef.length <= NARROW else PART_ROWS
            row_bytes = len(self.loss.pairs) * self.coef.values.itemsize
            return min(n_rows, max(ROOT_BYTES // row_bytes, 1))
        columns = max(self.coef.n_features, self.loss.n_outputs**2)
        row_bytes = columns * self.coef.values.itemsize
        return max(DEVICE_HESSIAN_BYTES // row_bytes, 1)

    def zeros(self, *n_models: int) -> Array:
        """Zeros for sums over rows: ([n_models,] n_pairs, length, length)."""
        length = self.coef.length
        return self._zeros(*n_models, len(self.loss.pairs), length, length)

    def _zeros(self, *shape: int) -> Array:
        zeros = as_array(self.coef.values.new_empty(shape, dtype=self.wide))
        zeros[...] = 0  # torch would wake its threads for it
        return zeros

    def _sum_products(self, block: Block, *, serial: bool) -> Array:
        """Sums over rows for each pair."""
        n_rows = self.piece_rows(serial=serial)
        try:
            products = self._spare.pop() if serial else self.products(serial=False)
        except IndexError:
            products = self.products(serial=True)
        sums = self.zeros()
        for piece in on_device(in_pieces(block, n_rows)):
            products.add(piece.X, self.roots(piece.logits, piece.weight), sums)
        if serial:
            self._spare.append(products)
        return sums

    def products(self, n_models: int = 1, *, serial: bool) -> Products:
        """What multiplies the rows of a piece."""
        n_rows = min(self.piece_rows(serial=serial), len(self.full.block))
        if serial and self.coef.length <= NARROW:
            return NarrowProducts(self.coef, n_rows, n_models * len(self.loss.pairs))
        return WideProducts(self.coef, n_rows, serial=serial)

    def roots(self, logits: Tensor, weight: Array | None) -> Array:
        """Roots of what pairs weigh: (..., n_pairs, n_rows)."""
        roots = as_array(self.loss.curvature(logits))
        self.coef.xp.sqrt(roots, out=roots)
        if weight is not None:
            roots *= self.coef.xp.sqrt(weight).reshape(*roots.shape[:-2], 1, -1)
        return roots

    def complete(self, sums: Array, n_rows: int, l2: Number) -> Array:
        """The Hessian, given the sums for each pair, whose memory it may take.

        Both may have a leading axis of models; ``l2`` has one of length 1 at its end
        then.
        """
        k, d, length = self.loss.n_outputs, self.coef.n_features, self.coef.length
        models, p = sums.shape[:-3], length * k
        sums /= n_rows
        H = sums if k == 1 else self._all_classes(sums)
        diagonal = H.reshape(*models, p * p)[..., :: p + 1]
        diagonal[..., : d * k] += l2
        return H.reshape(*models, p, p)

    def _all_classes(self, sums: Array) -> Array:
        """Give each pair's sums their places: (..., length, k, length, k)."""
        k, length = self.loss.n_outputs, self.coef.length
        H = self._zeros(*sums.shape[:-3], length, k, length, k)
        for r, (i, j) in enumerate(self.loss.pairs):
            part = sums[..., r, :, :]
            H[..., :, i, :, i] += part
            H[..., :, j, :, j] += part
            H[..., :, i, :, j] -= part
            H[..., :, j, :, i] -= part
        return H


class Products(Protocol):
    """Sums ``X' diag(r)^2 X`` for several r, a piece of the rows at a time.

    Where there is an intercept, X has a column of ones.
    """

    def add(self, X: Array, roots: Array, sums: Array) -> None:
        """Add the products of a piece.

        Parameters
        ----------
        X : Array of shape (n_rows, n_features)
        roots : Array of shape (..., n_rows)
        sums : Array of shape (..., length, length)
        """


class WideProducts:
    """One r at a time, with the rows of X as they are.

    Parameters
    ----------
    coef : Coefficients
    n_rows : int
        Of the largest piece.
    serial : bool
        Whether to compute in this thread only.
    """

    def __init__(self, coef: Coefficients, n_rows: int, *, serial: bool) -> None:
        self.coef = coef
        self.gram = coef.xp.serial_gram if serial else coef.xp.gram
        d, empty = coef.n_features, coef.values.new_empty
        self.weighted = as_array(empty((n_rows, d)))
        self.product = as_array(empty((d, d)))

    def add(self, X: Array, roots: Array, sums: Array) -> None:
        d, length = self.coef.n_features, self.coef.length
        A = self.weighted[: len(X)]
        pairs = roots.reshape(-1, len(X)), sums.reshape(-1, length, length)
        for root, out in zip(*pairs, strict=True):
            self.coef.xp.multiply(X, root[:, None], out=A)
            self.gram(A, self.product)
            out[:d, :d] += self.product
            if self.coef.fit_intercept:
                border = A.T @ root
                out[d, :d] += border
                out[:d, d] += border
                out[d, d] += root @ root


class NarrowProducts:
    """Several r at a time, with X transposed, in few calls of NumPy.

    Threads hand Python's lock over at each, which takes longer than a small product.

    Parameters
    ----------
    coef : Coefficients
    n_rows : int
        Of the largest piece.
    n_sums : int
        For how many r, at most.
    """

    def __init__(self, coef: Coefficients, n_rows: int, n_sums: int) -> None:
        length, dtype = coef.length, coef.arrays.values.dtype
        # Rows that BLAS multiplies in this thread, and slices of so many.
        self.step = step = min(n_rows, SERIAL_PRODUCT // length**2)
        n_slices = n_rows // step
        n_copies = max(NARROW_BYTES // (length * n_slices * step * dtype.itemsize), 1)
        n_copies = min(n_copies, n_sums)
        # The last row, if it is none of X's, stays as it is.
        self.columns = np.ones((length, n_slices * step), dtype)
        self.weighted = np.empty((n_copies, length, n_slices * step), dtype)
        self.products = np.empty((n_copies, n_slices, length, length), dtype)

    def add(self, X: Array, roots: Array, sums: Array) -> None:
        roots = roots.reshape(-1, 1, len(X))
        sums = sums.reshape(-1, *sums.shape[-2:])
        n_copies, length, size = self.weighted.shape
        start = 0
        while start < len(X):
            n_rows = min(len(X) - start, size)
            step = min(n_rows, self.step)
            rows = slice(start, start + n_rows // step * step)
            start = rows.stop
            part = X[rows].T
            n_rows = part.shape[1]
            columns = self.columns[:, :n_rows]
            columns[: len(part)] = part
            for first in range(0, len(roots), n_copies):
                out = sums[first : first + n_copies]
                A = self.weighted[: len(out), :, :n_rows]
                np.multiply(columns, roots[first : first + n_copies, :, rows], out=A)
                slices = A.reshape(len(out), length, -1, step).swapaxes(1, 2)
                products = self.products[: len(out), : n_rows // step]
                np.matmul(slices, slices.swapaxes(2, 3), out=products)
                out += products.sum(axis=1)


def in_pieces(block: Block, size: int) -> list[Block]:
    """Blocks of so many rows; a block of no more stays as it is."""
    return [block] if len(block) <= size else block.split(size)
