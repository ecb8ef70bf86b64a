"""Loss and gradient of the binary loss in one pass over X, by a kernel in Triton.

The plain products ``X w`` and ``X' r`` each read X from the device's memory, and
elementwise kernels read the vectors between them several times. Here a tile of rows
stays in registers from the logits to the gradient. Each of a fixed number of programs
sums its tiles in an order of its own, and torch sums the programs, so that the same
rows give the same bits each time.

Triton comes with torch's CUDA build. Where it is missing, or the kernel cannot be
built, ``_gradient`` computes the same by torch's products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

try:
    import triton
    from triton import language as tl
except ImportError:
    triton = tl = None

# Up to so many features a tile of eight rows is 32 registers of each thread.
MAX_FEATURES = 1024
TILE_BYTES = 2**15  # of X
MAX_TILE_ROWS = 256
# Several for each multiprocessor of the largest devices, to hide the latency of memory.
# The same everywhere: the sums, to the bit, depend on it.
PROGRAMS = 1024
WARPS = 8
# Terms of log(1 + e) = 2 artanh(e / (2 + e)) for e up to 1, where the last is below the
# precision of float32 and float64.
TERMS = {4: 8, 8: 17}


def find_kernel(device: torch.device, n_features: int) -> Any:
    """:func:`loss_and_gradient` if it serves so many features on a CUDA device."""
    if triton is None or n_features > MAX_FEATURES:
        return None
    old = torch.cuda.get_device_capability(device) < (8, 0)  # Triton serves no older
    return None if old else loss_and_gradient


def loss_and_gradient(
    X: Tensor,
    y: Tensor,
    weight: Tensor | None,
    coef: Tensor,
    intercept: Tensor | None,
    *,
    logits: Tensor,
    residual: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over rows of the weighted binary losses and of their gradient.

    Parameters
    ----------
    X : Tensor of shape (n_rows, n_features)
        Rows of contiguous features.
    y : Tensor of shape (n_rows,)
        0 or 1.
    weight : Tensor of shape (n_rows,), optional
    coef : Tensor of shape (n_features,)
    intercept : Tensor of shape (1,), optional
    logits, residual : Tensor of shape (n_rows,)
        Written; the residual is weighted.

    Returns
    -------
    loss : Tensor of shape ()
    gradient : Tensor of shape (n_features,)
    residual_sum : Tensor of shape ()
        All in float64.
    """
    n_rows, n_features = X.shape
    width = triton.next_power_of_2(n_features)
    tile_rows = max(1, min(MAX_TILE_ROWS, TILE_BYTES // (width * X.itemsize)))
    shape = (PROGRAMS, n_features + 2)  # the gradient, the residual's sum, the loss
    parts = torch.empty(shape, dtype=torch.float64, device=X.device)
    kernel[(PROGRAMS,)](
        X,
        y,
        y if weight is None else weight,
        coef,
        coef if intercept is None else intercept,
        logits,
        residual,
        parts,
        n_rows,
        n_features,
        X.stride(0),
        HAS_WEIGHT=weight is not None,
        HAS_INTERCEPT=intercept is not None,
        PROGRAMS=PROGRAMS,
        ROWS=tile_rows,
        WIDTH=width,
        TERMS=TERMS[X.itemsize],
        num_warps=WARPS,
        enable_fp_fusion=True,
    )
    sums = parts.sum(0)
    return sums[n_features + 1], sums[:n_features], sums[n_features]


def _kernel(  # type: ignore[no-untyped-def]
    X,
    y,
    weight,
    coef,
    intercept,
    logits,
    residual,
    parts,
    n_rows,
    n_features,
    stride,
    HAS_WEIGHT: tl.constexpr,
    HAS_INTERCEPT: tl.constexpr,
    PROGRAMS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    TERMS: tl.constexpr,
):
    """One program, every n-th tile of rows: its sums into a row of ``parts``."""
    program = tl.program_id(0)
    columns = tl.arange(0, WIDTH)
    inside = columns < n_features
    w = tl.load(coef + columns, mask=inside, other=0.0)
    gradient = tl.zeros((WIDTH,), dtype=tl.float64)
    residuals = tl.zeros((ROWS,), dtype=tl.float64)
    losses = tl.zeros((ROWS,), dtype=tl.float64)
    for start in range(program * ROWS, n_rows, PROGRAMS * ROWS):
        rows = (start + tl.arange(0, ROWS)).to(tl.int64)  # X may have 2^31 entries
        valid = rows < n_rows
        x = tl.load(
            X + rows[:, None] * stride + columns[None, :],
            mask=valid[:, None] & inside[None, :],
            other=0.0,
        )
        target = tl.load(y + rows, mask=valid, other=0.0)
        z = tl.sum(x * w[None, :], axis=1)
        if HAS_INTERCEPT:
            z += tl.load(intercept)

        # The loss is softplus of z for a target of 0 and of -z for 1; the residual is
        # its slope. No digits are lost to a difference.
        sign = 1 - 2 * target
        s = sign * z
        e = tl.exp(-tl.abs(s))  # at most 1
        t = e / (2 + e)
        series = tl.full((ROWS,), 1.0 / (2 * TERMS - 1), dtype=t.dtype)
        for i in tl.static_range(1, TERMS):
            series = series * (t * t) + 1.0 / (2 * (TERMS - i) - 1)
        loss = tl.maximum(s, 0.0) + 2 * t * series
        r = sign * tl.where(s > 0, 1.0, e) / (1 + e)
        if HAS_WEIGHT:
            factor = tl.load(weight + rows, mask=valid, other=0.0)
            loss *= factor
            r *= factor
        r = tl.where(valid, r, 0.0)
        tl.store(logits + rows, z, mask=valid)
        tl.store(residual + rows, r, mask=valid)

        gradient += tl.sum(x * r[:, None], axis=0).to(tl.float64)
        residuals += r.to(tl.float64)
        losses += tl.where(valid, loss, 0.0).to(tl.float64)
    row = parts + program * (n_features + 2)
    tl.store(row + columns, gradient, mask=inside)
    tl.store(row + n_features, tl.sum(residuals, axis=0))
    tl.store(row + n_features + 1, tl.sum(losses, axis=0))


kernel: Any = None if triton is None else triton.jit(_kernel)
