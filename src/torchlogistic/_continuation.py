"""What a run leaves behind so that the next one continues it exactly.

In NumPy and plain Python, so that it pickles small and loads without the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

Named = list[tuple[str, Any]]


def epoch_record(
    prefix: str, loss: float, least: float, n_batches: int
) -> dict[str, Any]:
    """What the history has of an epoch, by skorch's names.

    Parameters
    ----------
    prefix : {"train", "valid"}
    loss : float
    least : float
        The least loss of the epochs before it.
    n_batches : int
    """
    return {
        f"{prefix}_loss": loss,
        f"{prefix}_loss_best": loss < least,
        f"{prefix}_batch_count": n_batches,
    }


def optimizer_state(optimizer: Optimizer, arguments: dict[str, Any]) -> dict[str, Any]:
    """What an optimizer learned, and the arguments it was made with."""
    group = optimizer.param_groups[0]
    return {
        "optimizer": _name_of(type(optimizer)),
        "arguments": arguments,
        "group": {k: v for k, v in group.items() if k != "params"},
        "state": [_to_arrays(optimizer.state.get(p, {})) for p in group["params"]],
        "frozen": [not p.requires_grad for p in group["params"]],
    }


def restore_optimizer(
    optimizer: Optimizer, arguments: dict[str, Any], earlier: dict[str, Any]
) -> None:
    """Take over what an optimizer of the same kind learned.

    Parameters that a callback froze stay frozen in any case.
    """
    parameters = optimizer.param_groups[0]["params"]
    for parameter, frozen in zip(parameters, earlier["frozen"], strict=True):
        parameter.requires_grad_(not frozen)
    if earlier["optimizer"] != _name_of(type(optimizer)):
        return
    for parameter, state in zip(parameters, earlier["state"], strict=True):
        if state:
            optimizer.state[parameter] = _to_tensors(state, parameter)
    restore_group(optimizer, arguments, earlier)


def restore_group(
    optimizer: Optimizer, arguments: dict[str, Any], earlier: dict[str, Any]
) -> None:
    """Take over numbers that a schedule changed, but none that the user changed."""
    changed = changed_arguments(arguments, earlier)
    group = optimizer.param_groups[0]
    for key, value in earlier["group"].items():
        if key not in changed:
            group[key] = value
    if "lr" in changed and "initial_lr" in group:
        group["initial_lr"] = group["lr"]


def changed_arguments(arguments: dict[str, Any], earlier: dict[str, Any]) -> set[str]:
    """Names of arguments that were added, removed or given another value."""
    old = earlier["arguments"]
    missing = object()
    names = arguments.keys() | old.keys()
    return {k for k in names if arguments.get(k, missing) != old.get(k, missing)}


def schedule_states(callbacks: Named) -> dict[str, dict[str, Any]]:
    """State of the schedulers of the learning rate, by the callback's name."""
    return {
        name: {
            "policy": _policy(callback),
            "state": callback.lr_scheduler_.state_dict(),
        }
        for name, callback in callbacks
        if hasattr(callback, "lr_scheduler_")
    }


def restore_schedules(
    callbacks: Named,
    optimizer: Optimizer,
    arguments: dict[str, Any],
    earlier: dict[str, Any],
) -> None:
    """Let schedules go on where they were, if they are the same.

    skorch continues one from the number of epochs. That is not enough for those that
    step with each batch or remember losses, and their construction takes a step.
    """
    states = earlier["schedules"]
    same = [
        (callback, states[name]["state"])
        for name, callback in callbacks
        if hasattr(callback, "lr_scheduler_")
        and name in states
        and states[name]["policy"] == _policy(callback)
    ]
    if not same or "lr" in changed_arguments(arguments, earlier):
        return
    for callback, state in same:
        callback.lr_scheduler_.load_state_dict(state)
    restore_group(optimizer, arguments, earlier)


def _policy(callback: Any) -> str:
    """What makes two schedules the same: their class and its arguments."""
    cls = type(callback.lr_scheduler_)
    return f"{_name_of(cls)} {callback.kwargs} {callback.step_every}"


def _name_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _to_arrays(state: Any) -> Any:
    """Turn the tensors in an optimizer's state into arrays."""
    if isinstance(state, Tensor):
        return state.detach().cpu().clone().numpy()
    if isinstance(state, dict):
        return {key: _to_arrays(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_to_arrays(value) for value in state)
    return state


def _to_tensors(state: Any, parameter: Tensor) -> Any:
    """Turn them back; but for counters, they live where the parameter does."""
    if isinstance(state, np.ndarray):
        tensor = torch.from_numpy(state.copy())
        return tensor.to(parameter) if tensor.dim() else tensor
    if isinstance(state, dict):
        return {key: _to_tensors(value, parameter) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_to_tensors(value, parameter) for value in state)
    return state
