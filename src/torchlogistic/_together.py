"""Fit classifiers that differ only in numbers together, on one or several folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import clone

from ._classifier import TorchLogisticClassifier
from ._folds import (
    Advance,
    Fold,
    Outcome,
    Prepared,
    nobody,
    prepare,
    weighting_of,
)
from ._isolation import current, undisturbed
from ._joint_fullbatch import JointFullBatch
from ._joint_minibatch import JointMiniBatch, rule_settings
from ._loss import make_loss
from ._solvers import check_penalty, find_solver
from ._steps import STEPS
from ._transfer import fits
from ._validation import check_batch_size, check_device, training_bytes

# Parameters that may differ: columns of one matrix, moments of one run, or, where the
# optimizer does not use them, nothing at all.
DIFFERING = (
    "lr",
    "epochs",
    "momentum",
    "alpha",
    "l1_ratio",
    "class_weight",
    "pos_weight",
)
# Folds are stacked up to so many bytes of X: where a step costs more than it computes.
# On a device steps of far more rows still do.
STACKED_BYTES = {"cpu": 2**25, "cuda": 2**30}


def can_join(clf: Any) -> bool:
    """Whether a classifier's fit can be shared with others."""
    if type(clf) is not TorchLogisticClassifier:
        return False
    plain = not (
        clf.callbacks
        or clf.warm_start
        or clf.verbose
        or getattr(clf, "_skl_callbacks", None)
    )
    # A generator would have to be drawn from in the order of the fits.
    seeded = clf.random_state is None or isinstance(clf.random_state, int | np.integer)
    weights = clf.class_weight.values() if isinstance(clf.class_weight, dict) else [1]
    try:
        clf._validate_params()
        solver = find_solver(clf.optimizer)
        check_penalty(solver, clf.alpha * clf.l1_ratio)
        # Full batches on a device are large enough to keep it busy.
        devices = ("cpu", "cuda") if solver.full_batch is None else ("cpu",)
        served = check_device(clf.device).type in devices
        weighted = all(w > 0 for w in weights)
        # Not its subclasses: they may change the numbers, or hook into the steps.
        ours = solver.full_batch is not None or solver.torch_class in STEPS
        numbers = rule_settings(clf)[0] if ours else {}
    except Exception:
        return False  # its own fit will say what is wrong
    # torch dampens what enters a momentum and nothing else.
    undamped = bool(numbers.get("momentum")) or not numbers.get("dampening")
    return plain and seeded and served and ours and weighted and undamped


def in_common(clf: TorchLogisticClassifier) -> dict[str, Any]:
    """What classifiers that are fitted together have in common."""
    shared = clf.get_params(deep=False)
    for name in DIFFERING:
        del shared[name]
    shared["optimizer_params"] = rule_settings(clf)[1]
    return shared


def fit_together(
    classifiers: Sequence[TorchLogisticClassifier],
    folds: Sequence[Fold],
    advance: Advance = nobody,
) -> list[list[Outcome]]:
    """Fit each classifier on each fold, in as few runs as possible.

    Parameters
    ----------
    classifiers : list of TorchLogisticClassifier
        All :func:`can_join`, and alike but for the parameters ``DIFFERING``.
    folds : list of Fold
    advance : callable, optional
        Hears how many more fits are done, parts of them included.

    Returns
    -------
    outcomes : list of list
        For each fold and each classifier a fitted clone, or the exception that its
        own fit would have raised.
    """
    first = classifiers[0]
    device = check_device(first.device)
    outcomes: list[list[Outcome]] = [[] for _ in folds]
    stacks: dict[Any, list[int]] = {}
    prepared: dict[int, Prepared] = {}
    with undisturbed(), current(device):
        for i, fold in enumerate(folds):
            try:
                prepared[i] = prepare(first, fold)
            except Exception as error:
                outcomes[i] = [error] * len(classifiers)
                continue
            X = prepared[i].rows.X
            n_outputs = make_loss(len(prepared[i].classes)).n_outputs
            if not fits(device, training_bytes(X, n_outputs * len(classifiers))):
                # A single fit lets rows pass through the device.
                outcomes[i] = [fit_single(clf, fold) for clf in classifiers]
                continue
            size = check_batch_size(first.batch_size, len(X))
            large = X.nbytes * len(folds) > STACKED_BYTES[device.type]
            # In full batches there is nothing to gain from a stack.
            alone = large or find_solver(first.optimizer).full_batch is not None
            key = (i if alone else -1, *map(str, prepared[i].key(size)))
            stacks.setdefault(key, []).append(i)
        for members in stacks.values():
            try:
                stack = fit_stack(classifiers, [prepared[i] for i in members], advance)
            except Exception:  # one of all, who must not suffer for it
                stack = [
                    [fit_single(clf, folds[i]) for clf in classifiers] for i in members
                ]
            for i, found in zip(members, stack, strict=True):
                outcomes[i] = found
    return outcomes


def fit_single(clf: TorchLogisticClassifier, fold: Fold) -> Outcome:
    """The fit of one classifier, as it would be without the others."""
    try:
        return clone(clf).fit(fold.X, fold.y, sample_weight=fold.sample_weight)
    except Exception as error:
        return error


def fit_stack(
    classifiers: Sequence[TorchLogisticClassifier],
    folds: list[Prepared],
    advance: Advance,
) -> list[list[Outcome]]:
    """Fit on folds that can be stacked those whose weights suit the labels."""
    errors: dict[int, Exception] = {}
    for i, clf in enumerate(classifiers):
        try:
            for fold in folds:
                weighting_of(clf, fold)
        except Exception as error:
            errors[i] = error
    able = [clf for i, clf in enumerate(classifiers) if i not in errors]
    in_full_batches = find_solver(classifiers[0].optimizer).full_batch is not None
    joint = JointFullBatch if in_full_batches else JointMiniBatch
    outcomes = joint(able, folds).fit(advance) if able else [[] for _ in folds]
    for found in outcomes:
        for i, failure in errors.items():
            found.insert(i, failure)
    return outcomes
