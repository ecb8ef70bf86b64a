"""The gradient of small batches, in few calls.

A call takes half a microsecond or two, which is longer than what it computes of a few
hundred rows. Of one logit, with signs ``s = 2 y - 1`` in place of the targets,::

    2 (sigmoid(z) - y) = tanh(z / 2) - s

whose two calls of NumPy take half as long as torch's sigmoid. The product that follows
scales its result and adds it to what it finds, as BLAS defines ``gemv`` [1]_: plain
gradient descent needs no call besides.

References
----------
.. [1] J. Dongarra et al., "An Extended Set of FORTRAN Basic Linear Algebra
   Subprograms", ACM TOMS 14(1), 1988. SciPy has the binding that can add.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg.blas import get_blas_funcs

from ._arrays import SERIAL_PRODUCT, Array
from ._loss import BinaryCrossEntropy
from ._objective import Coefficients, Objective
from ._rows import Block

if TYPE_CHECKING:
    from ._rules import Listener

# Rows whose losses NumPy's logaddexp, one row after the other, has sooner than the
# calls of torch have begun.
FEW_ROWS = 512


class SmallGradient:
    """Gradients of parts of a block with one logit a row, and steps along them.

    The functions that are made serve the batches of ``like``, each once: its residuals
    are room for the signs, and not the residuals afterwards.

    Parameters
    ----------
    objective : Objective
    coef : Coefficients
    """

    def __init__(self, objective: Objective, coef: Coefficients) -> None:
        self.objective = objective
        self.coef = coef
        values = coef.arrays.values
        self.gemv = get_blas_funcs("gemv", dtype=values.dtype)
        numbers = (coef.xp.number(value, values) for value in (-2, 0, 0.5, 1, 2))
        self.minus_two, self.zero, self.half, self.one, self.two = numbers
        self._room: dict[int, Array] = {}

    @staticmethod
    def serves(objective: Objective, coef: Coefficients, block: Block) -> bool:
        """Whether it does for batches that are parts of a block."""
        X = block.X
        return (
            isinstance(objective.loss, BinaryCrossEntropy)
            and isinstance(X, np.ndarray)
            and X.shape[1:] == coef.arrays.values.shape == (coef.length,)
            # gemv would copy other arrays, and SciPy's takes more threads for more.
            and X.flags.c_contiguous
            and X.size <= SERIAL_PRODUCT
        )

    def _make_residual(
        self, coef: Coefficients, like: Block
    ) -> Callable[[Block], Array]:
        """A function that writes logits and returns ``2 weight (y - mean)``."""
        product, values, half = coef.product, coef.arrays.values, self.half
        multiply, tanh, room_for = np.multiply, np.tanh, self._room_for
        r = like.r  # the signs, of all batches at once
        multiply(like.y, self.two, r)
        r -= self.one

        def write(block: Block) -> Array:
            z, r, weight = block.z, block.r, block.weight
            product(block.X, values, z)
            room = room_for(len(z))
            multiply(z, half, room)
            tanh(room, room)
            r -= room
            if weight is not None:
                r *= weight
            return r

        return write

    def __reduce__(self) -> tuple[type[SmallGradient], tuple[Objective, Coefficients]]:
        return SmallGradient, (self.objective, self.coef)  # BLAS is not copied

    def _room_for(self, n_rows: int) -> Array:
        room = self._room.get(n_rows)
        if room is None:
            room = self._room[n_rows] = np.empty(n_rows, dtype=self.half.dtype)
        return room

    def make_gradient(self, coef: Coefficients, like: Block) -> Callable[[Block], None]:
        """As ``Objective.make_gradient``."""
        write = self._make_residual(coef, like)

        def write_gradient(block: Block) -> None:
            write(block)
            self._write_gradient(coef, block)

        return write_gradient

    def make_descent(
        self, coef: Coefficients, like: Block, rate: float, listener: Listener | None
    ) -> Callable[[Block], None]:
        """A function that takes a step of ``-rate`` times the gradient.

        A listener hears of the gradient before, and may change it; if it does not, the
        step is the same to the bit.
        """
        write, gemv = self._make_residual(coef, like), self.gemv
        values, weight = coef.arrays.values, coef.arrays.weight
        half, has_l2, keep = rate / 2, self.objective.has_l2, self.one
        if has_l2:
            keep = coef.xp.number(1.0 - rate * self.objective.l2, values)

        def descend(block: Block) -> None:
            r = write(block)
            if listener is not None and self._changes(listener, coef, block):
                values[...] -= rate * coef.arrays.gradient
                return
            if has_l2:
                np.multiply(weight, keep, weight)
            gemv(half / len(r), block.Xt, r, 1.0, values, 0, 1, 0, 1, 0, 1)

        return descend

    def _write_gradient(self, coef: Coefficients, block: Block) -> None:
        """Write the gradient, given what stands for the residuals."""
        r, gradient = block.r, coef.arrays.gradient
        self.gemv(-0.5 / len(r), block.Xt, r, 0.0, gradient, 0, 1, 0, 1, 0, 1)
        if self.objective.has_l2:
            self.objective.add_l2(coef)

    def _changes(self, listener: Listener, coef: Coefficients, block: Block) -> bool:
        """Let a listener hear of the gradient; tell whether it changed it."""
        self._write_gradient(coef, block)
        before = coef.arrays.gradient.copy()
        listener()
        return not np.array_equal(before, coef.arrays.gradient)

    def loss_sum(self, block: Block) -> Any:
        """As ``Objective.loss_sum``, for a float of few rows."""
        if len(block) > FEW_ROWS:
            return self.objective.loss_sum(block)
        z, values = block.z, self._room_for(len(block))
        np.multiply(block.y, z, values)
        values *= self.minus_two
        values += z
        np.logaddexp(values, self.zero, values)  # softplus, as in BinaryCrossEntropy
        if block.weight is not None:
            values *= block.weight
        return np.add.reduce(values, 0, np.float64)
