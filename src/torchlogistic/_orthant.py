"""The minimum of a quadratic function plus a weighted L1 norm."""

from __future__ import annotations

import torch
from torch import Tensor

from ._arrays import solve_definite

ROUNDS = 40  # of gradient steps, and then an attempt at the exact solution
STEPS = 50
POWER_STEPS = 20


def minimise_quadratic(
    H: Tensor, gradient: Tensor, start: Tensor, l1: Tensor, *, tol: float
) -> Tensor:
    """Minimise ``gradient'(u - start) + (u - start)'H(u - start)/2 + sum l1 |u|``.

    Accelerated proximal gradient steps [1]_, restarted where they turn back [2]_, find
    the signs of the minimum. With the signs a linear system gives the minimum itself.

    Parameters
    ----------
    H : Tensor of shape (p, p)
        Positive semidefinite.
    gradient, start, l1 : Tensor of shape (p,)
    tol : float
        By how much a subgradient may miss zero.

    Returns
    -------
    u : Tensor of shape (p,)
        With exact zeros.

    References
    ----------
    .. [1] A. Beck and M. Teboulle, "A Fast Iterative Shrinkage-Thresholding Algorithm
       for Linear Inverse Problems", SIAM Journal on Imaging Sciences 2(1), 2009.
    .. [2] B. O'Donoghue and E. Candes, "Adaptive Restart for Accelerated Gradient
       Schemes", Foundations of Computational Mathematics 15, 2015.
    """
    constant = gradient - H @ start
    # Near the end of a sequence of problems the signs stay.
    exact = _solve_with_signs(H, constant, start, l1, tol)
    if exact is not None:
        return exact
    step = 1.0 / _largest_eigenvalue(H)
    u = v = start.clone()
    t = 1.0
    for _ in range(ROUNDS):
        for _ in range(STEPS):
            moved = v - step * (constant + H @ v)
            new = moved - moved.clamp(-step * l1, step * l1)
            turned = torch.dot(v - new, new - u) > 0
            t_new = (1 + (1 + 4 * t * t) ** 0.5) / 2
            if turned.item():
                t_new, v = 1.0, new
            else:
                v = new + (t - 1) / t_new * (new - u)
            u, t = new, t_new
        exact = _solve_with_signs(H, constant, u, l1, tol)
        if exact is not None:
            return exact
    return u


def _solve_with_signs(
    H: Tensor, constant: Tensor, u: Tensor, l1: Tensor, tol: float
) -> Tensor | None:
    """The minimum if its signs are those of u, else None."""
    free = ((u != 0) | (l1 == 0)).nonzero().squeeze(1)
    if not len(free):
        exact = torch.zeros_like(u)
    else:
        sign = u[free].sign()
        right = -(constant[free] + l1[free] * sign)
        solution = solve_definite(H[free[:, None], free], right)
        if solution is None:
            return None
        exact = torch.zeros_like(u)
        exact[free] = solution
    flipped = (exact.sign() != u.sign()) & (l1 > 0)
    slope = constant + H @ exact
    missed = ((slope + l1 * exact.sign()).abs() > tol) & (exact != 0)
    outside = (slope.abs() > l1 + tol) & (exact == 0)
    return None if (flipped | missed | outside).any().item() else exact


def _largest_eigenvalue(H: Tensor) -> float:
    """An upper estimate by power iteration."""
    x = H.diagonal().clone().clamp_min(torch.finfo(H.dtype).tiny)
    norm = 0.0
    for _ in range(POWER_STEPS):
        x = H @ (x / torch.linalg.vector_norm(x))
        norm = torch.linalg.vector_norm(x).item()
    row_sums = H.abs().sum(dim=1).max().item()
    return min(1.1 * norm, row_sums)
