"""L-BFGS of many models in lockstep: each ends at the bits of its own solver."""

import numpy as np
import pytest
import torch

from torchlogistic import _gradient, _lbfgs
from torchlogistic._lbfgs import LBFGS
from torchlogistic._lockstep import Lockstep
from torchlogistic._loss import make_loss
from torchlogistic._objective import Objective, allocate_coefficients
from torchlogistic._rows import Rows, view_block
from torchlogistic._threads import Team

ALPHAS = (0.0, 1e-6, 1e-3, 0.5, 0.1, 1.0, 2.0)


def make_solvers(
    n_rows=60,
    n_features=5,
    n_classes=2,
    *,
    dtype=torch.float64,
    weighted=False,
    spread=0.0,
    fit_intercept=True,
    tol=1e-6,
):
    """A solver for each of ALPHAS; features differ in scale by 10 to the spread."""
    rng = np.random.default_rng(n_rows)
    X = rng.normal(size=(n_rows, n_features))
    logits = X @ rng.normal(size=(n_features, n_classes))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    X *= 10.0 ** rng.uniform(0, spread, size=n_features)
    loss, X = make_loss(n_classes), torch.from_numpy(X).to(dtype)
    y = loss.targets(torch.from_numpy(labels), dtype)
    solvers = []
    for i, alpha in enumerate(ALPHAS):
        weight = torch.from_numpy(rng.uniform(0.2, 3, n_rows)).to(dtype)
        rows = Rows(X, y, weight if weighted and i % 3 else None)
        coef = allocate_coefficients(rows, loss.n_outputs, fit_intercept=fit_intercept)
        objective = Objective(loss, alpha)
        block = view_block(rows)
        solvers.append(LBFGS(objective, block, coef, tol=tol, team=Team(1)))
    return solvers


def check(alone, together, n_epochs=40):
    """The same bits after each epoch; returns at which one the solvers were done."""
    lockstep, ends = Lockstep(together), {}
    with np.errstate(all="ignore"):
        for epoch in range(n_epochs):
            for solver in alone:
                solver.epoch()
            lockstep.epoch()
            for i, (one, own) in enumerate(zip(alone, together, strict=True)):
                assert torch.equal(own.coef.values, one.coef.values)
                assert torch.equal(own.block.logits, one.block.logits)
                for name in ("loss", "gradient_norm", "converged", "stalled"):
                    assert getattr(own, name) == getattr(one, name), (epoch, i, name)
                if one.done:
                    ends.setdefault(i, epoch)
    return ends


@pytest.mark.parametrize("n_classes", [2, 3, 11])
@pytest.mark.parametrize("n_rows", [13, 64, 455])
@pytest.mark.parametrize("spread", [0.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_bits(n_classes, n_rows, spread, dtype, weighted):
    kind = {"dtype": dtype, "weighted": weighted, "spread": spread}
    alone, together = (make_solvers(n_rows, 7, n_classes, **kind) for _ in range(2))
    ends = check(alone, together)
    if not spread:
        assert len(set(ends.values())) > 1


@pytest.mark.parametrize("n_classes", [2, 3])
def test_without_an_intercept(n_classes):
    kind = {"n_classes": n_classes, "fit_intercept": False}
    check(*(make_solvers(**kind) for _ in range(2)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_several_pieces(n_classes, dtype, monkeypatch):
    monkeypatch.setattr(_gradient, "PIECE_ENTRIES", 100)
    alone, together = (make_solvers(70, 5, n_classes, dtype=dtype) for _ in range(2))
    assert len(together[0].full.groups[0].pieces) > 2
    check(alone, together)


def test_beyond_the_precision():
    """Where rounding decides: steps that lead nowhere, pairs that are forgotten."""
    alone, together = (make_solvers(tol=1e-17, spread=2.0) for _ in range(2))
    check(alone, together, n_epochs=300)
    assert all(solver.stalled for solver in alone[2:])


def test_line_searches(monkeypatch):
    """Only first steps that are not good enough are left to the solvers."""
    steps = []
    search = _lbfgs.wolfe_step
    monkeypatch.setattr(
        _lbfgs,
        "wolfe_step",
        lambda *args, **kwargs: steps.append(1) or search(*args, **kwargs),
    )
    lockstep = Lockstep(make_solvers(455, 7))
    n_epochs = 0
    while lockstep.solvers and n_epochs < 100:
        n_epochs += len(lockstep.solvers)
        lockstep.epoch()
    assert len(ALPHAS) <= len(steps) < n_epochs / 3


def test_converged_at_the_start():
    alone, together = (make_solvers(tol=1e3) for _ in range(2))
    assert set(check(alone, together, n_epochs=2).values()) == {0}
