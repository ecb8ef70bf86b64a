"""Mini-batch steps: which rule serves which optimizer, and the state they share."""

import copy
import subprocess
import sys

import pytest
import torch

from torchlogistic._loss import make_loss
from torchlogistic._minibatch import MiniBatch, SGDStep, TorchStep, make_optimizer
from torchlogistic._objective import Objective, allocate_coefficients
from torchlogistic._rows import Batches, RandomStream, Rows


def solver(cls, n_classes=2, **arguments):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(40, 3, dtype=torch.float64, generator=generator)
    labels = torch.randint(n_classes, (40,), generator=generator)
    loss = make_loss(n_classes)
    rows = Rows(X, loss.targets(labels, torch.float64))
    coef = allocate_coefficients(rows, loss.n_outputs, fit_intercept=True)
    parameters = [torch.nn.Parameter(p) for p in coef.as_linear(coef.values)]
    optimizer = make_optimizer(cls, parameters, **arguments)
    batches = Batches(
        rows,
        batch_size=16,
        shuffle=True,
        stream=RandomStream(0),
        fit_intercept=True,
        validation=False,
    )
    return MiniBatch(Objective(loss), batches, coef, optimizer)


class MySGD(torch.optim.SGD):
    """A subclass with a step of its own."""

    def step(self, closure=None):
        return super().step(closure)


@pytest.mark.parametrize(
    ("cls", "step"),
    [(torch.optim.SGD, SGDStep), (torch.optim.Adam, TorchStep), (MySGD, TorchStep)],
)
def test_rule_of_an_optimizer(cls, step):
    assert type(solver(cls, lr=0.1).step) is step


@torch.no_grad()
@pytest.mark.parametrize("n_classes", [2, 3])
def test_momentum_is_the_state_of_the_optimizer(n_classes):
    ours = solver(torch.optim.SGD, n_classes, lr=0.1, momentum=0.9)
    theirs = solver(MySGD, n_classes, lr=0.1, momentum=0.9)
    for _ in range(3):
        ours.epoch()
        theirs.epoch()
    torch.testing.assert_close(ours.coef.values, theirs.coef.values)
    for own, other in zip(
        ours.optimizer.state.values(), theirs.optimizer.state.values(), strict=True
    ):
        torch.testing.assert_close(own["momentum_buffer"], other["momentum_buffer"])


@torch.no_grad()
def test_loaded_state_counts():
    trained = solver(torch.optim.SGD, lr=0.1, momentum=0.9)
    trained.epoch()
    fresh = solver(torch.optim.SGD, lr=0.1, momentum=0.9)
    fresh.optimizer.load_state_dict(copy.deepcopy(trained.optimizer.state_dict()))
    fresh.coef.values.copy_(trained.coef.values)
    fresh.batches.stream.epoch_seed(shuffle=True, validation=False)
    trained.epoch()
    fresh.epoch()
    assert fresh.coef.values.equal(trained.coef.values)


@torch.no_grad()
@pytest.mark.parametrize("maximize", [False, True])
def test_ascent_is_left_to_torch(maximize):
    ours = solver(torch.optim.SGD, lr=0.1, maximize=maximize)
    theirs = solver(MySGD, lr=0.1, maximize=maximize)
    ours.epoch()
    theirs.epoch()
    torch.testing.assert_close(ours.coef.values, theirs.coef.values)


def test_a_first_fit_does_not_import_the_compiler():
    """Two seconds in a fresh process, and the symbolic algebra another."""
    code = (
        "import sys; import numpy as np\n"
        "from torchlogistic import TorchLogisticClassifier\n"
        "X = np.arange(20.0)[:, None]; y = np.arange(20) % 2\n"
        "TorchLogisticClassifier(epochs=2, lr=0.001, momentum=0.9).fit(X, y)\n"
        "print('torch._dynamo' in sys.modules, 'sympy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]
