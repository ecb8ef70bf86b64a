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
``curvature(z)``           (n,)        (n, n_classes, n_classes)
``probabilities(z)``       (n, 2)      (n, n_classes)
=========================  ==========  ===============================

The mean is what the model expects of the targets: the gradient of the value by the
logits, called the residual, is ``mean(z) - y``. The curvature is its Hessian.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


class BinaryCrossEntropy:
    """Cross-entropy of one logit: ``softplus(z) - y * z`` with ``y`` 0 or 1.

    Examples
    --------
    >>> loss = BinaryCrossEntropy()
    >>> loss.value(torch.tensor([2.1972, -1.3863]), torch.tensor([1.0, 0.0])).mean()
    tensor(0.1643)
    """

    n_outputs = 1
    null_value = math.log(2)  # the loss of a model that ignores X

    def targets(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """Turn labels 0 and 1 into the targets of the formula."""
        return labels.to(dtype)

    def labels(self, y: Tensor) -> Tensor:
        """Turn targets back into labels."""
        return y.to(torch.int64)

    def value(self, z: Tensor, y: Tensor) -> Tensor:
        # As y is 0 or 1, softplus(z) - y * z is softplus of z or of -z, which loses no
        # digits to a difference. Beyond the threshold softplus(z) is z to the last bit.
        return F.softplus(torch.addcmul(z, y, z, value=-2), threshold=40)

    def mean(self, z: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.sigmoid(z, out=out)

    def curvature(self, z: Tensor) -> Tensor:
        p = torch.sigmoid(z)
        return p.mul_(1 - p)

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

    def targets(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        # One-hot rows make the residual one subtraction, as in the binary case.
        return F.one_hot(labels, self.n_outputs).to(dtype)

    def labels(self, y: Tensor) -> Tensor:
        return y.argmax(dim=1)

    def value(self, z: Tensor, y: Tensor) -> Tensor:
        return torch.logsumexp(z, dim=-1) - (z * y).sum(dim=-1)

    def mean(self, z: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.softmax(z, dim=-1, out=out)

    def curvature(self, z: Tensor) -> Tensor:
        p = torch.softmax(z, dim=1)
        return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]

    def curvature_along(self, z: Tensor, change: Tensor) -> Tensor:
        p = torch.softmax(z, dim=1)
        mean = (p * change).sum(dim=1, keepdim=True)
        return p.mul_((change - mean).square_()).sum(dim=1)

    def probabilities(self, z: Tensor) -> Tensor:
        return torch.softmax(z, dim=1)


Loss = BinaryCrossEntropy | CategoricalCrossEntropy


def make_loss(n_classes: int) -> Loss:
    """Choose the loss for a number of classes (two or more)."""
    return (
        BinaryCrossEntropy() if n_classes == 2 else CategoricalCrossEntropy(n_classes)
    )
