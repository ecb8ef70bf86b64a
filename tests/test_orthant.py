"""The quadratic with an L1 norm: optimality, and constructed solutions."""

import pytest
import torch

from torchlogistic import _orthant
from torchlogistic._orthant import minimise_quadratic


def problem(p, seed, condition=1.0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    scale = torch.logspace(0, -condition, p, dtype=torch.float64)
    A = normal(2 * p, p) * scale
    return A.T @ A / p, normal(p), normal(p)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("condition", [0.0, 2.0])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0, 10.0])
def test_subgradient_is_zero_at_the_minimum(seed, condition, share):
    H, gradient, start = problem(12, seed, condition)
    l1 = torch.full_like(start, share)
    l1[-2:] = 0  # not penalised
    u = minimise_quadratic(H, gradient, start, l1, tol=1e-10)
    slope = gradient + H @ (u - start)
    kept = u != 0
    torch.testing.assert_close(slope[kept], -(l1 * u.sign())[kept], atol=1e-9, rtol=0)
    assert (slope[~kept].abs() <= l1[~kept] + 1e-9).all()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(seed, dtype):
    """Not every device has float64, into which NumPy turns a list of numbers."""
    H, gradient, start = (tensor.to(dtype) for tensor in problem(12, seed))
    u = minimise_quadratic(H, gradient, start, torch.ones_like(start), tol=1e-3)
    assert u.dtype == dtype


def test_diagonal_is_soft_thresholding():
    H = torch.diag(torch.tensor([1.0, 2.0, 4.0, 1.0], dtype=torch.float64))
    start = torch.tensor([3.0, -1.0, 0.5, 0.1], dtype=torch.float64)
    l1 = torch.ones_like(start)
    u = minimise_quadratic(H, torch.zeros_like(start), start, l1, tol=1e-12)
    assert u.tolist() == pytest.approx([2.0, -0.5, 0.25, 0.0])


def test_all_coordinates_at_zero():
    H = torch.eye(3, dtype=torch.float64)
    start = torch.full((3,), 0.5, dtype=torch.float64)
    l1 = torch.full_like(start, 9.0)
    u = minimise_quadratic(H, torch.zeros_like(start), start, l1, tol=1e-12)
    assert u.tolist() == [0, 0, 0]


def test_known_signs_need_one_system(monkeypatch):
    H, gradient, start = problem(5, seed=0)
    l1 = torch.full_like(start, 0.1)
    best = minimise_quadratic(H, gradient, start, l1, tol=1e-10)
    moved = gradient + H @ (best - start)
    moved[0] += 1e-6  # not enough for another sign
    systems, solve_system = [], _orthant._solve

    def solve(*args):
        systems.append(args)
        return solve_system(*args)

    monkeypatch.setattr(_orthant, "_solve", solve)
    again = minimise_quadratic(H, moved, best, l1, tol=1e-10)
    assert len(systems) == 1
    torch.testing.assert_close(again, best, atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_scale_of_the_coordinates_does_not_matter(seed):
    H, gradient, start = problem(40, seed)
    l1 = torch.full_like(start, 0.3)
    expected = minimise_quadratic(H, gradient, start, l1, tol=1e-12)
    scale = torch.logspace(-4, 4, 40, dtype=torch.float64)[torch.arange(40) * 7 % 40]
    scaled = (scale[:, None] * H * scale, scale * gradient, start / scale, scale * l1)
    u = minimise_quadratic(*scaled, tol=1e-9)
    assert 0 < int((u == 0).sum()) < 40
    torch.testing.assert_close(u * scale, expected, atol=1e-5, rtol=1e-5)


def test_repeated_coordinates_share_a_value():
    """Nearly: without the raised diagonal, the matrix would be singular."""
    H, gradient, start = problem(6, seed=1)
    repeat = torch.arange(6).repeat(2)
    twice = (H[repeat[:, None], repeat], gradient[repeat], start[repeat] / 2)
    twice[0].diagonal().add_(1e-9)
    l1 = torch.full_like(twice[2], 0.2)
    u = minimise_quadratic(*twice, l1, tol=1e-8)
    expected = minimise_quadratic(H, gradient, start, l1[:6], tol=1e-8)
    torch.testing.assert_close(u[:6] + u[6:], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [5, 80])
def test_no_minimum_is_looked_for_where_there_may_be_none(size):
    H, gradient, start = problem(size, seed=0)
    H -= 2 * torch.linalg.eigvalsh(H).max() * torch.eye(size, dtype=H.dtype)
    l1 = torch.full_like(start, 0.1)
    assert minimise_quadratic(H, gradient, start, l1, tol=1e-8) is None
