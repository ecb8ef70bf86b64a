"""Systems of equations with a positive definite matrix."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ._arrays import for_numpy

# Systems of more equations are solved by torch on the CPU too: its factor serves twice.
SMALL_SYSTEM = 2000
SERIAL_SYSTEM = 64  # equations that LAPACK solves in one thread


def solve_definite(H: Tensor, b: Tensor) -> Tensor | None:
    """Solve ``H x = b`` by a Cholesky factor; None if H is not positive definite.

    Small systems on the CPU by NumPy, which wakes no threads for them: torch does, and
    that can take longer than the rest.
    """
    if for_numpy(H) and len(H) <= SERIAL_SYSTEM:
        small = solve_small(H.numpy(), b.numpy())
        return None if small is None else torch.from_numpy(small)
    if for_numpy(H) and len(H) <= SMALL_SYSTEM:
        try:
            L = np.linalg.cholesky(H.numpy())
            x = _substitute(L.T, _substitute(L, b.numpy()), backward=True)
        except np.linalg.LinAlgError:
            return None
        return torch.from_numpy(x)
    factor, failed = torch.linalg.cholesky_ex(H)
    if failed.item():
        return None
    return torch.cholesky_solve(b[:, None], factor).squeeze(1)


def solve_small(H: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """The same for up to ``SERIAL_SYSTEM`` equations, or a stack of such systems.

    None unless all are positive definite, and have solutions that are numbers.
    """
    try:
        np.linalg.cholesky(H)
        x = np.linalg.solve(H, b)  # with the factor it would take two calls
    except np.linalg.LinAlgError:
        return None
    return x if np.isfinite(x).all() else None


def _substitute(T: np.ndarray, b: np.ndarray, *, backward: bool = False) -> np.ndarray:
    """Solve a lower triangular system, or backward an upper one."""
    x = b.copy()
    starts = range(0, len(b), SERIAL_SYSTEM)
    for start in reversed(starts) if backward else starts:
        rows = slice(start, start + SERIAL_SYSTEM)
        x[rows] = np.linalg.solve(T[rows, rows], x[rows])
        rest = slice(0, start) if backward else slice(rows.stop, None)
        x[rest] -= T[rest, rows] @ x[rows]
    return x
