r"""Mean loss plus penalty of a linear model, and its closed-form gradient.

This is the one place where the conventions of the package stand; every other docstring
refers to it.

Objective
---------
With rows :math:`x_i`, targets :math:`y_i \in \{0, 1\}`, weights :math:`s_i > 0` and
logits :math:`z_i = x_i^\top w + b`::

    F(w, b) = (1/n) * sum_i s_i * loss(z_i, y_i)
              + alpha * ((1 - l1_ratio)/2 * ||w||^2 + l1_ratio * ||w||_1)
    loss(z, y) = softplus(z) - y*z
    grad_w = (1/n) * X'(s * (sigmoid(z) - y)) + alpha * (1 - l1_ratio) * w
    grad_b = (1/n) * sum_i s_i * (sigmoid(z_i) - y_i)

* Three or more classes have one logit each and the softmax cross-entropy in place of
  ``softplus(z) - y*z``; nothing else changes.
* The intercept is never penalised.
* A mini-batch of m rows uses the same formula with ``n = m``.
* L1 enters by a proximal step after each update (soft thresholding), which leaves
  exact zeros [1]_; its part of the gradient is therefore not in ``grad_w``.

Weights
-------
* Rows of weight zero are dropped first; then ``sample_weight * class_weight`` is scaled
  to mean one over the rows that remain. A weight of 2 equals a row given twice, and
  scaling all weights changes nothing.
* ``pos_weight`` multiplies the weights of the positive rows afterwards and is not
  rescaled, as in ``torch.nn.BCEWithLogitsLoss(pos_weight=...)``.

The loss of an epoch is the mean over its rows, each at the step that used it. The
penalty is not part of it. The validation loss is the mean over the validation rows.

Shapes
------
* coefficients: (n_features + 1,) or, with one column per class, (n_features + 1, K);
  the intercept is the last entry. Without one: (n_features,) or (n_features, K).
* rows ``X``: (n, n_features), or (n, n_features + 1) with a last column of ones, which
  makes the formulas above two matrix products and nothing more.
* logits, targets, residuals: (n,) or (n, K)

References
----------
.. [1] N. Parikh and S. Boyd, "Proximal Algorithms", Foundations and Trends in
   Optimization 1(3), 2014, section 6.5.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from ._arrays import (
    SERIAL_ENTRIES,
    Array,
    Number,
    accumulator,
    as_array,
    as_tensor,
    namespace,
)
from ._loss import FEW_ROWS, BinaryCrossEntropy

if TYPE_CHECKING:
    from ._loss import Loss
    from ._rows import Block, Rows

Each = Callable[[Callable[[Any], Any], list[Any]], Iterable[Any]]  # as the built-in map


class Coefficients:
    """Coefficients and their gradient, each one tensor, with views of their parts.

    Parameters
    ----------
    values : Tensor of shape (n_features [+ 1],) or (n_features [+ 1], n_outputs)
        Updated in place for as long as the object lives; the views follow. There may be
        a leading axis, of folds.
    fit_intercept : bool
        Whether the last entry of ``values`` is the intercept, on the axis of features.

    Attributes
    ----------
    arrays : CoefficientArrays
        The same memory, as arrays of :mod:`._arrays`, and room for as many weights.
    """

    def __init__(self, values: Tensor, *, fit_intercept: bool) -> None:
        self.values = values
        self.gradient = torch.zeros_like(values)
        self.fit_intercept = fit_intercept
        self.frozen = [False, False]  # of weight and intercept, by a callback
        axis = max(values.dim() - 2, 0)
        self.length = values.shape[axis]
        n = self.n_features = self.length - fit_intercept
        parts = [n, int(fit_intercept)]
        self.weight, self.intercept = torch.split(values, parts, axis)
        self.weight_gradient, self.intercept_gradient = torch.split(
            self.gradient, parts, axis
        )
        self.xp = namespace(values)
        self.n_outputs = 1 if values.dim() == 1 else values.shape[-1]
        self.product = self.xp.product(values.dim())
        self.arrays = CoefficientArrays(
            *map(
                as_array,
                (
                    self.values,
                    self.gradient,
                    self.weight,
                    self.weight_gradient,
                    self.intercept,
                    self.intercept_gradient,
                    torch.empty_like(self.weight),
                ),
            )
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Copied one by one, tensors and arrays would no longer share their memory.
        return partial(Coefficients, fit_intercept=self.fit_intercept), (self.values,)

    def product_of(self, X: Array) -> Any:
        """The product for such a matrix, or one of fewer rows, in one thread."""
        return self.xp.product(self.values.dim(), (*X.shape[-2:], self.n_outputs))

    def zero_frozen(self) -> None:
        """Set the gradient of frozen coefficients to zero."""
        parts = (self.weight_gradient, self.intercept_gradient)
        for part, frozen in zip(parts, self.frozen, strict=False):
            if frozen:
                part.zero_()

    def as_linear(self, values: Tensor) -> list[Tensor]:
        """View a tensor of the coefficients' shape as ``nn.Linear`` lays it out.

        Returns the weight of shape (n_outputs, n_features) and, with an intercept, the
        bias of shape (n_outputs,).
        """
        columns = values.view(len(values), -1)  # (n_features [+ 1], n_outputs)
        parts = [columns[: self.n_features].t()]
        if self.fit_intercept:
            parts.append(columns[-1])
        return parts


class CoefficientArrays(NamedTuple):
    """The views that :class:`Coefficients` has, as arrays."""

    values: Array
    gradient: Array
    weight: Array
    weight_gradient: Array
    intercept: Array
    intercept_gradient: Array
    weight_scratch: Array


def allocate_coefficients(
    rows: Rows, n_outputs: int, *, fit_intercept: bool
) -> Coefficients:
    """Zero coefficients for rows, on their device and of their dtype."""
    length = rows.X.shape[1] + fit_intercept
    shape = (length,) if n_outputs == 1 else (length, n_outputs)
    values = torch.zeros(shape, dtype=rows.X.dtype, device=rows.device)
    return Coefficients(values, fit_intercept=fit_intercept)


@dataclass(frozen=True)
class Objective:
    """The function that is minimised; see the top of this module."""

    loss: Loss
    alpha: float = 0.0
    l1_ratio: float = 0.0

    @cached_property
    def l2(self) -> float:
        """Strength of ``||w||^2 / 2``."""
        return float(self.alpha) * (1.0 - float(self.l1_ratio))

    @property
    def l2_factor(self) -> Number:
        """The same in the form that arrays of the coefficients take."""
        return self.l2

    @cached_property
    def l1(self) -> float:
        """Strength of ``||w||_1``."""
        return float(self.alpha) * float(self.l1_ratio)

    @cached_property
    def has_l2(self) -> bool:
        return bool(np.any(self.l2))  # one number, or one for each candidate

    def logits(self, block: Block, coef: Coefficients) -> Tensor:
        """Write the logits of a block into it."""
        arrays, product = coef.arrays, coef.product_of(block.X)
        if block.X.shape[-1] == coef.length:
            product(block.X, arrays.values, block.z)
        else:
            z = block.z
            product(block.X, arrays.weight, z)
            z += arrays.intercept
        return block.logits

    def residual(self, block: Block) -> None:
        """Write the weighted residuals at the logits that stand in the block."""
        self.loss.write_mean(block)
        r = block.r
        r -= block.y
        if block.weight is not None:
            r *= block.weight

    def gradient(self, block: Block, coef: Coefficients) -> None:
        """Write logits and residuals into the block, the gradient into ``coef``.

        The gradient is that of the smooth part: mean loss and L2.
        """
        self.make_gradient(coef, block)(block)

    # What follows gives functions of blocks with the columns of a given one and no more
    # rows. Where a batch is small, or X has driven all else out of the cache, a call
    # costs more than what it computes: there are no more of them than it takes, those
    # of ``logits`` and ``residual`` written out, and what is the same looked up once.

    def make_residual(
        self, coef: Coefficients, like: Block, product: Any
    ) -> Callable[[Block], None]:
        """A function that writes the logits and weighted residuals of a block.

        ``product`` is the matrix product that it takes.
        """
        arrays, write_mean = coef.arrays, self.loss.write_mean
        few_rows = self.loss.few_rows(like.z)
        is_whole = like.X.shape[-1] == coef.length
        values = arrays.values if is_whole else arrays.weight
        intercept = None if is_whole else arrays.intercept
        add_row = coef.xp.add_row

        def write_residual(block: Block) -> None:
            z, r, weight = block.z, block.r, block.weight
            product(block.X, values, z)
            if intercept is not None:
                add_row(z, intercept)
            if len(z) <= few_rows:
                expit(z, r)
            else:
                write_mean(block)
            r -= block.y
            if weight is not None:
                r *= weight

        return write_residual

    def make_gradient(self, coef: Coefficients, like: Block) -> Callable[[Block], None]:
        """The same with the gradient into the coefficients."""
        arrays, product, xp = coef.arrays, coef.product_of(like.X), coef.xp
        is_whole = like.X.shape[-1] == coef.length
        target = arrays.gradient if is_whole else arrays.weight_gradient
        write_residual = self.make_residual(coef, like, product)
        has_l2 = self.has_l2
        l2 = xp.number(self.l2_factor, arrays.values)
        penalty = arrays.weight_gradient, arrays.weight, l2, arrays.weight_scratch

        def write_gradient(block: Block) -> None:
            write_residual(block)
            gradient = target
            product(block.Xt, block.r, gradient)
            gradient *= block.scale
            if not is_whole:
                arrays.intercept_gradient[...] = xp.sum(block.r) * block.scale
            if has_l2:
                xp.add_product(*penalty)

        return write_gradient

    def add_l2(self, coef: Coefficients) -> None:
        """Add the gradient of the L2 penalty."""
        _, _, weight, gradient, _, _, scratch = coef.arrays
        coef.xp.add_product(gradient, weight, self.l2_factor, scratch)

    def loss_sum(self, block: Block, each: Each = map) -> Tensor:
        """Sum of the weighted losses at the logits that stand in the block: ().

        ``each`` may compute the parts of a large block in several threads; it is used
        for one logit.
        """
        z, y, n_rows = block.logits, block.targets, len(block)
        weight = None if block.weight is None else as_tensor(block.weight).view(-1)
        # In parts, for which torch starts no threads of its own. A device takes all at
        # once: there each part would cost the launch of several kernels.
        step = SERIAL_ENTRIES // self.loss.n_outputs
        if n_rows <= step or not isinstance(block.y, np.ndarray):
            return self._sum_losses(z, y, weight)
        parts = [slice(start, start + step) for start in range(0, n_rows, step)]

        def part_sum(rows: slice) -> Tensor:
            part = None if weight is None else weight[rows]
            return self._sum_losses(z[rows], y[rows], part)

        if self.loss.n_outputs > 1:
            each = map  # calls so short that threads would wait for each other
        return torch.stack(list(each(part_sum, parts))).sum()

    def _sum_losses(self, z: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
        values = self.loss.value(z, y)
        if weight is not None:
            values.mul_(weight)
        # In float32 the sum's rounding would hide the last steps of a line search.
        return values.sum(dtype=accumulator(z))

    def epoch_loss(self, block: Block, each: Each) -> Tensor | float:
        """The same for the rows of an epoch; for few of them without torch."""
        few = len(block) <= FEW_ROWS and isinstance(block.z, np.ndarray)
        if few and isinstance(self.loss, BinaryCrossEntropy):
            return self.loss.sum_of_few(block.z, block.y, block.weight)
        return self.loss_sum(block, each)

    def mean_loss(self, block: Block) -> Tensor:
        """Their mean: ()."""
        return self.loss_sum(block) / len(block)

    def penalty(self, coef: Coefficients) -> Number:
        """Value of the penalty, as exact as the sum of the losses."""
        w = coef.arrays.weight
        value = self.l2 / 2 * coef.xp.inner(w, w)
        if self.l1:
            norm = coef.xp.sum(abs(w).reshape(-1), accumulator(coef.values))
            value = value + self.l1 * norm
        return value

    def subgradient(self, coef: Coefficients) -> Tensor:
        """The subgradient of least norm, given the gradient of the smooth part.

        Without L1 it is the gradient. It is zero at the minimum and nowhere else.
        """
        if not self.l1:
            return coef.gradient.clone()
        total = coef.gradient.clone()
        w, g = coef.weight, total[: coef.n_features]
        at_zero = torch.sign(g) * (g.abs() - self.l1).clamp_min(0.0)
        g.copy_(torch.where(w != 0, g + self.l1 * w.sign(), at_zero))
        if coef.frozen[0]:
            g.zero_()
        return total
