"""Many models in lockstep: each ends at the bits of its own solver."""

import numpy as np
import pytest
import torch

from torchlogistic import _gradient, _hessian
from torchlogistic._loss import make_loss
from torchlogistic._objective import Objective, allocate_coefficients
from torchlogistic._rows import Rows, view_block
from torchlogistic._solvers import SOLVERS
from torchlogistic._threads import Team

ALPHAS = (0.0, 1e-6, 1e-3, 0.5, 0.1, 1.0, 2.0)


KINDS = [
    {"optimizer": name, "l1_ratio": l1_ratio}
    for name, solver in SOLVERS.items()
    if solver.lockstep is not None
    for l1_ratio in (0.0, 0.6)
]


def make_solvers(
    n_rows=60,
    n_features=5,
    n_classes=2,
    *,
    optimizer="lbfgs",
    l1_ratio=0.0,
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
    make = SOLVERS[optimizer].full_batch
    for i, alpha in enumerate(ALPHAS if not l1_ratio else ALPHAS[1:]):
        weight = torch.from_numpy(rng.uniform(0.2, 3, n_rows)).to(dtype)
        rows = Rows(X, y, weight if weighted and i % 3 else None)
        coef = allocate_coefficients(rows, loss.n_outputs, fit_intercept=fit_intercept)
        objective = Objective(loss, alpha, l1_ratio)
        solvers.append(make(objective, view_block(rows), coef, tol=tol, team=Team(1)))
    return solvers


def check(optimizer="lbfgs", *, n_epochs=40, **kind):
    """The same bits after each epoch.

    Returns the solvers by themselves, and at which epoch they were done.
    """
    alone, together = (make_solvers(optimizer=optimizer, **kind) for _ in range(2))
    lockstep, ends = SOLVERS[optimizer].lockstep(together), {}
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
    return alone, ends


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("n_classes", [2, 3, 11])
@pytest.mark.parametrize("n_rows", [13, 64, 455])
@pytest.mark.parametrize("spread", [0.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_bits(kind, n_classes, n_rows, spread, dtype, weighted):
    shape = {"n_rows": n_rows, "n_features": 7, "n_classes": n_classes}
    n_epochs = 50 if kind["optimizer"] == "lbfgs" else 15
    alone, ends = check(
        **shape,
        dtype=dtype,
        weighted=weighted,
        spread=spread,
        n_epochs=n_epochs,
        **kind,
    )
    if not spread:  # some go on when others are done
        assert len({ends.get(i) for i in range(len(alone))}) > 1


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_without_an_intercept(kind, n_classes):
    check(n_classes=n_classes, fit_intercept=False, **kind)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_several_pieces(kind, n_classes, dtype, monkeypatch):
    monkeypatch.setattr(_gradient, "PIECE_PRODUCTS", 100)
    monkeypatch.setattr(_gradient, "PIECE_ROWS", 1)
    monkeypatch.setattr(_hessian, "PART_ROWS", 12)
    alone, _ = check(n_rows=70, n_classes=n_classes, dtype=dtype, **kind)
    assert len(alone[0].full.groups[0].pieces) > 2


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_beyond_the_precision(kind):
    """Where rounding decides: steps that lead nowhere, pairs that are forgotten."""
    alone, _ = check(tol=1e-17, spread=2.0, n_epochs=1000, **kind)
    assert all(solver.stalled for solver in alone[2:])


@pytest.mark.parametrize("l1_ratio", [0.0, 0.6])
def test_hessians_of_a_part_of_the_rows(l1_ratio):
    check("newton", n_rows=2000, n_features=2, l1_ratio=l1_ratio)


def test_hessians_that_are_damped():
    """Of collinear features without a penalty, beside others that have one."""
    solvers, _ = check("newton", n_rows=8, n_features=20, n_epochs=20)
    assert solvers[0].damping > 0
    assert solvers[-1].damping == 0


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_few_steps_are_left_to_the_solvers(kind, monkeypatch):
    """Those whose first step is not good enough, as the first one of "lbfgs"."""
    searches = []
    solvers = make_solvers(455, 7, **kind)
    search = type(solvers[0]).search
    monkeypatch.setattr(
        type(solvers[0]),
        "search",
        lambda *args, **kwargs: searches.append(1) or search(*args, **kwargs),
    )
    lockstep = SOLVERS[kind["optimizer"]].lockstep(solvers)
    n_epochs = 0
    while lockstep.solvers and n_epochs < 100:
        n_epochs += len(lockstep.solvers)
        lockstep.epoch()
    least = len(solvers) if kind["optimizer"] == "lbfgs" else 0
    assert least <= len(searches) < n_epochs / 3


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_converged_at_the_start(kind):
    _, ends = check(tol=1e3, n_epochs=2, **kind)
    assert set(ends.values()) == {0}
