"""Update rules: ours against those of torch.optim, their state, freezing, L1."""

import copy
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop

from torchlogistic._arrays import NumpyNamespace
from torchlogistic._batches import Batches
from torchlogistic._inplace import shrink
from torchlogistic._loss import make_loss
from torchlogistic._minibatch import MiniBatch
from torchlogistic._objective import Objective, allocate_coefficients
from torchlogistic._rows import Rows
from torchlogistic._steps import STEPS, TorchStep, find_rule, make_optimizer
from torchlogistic._stream import RandomStream
from torchlogistic._threads import Team


def own_step(cls):
    """A subclass with a step of its own, which is torch's."""

    class Other(cls):
        def step(self, closure=None):
            return super().step(closure)

    return Other


def solver(
    cls, n_classes=2, *, l1=0.0, l2=0.0, batch_size=16, shape=(40, 3), **arguments
):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(shape, dtype=torch.float64, generator=generator)
    labels = torch.randint(n_classes, shape[:1], generator=generator)
    loss = make_loss(n_classes)
    rows = Rows(X, loss.targets(labels, torch.float64))
    coef = allocate_coefficients(rows, loss.n_outputs, fit_intercept=True)
    parameters = [torch.nn.Parameter(p) for p in coef.as_linear(coef.values)]
    optimizer = make_optimizer(cls, parameters, **{"lr": 0.05, **arguments})
    batches = Batches(
        rows,
        batch_size=batch_size,
        shuffle=True,
        stream=RandomStream(0),
        fit_intercept=True,
        validation=False,
        team=Team(1),
    )
    alpha = l1 + l2
    objective = Objective(loss, alpha, l1_ratio=l1 / alpha if alpha else 0.0)
    return MiniBatch(objective, batches, coef, optimizer, Team(1))


def assert_same(ours, theirs):
    """The same coefficients, and the same state in the optimizers."""
    torch.testing.assert_close(ours.coef.values, theirs.coef.values)
    states = [other.step.optimizer.state_dict()["state"] for other in (ours, theirs)]
    torch.testing.assert_close(states[0], states[1])


RULES = {
    "sgd": (SGD, {}),
    "sgd momentum": (SGD, {"momentum": 0.9}),
    "sgd nesterov": (SGD, {"momentum": 0.9, "nesterov": True}),
    "sgd dampening": (SGD, {"momentum": 0.9, "dampening": 0.3}),
    "sgd decay": (SGD, {"weight_decay": 0.1}),
    "sgd momentum and decay": (SGD, {"momentum": 0.5, "weight_decay": 0.1}),
    "adam": (Adam, {}),
    "adam decay": (Adam, {"weight_decay": 0.1, "betas": (0.8, 0.9), "eps": 1e-3}),
    "amsgrad": (Adam, {"amsgrad": True}),
    "adamw": (AdamW, {}),
    "adamw decay": (AdamW, {"weight_decay": 0.3, "amsgrad": True}),
    "rmsprop": (RMSprop, {}),
    "rmsprop momentum": (RMSprop, {"momentum": 0.5, "weight_decay": 0.1}),
    "rmsprop centred": (RMSprop, {"centered": True, "alpha": 0.9, "momentum": 0.5}),
    "adagrad": (Adagrad, {}),
    "adagrad decay": (
        Adagrad,
        {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5},
    ),
}
every_rule = pytest.mark.parametrize(
    ("cls", "arguments"), RULES.values(), ids=RULES.keys()
)
both_losses = pytest.mark.parametrize("n_classes", [2, 3])


@torch.no_grad()
@every_rule
@both_losses
@pytest.mark.parametrize("maximize", [False, True])
def test_rule_is_that_of_torch(cls, arguments, n_classes, maximize):
    ours = solver(cls, n_classes, maximize=maximize, **arguments)
    theirs = solver(own_step(cls), n_classes, maximize=maximize, **arguments)
    assert type(ours.step) is STEPS[cls]
    assert type(theirs.step) is TorchStep
    for _ in range(3):
        ours.epoch()
        theirs.epoch()
        assert_same(ours, theirs)


@torch.no_grad()
@every_rule
@both_losses
def test_steps_take_no_new_memory(cls, arguments, n_classes):
    """Of the size of the coefficients: their buffers are allocated once."""
    shape = 8, 20_000
    run = solver(
        cls, n_classes, l1=1e-3, l2=1e-3, batch_size=4, shape=shape, **arguments
    )
    run.epoch()
    run.epoch()
    tracemalloc.start()  # it sees what NumPy allocates
    run.epoch()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < run.coef.weight.nbytes / 2


@torch.no_grad()
@every_rule
def test_frozen_coefficients_stay(cls, arguments):
    """Frozen from the second epoch, thawed in the fourth, as torch does it."""
    ours, theirs = solver(cls, **arguments), solver(own_step(cls), **arguments)
    for epoch in range(5):
        for one in (ours, theirs):
            bias = one.step.optimizer.param_groups[0]["params"][1]
            bias.requires_grad_(epoch not in (1, 2))
            one.epoch()
        assert_same(ours, theirs)


@torch.no_grad()
@every_rule
def test_loaded_state_counts(cls, arguments):
    trained, fresh = solver(cls, **arguments), solver(cls, **arguments)
    trained.epoch()
    fresh.step.optimizer.load_state_dict(
        copy.deepcopy(trained.step.optimizer.state_dict())
    )
    fresh.coef.values.copy_(trained.coef.values)
    fresh.batches.stream.epoch_seed(shuffle=True, validation=False)
    trained.epoch()
    fresh.epoch()
    assert fresh.coef.values.equal(trained.coef.values)


@torch.no_grad()
@every_rule
def test_l1_leads_to_the_minimum(cls, arguments):
    """The gradient of the smooth part balances the L1 norm at nonzero weights."""
    if arguments.get("weight_decay") or cls is AdamW:
        pytest.skip("weight decay moves the minimum")
    if arguments.get("centered"):
        pytest.skip("the gradient of all rows has no variance to divide by")
    l1 = 0.05
    run = solver(cls, l1=l1, batch_size=40, **arguments)
    run.step.optimizer.param_groups[0]["lr"] = 0.3 if cls is Adagrad else 0.02
    for epoch in range(4000):
        if epoch == 3000:  # what scales by the gradient's sign ends in small steps
            run.step.optimizer.param_groups[0]["lr"] /= 100
        run.epoch()
    run.objective.gradient(run.batches.rooms[0].full.span, run.coef)
    w, gradient = run.coef.weight, run.coef.weight_gradient
    kept = w != 0
    assert 0 < kept.sum() < len(w)
    torch.testing.assert_close(gradient[kept], -l1 * w[kept].sign(), atol=2e-3, rtol=0)
    assert (gradient[~kept].abs() <= l1 + 2e-3).all()


def test_shrink_is_soft_thresholding():
    weight = np.array([0.5, -0.05, 0.02, -0.7])
    shrink(weight, 0.1, np.empty(4), NumpyNamespace)
    assert weight.tolist() == pytest.approx([0.4, 0.0, 0.0, -0.6])


def test_rule_of_a_class():
    class Renamed(SGD):
        """A subclass that keeps the step."""

    assert find_rule(Renamed) is STEPS[SGD]
    assert find_rule(own_step(SGD)) is None
    assert find_rule(torch.optim.Adamax) is None


def test_a_first_fit_does_not_import_the_compiler():
    """Two seconds in a fresh process, and the symbolic algebra another."""
    code = (
        "import sys; import numpy as np\n"
        "from torchlogistic import TorchLogisticClassifier\n"
        "X = np.arange(20.0)[:, None]; y = np.arange(20) % 2\n"
        "for optimizer in ('sgd', 'adam', 'adamw', 'rmsprop', 'adagrad', 'lbfgs'):\n"
        "    clf = TorchLogisticClassifier(optimizer=optimizer, epochs=2, tol=9)\n"
        "    clf.set_params(lr=0.001, momentum=0.9).fit(X, y)\n"
        "print('torch._dynamo' in sys.modules, 'sympy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]
