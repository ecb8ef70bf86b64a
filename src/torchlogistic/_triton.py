"""Loss and gradient of the binary loss in one pass over X, by a kernel in Triton.

The plain products ``X w`` and ``X' r`` each read X from the device's memory, and
elementwise kernels read the vectors between them several times. Here a tile of rows
stays in registers from the logits to the gradient. Each of a number of programs, which
depends on the shape of X only, sums its tiles in an order of its own, and then the
programs are summed, so that the same rows give the same bits each time.

Of a mini-batch it is the number of kernels that takes time: one that reads X, and one
that sums the programs and adds the penalty, take the place of seven of torch.

Triton comes with torch's CUDA build. Where it is missing, or a kernel cannot be built,
torch's products take its place; see ``_kernels``.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

try:
    import triton
    from triton import language as tl
except ImportError:
    triton = tl = None

# Up to so many features a tile of two rows is 32 registers of each thread.
MAX_FEATURES = 1024
# Of X, in a tile of the one warp of a program, whose threads compute the loss and the
# residual of a row or more each. Of longer rows fewer fit into the registers. All
# threads compute the same for each row then, which takes less time than its features.
TILE_BYTES = 2**14
MAX_TILE_ROWS = 128
LONG_ROW = 2**9  # bytes
LONG_TILE_BYTES = 2**13
# Eight for each of an H100's multiprocessors: many small programs hide the latency of
# memory. The same everywhere: the sums, to the bit, depend on it.
PROGRAMS = 1056
# Of a batch; what they sum is summed once more, which takes longer for more of them.
BATCH_PROGRAMS = 256
VECTOR_BYTES = 16  # what a thread loads at once
# Of the sums of a batch, what one program takes at once.
FINISH_PARTS, FINISH_COLUMNS = 32, 32
# Terms of log(1 + e) = 2 artanh(e / (2 + e)) for e up to 1, where the last is below the
# precision of float32 and float64.
TERMS = {4: 8, 8: 17}


def serves(device: torch.device, n_features: int) -> bool:
    """Whether there are kernels for so many features on a CUDA device."""
    if triton is None or n_features > MAX_FEATURES:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)  # as Triton demands


class Operands(NamedTuple):
    """What the kernels read, and what they write for each row."""

    X: Tensor  # (n_rows, n_features), of contiguous features
    y: Tensor  # (n_rows,) of 0 and 1
    weight: Tensor | None  # (n_rows,)
    coef: Tensor  # (n_features,)
    intercept: Tensor | None  # (1,)
    logits: Tensor  # (n_rows,), written
    residual: Tensor  # (n_rows,), written; weighted


def loss_and_gradient(operands: Operands) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over rows of the weighted binary losses and of their gradient.

    Returns
    -------
    loss : Tensor of shape ()
    gradient : Tensor of shape (n_features,)
    residual_sum : Tensor of shape ()
        All in float64.
    """
    n_features = len(operands.coef)
    sums = sum_programs(operands, PROGRAMS).sum(0)
    return sums[n_features + 1], sums[:n_features], sums[n_features]


def write_batch_gradient(operands: Operands, *, l2: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of the objective on a few rows, which it returns.

    Parameters
    ----------
    operands : Operands
    l2 : Tensor of shape ()
        Strength of the L2 penalty, in float64.
    gradient : Tensor of shape (n_features [+ 1],)
        Written; the last entry is the intercept's.
    """
    parts = sum_programs(operands, BATCH_PROGRAMS)
    grid = (triton.cdiv(len(gradient), FINISH_COLUMNS),)
    finish[grid](
        parts,
        operands.coef,
        l2,
        gradient,
        len(operands.X),
        len(parts),
        len(operands.coef),
        len(gradient),
        PARTS=FINISH_PARTS,
        COLUMNS=FINISH_COLUMNS,
    )
    return gradient


def tile_of(width: int, itemsize: int) -> tuple[int, int]:
    """Rows of a tile, for so many features, and warps of a program."""
    row_bytes = width * itemsize
    if row_bytes <= LONG_ROW:
        return min(TILE_BYTES // row_bytes, MAX_TILE_ROWS), 1
    # In float64 a second warp would need twice the registers for what both compute.
    return max(LONG_TILE_BYTES // row_bytes, 1), 8 // itemsize


def sum_programs(operands: Operands, most: int) -> Tensor:
    """The sums of each of at most so many programs.

    Shape (n_programs, n_features + 2): gradient, residual and loss, in float64.
    """
    X, y, weight, coef, intercept, logits, residual = operands
    n_rows, n_features = X.shape
    width = triton.next_power_of_2(n_features)
    vector = math.gcd(n_features, X.stride(0), VECTOR_BYTES // X.itemsize)
    tile_rows, n_warps = tile_of(width, X.itemsize)
    n_programs = min(triton.cdiv(n_rows, tile_rows), most)
    parts = X.new_empty((n_programs, n_features + 2), dtype=torch.float64)
    kernel[(n_programs,)](
        X,
        y,
        y if weight is None else weight,
        coef,
        coef if intercept is None else intercept,
        logits,
        residual,
        parts,
        n_rows,
        n_features // vector,
        X.stride(0) // vector,
        HAS_WEIGHT=weight is not None,
        HAS_INTERCEPT=intercept is not None,
        ROWS=tile_rows,
        WIDTH=width,
        VECTOR=vector,
        TERMS=TERMS[X.itemsize],
        num_warps=n_warps,
        enable_fp_fusion=True,
    )
    return parts


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
    n_vectors,
    stride,
    HAS_WEIGHT: tl.constexpr,
    HAS_INTERCEPT: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    VECTOR: tl.constexpr,
    TERMS: tl.constexpr,
):
    """One program, every n-th tile of rows: its sums into a row of ``parts``.

    Features are counted in vectors, from one row to the next, too: the compiler knows
    that way which of them a thread may load at once.
    """
    program, n_programs = tl.program_id(0), tl.num_programs(0)
    n_features = n_vectors * VECTOR
    columns = tl.arange(0, WIDTH)
    inside = columns < n_features
    w = tl.load(coef + columns, mask=inside, other=0.0)
    gradient = tl.zeros((WIDTH,), dtype=tl.float64)
    residuals = tl.zeros((ROWS,), dtype=tl.float64)
    losses = tl.zeros((ROWS,), dtype=tl.float64)
    for start in range(program * ROWS, n_rows, n_programs * ROWS):
        rows = (start + tl.arange(0, ROWS)).to(tl.int64)  # X may have 2^31 entries
        valid = rows < n_rows
        x = tl.load(
            X + rows[:, None] * stride * VECTOR + columns[None, :],
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


def _finish(  # type: ignore[no-untyped-def]
    parts,
    coef,
    l2,
    gradient,
    n_rows,
    n_parts,
    n_features,
    length,
    PARTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Sum the parts of some columns, which are those of the gradient."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((COLUMNS,), dtype=tl.float64)
    for start in range(0, n_parts, PARTS):
        rows = start + tl.arange(0, PARTS)
        inside = (rows < n_parts)[:, None] & (columns < length)[None, :]
        at = parts + rows[:, None] * (n_features + 2) + columns[None, :]
        total += tl.sum(tl.load(at, mask=inside, other=0.0), axis=0)
    w = tl.load(coef + columns, mask=columns < n_features, other=0.0)
    total = total / n_rows + tl.load(l2) * w
    tl.store(gradient + columns, total, mask=columns < length)


kernel: Any = None
finish: Any = None
if triton is not None:
    # No number is worth a kernel of its own.
    kernel = triton.jit(_kernel, do_not_specialize=["n_rows", "n_vectors", "stride"])
    numbers = ["n_rows", "n_parts", "n_features", "length"]
    finish = triton.jit(_finish, do_not_specialize=numbers)
