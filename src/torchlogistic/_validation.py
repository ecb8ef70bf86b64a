"""From what users pass to what the solvers take: rows, weights, labels, device, dtype.

Everything here raises before anything is computed, and names what would work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn import get_config
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import assert_all_finite, check_random_state
from sklearn.utils.validation import (
    _check_sample_weight,
    check_consistent_length,
    column_or_1d,
    validate_data,
)
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ._labels import (
    Labels,
    check_labels,
    check_one_type,
    check_same_kind,
    encode,
    find_classes,
)
from ._loss import Loss
from ._rows import Rows
from ._tensors import (
    ACCELERATORS,
    CPU,
    is_accelerator,
    is_on,
    labels_stay,
    rows_stay,
    take,
    to_device,
    to_host,
    torch_dtype,
)
from ._threads import Team
from ._transfer import Transfer, fits
from ._warnings import warn
from ._weighting import Weighting, drop_weightless

# Targets, logits, residuals, and what is computed of them, each of n_rows x n_outputs.
TRAINING_VECTORS = 8
SHARED_BYTES = 2**23  # of X: less is read sooner than other threads are told
MIN_BATCH_SIZE, MAX_BATCH_SIZE = 16, 8192


@dataclass
class Labelled:
    """Validated rows of the user, in NumPy or still on their device.

    Parameters
    ----------
    X : ndarray or Tensor of shape (n_rows, n_features)
        A tensor if it stays on its accelerator.
    y : ndarray or Tensor of shape (n_rows,)
        The user's labels, beside X; in :class:`Encoded` indices into the classes.
    sample_weight : ndarray of shape (n_rows,), optional
    """

    X: np.ndarray | Tensor
    y: Labels
    sample_weight: np.ndarray | None = None

    def __getitem__(self, index: np.ndarray) -> Self:
        weight = self.sample_weight
        return type(self)(
            take(self.X, index),
            take(self.y, index),
            None if weight is None else weight[index],
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of X."""
        dtype: np.dtype[Any] = to_host(self.X[:0]).dtype
        return dtype

    def encoded(self, classes: np.ndarray) -> Encoded:
        """The same rows with indices into the sorted classes in place of labels."""
        return Encoded(self.X, encode(self.y, classes), self.sample_weight)


@dataclass
class Encoded(Labelled):
    """Rows with indices into the classes as labels, which are on the host."""

    y: np.ndarray


def check_device(device: str | torch.device, X: Any = None) -> torch.device:
    """Turn the parameter ``device`` into a device that is there.

    "auto" is that of X, if X is a tensor on an accelerator.

    Raises
    ------
    ValueError
        If torch knows no such device, or this machine has none: an explicit device is
        never replaced by another.
    """
    available = [name for name in ACCELERATORS if _accelerator_count(name)]
    if device == "auto":
        if isinstance(X, Tensor) and is_accelerator(X.device):
            return X.device
        return torch.device(available[0] if available else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={device!r} is not a device of torch. Use 'auto', 'cpu', 'cuda', "
            "'cuda:1', 'xpu' or 'mps'."
        ) from error
    count = 1 if found.type == "cpu" else _accelerator_count(found.type)
    if (found.index or 0) >= count:
        raise ValueError(
            f"device={str(device)!r} is not available: this installation of torch "
            f"({torch.__version__}) sees {', '.join(['cpu', *available])}. Use "
            "device='auto' to take the best there is, or install a build of torch for "
            "your accelerator (https://pytorch.org/get-started/locally)."
        )
    return found


def _accelerator_count(name: str) -> int:
    module = getattr(torch, name, None)
    if module is None or not hasattr(module, "is_available"):
        return 0
    return module.device_count() if module.is_available() else 0


def check_dtype(dtype: str, device: torch.device) -> list[type[np.floating]]:
    """Turn the parameter ``dtype`` into what validation may keep; the first is used.

    Raises
    ------
    ValueError
        For float64 on MPS, which has none.
    """
    if device.type == "mps":
        if dtype == "float64":
            raise ValueError(
                "dtype='float64' is not supported on device 'mps': use dtype='float32' "
                "or device='cpu'"
            )
        return [np.float32]
    if dtype == "auto":
        return [np.float64, np.float32]
    return [np.dtype(dtype).type]


# What to do with masked rows, and values.
LEAVE_OUT = "Leave these rows out, e.g. by X[~mask] and y[~mask]"
FILL = (
    "Fill or impute them first, e.g. X.filled(numpy.nan) and "
    "sklearn.impute.SimpleImputer"
)


def check_features(
    estimator: BaseEstimator,
    X: Any,
    dtype: list[Any],
    device: torch.device = CPU,
    **kwargs: Any,
) -> Any:
    """Call scikit-learn's ``validate_data``, with failures of its own explained.

    A tensor on an accelerator stays there if ``device`` is one, too.

    Raises
    ------
    TypeError
        For sparse data, and for a tensor that NumPy cannot read.
    ValueError
        For a masked array, whose mask scikit-learn would drop; see also
        :func:`sklearn.utils.validation.validate_data`.
    """
    if isinstance(X, DataLoader | Dataset):
        raise TypeError(
            f"X is a {type(X).__name__}, but an array or a tensor of all rows is "
            "required, as in fit(X, y): batches are made of them, by batch_size."
        )
    _refuse_masked(X, "X", FILL)
    # A DataFrame has the attribute ``sparse`` if no column is not.
    if issparse(X) or (hasattr(X, "sparse") and X.shape[1]):
        raise TypeError(  # scikit-learn's is of no use where a pipeline made X
            "Sparse data was passed, but dense data is required. If it fits in "
            "memory, use .toarray(), of a DataFrame .sparse.to_dense(), or in a "
            "pipeline sparse_threshold=0 of a ColumnTransformer and "
            "sparse_output=False of an encoder; else LogisticRegression or "
            "SGDClassifier of scikit-learn."
        )
    if rows_stay(X, device, dtype):
        return _check_there(estimator, X, dtype, **kwargs)
    X = to_host(X)
    if "y" in kwargs:
        kwargs["y"] = to_host(kwargs["y"])
    if kwargs.get("ensure_all_finite", True) and _is_finite(X, dtype):
        kwargs["ensure_all_finite"] = False
    return validate_data(estimator, X, dtype=dtype, order="C", **kwargs)


def _refuse_masked(values: Any, name: str, remedy: str) -> None:
    """Raise ValueError for a masked array, whose mask scikit-learn would drop."""
    if np.ma.is_masked(values):
        raise ValueError(f"{name} is a masked array with masked values. {remedy}.")


def check_logits(estimator: BaseEstimator, X: np.ndarray, z: np.ndarray) -> None:
    """Say what is wrong where logits are not finite.

    Raises
    ------
    ValueError
        For X that is not.

    Warns
    -----
    RuntimeWarning
        For logits that are too large.
    """
    if get_config()["assume_finite"] or np.isfinite(z).all():
        return
    assert_all_finite(X, estimator_name=type(estimator).__name__, input_name="X")
    n_rows = len(z) - int(np.isfinite(z).all(axis=1).sum())
    warn(
        f"the logits of {n_rows} of {len(z)} rows are not finite: products of X with "
        "the coefficients exceed the largest float64. Scale X, and fit again.",
        RuntimeWarning,
    )


def _check_there(
    estimator: BaseEstimator, X: Tensor, dtypes: list[Any], **kwargs: Any
) -> Any:
    """Do the same where rows are; scikit-learn sees arrays of zeros in their shape."""
    X = X.detach()
    y: Any = kwargs.get("y")
    stays = labels_stay(y, X)
    if stays:
        kwargs["y"] = np.broadcast_to(np.zeros((), np.uint8), y.shape)
    elif "y" in kwargs:
        kwargs["y"] = to_host(y)
    kwargs.update(dtype=dtypes, ensure_all_finite=False)
    outline = np.broadcast_to(np.zeros((), dtypes[0]), X.shape)
    found = validate_data(estimator, outline, **kwargs)
    dtype = torch_dtype(X, dtypes)
    X = X.to(dtype, memory_format=torch.contiguous_format).contiguous()
    if not get_config()["assume_finite"]:
        ends = torch.stack(torch.aminmax(X)).cpu().numpy()  # NaN, if any is
        name = type(estimator).__name__
        assert_all_finite(ends, estimator_name=name, input_name="X")
    if "y" not in kwargs:
        return X
    return X, (y.detach() if stays else found[1])


def _is_finite(X: Any, dtypes: list[Any]) -> bool:
    """Whether X is a large array that stays as it is, known to be finite.

    scikit-learn looks at it in one thread, and after all others: it names what is wrong
    in these.
    """
    kept = type(X) is np.ndarray and X.ndim == 2 and X.dtype in dtypes
    if not kept or X.nbytes <= SHARED_BYTES:
        return False
    team = Team()
    step = -(-len(X) // team.size)
    sums: list[Any] = []  # of numbers that are not finite it is not, either

    def add(start: int) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            sums.append(X[start : start + step].sum())

    team.run([partial(add, start) for start in range(0, len(X), step)])
    return bool(np.isfinite(sums).all())


def check_training_rows(
    estimator: BaseEstimator,
    X: Any,
    y: Any,
    sample_weight: Any,
    dtype: Any,
    *,
    device: torch.device = CPU,
    reset: bool = True,
) -> Labelled:
    """Validate rows to learn from; see :func:`check_features` about the device.

    Raises
    ------
    ValueError
        What scikit-learn's classifiers raise, and for negative weights.
    """
    check_one_type(y, "y")
    _refuse_masked(y, "y", LEAVE_OUT)
    X, y = check_features(estimator, X, dtype, device, y=y, reset=reset)  # y is 1-D
    check_labels(y)
    if sample_weight is not None:
        sample_weight = check_weight(sample_weight, X, "sample_weight")
    return Labelled(X, y, sample_weight)


def check_all_rows(
    estimator: BaseEstimator,
    X: Any,
    y: Any,
    sample_weight: Any,
    dtype: Any,
    **kwargs: Any,
) -> tuple[Labelled, np.ndarray]:
    """The same for all rows there are: without those of weight zero; their classes."""
    given = check_training_rows(estimator, X, y, sample_weight, dtype, **kwargs)
    rows = drop_weightless(given)
    return rows, find_classes(rows.y, given.y)


def check_weight(sample_weight: Any, X: np.ndarray | Tensor, name: str) -> np.ndarray:
    """Validate weights: finite, not negative, not all zero."""
    _refuse_masked(sample_weight, name, LEAVE_OUT)
    with _named(name):
        outline = np.empty((len(X), 0))  # of X it is the length that counts
        weight = _check_sample_weight(to_host(sample_weight), outline, dtype=np.float64)
    if np.any(weight < 0):
        first = int(np.argmax(weight < 0))
        raise ValueError(
            f"{name} must not be negative: row {first} has weight {weight[first]}"
        )
    if not np.any(weight):
        raise ValueError(
            f"{name} is zero everywhere: Sample weights must contain at least one "
            "non-zero number."
        )
    return weight


def check_validation_rows(
    estimator: BaseEstimator,
    X: Any,
    y: Any,
    sample_weight: Any,
    classes: np.ndarray,
    dtype: np.dtype[Any],
    device: torch.device,
) -> Labelled | None:
    """Validate the rows that the user passed as ``X_val``, if any.

    Each may come as a tuple of one: scikit-learn's searches cut metadata that have as
    many rows as X as if they were rows of X, and leave a tuple alone.

    Raises
    ------
    ValueError
        If one of X and y is missing, or a label is not among the training labels.
    """
    X, y, sample_weight = (_unwrap(value) for value in (X, y, sample_weight))
    if X is None and y is None:
        if sample_weight is not None:
            raise ValueError("sample_weight_val is given without X_val and y_val")
        return None
    if X is None or y is None:
        missing, given = ("X_val", "y_val") if X is None else ("y_val", "X_val")
        raise ValueError(f"{given} is given without {missing}: pass both or neither")
    with _named("X_val"):
        X = check_features(estimator, X, [dtype], device, reset=False)
    _refuse_masked(y, "y_val", LEAVE_OUT)
    with _named("y_val"):
        check_one_type(y, "y_val")
        y = column_or_1d(np.asarray(to_host(y)), warn=True)
        check_consistent_length(range(len(X)), y)
    check_same_kind(y, "y_val", classes, "y")
    unknown = np.setdiff1d(y, classes)
    if len(unknown):
        raise ValueError(
            f"y_val has labels that y does not have: {unknown.tolist()}; y has "
            f"{classes.tolist()}"
        )
    if sample_weight is not None:
        sample_weight = check_weight(sample_weight, X, "sample_weight_val")
    return Labelled(X, y, sample_weight)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say in an error of scikit-learn which argument it is about."""
    try:
        yield
    except (TypeError, ValueError) as error:
        message = str(error)
        if name in message:
            raise
        raise type(error)(f"{name}: {message}") from error


def _unwrap(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def hold_out(
    rows: Encoded, classes: np.ndarray, fraction: float, random_state: int
) -> tuple[Encoded, Encoded]:
    """Split off a stratified share of encoded rows for validation.

    Raises
    ------
    ValueError
        If a class has too few rows to be in both parts.
    """
    index, cause = np.arange(len(rows.y)), None
    try:
        parts = train_test_split(
            index, test_size=fraction, stratify=rows.y, random_state=random_state
        )
    except ValueError as error:
        parts, cause = [], error
    n_found = [len(np.unique(rows.y[part])) for part in parts]
    if n_found != [len(classes)] * 2:
        counts = np.bincount(rows.y, minlength=len(classes))
        sizes = dict(zip(classes.tolist(), counts.tolist(), strict=True))
        remedy = ", or change validation_fraction" if counts.min() > 1 else ""
        raise ValueError(
            f"early_stopping=True cannot hold out validation_fraction={fraction} of "
            f"{len(index)} rows with every class in both parts; rows per class: "
            f"{sizes}. Pass X_val and y_val{remedy}."
        ) from cause
    train, held_out = parts
    return rows[np.sort(train)], rows[np.sort(held_out)]


def check_batch_size(batch_size: int | str | None, n_rows: int) -> int:
    """Turn the parameter ``batch_size`` into a number of rows."""
    if batch_size is None:
        return n_rows
    if batch_size == "auto":
        largest = 2 ** int(np.log2(max(n_rows / 500, 1)))
        batch_size = min(max(largest, MIN_BATCH_SIZE), MAX_BATCH_SIZE)
    return min(int(batch_size), n_rows)


def check_seed(random_state: Any) -> int:
    """Turn the parameter ``random_state`` into a seed for torch."""
    if isinstance(random_state, (int, np.integer)):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def to_rows(
    rows: Encoded, weighting: Weighting, loss: Loss, device: torch.device
) -> Rows:
    """Move encoded rows to the device, weighted, without those of weight zero.

    X is not copied where it is on the device already, C-contiguous, and all rows stay.
    Rows that do not fit in the memory of the device stay on the host.
    """
    rows = weighting.drop_weightless(rows)
    weights = weighting(rows.y, rows.sample_weight)
    transfer = None
    n_bytes = training_bytes(rows.X, loss.n_outputs)
    if not is_on(rows.X, device) and not fits(device, n_bytes):
        transfer, device = Transfer(device), CPU
    X = to_device(rows.X, device)
    y = loss.targets(to_device(rows.y, device), X.dtype)
    weight = None
    if weights is not None:  # cast first: not every device has float64
        weight = to_device(weights, CPU).to(X.dtype).to(device)
    return Rows(X, y, weight, transfer)


def training_bytes(X: np.ndarray | Tensor, n_outputs: int) -> int:
    """What training takes of a device's memory: X, vectors, and the order of rows."""
    n_rows, n_features = X.shape
    entries = n_features + TRAINING_VECTORS * n_outputs
    return n_rows * (entries * X.itemsize + 8)
