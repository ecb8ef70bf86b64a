"""Candidates on folds in one run, each against a run of its own."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop

from torchlogistic import _arrays, _candidates
from torchlogistic._arrays import as_tensor
from torchlogistic._batches import Batches
from torchlogistic._candidates import Buffer, CandidateRun, Settings, Stack
from torchlogistic._loss import make_loss
from torchlogistic._minibatch import MiniBatch
from torchlogistic._objective import Objective, allocate_coefficients
from torchlogistic._rows import Rows
from torchlogistic._steps import STEPS, make_optimizer
from torchlogistic._stream import RandomStream
from torchlogistic._threads import Team

LR = np.array([0.03, 0.1, 0.3])
L2 = np.array([0.0, 0.02, 0.1])
L1 = np.array([0.03, 0.0, 0.1])

RULES = {
    "sgd": (SGD, {}),
    "sgd momentum": (SGD, {"momentum": np.array([0.0, 0.5, 0.9])}),
    "sgd nesterov": (SGD, {"momentum": 0.9, "nesterov": True}),
    "sgd dampening": (SGD, {"momentum": 0.9, "dampening": 0.3}),
    "sgd decay": (SGD, {"momentum": 0.5, "weight_decay": 0.1}),
    "sgd maximize": (SGD, {"maximize": True}),
    "adam": (Adam, {}),
    "adam decay": (Adam, {"weight_decay": 0.1, "betas": (0.8, 0.9), "eps": 1e-3}),
    "amsgrad": (Adam, {"amsgrad": True}),
    "adamw": (AdamW, {"weight_decay": 0.3}),
    "rmsprop": (RMSprop, {}),
    "rmsprop centred": (RMSprop, {"centered": True, "alpha": 0.9, "momentum": 0.5}),
    "adagrad": (
        Adagrad,
        {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5},
    ),
}
every_rule = pytest.mark.parametrize("name", RULES)
both_losses = pytest.mark.parametrize("n_classes", [2, 3])


@pytest.fixture(params=["NumPy", "torch"], autouse=True)
def arithmetic(request, monkeypatch):
    """That of the CPU, and that of a device, where torch computes."""
    if request.param == "torch":
        monkeypatch.setattr(_arrays, "for_numpy", lambda tensor: False)


def make_fold(n_rows, n_classes, weights, seed=0, dtype=torch.float64):
    """Rows as single runs take them, one for each candidate."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n_rows, 4, dtype=torch.float64, generator=generator).to(dtype)
    labels = torch.randint(n_classes, (n_rows,), generator=generator)
    y = make_loss(n_classes).targets(labels, dtype)
    if not weights:
        return [Rows(X, y)] * len(LR)
    weight = torch.rand(n_rows, dtype=torch.float64, generator=generator).to(dtype)
    if weights == "shared":
        return [Rows(X, y, weight)] * len(LR)
    return [Rows(X, y, weight + i * (labels == 1)) for i in range(len(LR))]


def side_by_side(fold, n_outputs):
    """The rows of all candidates as a stack takes them."""
    first = fold[0]
    y = first.y[:, None] if n_outputs == 1 else first.y.repeat(1, len(fold))
    if first.weight is None:
        return Rows(first.X, y)
    weight = torch.stack([rows.weight for rows in fold], dim=1)
    if (weight == weight[:, :1]).all():
        return Rows(first.X, y, weight[:, :1])
    return Rows(first.X, y, weight.repeat_interleave(n_outputs, dim=1))


def single(rows, n_classes, cls, arguments, *, candidate, **settings):
    """A run of one candidate on one fold."""
    loss = make_loss(n_classes)
    coef = allocate_coefficients(
        rows, loss.n_outputs, fit_intercept=settings["fit_intercept"]
    )
    stream = RandomStream(settings["seed"])
    stream.initial_linear(*coef.as_linear(coef.values))
    parameters = [torch.nn.Parameter(p) for p in coef.as_linear(coef.values)]
    numbers = {
        name: float(value[candidate]) if isinstance(value, np.ndarray) else value
        for name, value in arguments.items()
    }
    batches = Batches(
        rows,
        batch_size=settings["batch_size"],
        shuffle=settings["shuffle"],
        stream=stream,
        fit_intercept=settings["fit_intercept"],
        validation=settings["validation"],
        team=Team(1),
    )
    alpha = settings["l2"][candidate] + settings["l1"][candidate]
    ratio = settings["l1"][candidate] / alpha if alpha else 0.0
    optimizer = make_optimizer(cls, parameters, lr=float(LR[candidate]), **numbers)
    return MiniBatch(
        Objective(loss, float(alpha), float(ratio)), batches, coef, optimizer, Team(1)
    )


def together(folds, n_classes, cls, arguments, **settings):
    """A run of all candidates on all folds."""
    loss = make_loss(n_classes)
    numbers = {k: v for k, v in arguments.items() if isinstance(v, np.ndarray)}
    plain = {k: float(v[0]) if k in numbers else v for k, v in arguments.items()}
    nothing = torch.nn.Parameter(torch.zeros(1))
    l2, l1 = settings.pop("l2"), settings.pop("l1")
    return CandidateRun(
        [side_by_side(fold, loss.n_outputs) for fold in folds],
        loss,
        l2=l2,
        l1=l1,
        settings=Settings(
            rule=STEPS[cls],
            optimizer=make_optimizer(cls, [nothing], lr=0.1, **plain),
            numbers={"lr": LR, **numbers},
            device=torch.device("cpu"),
            **settings,
        ),
    )


def compare(folds, n_classes, cls=SGD, arguments=None, *, n_epochs=3, **settings):
    """Coefficients and losses of all, epoch by epoch."""
    settings = {
        "seed": 5,
        "batch_size": 8,
        "shuffle": True,
        "fit_intercept": True,
        "validation": False,
        "l2": np.zeros(3),
        "l1": np.zeros(3),
        **settings,
    }
    arguments = arguments or {}
    dtype = folds[0][0].X.dtype
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    run = together(folds, n_classes, cls, arguments, **settings)
    singles = [
        [
            single(rows, n_classes, cls, arguments, candidate=c, **settings)
            for c, rows in enumerate(fold)
        ]
        for fold in folds
    ]
    k = run.loss.n_outputs
    for _ in range(n_epochs):
        losses = run.epoch()
        assert losses.shape == (len(folds), len(LR))
        for f, row in enumerate(singles):
            for c, one in enumerate(row):
                one.epoch()
                own = run.coef.values[f][:, c * k : (c + 1) * k]
                expected = one.coef.values
                torch.testing.assert_close(
                    own,
                    expected.view(len(expected), k),
                    rtol=tolerance,
                    atol=tolerance,
                )
                assert losses[f, c] == pytest.approx(one.loss, rel=10 * tolerance)
    return run


@torch.no_grad()
@every_rule
@both_losses
@pytest.mark.parametrize("l1", [np.zeros(3), L1], ids=["", "L1"])
def test_every_rule(name, n_classes, l1):
    cls, arguments = RULES[name]
    folds = [make_fold(30, n_classes, None, seed) for seed in (0, 1)]
    compare(folds, n_classes, cls, arguments, l2=L2, l1=l1)


@torch.no_grad()
@both_losses
@pytest.mark.parametrize("weights", [None, "shared", "own"])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_weights_and_order(n_classes, weights, fit_intercept, shuffle):
    folds = [make_fold(30, n_classes, weights, seed) for seed in (0, 1)]
    compare(folds, n_classes, fit_intercept=fit_intercept, shuffle=shuffle, l2=L2)


@torch.no_grad()
@both_losses
@pytest.mark.parametrize("lengths", [(30, 31, 27), (25, 32), (9, 16)])
@pytest.mark.parametrize("name", ["sgd momentum", "adam"])
def test_folds_of_unequal_size(n_classes, lengths, name):
    """As many batches each; the last has as many rows as are left."""
    folds = [make_fold(n, n_classes, "own", n) for n in lengths]
    compare(folds, n_classes, *RULES[name], l1=L1)


@torch.no_grad()
@both_losses
@pytest.mark.parametrize("batch_size", [1, 30, 64])
def test_batch_sizes(n_classes, batch_size):
    folds = [make_fold(30, n_classes, None, seed) for seed in (0, 1)]
    compare(folds, n_classes, batch_size=batch_size, l2=L2)


@torch.no_grad()
@both_losses
def test_buffer_for_a_part_of_an_epoch(n_classes, monkeypatch):
    """When the cache holds fewer batches than an epoch has."""
    monkeypatch.setitem(_candidates.BUFFER_BYTES, "cpu", 4000)
    folds = [make_fold(n, n_classes, "own", n) for n in (60, 61, 58)]
    run = compare(folds, n_classes, l2=L2)
    assert run.buffer.capacity < 58


@torch.no_grad()
@both_losses
def test_validation_draws_too(n_classes):
    folds = [make_fold(30, n_classes, None)]
    compare(folds, n_classes, validation=True)


@torch.no_grad()
@both_losses
def test_float32(n_classes):
    folds = [make_fold(30, n_classes, "own", seed, torch.float32) for seed in (0, 1)]
    run = compare(folds, n_classes, Adam, l2=L2, l1=L1)
    assert run.coef.values.dtype == torch.float32


@torch.no_grad()
@both_losses
def test_one_that_diverges_is_alone(n_classes):
    folds = [make_fold(30, n_classes, None, seed) for seed in (0, 1)]
    settings = {
        "seed": 5,
        "batch_size": 8,
        "shuffle": True,
        "fit_intercept": True,
        "validation": False,
        "l1": np.zeros(3),
    }
    calm = together(folds, n_classes, SGD, {}, l2=np.zeros(3), **settings)
    wild = together(folds, n_classes, SGD, {}, l2=np.array([0, 1e200, 0]), **settings)
    with np.errstate(all="ignore"):
        for _ in range(3):
            calm.epoch()
            losses = wild.epoch()
    k = calm.loss.n_outputs
    assert not wild.coef.values[:, :, k : 2 * k].isfinite().all()
    for c in (0, 2):
        columns = slice(c * k, (c + 1) * k)
        own, expected = (run.coef.values[:, :, columns] for run in (wild, calm))
        assert own.equal(expected)
        assert np.isfinite(losses[:, c]).all()


@torch.no_grad()
@both_losses
def test_mean_losses(n_classes):
    """Of given rows at given coefficients, as the objective of one evaluates them."""
    fold = make_fold(30, n_classes, "own")
    run = compare([fold], n_classes)
    k = run.loss.n_outputs
    losses = run.mean_losses(side_by_side(fold, k), 0, run.values())
    for c, rows in enumerate(fold):
        z = rows.X @ run.coef.weight[0][:, c * k : (c + 1) * k]
        z += run.coef.intercept[0][:, c * k : (c + 1) * k]
        z = z[:, 0] if k == 1 else z
        expected = (rows.weight * run.loss.value(z, rows.y)).mean()
        assert losses[c] == pytest.approx(expected.item(), rel=1e-12)


class TestStack:
    def settings(self, **params):
        nothing = torch.nn.Parameter(torch.zeros(1))
        return Settings(
            seed=0,
            batch_size=8,
            fit_intercept=True,
            validation=False,
            rule=STEPS[SGD],
            optimizer=make_optimizer(SGD, [nothing], lr=0.1),
            numbers={"lr": LR},
            device=torch.device("cpu"),
            **{"shuffle": True, **params},
        )

    def test_order_is_that_of_single_runs(self):
        folds = [side_by_side(make_fold(n, 2, None, n), 1) for n in (20, 23)]
        stack, streams = Stack(folds, self.settings()), [RandomStream(0) for _ in folds]
        for _ in range(3):
            order = stack.epoch_order()
            for fold, stream, own, offset in zip(
                folds, streams, order, (0, 20), strict=True
            ):
                n = len(fold)
                seed = stream.epoch_seed(shuffle=True, validation=False)
                expected = stream.permutation(n, seed).numpy()
                np.testing.assert_array_equal(own[:n] - offset, expected)
                # What is beyond the rows of a fold is a row of zeros.
                assert (own[n:] == 43).all()
        assert not stack.X[43].any()
        assert (stack.X[:43, -1] == 1).all()

    def test_folds_with_weights_of_their_own_and_without(self):
        """Of equal weights a fold has one column, whatever another has."""
        folds = [
            side_by_side(make_fold(20, 2, kind, 0), 1) for kind in ("own", "shared")
        ]
        stack = Stack(folds, self.settings())
        assert stack.weight.shape == (41, 3)
        torch.testing.assert_close(
            as_tensor(stack.weight[20:40]), folds[1].weight.expand(-1, 3)
        )

    def test_blocks_scale_by_the_rows_of_their_fold(self):
        folds = [side_by_side(make_fold(n, 2, None, n), 1) for n in (20, 23)]
        buffer = Buffer(Stack(folds, self.settings()), 3)
        blocks = buffer.blocks(0, 23)
        counts = [(1 / as_tensor(block.scale)[:, 0, 0]).round() for block in blocks]
        assert [count.tolist() for count in counts] == [[8], [8], [4, 7]]
        assert buffer.blocks(0, 23) is blocks
        ends = [block.X.shape[1] for block in blocks]
        assert ends == [8, 8, 7]
        for one, two in pairwise(blocks):
            assert np.shares_memory(one.X, buffer.X)
            assert not np.shares_memory(one.X, two.X)
