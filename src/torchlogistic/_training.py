"""One training run: objective, start, net; what a fit and a partial_fit share."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback

from ._callbacks import EpochBar, StopEarly, check_callbacks
from ._convergence import warn_if_short
from ._fullbatch import FullBatch
from ._isolation import current
from ._loss import make_loss
from ._net import LogisticNet
from ._objective import Coefficients, Objective, allocate_coefficients
from ._solvers import check_penalty, find_solver, optimizer_arguments
from ._stream import RandomStream
from ._tensors import CPU, to_device
from ._validation import Encoded, check_batch_size, to_rows
from ._weighting import Weighting


@dataclass
class Task:
    """What to train on, and from where.

    Parameters
    ----------
    rows, held : Encoded
        Encoded rows to train on; rows to validate on, or None.
    classes : ndarray of shape (n_classes,)
    device : torch.device
    seed : int
    continued : bool
        Whether to start where the estimator's last fit ended.
    epochs : int
    held_out : bool
        Whether the rows to validate on were taken from those that ``fit`` got.
    whole : bool
        Whether the rows are all there are; see :class:`._weighting.Weighting`.
    watchers : list of skorch.callbacks.Callback
        Callbacks beside those of the estimator's parameters; they come last.
    """

    rows: Encoded
    held: Encoded | None
    classes: np.ndarray
    device: torch.device
    seed: int
    continued: bool
    epochs: int
    held_out: bool = False
    whole: bool = True
    watchers: list[Callback] = field(default_factory=list)


def train(estimator: Any, task: Task) -> LogisticNet:
    """Run the epochs of a task with the parameters of an estimator.

    Returns the net, from which the fitted attributes are read. The estimator is not
    changed.

    Raises
    ------
    torch.OutOfMemoryError
        If the device has too little memory, with what would take less.
    """
    try:
        with current(task.device):
            return _train(estimator, task)
    except torch.OutOfMemoryError as error:
        # What its frames refer to would stay on the device as long as the error.
        traceback.clear_frames(error.__traceback__)
        n_rows, n_features = task.rows.X.shape
        raise torch.OutOfMemoryError(
            f"device={str(task.device)!r} ran out of memory while it trained on "
            f"{n_rows} x {n_features} of {task.rows.dtype}: use a smaller "
            "batch_size, dtype='float32' or device='cpu'."
        ) from error


def _train(estimator: Any, task: Task) -> LogisticNet:
    """The same on the current device."""
    net = make_net(estimator, task)
    earlier = estimator._run if task.continued else None
    curves = (estimator.history_, estimator.loss_curve_) if earlier else ([], [])
    try:
        net.train(earlier, *curves)
    finally:
        for _, callback in net.callbacks_:
            if isinstance(callback, EpochBar):
                callback.close()
    solver = net.solver_
    if isinstance(solver, FullBatch) and task.epochs and not net.asked_to_stop:
        warn_if_short(solver, estimator, net.max_epochs, task.classes)
    return net


def make_net(estimator: Any, task: Task) -> LogisticNet:
    """The net of a task, at its first coefficients."""
    solver = find_solver(estimator.optimizer)
    arguments = optimizer_arguments(
        solver,
        momentum=estimator.momentum,
        optimizer_params=estimator.optimizer_params,
    )
    check_callbacks(estimator.callbacks)
    check_penalty(solver, estimator.alpha * estimator.l1_ratio)
    loss = make_loss(len(task.classes))
    rows, held = task.rows, task.held
    weighting = Weighting.from_parameters(
        estimator.class_weight,
        estimator.pos_weight,
        rows,
        task.classes,
        whole=task.whole,
    )
    train_rows = to_rows(rows, weighting, loss, task.device)
    valid_rows = None
    if held is not None:
        valid_rows = to_rows(held, weighting, loss, task.device)
    stream = RandomStream(task.seed, estimator._run["n_draws"] if task.continued else 0)
    coef = allocate_coefficients(
        train_rows, loss.n_outputs, fit_intercept=estimator.fit_intercept
    )
    if task.continued:
        copy_fitted(estimator, coef)
    elif solver.full_batch is None:  # which starts at zero
        stream.initial_linear(*coef.as_linear(coef.values))
    own = own_callbacks(estimator, validates=held is not None)
    return LogisticNet(
        coef=coef,
        objective=Objective(loss, estimator.alpha, estimator.l1_ratio),
        stream=stream,
        train_rows=train_rows,
        valid_rows=valid_rows,
        classes=task.classes,
        facts=facts_of(estimator, weighting, rows),
        shuffle=estimator.shuffle,
        batch_size=check_batch_size(
            None if solver.full_batch else estimator.batch_size, len(train_rows)
        ),
        full_batch=solver.full_batch,
        tol=estimator.tol,
        whole=task.whole,
        held_out=task.held_out,
        optimizer=solver.torch_class,
        lr=estimator.lr,
        max_epochs=task.epochs,
        callbacks=[*own, *(estimator.callbacks or []), *task.watchers],
        verbose=int(estimator.verbose == 2),
        device=str(task.device),
        **{f"optimizer__{name}": value for name, value in arguments.items()},
    ).initialize()


def copy_fitted(estimator: Any, coef: Coefficients) -> None:
    """Start where the estimator's last fit ended."""
    parts = coef.as_linear(coef.values)
    fitted = estimator.coef_, estimator.intercept_
    for part, array in zip(parts, fitted, strict=False):  # without a bias, one part
        part.copy_(to_device(array, CPU))  # casts before it moves


def facts_of(estimator: Any, weighting: Weighting, rows: Encoded) -> dict[str, Any]:
    """What a fitted estimator keeps of its objective."""
    return {
        "fit_intercept": estimator.fit_intercept,
        "alpha": estimator.alpha,
        "l1_ratio": estimator.l1_ratio,
        "class_weight": weighting.class_weight,
        "pos_weight": weighting.pos_weight,
        "weight_sum": weighting.total(rows.y, rows.sample_weight),
    }


def own_callbacks(estimator: Any, *, validates: bool) -> list[Callback]:
    """Callbacks that parameters of the estimator stand for."""
    own: list[Callback] = []
    if estimator.verbose == 1:
        own.append(EpochBar())
    if estimator.early_stopping and validates:
        own.append(StopEarly(estimator.n_iter_no_change, estimator.tol))
    return own
