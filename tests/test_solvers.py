"""The table of optimizers."""

import pytest
import torch

from torchlogistic._fullbatch import FullBatch
from torchlogistic._solvers import (
    SOLVERS,
    check_penalty,
    find_solver,
    optimizer_arguments,
)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_name_is_found(name):
    solver = find_solver(name)
    assert issubclass(solver.torch_class, torch.optim.Optimizer)
    assert solver.full_batch is None or issubclass(solver.full_batch, FullBatch)


def test_classes():
    assert find_solver(torch.optim.SGD).momentum
    assert find_solver(torch.optim.Adamax).torch_class is torch.optim.Adamax
    with pytest.raises(ValueError, match=r"dict is not a subclass of torch\.optim"):
        find_solver(dict)


def test_unknown_names_get_the_closest():
    with pytest.raises(ValueError, match=r"'Adams' is not known\. Did you mean 'adam'"):
        find_solver("Adams")
    with pytest.raises(ValueError, match=r"not known\. Valid are 'sgd', 'adam'"):
        find_solver("xyz")


@pytest.mark.parametrize("name", SOLVERS)
def test_penalty(name):
    solver = SOLVERS[name]
    check_penalty(solver, 0.0)
    if solver.l1:
        check_penalty(solver, 0.1)
    else:
        with pytest.raises(ValueError, match=r"no L1 penalty .* use l1_ratio=0 or"):
            check_penalty(solver, 0.1)


def test_arguments():
    sgd = optimizer_arguments(
        SOLVERS["sgd"], momentum=0.9, optimizer_params={"nesterov": True}
    )
    assert sgd == {"momentum": 0.9, "nesterov": True}
    adam = optimizer_arguments(SOLVERS["adam"], momentum=0.9, optimizer_params=None)
    assert adam == {}
    for name in ("lr", "params", "momentum"):
        with pytest.raises(ValueError, match=f"must not have '{name}'"):
            optimizer_arguments(
                SOLVERS["sgd"], momentum=0.0, optimizer_params={name: 1}
            )


class PassesOn(torch.optim.SGD):
    def __init__(self, params, **kwargs):
        super().__init__(params, **kwargs)


class Bare(torch.optim.SGD):
    def __init__(self, params, lr):
        super().__init__(params, lr)


def test_names_of_arguments():
    def arguments(optimizer, **params):
        solver = find_solver(optimizer)
        return optimizer_arguments(solver, momentum=0.0, optimizer_params=params)

    # The momentum of other optimizers than "sgd" is theirs.
    assert arguments("rmsprop", momentum=0.5) == {"momentum": 0.5}
    with pytest.raises(ValueError, match=r"SGD .* mean 'nesterov'\? Valid are ") as sgd:
        arguments("sgd", Nestrov=True)
    assert not any(name in str(sgd.value) for name in ("'lr'", "'params'", "momentum"))
    with pytest.raises(ValueError, match=r"'speed', which Bare .* Valid are none"):
        arguments(Bare, speed=1)
    assert arguments(PassesOn, speed=1) == {"speed": 1}
