"""Tensors that users pass: to the host, or left on the accelerator they are on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._threads import existing_threads
from ._transfer import fits

ACCELERATORS = ("cuda", "xpu", "mps")
CPU = torch.device("cpu")
# What labels on an accelerator may be.
LABEL_DTYPES = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float32, torch.float64),
)
SORTED_BYTES = 32  # that it takes to sort a label, and to find its place


def to_host(values: Any) -> Any:
    """Turn a tensor into an array; anything else stays what it is."""
    if not isinstance(values, Tensor):
        return values
    if values.layout != torch.strided:
        raise TypeError(
            f"a tensor of layout {values.layout} was passed, but dense data is "
            "required: use .to_dense()"
        )
    try:
        with existing_threads():
            values = values.detach().cpu()
            if values.dtype == torch.bfloat16:  # which NumPy lacks; float32 holds it
                values = values.float()
            return values.resolve_conj().resolve_neg().numpy()
    except TypeError as error:
        raise TypeError(
            f"a tensor of {values.dtype} was passed, which NumPy does not have: use "
            ".float()"
        ) from error


def is_accelerator(device: torch.device) -> bool:
    return device.type in ACCELERATORS


def rows_stay(X: Any, device: torch.device, dtypes: list[Any]) -> bool:
    """Whether rows stay where they are, to be trained on by that or another device.

    They do on an accelerator, if it has room for those in the dtype of the training.
    All else goes through the host, where scikit-learn says what is wrong with it.
    """
    if not isinstance(X, Tensor):
        return False
    if not is_accelerator(X.device) or not is_accelerator(device):
        return False
    if X.layout != torch.strided or X.dim() != 2 or X.dtype.is_complex:
        return False
    dtype = torch_dtype(X, dtypes)
    ready = X.dtype == dtype and X.is_contiguous()
    return ready or fits(X.device, X.numel() * dtype.itemsize)


def labels_stay(y: Any, X: Any) -> bool:
    """Whether labels stay beside rows that do: if there is room to sort them."""
    return (
        isinstance(y, Tensor)
        and y.layout == torch.strided
        and y.device == X.device
        and y.dim() == 1
        and y.dtype in LABEL_DTYPES
        and fits(y.device, SORTED_BYTES * len(y))
    )


def torch_dtype(X: Tensor, dtypes: list[Any]) -> torch.dtype:
    """The dtype that rows have in training: their own if it is allowed."""
    kept = [torch.from_numpy(np.empty(0, dtype)).dtype for dtype in dtypes]
    # float32 holds all that bfloat16 does, and NumPy has none.
    own = torch.float32 if X.dtype == torch.bfloat16 else X.dtype
    return own if own in kept else kept[0]


def take(values: Any, index: np.ndarray) -> Any:
    """Copy rows of an array or a tensor; to the host where the device has no room."""
    if isinstance(values, np.ndarray):
        return values[index]
    if not fits(values.device, values[:1].nbytes * len(index)):
        return to_host(values)[index]
    return values[torch.from_numpy(index).to(values.device)]


def is_on(values: Any, device: torch.device) -> bool:
    """Whether values are a tensor on a device; "cuda" is the current one."""
    if not isinstance(values, Tensor):
        return False
    return values.device == torch.empty(0, device=device).device


class _Writeable:
    """Present a read-only array as a writeable one, for readers that insist.

    torch warns of read-only memory, which a memory-mapped array or a joblib worker's
    share of X is; we never write to X.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array  # keeps the memory alive
        address = array.__array_interface__["data"][0]
        self.__array_interface__ = {
            **array.__array_interface__,
            "data": (address, False),
        }


def to_device(array: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """View an array as a tensor, copied only to another device."""
    if isinstance(array, Tensor):
        return array.to(device)
    if min(array.strides, default=0) < 0:
        # NumPy calls a single column contiguous, whichever way it goes; torch has no
        # strides that go back.
        array = array.copy()
    if not array.flags.writeable:
        array = np.asarray(_Writeable(array))
    return torch.from_numpy(array).to(device)
