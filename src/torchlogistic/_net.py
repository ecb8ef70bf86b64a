"""LogisticNet, the skorch net inside the estimator, and what connects callbacks to it.

skorch drives the epochs; what runs inside one is ours. See ``LogisticNet``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np
import skorch
import torch
from sklearn.base import ClassifierMixin
from skorch.callbacks import Callback, EpochTimer, PrintLog
from skorch.utils import to_numpy
from torch import Tensor, nn

from ._batches import Batches
from ._callbacks import (
    StopTraining,
    asks_to_stop,
    check_monitors,
    hears_batches,
    hears_training,
    refuse_monitor,
)
from ._checkpoints import PrivateFolder, best_checkpoints, guarded_checkpoints
from ._continuation import (
    epoch_record,
    optimizer_state,
    restore_optimizer,
    restore_schedules,
    schedule_states,
)
from ._divergence import Judge
from ._fullbatch import FullBatch
from ._gradient import write_logits
from ._minibatch import MiniBatch
from ._module import QuickHistory, RowsDataset, linear_module
from ._objective import Coefficients, Objective
from ._rows import Block, Rows, view_block
from ._steps import make_optimizer
from ._stream import RandomStream
from ._threads import Team

FORWARD_ENTRIES = 2**24  # of X that a prediction takes to the device at a time


def is_binary(coef: Coefficients) -> bool:
    return coef.values.dim() == 1


class LogisticNet(ClassifierMixin, skorch.NeuralNet):
    """A linear module whose epochs are closed-form.

    Inherits from skorch what surrounds an epoch: the fit loop, the history, callbacks
    and their initialization, ``get_params`` and ``set_params``, saving and loading of
    parameters, optimizer and history. Replaces what happens inside:

    * ``run_single_epoch`` trains with a solver, or evaluates all validation rows as one
      batch. Events of training batches are sent only if some callback listens to them,
      with the same arithmetic, so that both ways end at the same bits.
    * ``initialize_module`` and ``initialize_optimizer`` share memory with the solver:
      what a callback changes in ``module_`` or loads into ``optimizer_`` counts.

    Parameters
    ----------
    coef : Coefficients
        Trained in place. ``module_`` is an ``nn.Sequential(linear=nn.Linear)`` whose
        parameters are views of it.
    objective : Objective
    stream : RandomStream
    train_rows, valid_rows : Rows
        ``valid_rows`` may be None.
    classes : ndarray of shape (n_classes,)
        The user's labels.
    facts : dict
        What else of the fit is kept in the estimator's ``_run``.
    shuffle : bool
    full_batch : type, optional
        A full-batch solver in place of mini-batches; an epoch is one iteration.
    tol : float
        Its tolerance.
    whole : bool, default=True
        Whether the rows are all there are, and not a part of a stream.
    held_out : bool, default=False
        Whether the rows to validate on were taken from those that ``fit`` got.
    **kwargs
        Of :class:`skorch.NeuralNet`; ``batch_size`` is a number.
    """

    def __init__(
        self,
        *,
        coef: Coefficients,
        objective: Objective,
        stream: RandomStream,
        train_rows: Rows,
        valid_rows: Rows | None,
        classes: np.ndarray,
        facts: dict[str, Any],
        shuffle: bool,
        full_batch: type[FullBatch] | None,
        tol: float,
        whole: bool = True,
        held_out: bool = False,
        **kwargs: Any,
    ) -> None:
        history = QuickHistory()
        criterion = nn.BCEWithLogitsLoss if is_binary(coef) else nn.CrossEntropyLoss
        super().__init__(
            module=linear_module(*coef.as_linear(coef.values)),
            criterion=criterion,
            train_split=None,
            history=history,
            **kwargs,
        )
        self.coef = coef
        self.objective = objective
        self.stream = stream
        self.train_rows = train_rows
        self.valid_rows = valid_rows
        self.classes = classes
        self.facts = facts
        self.shuffle = shuffle
        self.full_batch = full_batch
        self.tol = tol
        self.team = Team()
        self.asked_to_stop = False  # by a callback
        self._least = {"train": math.inf, "valid": math.inf}  # losses so far
        self._folders: list[PrivateFolder] = []  # of checkpoints
        # Rows of the history that nobody changes.
        self._earlier: list[dict[str, Any]] = []
        self._earlier_losses: list[float] = []
        self._n_rows = len(train_rows)
        self.judge = Judge(
            objective, train_rows, valid_rows, held_out=held_out, whole=whole
        )

    # Construction

    @property
    def _default_callbacks(self) -> list[tuple[str, Callback]]:
        callbacks: list[tuple[str, Callback]] = [("epoch_timer", EpochTimer())]
        if self.verbose:
            callbacks.append(("print_log", PrintLog()))
        return callbacks

    def initialize_optimizer(self, triggered_directly: None = None) -> LogisticNet:
        arguments = self._optimizer_arguments()
        parameters = list(self.module_.parameters())
        try:
            self.optimizer_ = make_optimizer(self.optimizer, parameters, **arguments)
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"{self.optimizer.__name__} cannot be made with {arguments} (lr, "
                f"momentum, optimizer_params) for this model: {error}"
            ) from error
        return self

    def get_split_datasets(
        self, X: Any, y: Any = None, **fit_params: Any
    ) -> tuple[RowsDataset, RowsDataset | None]:
        valid = self.valid_rows
        return (
            RowsDataset(self.train_rows, self.objective),
            None if valid is None else RowsDataset(valid, self.objective),
        )

    def get_iterator(self, dataset: RowsDataset, training: bool = False) -> Any:
        """Return the solver of the training rows, the block of the validation rows."""
        if not training:
            return view_block(dataset.rows)
        self.solver_ = self._make_solver(dataset.rows)
        return self.solver_

    def _make_solver(self, rows: Rows) -> MiniBatch | FullBatch:
        if self.full_batch is not None:
            block = view_block(rows)
            return self.full_batch(
                self.objective, block, self.coef, tol=self.tol, team=self.team
            )
        batches = Batches(
            rows,
            batch_size=self.batch_size,
            shuffle=self.shuffle,
            stream=self.stream,
            fit_intercept=self.coef.fit_intercept,
            validation=self.valid_rows is not None,
            team=self.team,
            epochs=self.max_epochs,
        )
        self.judge = self.judge.of_optimizer(self.optimizer_, batches.n_batches)
        return MiniBatch(self.objective, batches, self.coef, self.optimizer_, self.team)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Let the parameters of a copy, too, be views of what its solver trains."""
        super().__setstate__(state)
        if not hasattr(self, "module_"):
            return
        own = self.coef.values.clone()  # a shallow copy has the net's own
        self.coef = Coefficients(own, fit_intercept=self.coef.fit_intercept)
        views = self.coef.as_linear(own)
        for parameter, view in zip(self.module_.parameters(), views, strict=True):
            view.copy_(parameter.data)
            parameter.data = view

    # The run

    def train(
        self,
        earlier: dict[str, Any] | None,
        history: list[dict[str, Any]],
        losses: list[float],
    ) -> None:
        """Run the epochs.

        Parameters
        ----------
        earlier : dict or None
            The attribute ``_run`` of the fit that this one continues.
        history : list of dict
            History of that run.
        losses : list of float
            Losses of its epochs.

        Raises
        ------
        KeyboardInterrupt
            From the keyboard; skorch itself would swallow it.
        ValueError
            If the run diverged.
        """
        optimizer, arguments = self.optimizer_, self._optimizer_arguments()
        if earlier is not None:
            restore_optimizer(optimizer, arguments, earlier)
            # Schedulers that continue ask for it.
            group = optimizer.param_groups[0]
            group.setdefault("initial_lr", group["lr"])
        callbacks = [callback for _, callback in self.callbacks_]
        if self.valid_rows is None:
            check_monitors(self.callbacks_)
        if len(callbacks) == len(self._default_callbacks):
            self._earlier, self._earlier_losses = history, losses
        else:
            # The user's may write into it, and look for records of batches, which are
            # not always kept.
            history = [{"batches": [{}], **row} for row in history]
        self.history_.extend(history)
        if earlier is not None:
            self._least = dict(earlier["least"])
        self._hears_batches = any(map(hears_batches, callbacks))
        self._hears_training = any(map(hears_training, callbacks))
        X = self.train_rows.X
        y = self.objective.loss.labels(self.train_rows.y)
        self.notify("on_train_begin", X=X, y=y)
        if earlier is not None:
            restore_schedules(self.callbacks_, optimizer, arguments, earlier)
        with guarded_checkpoints(callbacks, self.history_) as self._folders:
            try:
                with suppress(StopTraining):
                    self.fit_loop(X, y)
            finally:
                if isinstance(solver := getattr(self, "solver_", None), MiniBatch):
                    solver.stop()
            stopped = len(self.history_) - len(history) < self.max_epochs
            with best_checkpoints(callbacks, self.history_):
                self.notify("on_train_end", X=X, y=y)
            self.judge.check_end(
                self.coef, self.history_, self._rate(), stopped=stopped
            )
            new = islice(self.history_, len(history), None)
            self.judge.check_held(self.coef, [row.get("valid_loss") for row in new])

    def notify(self, method_name: str, **cb_kwargs: Any) -> None:
        """Call a method of all callbacks.

        One that asks to stop at the end of an epoch does not keep the others from
        seeing that end.
        """
        if method_name != "on_epoch_end":
            super().notify(method_name, **cb_kwargs)
            return
        asked = False
        self.on_epoch_end(self, **cb_kwargs)
        for name, callback in self.callbacks_:
            try:
                callback.on_epoch_end(self, **cb_kwargs)
            except KeyError as error:
                row, validates = self.history_[-1], self.valid_rows is not None
                refuse_monitor(error, name, callback, row, validates=validates)
                raise
            except KeyboardInterrupt as error:
                if not asks_to_stop(error):
                    raise
                asked = True
        for folder in self._folders:
            folder.publish()
        if asked:  # skorch looks closely at each attribute that is set
            self.asked_to_stop = True
        if asked or self.solver_.done:
            raise StopTraining

    def run_single_epoch(
        self,
        iterator: Any,
        training: bool,
        prefix: str,
        step_fn: Any,
        **fit_params: Any,
    ) -> None:
        """Train or evaluate for one epoch, and record its loss.

        The device is waited for once, to read the loss.
        """
        if iterator is None:
            return
        if not training:
            self._evaluate(iterator, prefix)
            return
        # Schedulers watch calls of the optimizer's step to warn of a wrong order, and
        # our rules do not call it.
        self.optimizer_._opt_called = True  # type: ignore[attr-defined]
        parameters = self.optimizer_.param_groups[0]["params"]
        self.coef.frozen = [not p.requires_grad for p in parameters]
        if self._hears_training:
            self._train_heard(iterator, prefix)
        else:
            iterator.epoch()
            loss = iterator.loss
            self._start_batch()  # the epoch stands as one batch
            self._record_batch(prefix, loss, self._n_rows)
            self._record_epoch(prefix, loss, iterator.n_batches)

    def _train_heard(self, solver: MiniBatch | FullBatch, prefix: str) -> None:
        """Train with an event before and after each batch and at each gradient."""
        for block in solver.visit():
            batch = self._as_batch(block)
            self.notify("on_batch_begin", batch=batch, training=True)
            self.train_step(solver, block=block, batch=batch)
            loss = self.objective.mean_loss(block)
            self._record_batch(prefix, loss.item(), len(block))
            step = {"loss": loss, "y_pred": block.logits.clone()}
            self.notify("on_batch_end", batch=batch, training=True, **step)
        self._record_epoch(prefix, solver.loss, solver.n_batches)

    def train_step(
        self,
        solver: MiniBatch | FullBatch,
        *,
        block: Block,
        batch: tuple[Tensor, Tensor],
    ) -> None:
        """One update, with the event between the gradient and its use."""

        def listener() -> None:
            self.notify(
                "on_grad_computed",
                named_parameters=list(self.module_.named_parameters()),
                batch=batch,
                training=True,
            )
            # A callback may have put another tensor there.
            for parameter, gradient in pairs:
                if parameter.grad is not None and parameter.grad is not gradient:
                    gradient.copy_(parameter.grad)

        solver.refresh()
        # Callbacks find the gradient where torch keeps it.
        gradients = self.coef.as_linear(self.coef.gradient)
        pairs = list(zip(self.module_.parameters(), gradients, strict=True))
        for parameter, gradient in pairs:
            if parameter.grad is None and parameter.requires_grad:
                parameter.grad = gradient
        solver.update(block, listener)

    def _evaluate(self, block: Block, prefix: str) -> None:
        event: dict[str, Any] = {"training": False}
        if self._hears_batches:
            event["batch"] = self._as_batch(block)
            self.notify("on_batch_begin", **event)
        else:
            self._start_batch()
        step = self.validation_step(block)
        loss = step["loss"].item()
        self._record_batch(prefix, loss, len(block))
        if self._hears_batches:
            step["y_pred"] = step["y_pred"].clone()  # it may be kept
            self.notify("on_batch_end", **event, **step)
        self._record_epoch(prefix, loss, 1)

    def validation_step(self, batch: Block, **fit_params: Any) -> dict[str, Tensor]:
        """Logits and mean loss of the validation rows."""
        logits = write_logits(self.objective, batch, self.coef)
        loss = self.objective.mean_loss(batch)
        return {"loss": loss, "y_pred": logits}

    def _as_batch(self, block: Block) -> tuple[Tensor, Tensor]:
        return block.features, self.objective.loss.labels(block.targets)

    # The history is written as the list of dicts that it is: its own methods would
    # take a tenth of the time of a small epoch.

    def _start_batch(self) -> None:
        self.history_[-1]["batches"].append({})

    def _record_batch(self, prefix: str, loss: float, n_rows: int) -> None:
        row = self.history_[-1]["batches"][-1]
        row[f"{prefix}_loss"] = loss
        row[f"{prefix}_batch_size"] = n_rows

    def _record_epoch(self, prefix: str, loss: float, n_batches: int) -> None:
        if not math.isfinite(loss):
            epoch = len(self.history_)
            raise self.judge.epoch_divergence(prefix, epoch, loss, self._rate())
        least = self._least[prefix]
        self._least[prefix] = min(least, loss)
        self.history_[-1].update(epoch_record(prefix, loss, least, n_batches))

    def _rate(self) -> float | None:
        """The step size, of a solver that has one."""
        if self.full_batch is not None:
            return None
        return float(self.optimizer_.param_groups[0]["lr"])

    # What is kept of a run, in NumPy and plain Python

    def fitted_attributes(self) -> dict[str, Any]:
        """Attributes of the estimator, ``_run`` included: what a warm start needs."""
        # One wait for the device; copies, since training goes on in the tensors.
        values = self.coef.values.detach().cpu().clone()
        weight, *bias = (part.numpy() for part in self.coef.as_linear(values))
        zeros = np.zeros(len(weight), dtype=weight.dtype)
        # An epoch that has only begun is none yet. Those of an earlier run stay as they
        # are: many short runs would copy a long history each.
        new = islice(self.history_, len(self._earlier), None)
        kept = [self._kept_of(row) for row in new if "train_loss" in row]
        history = self._earlier + kept
        attributes = {
            "coef_": np.ascontiguousarray(weight),
            "intercept_": np.ascontiguousarray(bias[0]) if bias else zeros,
            "classes_": self.classes,
            "n_iter_": len(history),
            "loss_curve_": self._earlier_losses + [row["train_loss"] for row in kept],
            "history_": history,
            "device_": self.device,
            "batch_size_": self.batch_size,
            "_run": self._run_state(),
        }
        if self.valid_rows is not None or self._least["valid"] < math.inf:
            valid = [row.get("valid_loss", math.nan) for row in history]
            attributes["validation_loss_curve_"] = valid
        return attributes

    def _kept_of(self, row: dict[str, Any]) -> dict[str, Any]:
        """An epoch without its batches, unless a callback listens to them."""
        if self._hears_training and any(row.get("batches", ())):
            return dict(row)
        return {name: row[name] for name in row if name != "batches"}

    def _run_state(self) -> dict[str, Any]:
        """What it takes to continue the run exactly, and what else is known of it."""
        return {
            "seed": self.stream.seed,
            "n_draws": self.stream.n_draws,
            "least": dict(self._least),
            "schedules": schedule_states(self.callbacks_),
            **optimizer_state(self.optimizer_, self._optimizer_arguments()),
            **self.facts,
        }

    def _optimizer_arguments(self) -> dict[str, Any]:
        return {"lr": self.lr, **self.get_params_for("optimizer")}

    # Prediction, for callbacks that score: over labels 0 to n_classes - 1

    @property
    def classes_(self) -> np.ndarray:
        return np.arange(max(self.objective.loss.n_outputs, 2))

    def forward_iter(
        self, X: Any, training: bool = False, device: str = "cpu"
    ) -> Iterator[Tensor]:
        X = X.X if isinstance(X, RowsDataset) else torch.as_tensor(X)
        values = self.coef.values
        step = len(X) if X.device == values.device else FORWARD_ENTRIES // X.shape[1]
        for part in X.split(max(step, 1)):
            with torch.no_grad():
                z = self.module_(part.to(dtype=values.dtype, device=values.device))
            yield (z[:, 0] if is_binary(self.coef) else z).to(device)

    def predict_proba(self, X: Any) -> np.ndarray:
        logits = torch.cat(list(self.forward_iter(X)))
        return to_numpy(self.objective.loss.probabilities(logits.double()))

    def predict(self, X: Any) -> np.ndarray:
        return self.predict_proba(X).argmax(axis=1)
