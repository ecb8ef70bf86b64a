"""L-BFGS of many models in lockstep against the solver of one."""

import numpy as np
import pytest
import torch

from torchlogistic._lbfgs import LBFGS
from torchlogistic._lockstep import Lockstep
from torchlogistic._loss import make_loss
from torchlogistic._objective import Objective, allocate_coefficients
from torchlogistic._rows import Rows, view_block
from torchlogistic._threads import Team

ALPHAS = np.array([0.003, 0.1, 0.03, 1.0])


def problem(seed, n_classes, weighted, scale=1.0):
    """Rows for four models, which differ in weights at most."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(60, 5)) * scale
    logits = X / scale @ rng.normal(size=(5, n_classes))
    labels = torch.from_numpy((logits + rng.gumbel(size=logits.shape)).argmax(axis=1))
    X, y = torch.from_numpy(X), make_loss(n_classes).targets(labels, torch.float64)
    weights = [torch.from_numpy(rng.uniform(0.2, 3, 60)) for _ in ALPHAS[1:]]
    return [Rows(X, y, w if weighted else None) for w in [None, *weights]]


def lockstep(rows, n_classes, *, l1_ratio=0.0, fit_intercept=True, tol=1e-8):
    return Lockstep(
        rows,
        make_loss(n_classes),
        l2=ALPHAS * (1 - l1_ratio),
        l1=ALPHAS * l1_ratio,
        fit_intercept=fit_intercept,
        tol=tol,
    )


def alone(rows, n_classes, *, l1_ratio=0.0, fit_intercept=True, tol=1e-8):
    solvers = []
    for part, alpha in zip(rows, ALPHAS, strict=True):
        loss = make_loss(n_classes)
        objective = Objective(loss, alpha, l1_ratio)
        coef = allocate_coefficients(part, loss.n_outputs, fit_intercept=fit_intercept)
        block = view_block(part)
        solvers.append(LBFGS(objective, block, coef, tol=tol, team=Team(1)))
    return solvers


def assert_same(models, solvers):
    for model, solver in zip(models, solvers, strict=True):
        values = solver.coef.values.numpy()
        np.testing.assert_allclose(model.coef.values.numpy(), values, 1e-9, 1e-11)
        assert model.loss == pytest.approx(solver.loss, rel=1e-11)
        assert model.gradient_norm == pytest.approx(solver.gradient_norm, 1e-6, 1e-12)
        for name in ("converged", "stalled", "done", "separated"):
            assert getattr(model, name) == getattr(solver, name)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("l1_ratio", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_each_iteration(n_classes, weighted, l1_ratio, fit_intercept):
    rows = problem(0, n_classes, weighted)
    how = {"l1_ratio": l1_ratio, "fit_intercept": fit_intercept}
    steps, solvers = lockstep(rows, n_classes, **how), alone(rows, n_classes, **how)
    for _ in range(60):
        steps.epoch(np.arange(4))
        for solver in solvers:
            solver.epoch()
        assert_same(steps.models, solvers)
    if n_classes == 2 or not l1_ratio:  # which takes longer
        assert all(model.converged for model in steps.models)


@pytest.mark.parametrize("scale", [1e-2, 30.0])
@pytest.mark.parametrize("l1_ratio", [0.0, 0.5])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_steps_that_have_to_be_searched(scale, l1_ratio, n_classes):
    """Features of very different size: of the first steps some are far from good."""
    rows = problem(1, n_classes, True, scale=np.array([1, scale, 1, 1 / scale, 1]))
    steps = lockstep(rows, n_classes, l1_ratio=l1_ratio)
    solvers = alone(rows, n_classes, l1_ratio=l1_ratio)
    for _ in range(12):
        steps.epoch(np.arange(4))
        for solver in solvers:
            solver.epoch()
    assert_same(steps.models, solvers)


def test_models_that_stay_behind():
    """Each goes on from where it is, whoever went on in the meantime."""
    rows = problem(2, 2, False)
    steps, solvers = lockstep(rows, 2), alone(rows, 2)
    for n_epochs, models in ((3, [0, 2]), (2, [1]), (4, [2, 0, 1]), (1, [3])):
        for _ in range(n_epochs):
            steps.epoch(np.array(models))
            for m in models:
                solvers[m].epoch()
    assert_same(steps.models, solvers)


def test_the_end_of_the_precision():
    """No step lowers the loss any more, with pairs and then without."""
    steps = lockstep(problem(3, 2, False), 2, tol=0.0)
    for _ in range(200):
        steps.epoch(np.arange(4))
    for model in steps.models:
        assert model.stalled or model.gradient_norm == 0
        assert model.done
        assert model.gradient_norm < 1e-9
    before = steps.at.values.copy()
    steps.epoch(np.arange(4))
    np.testing.assert_array_equal(steps.at.values, before)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_pieces_of_the_rows(n_classes, monkeypatch):
    rows = problem(4, n_classes, True)
    whole = lockstep(rows, n_classes)
    monkeypatch.setattr("torchlogistic._lockstep.PIECE_ENTRIES", 300)
    pieces = lockstep(rows, n_classes)
    for steps in (whole, pieces):
        for _ in range(5):
            steps.epoch(np.arange(4))
    np.testing.assert_allclose(pieces.at.values, whole.at.values, 1e-11)


def test_one_that_overflows_harms_nobody():
    rows = problem(5, 2, True)
    rows[1].weight[:] = 1e308
    solvers = alone(rows, 2)
    with np.errstate(all="ignore"):
        steps = lockstep(rows, 2)
        for _ in range(5):
            steps.epoch(np.arange(4))
    for m in (0, 2, 3):
        for _ in range(5):
            solvers[m].epoch()
        values = solvers[m].coef.values.numpy()
        np.testing.assert_allclose(steps.models[m].coef.values.numpy(), values, 1e-9)
    assert not np.isfinite(steps.models[1].loss)
