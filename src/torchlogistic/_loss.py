"""Losses of the logits: value, mean, curvature and probabilities.

A loss knows nothing of features, coefficients or weights: it maps the logits ``z`` of
some rows and their targets ``y`` to one number per row, and differentiates that number
by ``z``. Both losses share one interface, in which the binary one is the case of a
single column that is stored without its axis:

=========================  ==========  ===============================
method                     binary      multinomial
=========================  ==========  ===============================
logits ``z``, targets      (n,)        (n, n_classes)
``value(z, y)``            (n,)        (n,)
``mean(z, out)``           (n,)        (n, n_classes)
``curvature(z)``           (1, n)      (n_pairs, n)
``probabilities(z)``       (n, 2)      (n, n_classes)
=========================  ==========  ===============================

The mean is what the model expects of the targets: the gradient of the value by the
logits, called the residual, is ``mean(z) - y``; ``write_mean(block)`` writes it where
the logits stand. The value's Hessian, with the probabilities p and unit vectors e, is

    diag(p) - p p' = sum over pairs i < j of  p_i p_j (e_i - e_j) (e_i - e_j)'

(the Laplacian of a graph on the classes). The curvature is the weight ``p_i p_j`` of
each of ``pairs``; with one logit, the second derivative ``p (1 - p)``.
"""

from __future__ import annotations

import math
from functools import cached_property, lru_cache
from itertools import combinations
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor
from torch.nn import functional as F

from ._arrays import SERIAL_ENTRIES, Array, as_array, namespace

FEW_CLASSES = 8
FEW_NUMBERS = 2**12  # a copy of which takes less time than a second call
FEW_ROWS = 128  # for which NumPy's logaddexp takes less time than torch's calls
# The same for SciPy's sigmoid. While X passes through the cache, nothing of torch stays
# there: its next call is for 20 microseconds a matter of memory.
SIGMOID_ROWS = 4096
LARGE = 80.0  # exponentials of larger logits, or their sums, may overflow in float32


class Logits(Protocol):
    """Logits and residuals of rows, as tensors and as the arrays of ``_arrays``."""

    z: Array
    r: Array

    @property
    def logits(self) -> Tensor: ...

    @property
    def residual(self) -> Tensor: ...


class BinaryCrossEntropy:
    """Cross-entropy of one logit: ``softplus(z) - y * z`` with ``y`` 0 or 1.

    Examples
    --------
    >>> loss = BinaryCrossEntropy()
    >>> loss.value(torch.tensor([2.1972, -1.3863]), torch.tensor([1.0, 0.0])).mean()
    tensor(0.1643)
    """

    n_outputs = 1
    pairs: ClassVar = [(0, 0)]  # of logits; the one stands for both classes
    null_value = math.log(2)  # the loss of equal probabilities

    def targets(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """Turn labels 0 and 1 into the targets of the formula."""
        return _cast(labels, dtype)

    def labels(self, y: Tensor) -> Tensor:
        """Turn targets back into labels."""
        return _cast(y, torch.int64)

    def value(self, z: Tensor, y: Tensor, scratch: Tensor | None = None) -> Tensor:
        # As y is 0 or 1, softplus(z) - y * z is softplus of z or of -z, which loses no
        # digits to a difference. Beyond the threshold softplus(z) is z to the last bit.
        return F.softplus(torch.addcmul(z, y, z, value=-2, out=scratch), threshold=40)

    def mean(self, z: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.sigmoid(z, out=out)

    def write_mean(self, block: Logits) -> None:
        """The mean at the logits of a block, into its residual."""
        if block.z.shape[-1] <= self.few_rows(block.z):
            expit(block.z, block.r)
            return
        z, r, n_rows = block.logits, block.residual, block.z.shape[-1]
        step = SERIAL_ENTRIES if isinstance(block.z, np.ndarray) else n_rows
        for rows in (slice(i, i + step) for i in range(0, n_rows, step)):
            torch.sigmoid(z[..., rows], out=r[..., rows])

    @staticmethod
    def few_rows(z: Array) -> int:
        """Of how many rows SciPy has the mean first: ``expit(z, out)``."""
        return SIGMOID_ROWS if isinstance(z, np.ndarray) else 0

    def sum_of_few(self, z: np.ndarray, y: np.ndarray, weight: Array | None) -> float:
        """The sum of the weighted values, of rows on the CPU.

        It is rounded otherwise than the sum that torch has of the values.
        """
        hit = y * z
        values = z - hit
        values -= hit  # z or -z, as in ``value``
        np.logaddexp(values, 0, out=values)
        if weight is not None:
            values *= weight
        return float(np.add.reduce(values, dtype=np.float64))

    def curvature(self, z: Tensor) -> Tensor:
        p = torch.sigmoid(z)
        return p.mul_(1 - p).unsqueeze(-2)

    def curvature_along(self, z: Tensor, change: Tensor) -> Tensor:
        """Second derivative of the value where the logits move by ``change``: (n,)."""
        p = torch.sigmoid(z)
        return p.mul_(1 - p).mul_(change).mul_(change)

    def probabilities(self, z: Tensor) -> Tensor:
        # sigmoid(-z) keeps the digits that 1 - sigmoid(z) would cancel.
        return torch.stack([torch.sigmoid(-z), torch.sigmoid(z)], dim=-1)


class CategoricalCrossEntropy:
    """Cross-entropy of the softmax: ``logsumexp(z) - z[class]``, one logit a class.

    Examples
    --------
    >>> loss = CategoricalCrossEntropy(3)
    >>> y = loss.targets(torch.tensor([2]), torch.float32)
    >>> loss.value(torch.zeros(1, 3), y)
    tensor([1.0986])
    """

    def __init__(self, n_classes: int) -> None:
        self.n_outputs = n_classes
        self.null_value = math.log(n_classes)

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        return list(combinations(range(self.n_outputs), 2))

    def targets(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        # One-hot rows make the residual one subtraction, as in the binary case.
        one_hot = torch.eye(self.n_outputs, dtype=dtype, device=labels.device)
        y = one_hot.new_empty((len(labels), self.n_outputs))
        index = as_array(labels)
        if isinstance(index, Tensor):
            index = index.long()
        namespace(y).take(as_array(one_hot), index, as_array(y))
        return y

    def labels(self, y: Tensor) -> Tensor:
        rows = as_array(y)
        if not isinstance(rows, np.ndarray):
            return y.argmax(dim=1)
        # By neither torch's threads nor those of BLAS.
        numbers = np.arange(self.n_outputs, dtype=rows.dtype)
        return torch.from_numpy(np.einsum("ij,j->i", rows, numbers).astype(np.int64))

    def value(self, z: Tensor, y: Tensor, scratch: Tensor | None = None) -> Tensor:
        # First the difference: most rows are on their side, where it rounds least.
        if not _by_numpy(z):
            return torch.logsumexp(z - (z * y).sum(dim=-1, keepdim=True), dim=-1)
        logits = as_array(z)
        own = logits * as_array(y)
        others = logits - own @ _ones(self.n_outputs, logits.dtype)
        return torch.from_numpy(log_sum_exp(others))

    def mean(self, z: Tensor, out: Tensor | None = None) -> Tensor:
        return softmax(z, out)

    @staticmethod
    def few_rows(z: Array) -> int:
        return 0

    def write_mean(self, block: Logits) -> None:
        # From a tensor to its array takes as long as the softmax of a small batch.
        if isinstance(block.z, np.ndarray):
            write_softmax(block.z, block.r)
        else:
            torch.softmax(block.logits, dim=-1, out=block.residual)

    def curvature(self, z: Tensor) -> Tensor:
        p = softmax(z).mT
        out = p.new_empty((*p.shape[:-2], len(self.pairs), p.shape[-1]))
        parts, weights = as_array(p), as_array(out)
        for r, (i, j) in enumerate(self.pairs):
            weights[..., r, :] = parts[..., i, :] * parts[..., j, :]
        return out

    def curvature_along(self, z: Tensor, change: Tensor) -> Tensor:
        p = softmax(z)
        mean = _row_sums(p * change)
        return _row_sums(p.mul_((change - mean).square_()))[:, 0]

    def probabilities(self, z: Tensor) -> Tensor:
        return softmax(z)


def _cast(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The same numbers in a dtype, on the CPU by NumPy: it wakes no threads."""
    out = torch.empty_like(values, dtype=dtype)
    as_array(out)[...] = as_array(values)
    return out


# torch's softmax wakes its threads for two rows, and its logsumexp for some hundreds.
# Where other programs need the cores it waits for them a hundred times as long as it
# computes. On a CPU these are NumPy's, in one thread.


def softmax(z: Tensor, out: Tensor | None = None) -> Tensor:
    """Softmax over the last axis."""
    if not _by_numpy(z):
        return torch.softmax(z, dim=-1, out=out)
    out = torch.empty_like(z) if out is None else out
    write_softmax(as_array(z), as_array(out))
    return out


def write_softmax(z: Array, out: Array) -> None:
    """The same for arrays of NumPy."""
    np.exp(_shifted(z)[0], out=out)
    out /= out @ _ones(out.shape[-1], out.dtype)


def log_sum_exp(z: Array) -> Array:
    """Logarithm of the sum of exponentials over the last axis of a NumPy array."""
    z, shift = _shifted(z)
    result = np.log(np.exp(z) @ _ones(z.shape[-1], z.dtype)[:, 0])
    if shift is not None:
        result += shift
    return result


def _by_numpy(z: Tensor) -> bool:
    return not z.requires_grad and isinstance(as_array(z), np.ndarray)


def _shifted(z: Array) -> tuple[Array, Array | None]:
    """Logits whose exponentials do not overflow, and what was taken from each row.

    Where nothing has to be, nothing is.
    """
    if _largest(z) <= LARGE:
        return z, None
    # Row by row: no candidate is rounded otherwise for the logits of another.
    calm = np.abs(z).max(axis=-1) <= LARGE
    shift = np.where(calm, 0, z.max(axis=-1))
    with np.errstate(invalid="ignore"):  # of a run that diverges
        return z - shift[..., None], shift


def _row_sums(values: Tensor) -> Tensor:
    """Sums over the last axis, which stays: in one column, or the same in all."""
    array = as_array(values)
    if not isinstance(array, np.ndarray):
        return values.sum(dim=-1, keepdim=True)
    return torch.from_numpy(array @ _ones(array.shape[-1], array.dtype))


def _largest(z: Array) -> float:
    """The greatest absolute value, zero of none."""
    if z.size < FEW_NUMBERS:
        return float(np.abs(z).max(initial=0.0))
    return float(np.maximum(z.max(), -z.min()))  # not a number if one is not


@lru_cache
def _ones(n_classes: int, dtype: np.dtype[Any]) -> Array:
    """A matrix whose product with rows has their sums in all columns.

    Few columns are sooner divided by as many than by one that is broadcast.
    """
    n_columns = n_classes if n_classes <= FEW_CLASSES else 1
    return np.ones((n_classes, n_columns), dtype=dtype)


Loss = BinaryCrossEntropy | CategoricalCrossEntropy


def make_loss(n_classes: int) -> Loss:
    """Choose the loss for a number of classes (two or more)."""
    return (
        BinaryCrossEntropy() if n_classes == 2 else CategoricalCrossEntropy(n_classes)
    )
