"""The compact form of L-BFGS against its two loops, and models against each other."""

import numpy as np
import pytest

from torchlogistic._pairs import MEMORY, Pairs


def two_loops(pairs, v):
    """Nocedal and Wright, algorithm 7.4."""
    q, shares = v.copy(), []
    for s, y in reversed(pairs):
        shares.append((s @ q) / (s @ y))
        q -= shares[-1] * y
    if pairs:
        s, y = pairs[-1]
        q *= (s @ y) / (y @ y)
    for (s, y), share in zip(pairs, reversed(shares), strict=True):
        q += (share - (y @ q) / (s @ y)) * s
    return q


def draw_pairs(n_pairs, n_models, length, dtype=np.float64):
    rng = np.random.default_rng(0)
    for _ in range(n_pairs):
        s = rng.normal(size=(n_models, length))
        yield s.astype(dtype), (s + 0.3 * rng.normal(size=s.shape)).astype(dtype)


@pytest.mark.parametrize("n_pairs", [0, 1, MEMORY - 1, MEMORY, MEMORY + 1, 25])
def test_is_the_two_loops(n_pairs):
    pairs, history = Pairs(np.zeros((3, 40))), []
    for s, y in draw_pairs(n_pairs, 3, 40):
        pairs.add(s, y)
        history.append((s, y))
    v = np.random.default_rng(1).normal(size=(3, 40))
    found = pairs.multiply(v)
    for m in range(3):
        kept = [(s[m], y[m]) for s, y in history[-MEMORY:]]
        np.testing.assert_allclose(found[m], two_loops(kept, v[m]), 1e-10, 1e-12)
    assert pairs.known == [n_pairs > 0] * 3


def test_a_pair_without_curvature_leaves_its_place_empty():
    pairs, history = Pairs(np.zeros((2, 20))), []
    for i, (s, y) in enumerate(draw_pairs(MEMORY + 4, 2, 20)):
        if i in (3, MEMORY + 3):
            y[0] = -s[0]
        pairs.add(s, y)
        history.append((s, y))
    v = np.random.default_rng(1).normal(size=(2, 20))
    found = pairs.multiply(v)
    for m in range(2):
        kept = [(s[m], y[m]) for s, y in history[-MEMORY:] if s[m] @ y[m] > 0]
        np.testing.assert_allclose(found[m], two_loops(kept, v[m]), 1e-10, 1e-12)


def test_forget():
    pairs = Pairs(np.zeros((2, 20)))
    for s, y in draw_pairs(12, 2, 20):
        pairs.add(s, y)
    v = np.random.default_rng(1).normal(size=(2, 20))
    before = pairs.multiply(v)
    pairs.forget(0)
    assert pairs.known == [False, True]
    np.testing.assert_array_equal(pairs.multiply(v), [v[0], before[1]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", [1, 5, 31, 200, 1001])
def test_others_change_no_bit(length, dtype):
    n_models = 5
    together = Pairs(np.zeros((n_models, length), dtype))
    alone = [Pairs(np.zeros((1, length), dtype)) for _ in range(n_models)]
    kept = list(range(n_models))
    for i, (s, y) in enumerate(draw_pairs(15, n_models, length, dtype)):
        together.add(s[kept], y[kept])
        for m in kept:
            alone[m].add(s[m : m + 1], y[m : m + 1])
        found = together.multiply(s[kept])
        assert found.dtype == dtype
        for m, own in zip(kept, found, strict=True):
            np.testing.assert_array_equal(own, alone[m].multiply(s[m : m + 1])[0])
        if i == 7:
            together.keep([0, 2, 4])
            kept = [0, 2, 4]
