"""The table of optimizers: name -> solver, and what goes with what."""

from __future__ import annotations

import difflib
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from ._fullbatch import FullBatch
from ._lbfgs import LBFGS
from ._lockstep import Lockstep
from ._lockstep_lbfgs import LBFGSLockstep
from ._lockstep_newton import NewtonLockstep
from ._newton import Newton
from ._steps import find_rule


@dataclass(frozen=True)
class Solver:
    """What an optimizer's name stands for, and what goes with it.

    Parameters
    ----------
    torch_class : type
        The optimizer of torch whose rule it follows. A full-batch solver has none: the
        default only lends its state to callbacks.
    full_batch : type, optional
        The solver of :mod:`._fullbatch`.
    lockstep : type, optional
        What runs several of them at once.
    momentum : bool
        Whether the parameter ``momentum`` of the estimator is its own.
    l1 : bool
        Whether it takes an L1 penalty.
    """

    torch_class: type[Optimizer] = torch.optim.SGD
    full_batch: type[FullBatch] | None = None
    lockstep: type[Lockstep[Any]] | None = None
    momentum: bool = False
    l1: bool = True


SOLVERS: dict[str, Solver] = {
    "sgd": Solver(torch.optim.SGD, momentum=True),
    "adam": Solver(torch.optim.Adam),
    "adamw": Solver(torch.optim.AdamW),
    "rmsprop": Solver(torch.optim.RMSprop),
    "adagrad": Solver(torch.optim.Adagrad),
    "lbfgs": Solver(full_batch=LBFGS, lockstep=LBFGSLockstep),
    "newton": Solver(full_batch=Newton, lockstep=NewtonLockstep),
}


def find_solver(optimizer: str | type[Optimizer]) -> Solver:
    """Look an optimizer up by name, or wrap a class of torch.

    Raises
    ------
    ValueError
        For an unknown name, with the valid ones and the closest; for a class that is
        not an optimizer, or one of sparse gradients.
    """
    if isinstance(optimizer, str):
        if optimizer in SOLVERS:
            return SOLVERS[optimizer]
        names = ", ".join(repr(name) for name in SOLVERS)
        name = optimizer.lower().removeprefix("torch.optim.")
        # Those of LogisticRegression first, which are spelled in other ways.
        close = [known for known in SOLVERS if name.startswith(f"{known}-")]
        close = close or difflib.get_close_matches(name, SOLVERS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"optimizer={optimizer!r} is not known.{hint} Valid are {names}, or a "
            "subclass of torch.optim.Optimizer."
        )
    if not issubclass(optimizer, Optimizer):
        raise ValueError(
            f"optimizer={optimizer.__name__} is not a subclass of torch.optim.Optimizer"
        )
    if issubclass(optimizer, torch.optim.SparseAdam):
        raise ValueError(
            f"optimizer={optimizer.__name__} takes sparse gradients only, and those of "
            "this model are dense: use 'adam'"
        )
    return Solver(
        optimizer,
        momentum=optimizer is torch.optim.SGD,
        l1=find_rule(optimizer) is not None,
    )


def check_class(optimizer: Any) -> None:
    """Raise ValueError for an instance in place of a class."""
    if isinstance(optimizer, Optimizer):
        raise ValueError(
            f"optimizer is an instance of {type(optimizer).__name__}: pass the class, "
            "its step size as lr and what else it takes as optimizer_params"
        )


def check_penalty(solver: Solver, l1: float) -> None:
    """Raise ValueError if a solver does not take the penalty, naming those that do."""
    if l1 and not solver.l1:
        names = ", ".join(repr(name) for name, other in SOLVERS.items() if other.l1)
        raise ValueError(
            f"this optimizer takes no L1 penalty (alpha * l1_ratio = {l1:g}): use "
            f"l1_ratio=0 or one of {names}"
        )


def optimizer_arguments(
    solver: Solver, *, momentum: float, optimizer_params: dict[str, Any] | None
) -> dict[str, Any]:
    """Collect the arguments of the torch optimizer besides ``lr``.

    Raises
    ------
    ValueError
        If ``optimizer_params`` has an argument that the estimator sets, or one that the
        optimizer does not take.
    """
    arguments = dict(optimizer_params or {})
    if solver.full_batch is not None:
        if arguments:
            raise ValueError(
                f"optimizer_params={arguments} belong to torch's optimizers: "
                "'lbfgs' and 'newton' take none"
            )
        return {}
    own = ["params", "lr", "momentum"] if solver.momentum else ["params", "lr"]
    for name in own:
        if name in arguments:
            raise ValueError(
                f"optimizer_params must not have {name!r}: it is a parameter of the "
                "estimator"
                if name != "params"
                else "optimizer_params must not have 'params': the estimator sets it"
            )
    check_names(solver.torch_class, list(arguments), own)
    if solver.momentum:  # the others ignore it, as scikit-learn's estimators do
        arguments["momentum"] = momentum
    return arguments


def check_names(optimizer: type[Optimizer], names: list[Any], own: list[str]) -> None:
    """Raise ValueError for a name that an optimizer does not take, beside its own."""
    if not names:  # the signature takes longer than a check of no names
        return
    # What passes arguments on does not tell their names.
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    taken = list(inspect.signature(optimizer.__init__).parameters.values())[1:]
    if any(parameter.kind in kinds for parameter in taken):
        return
    valid = [parameter.name for parameter in taken if parameter.name not in own]
    for name in names:
        if name not in valid:
            close = difflib.get_close_matches(str(name).lower(), valid, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            listed = ", ".join(map(repr, valid)) if valid else "none"
            raise ValueError(
                f"optimizer_params has {name!r}, which {optimizer.__name__} does not "
                f"take.{hint} Valid are {listed}."
            )
