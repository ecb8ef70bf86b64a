"""The minimum of a quadratic function plus a weighted L1 norm."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ._arrays import Array, as_array
from ._cholesky import SERIAL_SYSTEM, solve_definite, solve_small

MAX_CHANGES = 1000  # of signs
FEWEST = 10  # coordinates that may leave zero at once


def minimise_quadratic(
    H: Tensor, gradient: Tensor, start: Tensor, l1: Tensor, *, tol: float
) -> Tensor | None:
    """Minimise ``gradient'(u - start) + (u - start)'H(u - start)/2 + sum l1 |u|``.

    A search for the signs of the minimum [1]_. With the signs of the moment, a linear
    system gives the minimum. Where other coordinates than those of that minimum have
    its signs, the function falls to the lower one of two points: the lowest on the way
    there, or the minimum without these coordinates. At the minimum for the signs of the
    moment, coordinates leave zero whose slope asks for it, the steepest first. As the
    function falls with each change of signs, none come twice.

    Parameters
    ----------
    H : Tensor of shape (p, p)
        Symmetric.
    gradient, start, l1 : Tensor of shape (p,)
    tol : float
        By how much a subgradient may miss zero.

    Returns
    -------
    u : Tensor of shape (p,) or None
        With exact zeros. None if H is not positive definite on the coordinates that are
        not zero on the way: there may be no minimum then.

    References
    ----------
    .. [1] H. Lee, A. Battle, R. Raina and A. Ng, "Efficient sparse coding algorithms",
       NIPS 19, 2006, algorithm 1.
    """
    # Vectors stay on the host: between two products there are dozens of small steps.
    matrix = as_array(H)
    slope, u, bound = (t.cpu().numpy() for t in (gradient, start, l1))
    missed, max_joining = np.inf, FEWEST
    for _ in range(MAX_CHANGES):
        sign, free = np.sign(u), (u != 0) | (bound == 0)
        pull = slope + bound * sign
        worst = np.abs(pull[free]).max(initial=0.0)
        joining = np.empty(0, int)
        if worst <= tol or worst > missed / 2:  # the minimum, or as near as it gets
            excess = np.where(free, 0.0, np.abs(slope) - bound)
            joining = np.argsort(-excess)[:max_joining]
            joining = joining[excess[joining] > tol]
            if not len(joining):
                break
            sign[joining] = -np.sign(slope[joining])
            pull[joining] += bound[joining] * sign[joining]
            free[joining] = True
        change = np.zeros_like(u)
        solution = _solve(matrix, free, -pull[free])
        if solution is None:
            return None
        change[free] = solution
        steps = [change]
        flipped = (bound > 0) & ((u + change) * sign < 0)
        if flipped.any():
            steps = [_walk(u, change, slope, bound, change @ _times(matrix, change))]
            steps.append(np.where(flipped, -u, change))
        products = [_times(matrix, step) for step in steps]
        falls = [
            slope @ step + product @ step / 2 + bound @ (np.abs(u + step) - np.abs(u))
            for step, product in zip(steps, products, strict=True)
        ]
        best = int(np.argmin(falls))
        if not falls[best] < 0:
            if len(joining) < 2:
                break  # rounding hides what is left
            max_joining, missed = 1, 0.0
            continue
        u, slope = u + steps[best], slope + products[best]
        max_joining = max(FEWEST, int(free.sum()))
        unchanged = not len(joining) and not flipped.any()
        missed = worst if unchanged else np.inf
    return torch.from_numpy(u).to(H.device)


def _walk(
    u: np.ndarray,
    change: np.ndarray,
    slope: np.ndarray,
    l1: np.ndarray,
    curvature: float,
) -> np.ndarray:
    """The step to the exact minimum along ``u + t * change``; zero if that leads up.

    Along the line the function is convex, and quadratic between the points where a
    coordinate crosses zero; there its slope rises by twice the coordinate's speed times
    its l1. At such a point the coordinate becomes exactly zero.
    """
    speed = l1 * np.abs(change)
    rise = slope @ change + np.where(u == 0, speed, l1 * np.sign(u) * change).sum()
    if not rise < 0:
        return np.zeros_like(u)
    crossing = np.flatnonzero((u * change < 0) & (l1 > 0))
    at = -u[crossing] / change[crossing]
    order = np.argsort(at)
    crossing, at = crossing[order], at[order]
    before = rise + np.append(speed.dtype.type(0), np.cumsum(2 * speed[crossing]))
    turned = np.flatnonzero(before[1:] + curvature * at >= 0)
    end = turned[0] if len(turned) else len(at)
    if len(turned) and before[end] + curvature * at[end] < 0:
        step = at[end] * change
        step[crossing[end]] = -u[crossing[end]]
        return step
    return (-before[end] / curvature if curvature > 0 else 1.0) * change


def _solve(H: Array, free: np.ndarray, right: np.ndarray) -> np.ndarray | None:
    """Solve the system of the free coordinates; None if it is not definite."""
    chosen = np.flatnonzero(free)
    if isinstance(H, np.ndarray):
        matrix = H.take(chosen, axis=0).take(chosen, axis=1)
        if len(chosen) <= SERIAL_SYSTEM:
            return solve_small(matrix, right)
        system = torch.from_numpy(matrix)
    else:
        index = torch.from_numpy(chosen).to(H.device)
        system = H[index][:, index]
    solution = solve_definite(system, torch.from_numpy(right).to(system))
    if solution is None or not torch.isfinite(solution).all():
        return None
    return solution.cpu().numpy()


def _times(H: Array, vector: np.ndarray) -> np.ndarray:
    # Torch and NumPy each have threads that wait for work: on a CPU NumPy does all.
    if isinstance(H, np.ndarray):
        return H @ vector
    return (H @ torch.from_numpy(vector).to(H)).cpu().numpy()
