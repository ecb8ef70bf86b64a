"""The closed-form gradient against autograd, and the meaning of the weights."""

import numpy as np
import pytest
import sklearn
import torch
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.utils.fixes import parse_version
from torch.nn import functional as F

from torchlogistic import TorchLogisticClassifier
from torchlogistic._batches import Copier
from torchlogistic._loss import make_loss
from torchlogistic._objective import Coefficients, Objective, allocate_coefficients
from torchlogistic._rows import Rows, buffer_block, view_block
from torchlogistic._threads import Team

V1_7 = parse_version("1.7")


def problem(n_classes, *, weighted, fit_intercept, n_rows=30, n_features=4):
    generator = torch.Generator().manual_seed(n_classes)
    loss = make_loss(n_classes)
    X = torch.randn(n_rows, n_features, dtype=torch.float64, generator=generator)
    labels = torch.randint(n_classes, (n_rows,), generator=generator)
    y = loss.targets(labels, torch.float64)
    weight = None
    if weighted:
        weight = torch.rand(n_rows, dtype=torch.float64, generator=generator) + 0.1
    rows = Rows(X, y, weight)
    coef = allocate_coefficients(rows, loss.n_outputs, fit_intercept=fit_intercept)
    coef.values.normal_(generator=generator)
    return loss, rows, labels, coef


def copied(rows, fit_intercept):
    block = buffer_block(rows, len(rows), fit_intercept=fit_intercept)
    Copier(rows, Team(1)).copy(slice(None), block)
    return block


# A buffer has the column of ones, a view has not.
BLOCKS = {"buffer": copied, "view": lambda rows, fit_intercept: view_block(rows)}


def autograd_objective(values, rows, labels, objective, fit_intercept):
    """F(w, b) as its formula says, in differentiable torch."""
    w = values[:-1] if fit_intercept else values
    z = rows.X @ w + (values[-1] if fit_intercept else 0)
    if z.dim() == 1:
        losses = F.softplus(z) - rows.y * z
    else:
        losses = F.cross_entropy(z, labels, reduction="none")
    s = 1.0 if rows.weight is None else rows.weight
    smooth = (s * losses).mean() + objective.l2 / 2 * w.square().sum()
    return smooth, objective.l1 * w.abs().sum()


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize(("alpha", "l1_ratio"), [(0.0, 0.0), (0.3, 0.0), (0.3, 0.4)])
@pytest.mark.parametrize("kind", BLOCKS)
def test_gradient_and_value(kind, n_classes, weighted, fit_intercept, alpha, l1_ratio):
    loss, rows, labels, coef = problem(
        n_classes, weighted=weighted, fit_intercept=fit_intercept
    )
    objective = Objective(loss, alpha, l1_ratio)
    block = BLOCKS[kind](rows, fit_intercept)
    objective.gradient(block, coef)
    values = coef.values.clone().requires_grad_()
    smooth, l1 = autograd_objective(values, rows, labels, objective, fit_intercept)
    smooth.backward()
    torch.testing.assert_close(coef.gradient, values.grad, rtol=1e-12, atol=1e-14)
    value = objective.mean_loss(block) + objective.penalty(coef)
    torch.testing.assert_close(value, (smooth + l1).detach())


def test_value_in_float32_is_summed_in_float64():
    """To more digits than float32 has, which the last steps of a solver need."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(100_000, generator=generator)
    y = (torch.rand(z.shape, generator=generator) < 0.5).float()
    loss = make_loss(2)
    block = view_block(Rows(torch.empty(len(z), 1), y))
    block.z[...] = z
    coef = Coefficients(torch.linspace(0, 1, 10_001), fit_intercept=True)
    objective = Objective(loss, 0.2, 0.5)
    w = coef.weight.double()
    value = objective.mean_loss(block) + objective.penalty(coef)
    exact = (
        loss.value(z.double(), y.double()).mean() + w.mul(0.05).add(0.1).mul(w).sum()
    )
    torch.testing.assert_close(value, exact, rtol=2e-9, atol=0)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_gradcheck(n_classes):
    """The third witness: differences of the objective's own value."""
    loss, rows, _, coef = problem(n_classes, weighted=True, fit_intercept=True)
    objective = Objective(loss, 0.2, 0.0)
    block = view_block(rows)

    class Value(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values):
            at = Coefficients(values.detach().clone(), fit_intercept=True)
            objective.gradient(block, at)
            ctx.save_for_backward(at.gradient)
            return objective.mean_loss(block) + objective.penalty(at)

        @staticmethod
        def backward(ctx, upstream):
            return ctx.saved_tensors[0] * upstream

    assert torch.autograd.gradcheck(Value.apply, coef.values.requires_grad_())


FULL = {
    "batch_size": None,
    "lr": 1.0,
    "epochs": 3000,
    "momentum": 0.9,
    "random_state": 0,
    "device": "cpu",
}


def data(n_classes=2, seed=0):
    return make_classification(
        120,
        4,
        n_informative=3,
        n_redundant=0,
        n_classes=n_classes,
        flip_y=0.2,
        random_state=seed,
    )


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("alpha", [0.01, 0.3])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 1, 1: 5}])
def test_optimum_is_that_of_logistic_regression(n_classes, alpha, class_weight):
    if class_weight == "balanced" and parse_version(sklearn.__version__) < V1_7:
        pytest.skip("scikit-learn < 1.7 balances the rows without their weights")
    X, y = data(n_classes)
    sample_weight = np.random.default_rng(0).uniform(0.5, 3, len(y))
    clf = TorchLogisticClassifier(alpha=alpha, class_weight=class_weight, **FULL)
    clf.fit(X, y, sample_weight=sample_weight)
    reference = LogisticRegression(
        C=clf.to_sklearn().C, class_weight=class_weight, tol=1e-12, max_iter=10_000
    ).fit(X, y, sample_weight=sample_weight)
    np.testing.assert_allclose(clf.coef_, reference.coef_, atol=1e-6)
    # The softmax does not see a constant added to all intercepts.
    shift = (clf.intercept_ - reference.intercept_).mean() if n_classes > 2 else 0.0
    np.testing.assert_allclose(clf.intercept_ - shift, reference.intercept_, atol=1e-6)


def test_l1_reaches_the_optimum_with_exact_zeros():
    X, y = make_classification(
        200, 20, n_informative=3, n_redundant=0, flip_y=0.1, random_state=0
    )
    clf = TorchLogisticClassifier(
        alpha=0.05, l1_ratio=1.0, **{**FULL, "momentum": 0.0}
    ).fit(X, y)
    reference = clf.to_sklearn()
    assert reference.C == pytest.approx(1 / (0.05 * len(y)))
    assert reference.l1_ratio == 1.0
    reference.set_params(tol=1e-10, max_iter=100_000, random_state=0).fit(X, y)
    zeros = clf.coef_ == 0
    assert 0 < zeros.sum() < 20
    np.testing.assert_array_equal(zeros, np.abs(reference.coef_) < 1e-8)
    np.testing.assert_allclose(clf.coef_, reference.coef_, atol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_weight_two_is_a_row_given_twice(n_classes):
    X, y = data(n_classes)
    weight = np.ones(len(y))
    weight[::3] = 2
    twice = np.repeat(np.arange(len(y)), weight.astype(int))
    settings = {**FULL, "epochs": 50}
    weighted = TorchLogisticClassifier(**settings).fit(X, y, sample_weight=weight)
    repeated = TorchLogisticClassifier(**settings).fit(X[twice], y[twice])
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-10)
    np.testing.assert_allclose(weighted.loss_curve_, repeated.loss_curve_, rtol=1e-10)


def test_scale_of_all_weights_changes_nothing():
    X, y = data()
    weight = np.random.default_rng(0).uniform(0.5, 3, len(y))
    clf = TorchLogisticClassifier(batch_size=16, random_state=0, epochs=5)
    coef = clf.fit(X, y, sample_weight=weight).coef_
    scaled = clf.fit(X, y, sample_weight=weight * 1e6).coef_
    np.testing.assert_allclose(scaled, coef, rtol=1e-10)


def test_rows_of_weight_zero_are_not_there():
    """Not even in the order of the rows: to the bit."""
    X, y = data()
    weight = np.ones(len(y))
    weight[::4] = 0
    clf = TorchLogisticClassifier(batch_size=16, random_state=0, epochs=5)
    weighted = clf.fit(X, y, sample_weight=weight).coef_
    removed = clf.fit(X[weight > 0], y[weight > 0]).coef_
    np.testing.assert_array_equal(weighted, removed)


def test_swapping_the_classes_flips_the_sign():
    X, y = data()
    clf = TorchLogisticClassifier(alpha=0.01, **FULL)
    coef, intercept = clf.fit(X, y).coef_, clf.intercept_
    swapped = clf.fit(X, 1 - y)
    np.testing.assert_allclose(swapped.coef_, -coef, atol=1e-8)
    np.testing.assert_allclose(swapped.intercept_, -intercept, atol=1e-8)


def test_full_batch_loss_never_increases():
    X, y = data()
    clf = TorchLogisticClassifier(**{**FULL, "momentum": 0.0, "lr": 0.1, "epochs": 200})
    assert np.all(np.diff(clf.fit(X, y).loss_curve_) <= 0)
