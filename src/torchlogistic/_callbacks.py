"""Callbacks: names, what they listen to, and the few of our own.

skorch's callbacks run inside a fit. scikit-learn's (``sklearn.callback``, 1.9 and
later) watch it from outside; :class:`SklearnBridge` is the one place where they meet.
"""

from __future__ import annotations

import dis
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from skorch.callbacks import (
    BatchScoring,
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    InputShapeSetter,
    LRScheduler,
    MlflowLogger,
    NeptuneLogger,
    SacredLogger,
    TensorBoard,
)
from tqdm import tqdm

try:
    from sklearn.callback import CallbackSupportMixin as CallbackSupportMixin
except ImportError:  # scikit-learn < 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's; nothing can be set."""


Named = list[tuple[str, Any]]


def named_callbacks(callbacks: Any) -> Named:
    """Give every callback its name, as skorch does.

    The name is the user's, or the class's with a number where it occurs repeatedly.
    What is not a list, ``fit`` will refuse; here it has no callbacks.
    """
    items = [
        item
        if isinstance(item, tuple) and len(item) == 2
        else ((item if isinstance(item, type) else type(item)).__name__, item)
        for item in (callbacks if isinstance(callbacks, list) else [])
    ]
    count = Counter(name for name, _ in items)
    seen: Counter[str] = Counter()
    named = []
    for name, callback in items:
        seen[name] += 1
        unique = f"{name}_{seen[name]}" if count[name] > 1 else name
        named.append((unique, callback))
    return named


def replace_callback(callbacks: list[Any], name: str, new: Any) -> list[Any]:
    """Return the list with one callback replaced, all with their names; None mutes."""
    return [
        (own, new if own == name else callback)
        for own, callback in named_callbacks(callbacks)
    ]


def check_callbacks(callbacks: list[Any] | None) -> None:
    """Raise ValueError for an entry that skorch would stumble over later."""
    for name, callback in named_callbacks(callbacks):
        if "__" in str(name):
            raise ValueError(
                f"callbacks has the name {name!r}: names must not contain '__', which "
                "separates a callback from its parameter in set_params"
            )
        kind = callback if isinstance(callback, type) else type(callback)
        if callback is not None and not hasattr(kind, "on_epoch_end"):
            raise ValueError(
                f"callbacks has {callback!r} under the name {name!r}, which is no "
                "skorch callback: pass instances of skorch.callbacks.Callback or "
                "(name, callback) pairs. scikit-learn's callbacks go to set_callbacks."
            )
        if issubclass(kind, InputShapeSetter):
            raise ValueError(
                f"callbacks has {kind.__name__} under the name {name!r}, and the model "
                "has the shape of X without it: remove it"
            )


def check_monitors(callbacks: Named) -> None:
    """Raise ValueError for a callback that watches a loss of validation rows.

    For a run without such rows, where skorch would stumble at the end of an epoch.
    """
    for name, callback in callbacks:
        watches = isinstance(callback, EarlyStopping | Checkpoint) or (
            isinstance(callback, LRScheduler)
            and "ReduceLROnPlateau"
            in (getattr(callback.policy, "__name__", ""), callback.policy)
        )
        monitor = callback.monitor if watches else None
        if monitor not in ("valid_loss", "valid_loss_best"):
            continue
        if any(getattr(other, "name", None) == "valid_loss" for _, other in callbacks):
            continue  # a score of that name
        raise ValueError(
            f"callback {name!r} watches {monitor!r}, and there are no rows to validate "
            "on: pass X_val and y_val to fit, set early_stopping=True, or give the "
            f"callback monitor={monitor.replace('valid', 'train')!r}"
        )


def refuse_monitor(
    error: KeyError, name: str, callback: Any, row: dict[str, Any], *, validates: bool
) -> None:
    """Raise ValueError if the error is of what a callback watches in an epoch's row.

    ``validates`` says whether there are rows to validate on.
    """
    monitor = getattr(callback, "monitor", None)
    watches = isinstance(monitor, str) and repr(monitor) in str(error)
    if not watches or monitor in row:
        return
    known = ", ".join(sorted(repr(key) for key in row if key != "batches"))
    hint = "" if validates else "; for scores of validation rows pass X_val and y_val"
    raise ValueError(
        f"callback {name!r} watches {monitor!r}, which the history does not have. It "
        f"has {known}. Put the callback that scores before this one{hint}."
    )


# Which callbacks listen to the batches of the training rows: all that override one of
# these methods, but for those below, whose override listens only under a condition.
BATCH_EVENTS = ("on_batch_begin", "on_batch_end", "on_grad_computed")
CONDITIONS: dict[Any, Callable[[Any], bool]] = {
    BatchScoring.on_batch_end: lambda callback: callback.on_train,
    EpochScoring.on_batch_end: lambda callback: (
        callback.on_train and callback.use_caching
    ),
    LRScheduler.on_batch_end: lambda callback: callback.step_every == "batch",
    TensorBoard.on_batch_end: lambda callback: False,  # only clears a flag
    MlflowLogger.on_batch_end: lambda callback: callback.log_on_batch_end,
    NeptuneLogger.on_batch_end: lambda callback: callback.log_on_batch_end,
    SacredLogger.on_batch_end: lambda callback: callback.log_on_batch_end,
}


def _overrides(callback: Any) -> Iterator[Any]:
    for event in BATCH_EVENTS:
        method = getattr(type(callback), event, None)
        if method is not None and method is not getattr(Callback, event):
            yield method


def hears_batches(callback: Any) -> bool:
    """Whether a callback listens to batches at all."""
    return any(True for _ in _overrides(callback))


def hears_training(callback: Any) -> bool:
    """Whether a callback listens to the batches of the training rows."""
    return any(
        CONDITIONS.get(method, lambda callback: True)(callback)
        for method in _overrides(callback)
    )


class StopTraining(KeyboardInterrupt):
    """A callback asks to stop at the end of an epoch."""


def asks_to_stop(error: KeyboardInterrupt) -> bool:
    """Whether a callback raised an error to ask for a stop; otherwise it is Ctrl-C.

    skorch's callbacks ask by the statement ``raise KeyboardInterrupt``. Where a signal
    arrives there is no such statement, unless in a handler of the user's.
    """
    if isinstance(error, StopTraining):
        return True
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return False
    code = last.tb_frame.f_code
    handler = getattr(signal.getsignal(signal.SIGINT), "__code__", None)
    instruction = code.co_code[last.tb_lasti : last.tb_lasti + 1]
    return code is not handler and instruction == bytes([dis.opmap["RAISE_VARARGS"]])


class StopEarly(Callback):
    """The parameter ``early_stopping``: stop on the validation loss, keep the best.

    Stops when ``patience`` epochs in a row did not lower the validation loss by more
    than ``tol``, compared with the last epoch that did; then restores the coefficients
    of the epoch with the least one. Where a fit continues another, the coefficients it
    starts from count as those of an epoch: they are the best so far of the earlier one.
    """

    def __init__(self, patience: int, tol: float) -> None:
        self.patience = patience
        self.tol = tol

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kw: Any) -> None:
        self.best_loss_ = float("inf")
        self.target_ = float("inf")  # a loss below it is an improvement
        self.misses_ = 0
        self.best_values_: torch.Tensor | None = None

    def on_epoch_begin(self, net: Any, dataset_valid: Any = None, **kw: Any) -> None:
        if self.best_values_ is None and len(net.history) > 1:
            start = net.validation_step(net.get_iterator(dataset_valid))
            self.compare(net.coef.values, start["loss"].item())

    def on_epoch_end(self, net: Any, **kw: Any) -> None:
        self.compare(net.coef.values, net.history[-1]["valid_loss"])
        if self.asks_to_stop:
            raise StopTraining

    @property
    def asks_to_stop(self) -> bool:
        return self.misses_ >= self.patience

    def compare(self, values: torch.Tensor, loss: float) -> None:
        """Take note of coefficients and their validation loss."""
        if loss < self.best_loss_:
            self.best_loss_ = loss
            self.best_values_ = values.clone()
        if loss < self.target_:
            self.target_ = loss - self.tol
            self.misses_ = 0
        else:
            self.misses_ += 1

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **kw: Any) -> None:
        if self.best_values_ is not None:
            net.coef.values.copy_(self.best_values_)


class EpochBar(Callback):
    """The parameter ``verbose=1``: one progress bar over epochs, with the loss."""

    def __init__(self) -> None:
        self.bar_: Any = None

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kw: Any) -> None:
        self.bar_ = tqdm(total=net.max_epochs, unit="epoch")

    def on_epoch_end(self, net: Any, **kw: Any) -> None:
        row = net.history[-1]
        losses = {k: f"{row[k]:.4f}" for k in ("train_loss", "valid_loss") if k in row}
        self.bar_.set_postfix(losses, refresh=False)
        self.bar_.update()

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **kw: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the line of the bar, also if the training did not end well."""
        if self.bar_ is not None:
            self.bar_.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "bar_": None}


class SklearnBridge(Callback):
    """Tell scikit-learn's callbacks of each epoch.

    Parameters
    ----------
    context : sklearn.callback.CallbackContext
        Of the fit.
    report : dict
        Arguments of the context's hooks: estimator, X, y, metadata.
    """

    def __init__(self, context: Any, report: dict[str, Any]) -> None:
        self.context = context
        self.report = report

    def on_epoch_begin(self, net: Any, **kw: Any) -> None:
        self.epoch_ = self.context.subcontext(task_name="epoch")
        self.epoch_.call_on_fit_task_begin(
            **self.report, reconstruction_attributes=net.fitted_attributes
        )

    def on_epoch_end(self, net: Any, **kw: Any) -> None:
        stop = self.epoch_.call_on_fit_task_end(
            **self.report, reconstruction_attributes=net.fitted_attributes
        )
        if stop:
            raise StopTraining


@contextmanager
def sklearn_callbacks(
    estimator: Any, report: dict[str, Any], n_epochs: int
) -> Iterator[list[Callback]]:
    """Open the context of a fit for scikit-learn's callbacks, if it knows any.

    Yields the skorch callbacks that tell them of the epochs.
    """
    if not hasattr(estimator, "_init_callback_context"):
        yield []
        return
    report = {"estimator": estimator, **report}
    context = estimator._init_callback_context(max_subtasks=n_epochs)
    context.call_on_fit_task_begin(**report)
    watched = bool(getattr(estimator, "_skl_callbacks", None))
    yield [SklearnBridge(context, report)] if watched else []
    context.call_on_fit_task_end(**report, reconstruction_attributes={})
