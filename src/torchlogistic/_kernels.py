"""Kernels in place of torch's products, where a device and its rows have one.

A kernel of ``_triton`` reads X once. It takes the gradient of all rows, or of a
mini-batch; where it cannot be built, torch computes the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._arrays import accumulator
from ._rows import Block
from ._warnings import warn

if TYPE_CHECKING:
    from ._objective import Coefficients, Objective

Kernel = Callable[..., Any]  # a function of ``_triton``


def has_kernel(device: torch.device, n_features: int, *, several: bool) -> bool:
    """Whether there is a kernel for rows on a device, with one or several logits."""
    if device.type != "cuda" or several:
        return False
    from ._triton import serves  # half a second

    return serves(device, n_features)


def find_kernel(block: Block) -> Kernel | None:
    """The kernel of :mod:`._triton`, if a block is one that it serves."""
    if not _serves(block):
        return None
    from ._triton import loss_and_gradient

    return loss_and_gradient


def find_batch_kernel(block: Block) -> Kernel | None:
    """The same for a mini-batch."""
    if not _serves(block):
        return None
    from ._triton import write_batch_gradient

    return write_batch_gradient


def _serves(block: Block) -> bool:
    z = block.logits
    return has_kernel(z.device, block.n_features, several=z.dim() > 1)


class Kernels:
    """Runs kernels of :mod:`._triton`, until one cannot be built."""

    def __init__(self) -> None:
        self._failed = False

    def find(
        self, finder: Callable[[Block], Kernel | None], block: Block
    ) -> Kernel | None:
        """The kernel that a function finds for a block, if any works."""
        return None if self._failed else finder(block)

    def run(
        self, kernel: Kernel, block: Block, coef: Coefficients, **more: Tensor
    ) -> Any:
        """What a kernel returns, or None if it cannot be built.

        Logits and residuals are written into the block.
        """
        if self._failed:
            return None
        from ._triton import Operands

        operands = Operands(
            block.features,
            block.y,
            block.weight,
            coef.weight,
            coef.intercept if coef.fit_intercept else None,
            block.logits,
            block.residual,
        )
        try:
            return kernel(operands, **more)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # Triton needs a C compiler to launch the first
            self._failed = True
            warn(
                f"Triton could not build a kernel ({type(error).__name__}: {error}). "
                "torch's products take its place; they read X twice.",
                RuntimeWarning,
            )
            return None


class BatchGradient:
    """The gradient of mini-batches, by a kernel where there is one.

    Parameters
    ----------
    objective : Objective
    coef : Coefficients
    """

    def __init__(self, objective: Objective, coef: Coefficients) -> None:
        self.objective = objective
        self._kernels = Kernels()
        # On the device for as long as recorded graphs may read it.
        self._l2 = torch.as_tensor(
            objective.l2, dtype=accumulator(coef.values), device=coef.values.device
        )

    def make(self, coef: Coefficients, like: Block) -> Callable[[Block], None]:
        """A function that writes the gradient of blocks into the coefficients."""
        plain = self.objective.make_gradient(coef, like)
        kernel = self._kernels.find(find_batch_kernel, like)
        if kernel is None:
            return plain
        run = partial(self._kernels.run, kernel, coef=coef)

        def write_gradient(block: Block) -> None:
            if run(block, l2=self._l2, gradient=coef.gradient) is None:
                plain(block)

        return write_gradient
