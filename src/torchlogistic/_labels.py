"""Labels of rows: which classes there are, and the number of each row's class.

Labels are arrays, or tensors on the accelerator that their rows are on. What is found
of them, classes and numbers, is in NumPy.
"""

from __future__ import annotations

from numbers import Number
from typing import Any

import numpy as np
import torch
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from torch import Tensor

from ._warnings import warn

Labels = np.ndarray | Tensor  # of shape (n_rows,)
KINDS = (Number, str, bytes)  # of labels
BYTE_CLASSES = 256  # that a byte can count


def check_labels(y: Labels) -> None:
    """Raise ValueError if y is no labels of classes, but e.g. numbers on a scale.

    Arrays have been looked at for what is not finite; tensors have not.
    """
    if isinstance(y, Tensor):
        if not y.dtype.is_floating_point:
            return
        y = sorted_labels(y)
        assert_all_finite(y, input_name="y")
        if np.all(y == np.round(y)):
            return
    if y.dtype.kind not in "iub":  # those are labels of classes in any case
        check_classification_targets(y)


def check_one_type(y: Any, name: str) -> None:
    """Raise ValueError if labels are of types that cannot be sorted together."""
    if isinstance(y, list | tuple) and len({type(label) for label in y}) > 1:
        y = np.fromiter(y, dtype=object)
    if str(getattr(y, "dtype", "")) != "object" or np.ndim(y) != 1:
        return
    if any(isinstance(label, float) and np.isnan(label) for label in y):
        raise ValueError(f"Input {name} contains NaN")
    try:
        sorted(set(y))
    except TypeError as error:
        types = sorted({type(label).__name__ for label in y})
        raise ValueError(
            f"{name} mixes labels of types {' and '.join(types)}: convert them to one "
            f"type, e.g. {name}.astype(str)"
        ) from error


def sorted_labels(y: Labels) -> np.ndarray:
    """``np.unique``, ten times faster where labels are small integers."""
    if isinstance(y, Tensor):
        found: np.ndarray = torch.unique(y).cpu().numpy()
        return found
    if y.dtype.kind in "iub":
        lowest, highest = int(y.min()), int(y.max())
        if highest - lowest < 256 and -(2**62) < lowest <= highest < 2**62:
            counts = np.bincount(y.astype(np.intp) - lowest)
            return (np.flatnonzero(counts) + lowest).astype(y.dtype)
    return np.unique(y)


def find_classes(y: Labels, given: Labels | None = None) -> np.ndarray:
    """Sorted labels of y.

    Parameters
    ----------
    y : ndarray or Tensor of shape (n_rows,)
    given : ndarray or Tensor of shape (n_given,), optional
        The labels before rows of weight zero were dropped.

    Raises
    ------
    ValueError
        If there are fewer than two.

    Warns
    -----
    UserWarning
        If a class went, or there are more than half as many classes as rows.
    """
    classes = sorted_labels(y)
    lost = []
    if given is not None and len(given) > len(y):
        lost = np.setdiff1d(sorted_labels(given), classes).tolist()
    if len(classes) < 2:
        reason = f", as sample_weight is zero for all rows of {lost}" if lost else ""
        raise ValueError(
            f"This solver needs samples of at least 2 classes in the data, but the "
            f"data contains only one class: {classes.tolist()[0]!r}{reason}"
        )
    # scikit-learn warns of it where ``check_labels`` asks it.
    seen = isinstance(y, np.ndarray) and y.dtype.kind not in "iub"
    if not seen and len(y) > 20 and len(classes) > round(0.5 * len(y)):
        warn(
            f"y has {len(classes)} classes in {len(y)} rows: it could represent a "
            "regression problem, not a classification problem.",
            UserWarning,
        )
    if lost:
        warn(
            f"sample_weight is zero for all rows of {lost}: as if they had not been "
            "given, classes_ and predict_proba are without them",
            UserWarning,
        )
    return classes


def check_given_classes(classes: Any, y: Labels) -> np.ndarray:
    """Sorted labels that a first ``partial_fit`` announces; y must not have others."""
    if classes is None:
        raise ValueError("classes must be passed on the first call to partial_fit.")
    check_one_type(classes, "classes")
    given = np.asarray(classes)
    check_one_type(given, "classes")
    if given.ndim != 1 or len(found := np.unique(given)) < 2:
        raise ValueError(
            "classes must be a list or 1-D array of two or more labels, but is "
            f"{classes!r}"
        )
    assert_all_finite(given, input_name="classes")
    if given.dtype.kind == "f" and np.any(found != np.round(found)):
        raise ValueError(
            f"classes must be labels, not numbers on a scale: {found.tolist()}"
        )
    check_known_labels(y, found)
    return found


def check_known_labels(y: Labels, classes: np.ndarray) -> None:
    """Raise ValueError if y has labels that are not among the classes."""
    check_same_kind(y, "y", classes, "classes")
    unknown = np.setdiff1d(sorted_labels(y), classes)
    if len(unknown):
        raise ValueError(
            f"y has labels {unknown.tolist()} that are not among the classes "
            f"{classes.tolist()}"
        )


def check_same_kind(
    y: Labels, name: str, classes: np.ndarray, name_of_classes: str
) -> None:
    """Raise ValueError if labels are e.g. strings and the classes numbers.

    NumPy would compare the numbers as strings, which have another order.
    """
    types = [type(labels[:1].tolist()[0]) for labels in (y, classes)]
    kinds = [next((k for k in KINDS if issubclass(t, k)), t) for t in types]
    if kinds[0] is not kinds[1]:
        raise ValueError(
            f"{name} has labels of type {types[0].__name__}, {name_of_classes} of type "
            f"{types[1].__name__}: convert them to one type, e.g. .astype(str)"
        )


def encode(y: Labels, classes: np.ndarray) -> np.ndarray:
    """Indices of labels in the sorted classes, in bytes where that is enough.

    From another device they come as bytes too.
    """
    if isinstance(y, Tensor):
        return _encode_there(y, classes)
    if len(classes) == 2:  # several times faster
        return (y == classes[1]).view(np.uint8)
    codes = np.searchsorted(classes, y)
    return codes.astype(np.uint8) if len(classes) <= BYTE_CLASSES else codes


def _encode_there(y: Tensor, classes: np.ndarray) -> np.ndarray:
    # The classes may be of any type, of which the device need not know.
    same = classes.dtype == y[:0].cpu().numpy().dtype
    labels = classes if same else sorted_labels(y)
    codes = torch.from_numpy(encode(labels, classes)).to(y.device)
    if y.dtype == torch.bool:
        y, labels = y.to(torch.uint8), labels.astype(np.uint8)
    edges = torch.from_numpy(labels).to(y.device)
    places = torch.searchsorted(edges, y.contiguous(), out_int32=True)
    on_host: np.ndarray = codes.index_select(0, places).cpu().numpy()
    return on_host
