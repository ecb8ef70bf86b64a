"""Weights of rows: of samples, of classes, of the positive class.

The conventions stand in ``_objective``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from ._validation import Encoded, Labelled

L = TypeVar("L", bound="Labelled")


def drop_weightless(rows: L) -> L:
    """Drop rows of weight zero, as if they had not been given."""
    if rows.sample_weight is None or rows.sample_weight.all():
        return rows
    return rows[np.flatnonzero(rows.sample_weight)]


@dataclass
class Weighting:
    """How rows are weighted; see the conventions in ``_objective``.

    Parameters
    ----------
    class_weight : ndarray of shape (n_classes,), optional
    pos_weight : float, default=1.0
    whole : bool, default=True
        Whether the rows are all there are. Of a part of them, the classes in it decide
        nothing about the scale: ``class_weight`` is used as it is.
    """

    class_weight: np.ndarray | None = None
    pos_weight: float = 1.0
    whole: bool = True

    @classmethod
    def from_parameters(
        cls,
        class_weight: dict[Any, float] | str | None,
        pos_weight: float | str | None,
        rows: Encoded,
        classes: np.ndarray,
        *,
        whole: bool,
    ) -> Weighting:
        """Resolve the estimator's parameters on encoded training rows.

        Raises
        ------
        ValueError
            If both are given, for weights of classes that are not numbers above zero
            for at least two classes, or ``pos_weight`` with more than two classes.
        """
        if class_weight is not None and pos_weight is not None:
            raise ValueError(
                "class_weight and pos_weight are both given: use class_weight for "
                "scikit-learn's meaning (weights rescaled to mean one) or pos_weight "
                "for torch's (positive rows multiplied), not both"
            )
        if pos_weight is None:
            return cls(_class_weight(class_weight, rows, classes), whole=whole)
        if len(classes) > 2:
            raise ValueError(
                f"pos_weight needs two classes, y has {len(classes)}: use class_weight"
            )
        if pos_weight == "balanced":
            n_neg, n_pos = np.bincount(rows.y, weights=rows.sample_weight, minlength=2)
            pos_weight = n_neg / n_pos
        return cls(pos_weight=float(pos_weight), whole=whole)

    def drop_weightless(self, rows: Encoded) -> Encoded:
        """Drop encoded rows whose ``sample_weight * class_weight`` is zero.

        Raises
        ------
        ValueError
            If none remain.
        """
        rows = drop_weightless(rows)
        if self.class_weight is None or self.class_weight.all():
            return rows
        kept = np.flatnonzero(self.class_weight[rows.y])
        if not len(kept):
            raise ValueError("every row is of a class whose class_weight is zero")
        return rows[kept]

    def total(self, labels: np.ndarray, sample_weight: np.ndarray | None) -> float:
        """What all rows weigh in the objective of ``LogisticRegression``.

        Sum of ``sample_weight * class_weight`` as given. Of a part of all rows the
        objective takes the mean over ``sample_weight``, and so does this the sum.
        """
        weight = sample_weight
        if self.class_weight is not None:
            by_class = self.class_weight if self.whole else self.class_weight > 0
            weight = by_class[labels].astype(np.float64)
            if sample_weight is not None:
                weight *= sample_weight
        return float(len(labels) if weight is None else weight.sum())

    def __call__(
        self, labels: np.ndarray, sample_weight: np.ndarray | None
    ) -> np.ndarray | None:
        """Weights of rows, (n_rows,), or None if all are one."""
        weight = sample_weight
        if weight is not None and not self.whole:
            weight = _to_mean_one(weight)
        if self.class_weight is not None:
            by_class = self.class_weight[labels]
            weight = by_class if weight is None else weight * by_class
        if weight is not None and self.whole:
            weight = _to_mean_one(weight)
        if self.pos_weight != 1.0:
            by_sign = np.where(labels == 1, self.pos_weight, 1.0)
            weight = by_sign if weight is None else weight * by_sign
        return None if weight is None or np.all(weight == 1.0) else weight


def _to_mean_one(weight: np.ndarray) -> np.ndarray:
    weight = weight / weight.max()  # no overflow in the sum, however large they are
    return weight / weight.mean()


def _class_weight(
    class_weight: dict[Any, float] | str | None, rows: Encoded, classes: np.ndarray
) -> np.ndarray | None:
    """Weights of the classes, (n_classes,), if there are any."""
    if class_weight is None:
        return None
    if isinstance(class_weight, str):
        # "balanced", over weighted rows, as scikit-learn >= 1.7
        counts = np.bincount(rows.y, weights=rows.sample_weight, minlength=len(classes))
        balanced: np.ndarray = counts.sum() / (len(classes) * counts)
        return balanced
    keys = [
        label if label in class_weight else scikit_learn_key(label) for label in classes
    ]
    missing = [key not in class_weight for key in keys]
    known = set(keys)
    superfluous = [key for key in class_weight if key not in known]
    if any(missing) and superfluous:
        raise ValueError(
            f"class_weight={class_weight} has no weight for the classes "
            f"{classes[missing].tolist()}, but has keys that are no classes: "
            f"{superfluous}"
        )
    try:
        weight = np.array([float(class_weight.get(key, 1)) for key in keys])
    except (TypeError, ValueError) as error:  # does not name the parameter
        raise ValueError(f"class_weight={class_weight}: {error}") from error
    if not (weight >= 0).all() or not np.isfinite(weight).all():
        raise ValueError(
            f"class_weight={class_weight} must have finite weights that are not "
            "negative"
        )
    if np.count_nonzero(weight) < 2:
        raise ValueError(
            f"class_weight={class_weight} leaves rows of only one class: at least 2 "
            "classes need a weight above zero"
        )
    return weight


def scikit_learn_key(label: Any) -> int | str:
    """What ``compute_class_weight`` of scikit-learn 1.9 looks a label up by."""
    try:
        return int(label)
    except ValueError:
        return str(label)
