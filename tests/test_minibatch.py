"""The fused epoch: one pass over the rows, its loss, and its two ways to run."""

import pytest
import torch
from torch.optim import LBFGS, SGD, Adagrad, Adam, Adamax, AdamW, RMSprop

from torchlogistic import _batches, _objective
from torchlogistic._batches import Batches
from torchlogistic._loss import FEW_ROWS, make_loss
from torchlogistic._minibatch import MiniBatch
from torchlogistic._objective import Objective, allocate_coefficients
from torchlogistic._rows import Rows
from torchlogistic._steps import make_optimizer
from torchlogistic._stream import RandomStream
from torchlogistic._threads import Team

OPTIMIZERS = {
    "sgd": (SGD, {}),
    "momentum": (SGD, {"momentum": 0.9}),
    "nesterov": (SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "maximize": (SGD, {"maximize": True}),
    "decay": (SGD, {"weight_decay": 0.1}),
    "adam": (Adam, {"weight_decay": 0.1}),
    "adamw": (AdamW, {"amsgrad": True}),
    "rmsprop": (RMSprop, {"momentum": 0.5, "centered": True}),
    "adagrad": (Adagrad, {"lr_decay": 0.1}),
    "of torch": (Adamax, {}),
    "with a closure": (LBFGS, {"max_iter": 3}),
}


def solver(
    n_rows=40,
    *,
    n_classes=2,
    batch_size=16,
    shuffle=True,
    lr=0.1,
    optimizer="sgd",
    alpha=0.0,
    l1_ratio=0.0,
    dtype=torch.float64,
    team=None,
):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n_rows, 3, dtype=torch.float64, generator=generator).to(dtype)
    labels = torch.randint(n_classes, (n_rows,), generator=generator)
    loss = make_loss(n_classes)
    rows = Rows(
        X, loss.targets(labels, X.dtype), X.new_ones(n_rows).lerp(X[:, 0].abs(), 0.5)
    )
    coef = allocate_coefficients(rows, loss.n_outputs, fit_intercept=True)
    parameters = [torch.nn.Parameter(p) for p in coef.as_linear(coef.values)]
    batches = Batches(
        rows,
        batch_size=batch_size,
        shuffle=shuffle,
        stream=RandomStream(0),
        fit_intercept=True,
        validation=False,
        team=team or Team(1),
    )
    cls, arguments = OPTIMIZERS[optimizer]
    made = make_optimizer(cls, parameters, lr=lr, **arguments)
    return MiniBatch(
        Objective(loss, alpha, l1_ratio), batches, coef, made, batches.copier.team
    )


both_losses = pytest.mark.parametrize("n_classes", [2, 3])


@torch.no_grad()
@both_losses
@pytest.mark.parametrize("batch_size", [1, 16, 40])
@pytest.mark.parametrize("shuffle", [True, False])
def test_update_by_update_is_an_epoch(n_classes, batch_size, shuffle):
    """Whoever drives the updates, the bits are the same."""
    arguments = {"n_classes": n_classes, "batch_size": batch_size, "shuffle": shuffle}
    whole, parts = solver(**arguments), solver(**arguments)
    assert_same_epochs(whole, parts)
    for one in (whole, parts):
        assert one.n_batches == -(-40 // batch_size)


@torch.no_grad()
@both_losses
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("alpha", "l1_ratio"), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.5)])
def test_the_same_with_every_optimizer(n_classes, optimizer, alpha, l1_ratio):
    """With a penalty too, with a listener, and where a callback froze the intercept."""
    arguments = {"n_classes": n_classes, "optimizer": optimizer, "alpha": alpha}
    both = [solver(**arguments, l1_ratio=l1_ratio) for _ in range(2)]
    assert_same_epochs(*both, listener=lambda: None)
    for run in both:
        run.step.optimizer.param_groups[0]["params"][1].requires_grad_(False)
        run.step.optimizer.param_groups[0]["lr"] = 0.02
    assert_same_epochs(*both, listener=lambda: None)


@torch.no_grad()
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_coefficients_that_are_all_frozen_stay(optimizer):
    run = solver(optimizer=optimizer)
    for parameter in run.step.optimizer.param_groups[0]["params"]:
        parameter.requires_grad_(False)
    before = run.coef.values.clone()
    run.epoch()
    assert run.coef.values.equal(before)
    assert run.loss > 0


def assert_same_epochs(whole, parts, listener=None):
    for _ in range(3):
        whole.epoch()
        for block in parts.visit():
            parts.refresh()
            parts.update(block, listener)
        assert parts.coef.values.equal(whole.coef.values)
        assert parts.loss == whole.loss


@torch.no_grad()
@both_losses
@pytest.mark.parametrize("batch_size", [7, 40])
def test_loss_is_the_mean_over_rows(n_classes, batch_size):
    """With steps of no length the coefficients stay, and the loss is that of all."""
    run = solver(n_classes=n_classes, batch_size=batch_size, lr=1e-300)
    run.coef.values.copy_(torch.randn_like(run.coef.values))
    run.epoch()
    X, y, weight = map(torch.from_numpy, run.batches.copier.arrays)
    X = X[:, : run.coef.n_features]  # without the column of ones
    z = X @ run.coef.weight + run.coef.intercept
    expected = (weight * run.objective.loss.value(z, y)).mean()
    assert run.loss == pytest.approx(expected.item())


@pytest.mark.parametrize("shared", [False, True])
def test_loss_of_an_optimizer_with_a_closure_is_that_before_its_steps(
    shared, monkeypatch
):
    if shared:  # which asks for batches that do not fit in a chunk, and stay in place
        monkeypatch.setitem(_batches.SHARED_BYTES, "cpu", 1)
        monkeypatch.setitem(_batches.CHUNK_BYTES, "cpu", 1)
    mini = solver(batch_size=40, optimizer="with a closure", lr=1.0)
    expected = []
    for _ in range(3):
        (block,) = mini.batches.rooms[0].full.batches
        mini.objective.logits(block, mini.coef)
        expected.append(mini.objective.mean_loss(block).item())
        mini.epoch()
        assert mini.loss == pytest.approx(expected[-1], rel=1e-12)
    assert expected == sorted(expected, reverse=True)


@torch.no_grad()
@pytest.mark.parametrize("optimizer", ["sgd", "decay", "maximize"])
@pytest.mark.parametrize("alpha", [0.0, 1e-4])
def test_many_short_steps_of_float32_add_up(optimizer, alpha):
    """Each is far less than a coefficient, and the part of a row than its rounding."""
    arguments = {"optimizer": optimizer, "alpha": alpha, "lr": 1e-4, "batch_size": 1024}
    ends = []
    for dtype in (torch.float32, torch.float64):
        run = solver(4096, **arguments, dtype=dtype)
        run.coef.values.fill_(0.5)
        for _ in range(200):
            run.epoch()
        ends.append(run.coef.values.double())
    assert (ends[1] - 0.5).abs().max() > 1e-3
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=2e-6)


@torch.no_grad()
@both_losses
@pytest.mark.parametrize("n_rows", [5, FEW_ROWS, FEW_ROWS + 1, 1000])
def test_loss_of_an_epoch_does_not_depend_on_who_computes_it(
    n_classes, n_rows, monkeypatch
):
    """Few rows without torch, many in parts that threads share."""
    monkeypatch.setattr(_objective, "SERIAL_ENTRIES", 300)
    losses = []
    for size in (1, 2):
        run = solver(n_rows, n_classes=n_classes, batch_size=n_rows, team=Team(size))
        run.epoch()
        losses.append(run.loss)
    start = solver(n_rows, n_classes=n_classes, batch_size=n_rows)
    X, y, weight = map(torch.from_numpy, start.batches.copier.arrays)
    z = X @ start.coef.weight + start.coef.intercept
    expected = (weight * start.objective.loss.value(z, y)).mean().item()
    assert losses[0] == losses[1] == pytest.approx(expected, rel=1e-13)
