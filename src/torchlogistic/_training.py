"""One training run: objective, start, net; what a fit and a partial_fit share."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback

from ._callbacks import EpochBar, StopEarly, check_callbacks
from ._fullbatch import FullBatch
from ._loss import make_loss
from ._net import LogisticNet
from ._objective import Coefficients, Objective, allocate_coefficients
from ._solvers import check_penalty, find_solver, optimizer_arguments
from ._stream import RandomStream
from ._tensors import CPU, to_device
from ._threads import existing_threads
from ._validation import Encoded, check_batch_size, to_rows
from ._warnings import warn
from ._weighting import Weighting

# What a solver may leave to gain: so much, or so many squares of ``tol``, of which it
# leaves a few where features are scaled. And the max-norm of a gradient there.
FALL, FALLS = 1e-3, 10
STEEPEST = 1.0


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
            return run(estimator, task)
    except torch.OutOfMemoryError as error:
        # What its frames refer to would stay on the device as long as the error.
        traceback.clear_frames(error.__traceback__)
        n_rows, n_features = task.rows.X.shape
        raise torch.OutOfMemoryError(
            f"device={str(task.device)!r} ran out of memory while it trained on "
            f"{n_rows} x {n_features} of {task.rows.dtype}: use a smaller "
            "batch_size, dtype='float32' or device='cpu'."
        ) from error


def current(device: torch.device) -> AbstractContextManager[Any]:
    """Make a device the one on which kernels and graphs of ours are started."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def run(estimator: Any, task: Task) -> LogisticNet:
    """Do what :func:`train` says, on the current device."""
    solver = find_solver(estimator.optimizer)
    arguments = optimizer_arguments(
        solver,
        momentum=estimator.momentum,
        optimizer_params=estimator.optimizer_params,
    )
    check_callbacks(estimator.callbacks)
    check_penalty(solver, estimator.alpha * estimator.l1_ratio)
    loss = make_loss(len(task.classes))
    objective = Objective(loss, estimator.alpha, estimator.l1_ratio)
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

    earlier = estimator._run if task.continued else None
    stream = RandomStream(task.seed, earlier["n_draws"] if earlier else 0)
    coef = allocate_coefficients(
        train_rows, loss.n_outputs, fit_intercept=estimator.fit_intercept
    )
    if earlier:
        copy_fitted(estimator, coef)
    elif solver.full_batch is None:  # which starts at zero
        stream.initial_linear(*coef.as_linear(coef.values))

    own = own_callbacks(estimator, validates=held is not None)
    net = LogisticNet(
        coef=coef,
        objective=objective,
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
        optimizer=solver.torch_class,
        lr=estimator.lr,
        max_epochs=task.epochs,
        callbacks=[*own, *(estimator.callbacks or []), *task.watchers],
        verbose=int(estimator.verbose == 2),
        device=str(task.device),
        **{f"optimizer__{name}": value for name, value in arguments.items()},
    ).initialize()
    try:
        curves = (estimator.history_, estimator.loss_curve_) if earlier else ([], [])
        net.train(earlier, *curves)
    finally:
        for callback in own:
            if isinstance(callback, EpochBar):
                callback.close()
    if solver.full_batch is not None and task.epochs and not net.asked_to_stop:
        warn_if_short(net.solver_, estimator, net.max_epochs, task.classes)
    return net


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


def warn_if_short(
    solver: FullBatch, estimator: Any, n_iter: int, classes: np.ndarray
) -> None:
    """Warn if a full-batch solver ended anywhere but at the optimum."""
    separated = None if estimator.alpha else find_separated(solver, classes)
    l1 = estimator.alpha * estimator.l1_ratio
    # The gradient that is left says no more of a weight than whether it is zero.
    undecided = 0 < l1 <= estimator.tol and solver.gradient_norm > l1 / 10
    hidden = solver.converged and not (separated or undecided)
    enough = max(FALL, FALLS * min(estimator.tol, 1.0) ** 2)
    fall = solver.possible_fall(enough=enough) if hidden else 0.0
    if hidden and fall <= enough:
        return
    side = "within" if solver.converged else "above"
    at = (
        f"optimizer={estimator.optimizer!r}: the gradient's max-norm is "
        f"{solver.gradient_norm:.3g}, {side} tol={estimator.tol:g}"
    )
    if separated:
        message = (
            f"{at}, but there is no optimum: the coefficients separate {separated}, so "
            "that larger ones are always better. Set alpha > 0 for a finite optimum."
        )
    elif hidden:
        message = (
            f"{at}, but the loss can fall by {fall:.2g} or more yet: features are so "
            "small that the gradient is, too. Scale the features (StandardScaler), or "
            "set a smaller tol."
        )
    elif solver.converged:
        message = (
            f"{at}, which is not below the L1 penalty, alpha * l1_ratio = {l1:g}: "
            "which coefficients are zero is not decided yet. Set tol to a tenth of "
            f"that, {l1 / 10:.2g}, or less."
        )
    elif solver.stalled:
        dtype = str(solver.coef.values.dtype).removeprefix("torch.")
        finer = "" if dtype == "float64" else "use dtype='float64', "
        remedy = "Scale the features"
        if solver.gradient_norm <= STEEPEST:
            remedy += f", {finer}or accept a larger tol"
        message = f"{at}, and no step lowers the loss any more in {dtype}. {remedy}."
    else:
        more = "Increase epochs"
        if estimator.tol < torch.finfo(solver.coef.values.dtype).eps:
            single = solver.coef.values.dtype == torch.float32
            finer = "Use dtype='float64' for so small a tol"
            first = finer if single else "Set a tol that float64 resolves"
            more = f"{first}, increase epochs"
        remedy = (
            "raise alpha"
            if estimator.alpha
            else "set alpha > 0: without a penalty there is no optimum where a "
            "hyperplane separates the classes"
        )
        message = (
            f"{at}, after {n_iter} iterations. {more}, scale the features "
            f"(StandardScaler), or {remedy}."
        )
    warn(message, ConvergenceWarning)


def find_separated(solver: FullBatch, classes: np.ndarray) -> str | None:
    """The classes that coefficients separate from each other, in words."""
    if solver.separated:
        return "the classes"
    index = solver.separated_class
    if index is None:
        return None
    return f"class {classes.tolist()[index]!r} from all others"


def own_callbacks(estimator: Any, *, validates: bool) -> list[Callback]:
    """Callbacks that parameters of the estimator stand for."""
    own: list[Callback] = []
    if estimator.verbose == 1:
        own.append(EpochBar())
    if estimator.early_stopping and validates:
        own.append(StopEarly(estimator.n_iter_no_change, estimator.tol))
    return own


@contextmanager
def undisturbed() -> Iterator[None]:
    """Train the same whatever the caller set in torch, and leave it as it was."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(np.errstate(all="ignore"))  # as torch; losses are checked
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(full_precision())
        stack.enter_context(existing_threads())
        yield


@contextmanager
def full_precision() -> Iterator[None]:
    """Multiply float32 in float32, where the caller allowed TF32 or bfloat16.

    torch has this setting for the whole process: of fits that run in several threads
    at the same time, the first to end puts it back.
    """
    backends = [
        backend.matmul
        for backend in (torch.backends.mkldnn, torch.backends.cuda)
        if hasattr(getattr(backend, "matmul", None), "fp32_precision")
    ]
    if not backends:  # torch < 2.9
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
        return
    lowered = [
        (matmul, matmul.fp32_precision)
        for matmul in backends
        if matmul.fp32_precision not in ("none", "ieee")
    ]
    for matmul, _ in lowered:
        matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        for matmul, precision in lowered:
            matmul.fp32_precision = precision
