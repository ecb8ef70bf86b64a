"""The arithmetic of arrays: NumPy's on the CPU, torch's on any other device.

A tensor on the CPU and a NumPy array can share their memory, and what this package
computes between them is a few products and sums. NumPy does these better: a call takes
less time than a call of torch, and calls are what a small batch costs; its BLAS reads a
matrix from memory faster than torch's, and reading is what a large one costs. torch
does the rest: functions of many logits, random numbers, and everything on an
accelerator.

The formulas stand once. They are written with operators in place (``a *= b``), which
mean the same for both kinds of arrays, and with the functions of the namespaces below.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = Any  # numpy.ndarray on the CPU, torch.Tensor elsewhere
Number = Any  # one number, or an array that broadcasts over the last axis


def for_numpy(tensor: Tensor) -> bool:
    """Whether NumPy computes with a tensor; the only place where this is decided."""
    return tensor.device.type == "cpu"


def as_array(tensor: Tensor) -> Array:
    """The array with the memory of a tensor."""
    return tensor.numpy() if for_numpy(tensor) else tensor


def as_tensor(array: Array) -> Tensor:
    """The tensor with the memory of an array."""
    return torch.from_numpy(array) if isinstance(array, np.ndarray) else array


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy of a small tensor on a device, for which the host does not wait.

    From pageable memory it would wait. The pinned memory is given back when the copy
    is done, by torch's allocator.
    """
    if device.type != "cuda":
        return tensor if device.type == "cpu" else tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


# Multiplications that a product of NumPy's BLAS takes before it wakes other threads,
# which then spin for a tenth of a second and keep what follows from a core.
SERIAL_PRODUCT = 2**18
# What the OpenBLAS in the wheels of NumPy 2 takes for the product of a matrix with a
# matrix, and with a vector. For a vector that of NumPy 1.26 takes a fiftieth.
SERIAL_COLUMNS = 2**19 - 1
SERIAL_VECTOR = 4 * 115_200 - 1
MIN_ROWS = 32  # in a slice of X that is multiplied with a matrix
# NumPy adds a row to others, and these to one, in a loop over rows, which costs more
# than the sums if they are short. A product with ones adds so many rows up sooner, ...
SOME_ROWS = 256
# ... and to so many, a row as short is added several times in one: as a long row.
MANY_ROWS = 1024
SHORT_ROW = 16
LONG_ROW = 128


class NumpyNamespace:
    """Functions of NumPy, each with its result in ``out``."""

    sqrt = staticmethod(np.sqrt)
    maximum = staticmethod(np.maximum)
    divide = staticmethod(np.divide)
    multiply = staticmethod(np.multiply)
    subtract = staticmethod(np.subtract)
    negative = staticmethod(np.negative)
    clip = staticmethod(np.clip)
    zeros_like = staticmethod(np.zeros_like)
    empty_like = staticmethod(np.empty_like)

    @staticmethod
    def product(n_axes: int, shape: tuple[int, int, int] | None = None) -> Any:
        """The matrix product for arrays of coefficients with so many axes.

        If the numbers of rows, features and outputs are given, one that BLAS computes
        in one thread, unless there are so many outputs that this would be slow.
        """
        product = np.ndarray.dot if n_axes < 3 else np.matmul
        if shape is None:
            return product
        n_rows, n_features, n_outputs = shape
        limit = SERIAL_VECTOR if n_outputs == 1 else SERIAL_COLUMNS
        most = limit // (n_features * n_outputs)  # rows in a slice
        if n_rows <= most or (n_outputs > 1 and most < MIN_ROWS):
            return product
        return partial(serial_product, product, max(most, 1))

    @staticmethod
    def number(value: Any, like: Array) -> Number:
        # An array without axes saves the conversion that a Python number costs.
        return np.asarray(value, dtype=like.dtype)

    @staticmethod
    def gram(a: Array, out: Array) -> None:
        """``a.T @ a``, for which BLAS has a product of its own."""
        np.dot(a.T, a, out=out)

    @staticmethod
    def serial_gram(a: Array, out: Array) -> None:
        """The same by slices that BLAS multiplies in one thread, for narrow a."""
        width = a.shape[1]
        size = max(SERIAL_PRODUCT // width**2, 1)
        end = len(a) // size * size
        slices = a[:end].reshape(-1, size, width)
        np.sum(np.matmul(slices.transpose(0, 2, 1), slices), axis=0, out=out)
        out += a[end:].T @ a[end:]

    @staticmethod
    def sum(array: Array, dtype: torch.dtype | None = None) -> Array:
        """Sum over rows: in float64 if that is the dtype, else in the array's own."""
        wide = np.float64 if dtype == torch.float64 else array.dtype
        if array.ndim == 1 or len(array) < SOME_ROWS:
            return array.sum(0, dtype=wide)
        most = max(SERIAL_VECTOR // array.shape[1], 1)
        ones = np.ones(min(len(array), most), dtype=wide)
        total: Array = 0
        for part in (array[rows] for rows in _slices(len(array), most)):
            total = total + ones[: len(part)] @ part
        return total

    @staticmethod
    def add_row(array: Array, row: Array) -> None:
        """``array += row``, of shape (n_columns,) or (1, n_columns)."""
        width = array.shape[-1]
        many = array.ndim == 2 and len(array) >= MANY_ROWS and 1 < width <= SHORT_ROW
        if not (many and array.flags.c_contiguous):
            array += row
            return
        several = LONG_ROW // width
        end = len(array) // several * several
        head = array[:end].reshape(-1, several * width)
        head += row.reshape(1, -1).repeat(several, axis=0).reshape(-1)
        array[end:] += row

    @staticmethod
    def widened(array: Array) -> Array:
        """A copy in which sums over many rows add up."""
        return array.astype(np.float64)

    @staticmethod
    def inner(a: Array, b: Array) -> Number:
        """Sum of the products of all entries, in float64 where the device has it."""
        if a.dtype != np.float64:
            a, b = a.astype(np.float64), b.astype(np.float64)
        return np.vdot(a, b)

    @staticmethod
    def add_product(total: Array, array: Array, factor: Number, scratch: Array) -> None:
        """``total += factor * array``, with memory for the product."""
        np.multiply(array, factor, out=scratch)
        total += scratch

    @staticmethod
    def accumulate(
        total: Array, keep: Number, array: Array, factor: Number, scratch: Array
    ) -> None:
        """``total = keep * total + factor * array``, with memory for a product."""
        total *= keep
        np.multiply(array, factor, out=scratch)
        total += scratch

    @staticmethod
    def walk(start: Array, change: Array, step: float, out: Array) -> None:
        """``start + step * change``."""
        np.multiply(change, step, out=out)
        out += start

    @staticmethod
    def take(source: Array, index: Array, out: Array) -> None:
        """Copy rows of a source."""
        if out.flags.c_contiguous:
            # Its other modes buffer the result, to leave it alone if an index is bad.
            source.take(index, axis=0, out=out, mode="clip")
        else:  # rows with gaps: as one piece first, which is still in the cache then
            out[...] = source.take(index, axis=0, mode="clip")


def serial_product(
    product: Callable[[Array, Array, Array], Any],
    most: int,
    a: Array,
    b: Array,
    out: Array,
) -> None:
    """A product by slices of X, each of at most so many rows.

    Parameters
    ----------
    product : callable
    most : int
    a : ndarray of shape (..., n_rows, n_features) or (..., n_features, n_rows)
        X, or its transpose.
    b, out : ndarray
        Vectors, or matrices on the last two axes.
    """
    axis = -min(b.ndim, 2)  # of rows, in b and out
    # Of one feature both look the same.
    key = a.strides[-1], -a.shape[-2]
    if key <= (a.strides[-2], -a.shape[-1]):
        for rows in _slices(a.shape[-2], most):
            product(a[..., rows, :], b, _along(out, rows, axis))
        return
    first, *others = _slices(a.shape[-1], most)
    product(a[..., first], _along(b, first, axis), out)
    for rows in others:
        part = np.empty_like(out)
        product(a[..., rows], _along(b, rows, axis), part)
        out += part


def _slices(length: int, most: int) -> list[slice]:
    return [slice(start, start + most) for start in range(0, length, most)]


def _along(array: Array, rows: slice, axis: int) -> Array:
    return array[rows] if axis == -1 else array[..., rows, :]


def _mv(a: Tensor, b: Tensor, out: Tensor) -> None:
    torch.mv(a, b, out=out)


def _mm(a: Tensor, b: Tensor, out: Tensor) -> None:
    torch.mm(a, b, out=out)


def _bmm(a: Tensor, b: Tensor, out: Tensor) -> None:
    torch.bmm(a, b, out=out)


class TorchNamespace:
    """The same functions of torch."""

    sqrt = staticmethod(torch.sqrt)
    maximum = staticmethod(torch.maximum)
    divide = staticmethod(torch.divide)
    multiply = staticmethod(torch.multiply)
    subtract = staticmethod(torch.subtract)
    negative = staticmethod(torch.negative)
    clip = staticmethod(torch.clamp)
    zeros_like = staticmethod(torch.zeros_like)
    empty_like = staticmethod(torch.empty_like)

    @staticmethod
    def product(n_axes: int, shape: tuple[int, int, int] | None = None) -> Any:
        return {1: _mv, 2: _mm, 3: _bmm}[n_axes]

    @staticmethod
    def number(value: Any, like: Array) -> Number:
        if np.ndim(value) == 0:
            return float(value)
        return torch.as_tensor(value, dtype=like.dtype, device=like.device)

    @staticmethod
    def gram(a: Array, out: Array) -> None:
        torch.mm(a.T, a, out=out)

    serial_gram = gram

    @staticmethod
    def sum(array: Array, dtype: torch.dtype | None = None) -> Array:
        return array.sum(0, dtype=dtype)

    @staticmethod
    def add_row(array: Array, row: Array) -> None:
        array += row

    @staticmethod
    def widened(array: Array) -> Array:
        return array.to(accumulator(array), copy=True)

    @staticmethod
    def inner(a: Array, b: Array) -> Number:
        return torch.sum(a * b, dtype=accumulator(a))

    @staticmethod
    def add_product(total: Array, array: Array, factor: Number, scratch: Array) -> None:
        # One kernel: on a device the number of them is what small batches cost.
        if isinstance(factor, Tensor):
            torch.addcmul(total, array, factor, out=total)
        else:
            torch.add(total, array, alpha=factor, out=total)

    @staticmethod
    def accumulate(
        total: Array, keep: Number, array: Array, factor: Number, scratch: Array
    ) -> None:
        plain = not (isinstance(keep, Tensor) or isinstance(factor, Tensor))
        if plain and factor == 1.0:
            torch.add(array, total, alpha=keep, out=total)
            return
        total *= keep
        TorchNamespace.add_product(total, array, factor, scratch)

    @staticmethod
    def walk(start: Array, change: Array, step: float, out: Array) -> None:
        torch.add(start, change, alpha=step, out=out)

    @staticmethod
    def take(source: Array, index: Array, out: Array) -> None:
        rows = out.view(-1, *out.shape[index.dim() :])
        torch.index_select(source, 0, index.reshape(-1), out=rows)


def accumulator(values: Tensor) -> torch.dtype:
    """Dtype for sums over many rows: float64 where the device has it."""
    return torch.float32 if values.is_mps else torch.float64


# torch's operations on the CPU share their work among threads from so many entries on.
SERIAL_ENTRIES = 2**15 - 1

Namespace = type[NumpyNamespace] | type[TorchNamespace]


def namespace(tensor: Tensor) -> Namespace:
    """The functions for arrays on the device of a tensor."""
    return NumpyNamespace if for_numpy(tensor) else TorchNamespace
