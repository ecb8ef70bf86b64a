"""Losses against torch's own, and their derivatives against autograd."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.autograd.functional import hessian
from torch.nn import functional as F

from torchlogistic._lockstep import Logits
from torchlogistic._loss import (
    FEW_CLASSES,
    BinaryCrossEntropy,
    CategoricalCrossEntropy,
    log_sum_exp,
    make_loss,
    softmax,
)

LOSSES = [BinaryCrossEntropy(), CategoricalCrossEntropy(3), CategoricalCrossEntropy(5)]
ids = [f"{type(loss).__name__}{loss.n_outputs}" for loss in LOSSES]
over_losses = pytest.mark.parametrize("loss", LOSSES, ids=ids)


def logits_and_targets(loss, n_rows=12, scale=3.0):
    generator = torch.Generator().manual_seed(0)
    n_classes = max(loss.n_outputs, 2)
    labels = torch.randint(n_classes, (n_rows,), generator=generator)
    y = loss.targets(labels, torch.float64)
    z = torch.randn(y.shape, dtype=torch.float64, generator=generator) * scale
    return z, y, labels


def torch_value(loss, z, y):
    if loss.n_outputs == 1:
        return F.binary_cross_entropy_with_logits(z, y, reduction="none")
    return F.cross_entropy(z, y.argmax(1), reduction="none")


@over_losses
def test_value_is_torchs(loss):
    z, y, _ = logits_and_targets(loss)
    torch.testing.assert_close(loss.value(z, y), torch_value(loss, z, y))


@over_losses
@pytest.mark.parametrize("scale", [1e-3, 30, 1000])
def test_value_keeps_its_digits(loss, scale):
    """Also where a sum of softplus(z) and -y * z would cancel."""
    z, y, _ = logits_and_targets(loss, scale=scale)
    torch.testing.assert_close(
        loss.value(z, y), torch_value(loss, z, y), rtol=1e-9, atol=1e-12
    )


@over_losses
def test_residual_is_the_gradient(loss):
    z, y, _ = logits_and_targets(loss)

    class Value(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            ctx.save_for_backward(z)
            return loss.value(z, y)

        @staticmethod
        def backward(ctx, upstream):
            (z,) = ctx.saved_tensors
            residual = loss.mean(z) - y
            return residual * upstream.view(-1, *(1,) * (z.dim() - 1))

    assert gradcheck(Value.apply, z.requires_grad_())


def second_derivatives(loss, z):
    """What the curvature of pairs stands for: (n, n_outputs, n_outputs)."""
    if loss.n_outputs == 1:
        return loss.curvature(z)[0][:, None, None]
    total = torch.zeros(len(z), loss.n_outputs, loss.n_outputs, dtype=z.dtype)
    for weight, (i, j) in zip(loss.curvature(z), loss.pairs, strict=True):
        apart = torch.zeros(loss.n_outputs, dtype=z.dtype)
        apart[i], apart[j] = 1, -1
        total += weight[:, None, None] * torch.outer(apart, apart)
    return total


@over_losses
def test_curvature_along_a_change_of_the_logits(loss):
    z, _, _ = logits_and_targets(loss)
    change = torch.randn_like(z)
    n_outputs = loss.n_outputs
    H = second_derivatives(loss, z)
    flat = change.view(-1, n_outputs)
    expected = torch.einsum("ni,nij,nj->n", flat, H, flat)
    torch.testing.assert_close(loss.curvature_along(z, change), expected)


@over_losses
def test_curvature_is_the_hessian(loss):
    z, y, _ = logits_and_targets(loss)
    for one_z, one_y in zip(z[:3], y[:3], strict=True):

        def value(z, y=one_y):
            return torch_value(loss, z[None], y[None]).sum()

        expected = hessian(value, one_z)
        found = second_derivatives(loss, one_z[None])[0]
        torch.testing.assert_close(found.view_as(expected), expected)


@over_losses
def test_probabilities(loss):
    z, _, _ = logits_and_targets(loss, scale=20)
    p = loss.probabilities(z)
    assert p.shape == (len(z), max(loss.n_outputs, 2))
    torch.testing.assert_close(p.sum(1), torch.ones(len(z), dtype=torch.float64))
    assert (p > 0).all()


@over_losses
def test_targets_and_labels_are_inverse(loss):
    _, y, labels = logits_and_targets(loss)
    assert loss.labels(y).equal(labels)
    assert y.shape == labels.shape if loss.n_outputs == 1 else y.shape[1] > 2


@over_losses
def test_null_value_is_the_loss_at_zero(loss):
    z, y, _ = logits_and_targets(loss)
    expected = torch.full((len(z),), loss.null_value, dtype=torch.float64)
    torch.testing.assert_close(loss.value(torch.zeros_like(z), y), expected)


def test_make_loss():
    assert make_loss(2).n_outputs == 1
    assert make_loss(3).n_outputs == 3


@pytest.mark.parametrize("n_classes", [3, FEW_CLASSES, FEW_CLASSES + 1])
@pytest.mark.parametrize("shape", [(1,), (50,), (2, 7)])
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e300])
def test_softmax_is_that_of_torch(n_classes, shape, scale):
    """In NumPy on the CPU, by torch where autograd looks on."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(*shape, n_classes, dtype=torch.float64, generator=generator)
    z *= scale
    out = torch.empty_like(z)
    assert softmax(z, out) is out
    expected = torch.softmax(z, dim=-1)
    torch.testing.assert_close(out, expected, rtol=1e-14, atol=1e-300)
    watched = z.clone().requires_grad_()
    assert softmax(watched).equal(expected)
    sums = torch.logsumexp(z, dim=-1)
    found = torch.from_numpy(log_sum_exp(z.numpy()))
    torch.testing.assert_close(found, sums, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_rows", [1, 16, 100])
def test_mean_keeps_the_digits_of_small_ones(dtype, n_rows):
    """A row of class 0 far on its side has a residual that is small, and not zero."""
    z = np.linspace(-80, 80, n_rows).astype(dtype)
    block = Logits(z, np.empty_like(z))
    make_loss(2).write_mean(block)
    exact = 1 / (1 + np.exp(-z.astype(np.float64)))
    rtol = 1e-6 if dtype == np.float32 else 1e-14
    np.testing.assert_allclose(block.r, exact, rtol=rtol)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("side", [1, -1])
def test_sum_of_few_rows_is_that_of_the_values(dtype, weighted, side):
    """Where all are right, too, and the losses as small as they get."""
    z = np.linspace(-60, 60, 97).astype(dtype)
    y = (side * z > 0).astype(dtype)
    weight = np.linspace(0.5, 2, 97).astype(dtype) if weighted else None
    loss = make_loss(2)
    values = loss.value(*(torch.from_numpy(part).double() for part in (z, y))).numpy()
    expected = (values if weight is None else values * weight).sum()
    rel = 1e-6 if dtype == np.float32 else 1e-13
    assert loss.sum_of_few(z, y, weight) == pytest.approx(expected, rel=rel)
