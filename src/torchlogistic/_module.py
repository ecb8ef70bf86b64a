"""What callbacks find in the net besides its own: module, rows and history."""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property
from typing import Any

import skorch
from skorch.history import History
from torch import Tensor, nn

from ._objective import Objective
from ._rows import Rows


def linear_module(weight: Tensor, bias: Tensor | None = None) -> nn.Sequential:
    """An ``nn.Sequential(linear=nn.Linear)`` around tensors, which are not copied.

    Parameters
    ----------
    weight : Tensor of shape (n_outputs, n_features)
    bias : Tensor of shape (n_outputs,), optional
    """
    # nn.Linear's constructor would draw from the global generator.
    linear = nn.Linear.__new__(nn.Linear)
    nn.Module.__init__(linear)
    linear.out_features, linear.in_features = weight.shape
    linear.weight = nn.Parameter(weight)
    linear.register_parameter("bias", None if bias is None else nn.Parameter(bias))
    linear.register_state_dict_post_hook(_make_contiguous)  # type: ignore[no-untyped-call]
    return nn.Sequential(OrderedDict(linear=linear))


def _make_contiguous(
    module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any
) -> None:
    """Unshare saved tensors: safetensors takes no views."""
    for name, tensor in state.items():
        if name.startswith(prefix):
            state[name] = tensor.contiguous()


class RowsDataset(skorch.dataset.Dataset):
    """What callbacks see of the rows: X and the labels 0 to n_classes - 1."""

    def __init__(self, rows: Rows, objective: Objective) -> None:
        self.rows = rows
        self.objective = objective

    @property
    def X(self) -> Tensor:
        return self.rows.X

    @cached_property
    def y(self) -> Tensor:
        return self.objective.loss.labels(self.rows.y)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: Any) -> tuple[Tensor, Tensor]:
        return self.X[i], self.y[i]


class QuickHistory(History):
    """skorch's history; taking one row out of it does not copy all of them."""

    def __getitem__(self, i: Any) -> Any:
        return list.__getitem__(self, i) if type(i) is int else super().__getitem__(i)
