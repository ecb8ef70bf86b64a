"""Two kinds of arrays, one set of formulas: NumPy's functions and torch's agree."""

import numpy as np
import pytest
import torch

from torchlogistic import _arrays
from torchlogistic._arrays import (
    NumpyNamespace,
    TorchNamespace,
    as_array,
    as_tensor,
    namespace,
)


def test_arrays_and_tensors_share_their_memory():
    tensor = torch.zeros(3)
    array = as_array(tensor)
    array += 1
    assert tensor.tolist() == [1, 1, 1]
    assert as_tensor(array).data_ptr() == tensor.data_ptr()
    assert as_tensor(tensor) is tensor
    assert namespace(tensor) is NumpyNamespace


def both(function, *arrays, shape):
    """Results of a function in both namespaces."""
    out = np.empty(shape)
    function(NumpyNamespace)(*arrays, out)
    out_tensor = torch.empty(shape, dtype=torch.float64)
    tensors = [torch.from_numpy(a) if np.ndim(a) else a for a in arrays]
    function(TorchNamespace)(*tensors, out_tensor)
    return out, out_tensor.numpy()


PRODUCTS = {1: ((4, 3), (3,)), 2: ((4, 3), (3, 2)), 3: ((5, 4, 3), (5, 3, 2))}


@pytest.mark.parametrize("n_axes", PRODUCTS)
def test_product(n_axes):
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=shape) for shape in PRODUCTS[n_axes])
    ours, theirs = both(lambda xp: xp.product(n_axes), a, b, shape=(a @ b).shape)
    np.testing.assert_allclose(ours, a @ b)
    np.testing.assert_allclose(theirs, a @ b)


@pytest.mark.parametrize("n_axes", PRODUCTS)
@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (1, 40), (40, 1), (3, 3)])
@pytest.mark.parametrize("n_columns", [1, 2, 20])
@pytest.mark.parametrize("transposed", [False, True])
def test_large_products_are_cut_into_slices(
    n_axes, shape, n_columns, transposed, monkeypatch
):
    limits = {1: 30, 2: 60, 20: 60}
    monkeypatch.setattr(_arrays, "SERIAL_VECTOR", limits[1])
    monkeypatch.setattr(_arrays, "SERIAL_COLUMNS", limits[2])
    monkeypatch.setattr(_arrays, "MIN_ROWS", 3)
    n_columns = 1 if n_axes == 1 else n_columns
    n_rows, n_features = shape
    sizes = []
    serial = _arrays.serial_product

    def note(product, most, a, b, out):
        def noted(a, b, out):
            flags = a.reshape(-1, *a.shape[-2:])[0].flags
            assert flags.c_contiguous or flags.f_contiguous
            sizes.append(a.shape[-2] * a.shape[-1] * n_columns)
            product(a, b, out)

        serial(noted, most, a, b, out)

    monkeypatch.setattr(_arrays, "serial_product", note)
    rng = np.random.default_rng(0)
    stack, columns = (5,) * (n_axes == 3), (n_columns,) * (n_axes > 1)
    a = rng.normal(size=(*stack, *shape))
    a = a.swapaxes(-1, -2) if transposed else a
    b = rng.normal(size=(*stack, a.shape[-1], *columns))
    out = np.empty((*stack, a.shape[-2], *columns))
    NumpyNamespace.product(n_axes, (*shape, n_columns))(a, b, out)
    np.testing.assert_allclose(out, a @ b, rtol=1e-12, atol=1e-12)
    size, row = n_rows * n_features * n_columns, n_features * n_columns
    # Many outputs are left to BLAS; a slice has one row at least, however long.
    cut = size > limits[n_columns] and (n_columns == 1 or 3 * row <= limits[n_columns])
    assert sum(sizes) == size * cut
    assert max(sizes, default=0) <= max(limits[n_columns], row)


@pytest.mark.parametrize("name", ["gram", "serial_gram"])
@pytest.mark.parametrize("n_rows", [1, 6, 9])
def test_gram(n_rows, name, monkeypatch):
    monkeypatch.setattr(_arrays, "SERIAL_PRODUCT", 3 * 4**2)  # slices of three rows
    a = np.random.default_rng(0).normal(size=(n_rows, 4))
    for found in both(lambda xp: getattr(xp, name), a, shape=(4, 4)):
        np.testing.assert_allclose(found, a.T @ a)


@pytest.mark.parametrize("shape", [(1,), (50,), (1, 3), (50, 3), (50, 1), (7, 20)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, None])
def test_sum(shape, dtype, monkeypatch):
    monkeypatch.setattr(_arrays, "SERIAL_VECTOR", 9)  # slices of three rows
    monkeypatch.setattr(_arrays, "SOME_ROWS", 2)
    a = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    wide = {torch.float64: np.float64}.get(dtype, np.float32)
    for xp, array in (NumpyNamespace, a), (TorchNamespace, torch.from_numpy(a)):
        found = np.asarray(xp.sum(array, dtype))
        assert found.dtype == wide
        eps = np.finfo(wide).eps
        expected = a.sum(0, dtype=np.float64)
        np.testing.assert_allclose(found, expected, rtol=99 * eps, atol=99 * eps)


@pytest.mark.parametrize("shape", [(9,), (9, 3), (2000, 3), (2000, 40), (2, 2000, 3)])
@pytest.mark.parametrize("gaps", [False, True])
def test_a_row_is_added(shape, gaps):
    """To each row, as by broadcasting."""
    rng = np.random.default_rng(0)
    start, row = rng.normal(size=shape), rng.normal(size=(1, *shape[1:])[-1])
    for xp, convert in (NumpyNamespace, np.array), (TorchNamespace, torch.tensor):
        array = convert(start.repeat(2, axis=0))[::2] if gaps else convert(start)
        xp.add_row(array, convert(row))
        np.testing.assert_array_equal(array, start + row)


@pytest.mark.parametrize("keep", [0.9, np.array(0.9), np.array([0.5, 0.7])])
@pytest.mark.parametrize("factor", [1.0, 0.3, np.array(0.3), np.array([1.0, 0.3])])
@pytest.mark.parametrize("in_place", [True, False])
def test_products_are_added(keep, factor, in_place):
    """The array may be the room for the product."""
    start, array = np.random.default_rng(0).random((2, 3, 2))
    for xp, convert in (NumpyNamespace, np.array), (TorchNamespace, torch.tensor):
        numbers = [n if np.isscalar(n) else convert(n) for n in (keep, factor)]

        def result(function, *before, convert=convert, last=numbers[1]):
            total, own = convert(start), convert(array)
            function(total, *before, own, last, own if in_place else 0 * own)
            return np.asarray(total)

        added = result(xp.add_product)
        np.testing.assert_allclose(added, start + factor * array, rtol=1e-15)
        kept = result(xp.accumulate, numbers[0])
        np.testing.assert_allclose(kept, keep * start + factor * array, rtol=1e-15)


@pytest.mark.parametrize("contiguous", [True, False])
def test_take(contiguous):
    source, index = np.arange(12.0).reshape(4, 3), np.array([2, 0, 2])
    out = np.zeros((3, 3) if contiguous else (3, 5))[:, :3]
    NumpyNamespace.take(source, index, out)
    assert out.tolist() == source[index].tolist()
    if contiguous:
        tensor = torch.empty(3, 3, dtype=torch.float64)
        TorchNamespace.take(torch.from_numpy(source), torch.from_numpy(index), tensor)
        assert tensor.tolist() == out.tolist()


@pytest.mark.parametrize("xp", [NumpyNamespace, TorchNamespace])
def test_numbers_keep_the_dtype(xp):
    like = np.ones(2, np.float32) if xp is NumpyNamespace else torch.ones(2)
    for value in (0.1, np.array([0.1, 0.2])):
        product = like * xp.number(value, like)
        assert product.dtype == like.dtype
        np.testing.assert_allclose(product, np.float32(value) * np.ones(2), rtol=1e-6)


def test_sums_are_wide():
    many = np.full(10**5, 0.1, np.float32)
    expected = np.float32(0.1).astype(np.float64) * 10**5
    for xp, array in ((NumpyNamespace, many), (TorchNamespace, torch.from_numpy(many))):
        assert float(xp.sum(array, torch.float64)) == pytest.approx(expected, rel=1e-12)
