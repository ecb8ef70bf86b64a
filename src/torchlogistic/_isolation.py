"""Training is the same whatever the caller set in torch and NumPy, and leaves it so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
)
from typing import Any

import numpy as np
import torch

from ._threads import existing_threads


def current(device: torch.device) -> AbstractContextManager[Any]:
    """Make a device the one on which kernels and graphs of ours are started."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Train the same whatever the caller set in torch, and leave it as it was."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(np.errstate(all="ignore"))  # as torch; losses are checked
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(full_precision())
        stack.enter_context(existing_threads())
        yield


@contextmanager
def full_precision() -> Iterator[None]:
    """Multiply float32 in float32, where the caller allowed TF32 or bfloat16.

    torch has this setting for the whole process: of fits that run in several threads
    at the same time, the first to end puts it back.
    """
    backends = [
        backend.matmul
        for backend in (torch.backends.mkldnn, torch.backends.cuda)
        if hasattr(getattr(backend, "matmul", None), "fp32_precision")
    ]
    if not backends:  # torch < 2.9
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
        return
    lowered = [
        (matmul, matmul.fp32_precision)
        for matmul in backends
        if matmul.fp32_precision not in ("none", "ieee")
    ]
    for matmul, _ in lowered:
        matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        for matmul, precision in lowered:
            matmul.fp32_precision = precision
