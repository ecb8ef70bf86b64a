"""TorchLogisticClassifier: validate, objective, solve, write attributes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.linear_model import LogisticRegression
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import nn

from ._callbacks import (
    CallbackSupportMixin,
    named_callbacks,
    replace_callback,
    sklearn_callbacks,
)
from ._conversion import to_logistic_regression
from ._isolation import undisturbed
from ._labels import check_given_classes, check_known_labels
from ._module import linear_module
from ._prediction import (
    class_index,
    linear_logits,
    log_probabilities,
    probabilities,
)
from ._solvers import SOLVERS, check_class
from ._tensors import to_host
from ._training import Task, train
from ._validation import (
    check_all_rows,
    check_device,
    check_dtype,
    check_features,
    check_logits,
    check_seed,
    check_training_rows,
    check_validation_rows,
    hold_out,
)
from ._weighting import drop_weightless


class TorchLogisticClassifier(CallbackSupportMixin, ClassifierMixin, BaseEstimator):
    """Logistic regression trained in torch, on CPU or GPU.

    A linear model whose mean binary cross-entropy (one logit; three or more classes:
    one logit each and the softmax cross-entropy), plus a penalty, is minimised in
    mini-batches. The conventions, and the treatment of weights, stand in the user
    guide under "The mathematics".

    Parameters
    ----------
    lr : float, default=0.1
        Step size of the gradient optimizers; "lbfgs" and "newton" ignore it. The
        default suits "sgd" and "adagrad" on scaled features; 0.01 or less suits "adam",
        "adamw" and "rmsprop".

    epochs : int, default=100
        Passes over the data; iterations of "lbfgs" and "newton". 0 leaves the initial
        coefficients.

    batch_size : int, None or "auto", default="auto"
        Rows of a mini-batch. None: all rows. "auto": the largest power of two that is
        at most n_samples / 500, but at least 16, at most 8192 and at most n_samples.
        "lbfgs" and "newton" ignore it and take all.

    optimizer : str or class, default="sgd"
        "sgd", "adam", "adamw", "rmsprop" and "adagrad" train in mini-batches, and so
        does a subclass of ``torch.optim.Optimizer``. "adamw" has torch's weight decay
        of 0.01, on the intercept too. "lbfgs" and "newton" (Cholesky) use all rows at
        once, start from zero and stop at ``tol``.

    momentum : float, default=0.0
        Of ``optimizer="sgd"``; the others ignore it. ("rmsprop" has one of its own in
        ``optimizer_params``.)

    optimizer_params : dict, default=None
        Further arguments of the torch optimizer, e.g. ``{"nesterov": True}`` or
        ``{"betas": (0.9, 0.99)}``. "lbfgs" and "newton" take none.

    alpha : float, default=0.0
        Strength of the penalty. ``C`` of scikit-learn's ``LogisticRegression`` is
        ``1 / (alpha * sum of weights)``. The intercept is never penalised.

    l1_ratio : float, default=0.0
        Share of the L1 norm in the penalty, between 0 and 1. Zeros are exact. Without
        effect where ``alpha=0``.

    fit_intercept : bool, default=True
        Whether to fit an intercept.

    class_weight : dict or "balanced", default=None
        Weights of the classes, with scikit-learn's meaning; "balanced" is
        ``w.sum() / (n_classes * np.bincount(y, weights=w))`` with the sample weights
        w, all one by default.

    pos_weight : float or "balanced", default=None
        Weight of the positive class, with torch's meaning: it is not rescaled, so it
        changes the scale of the loss. "balanced" is the weight of the negative rows
        over that of the positive ones, by default ``n_negative / n_positive``. For two
        classes, and not together with ``class_weight``.

    early_stopping : bool, default=False
        Stop after ``n_iter_no_change`` epochs that did not improve the validation loss
        by ``tol``, and keep the coefficients of the best epoch; those that a warm start
        begins with count as one.

    validation_fraction : float, default=0.1
        Stratified share of the rows that is held out when ``early_stopping=True`` and
        ``fit`` got no ``X_val``; ignored otherwise.

    n_iter_no_change : int, default=5
        Epochs without improvement before early stopping, without which it is ignored.

    tol : float, default=1e-4
        Early stopping: the least improvement of the validation loss that counts.
        "lbfgs" and "newton": the max-norm of the gradient at which they stop. Ignored
        by other optimizers without early stopping.

    shuffle : bool, default=True
        Draw a new order of the rows each epoch; "lbfgs" and "newton" ignore it.

    warm_start : bool, default=False
        Let ``fit`` continue from the fitted coefficients, optimizer state and random
        stream: 30 epochs and then 70 more are 100, to the bit. "lbfgs" and "newton"
        continue from the coefficients.

    callbacks : list, default=None
        skorch callbacks or (name, callback) pairs. ``callbacks__name__param`` works in
        ``set_params`` and in a grid search.

    random_state : int, RandomState instance or None, default=None
        Decides the initial coefficients and the order of the rows. An int gives what a
        plain PyTorch program gives that calls ``torch.manual_seed`` with it twice,
        before it makes the model and before it trains; see :doc:`/mathematics`. Global
        generators are neither read nor moved, but for None, which draws a seed from
        NumPy's. "lbfgs" and "newton" start from zero and draw only the rows that early
        stopping holds out.

    device : str or torch.device, default="auto"
        "auto" takes the accelerator that X is on, if X is a tensor on one, or CUDA, XPU
        or MPS if present, else the CPU. A device that is named and absent is an error.

    dtype : {"auto", "float32", "float64"}, default="auto"
        Precision of the training. "auto": float32 data stay float32, all others train
        in float64 (on MPS in float32). Predictions are computed in float64 always.

    verbose : {0, 1, 2}, default=0
        0 is silent, 1 shows a progress bar over epochs, 2 prints skorch's table.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Coefficients, one row for two classes, in the precision of the training.

    intercept_ : ndarray of shape (1,) or (n_classes,)
        Intercept, zero without one.

    classes_ : ndarray of shape (n_classes,)
        Sorted labels. With two, the second is the positive class.

    n_features_in_ : int
        Number of features seen by ``fit``.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X had names that are all strings.

    n_iter_ : int
        Epochs run, over all fits of a warm start and calls of ``partial_fit``.

    loss_curve_ : list of float
        Mean training loss of each epoch, without the penalty.

    validation_loss_curve_ : list of float
        Mean validation loss after each epoch, with the weights of classes. Only with
        validation rows; NaN for epochs of a warm start that had none.

    history_ : list of dict
        What was recorded of each epoch, by the callbacks too.

    device_ : str
        The device of the training.

    batch_size_ : int
        The batch size of the training.

    See Also
    --------
    sklearn.linear_model.LogisticRegression : Full-batch solvers; the better choice
        for small data and when only the optimum counts.
    sklearn.linear_model.SGDClassifier : Stochastic gradient descent row by row.

    References
    ----------
    D. V. Godoy, "Deep Learning with PyTorch Step-by-Step", chapter 3.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, y = make_moons(n_samples=100, noise=0.3, random_state=0)
    >>> clf = TorchLogisticClassifier(batch_size=16, random_state=42, device="cpu")
    >>> model = make_pipeline(StandardScaler(), clf).fit(X, y)
    >>> model.score(X, y)
    0.85
    >>> model.predict_proba(X[:2]).round(3)
    array([[0.968, 0.032],
           [0.038, 0.962]])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "lr": [Interval(Real, 0, None, closed="neither")],
        "epochs": [Interval(Integral, 0, None, closed="left")],
        "batch_size": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
            None,
        ],
        "optimizer": [str, type],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "optimizer_params": [dict, None],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "l1_ratio": [Interval(Real, 0, 1, closed="both")],
        "fit_intercept": ["boolean"],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "pos_weight": [
            Interval(Real, 0, None, closed="neither"),
            StrOptions({"balanced"}),
            None,
        ],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "shuffle": ["boolean"],
        "warm_start": ["boolean"],
        "callbacks": [list, None],
        "random_state": ["random_state"],
        "device": [str, torch.device],
        "dtype": [StrOptions({"auto", "float32", "float64"})],
        "verbose": [Interval(Integral, 0, 2, closed="both")],
    }

    def __init__(
        self,
        *,
        lr: float = 0.1,
        epochs: int = 100,
        batch_size: int | str | None = "auto",
        optimizer: str | type[torch.optim.Optimizer] = "sgd",
        momentum: float = 0.0,
        optimizer_params: dict[str, Any] | None = None,
        alpha: float = 0.0,
        l1_ratio: float = 0.0,
        fit_intercept: bool = True,
        class_weight: dict[Any, float] | str | None = None,
        pos_weight: float | str | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        tol: float = 1e-4,
        shuffle: bool = True,
        warm_start: bool = False,
        callbacks: list[Any] | None = None,
        random_state: int | np.random.RandomState | None = None,
        device: str | torch.device = "auto",
        dtype: str = "auto",
        verbose: int = 0,
    ) -> None:
        self.lr = lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.momentum = momentum
        self.optimizer_params = optimizer_params
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.pos_weight = pos_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.shuffle = shuffle
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.random_state = random_state
        self.device = device
        self.dtype = dtype
        self.verbose = verbose

    # Training

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Train on rows and labels.

        A fit that fails or is interrupted leaves the estimator as it was.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            A tensor on an accelerator stays there, unless ``device="cpu"``.
        y : array-like of shape (n_samples,)
            Labels of two or more classes, of any sortable type.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, not negative. A weight of 2 equals a row given twice;
            the scale of all weights does not matter.
        X_val : array-like of shape (n_validation, n_features), default=None
            Rows on which the loss is evaluated after each epoch. In a ``Pipeline``,
            ``transform_input=["X_val"]`` transforms them as X. Inside a search, pass
            ``(X_val,)`` and ``(y_val,)``: scikit-learn cuts metadata that happen to
            have as many rows as X into folds, and leaves tuples alone.
        y_val : array-like of shape (n_validation,), default=None
        sample_weight_val : array-like of shape (n_validation,), default=None

        Returns
        -------
        self : TorchLogisticClassifier

        Raises
        ------
        ValueError
            For input that cannot be learned from, a device that is not there, or a
            training that diverged. The message says what would work.

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If "lbfgs" or "newton" ended before they reached ``tol``, at coefficients
            that separate the classes without a penalty, or where the gradient is small
            only because of the scale of the features. Of any optimizer if the loss ends
            at more than twice that of equal probabilities for all classes, after ten
            epochs or an early stop; after fewer at a hundred times that.
        UserWarning
            If no row of some class has a weight, if there are more than half as many
            classes as rows, if ``torch.optim.LBFGS`` without a line search is to train
            in mini-batches, or if the loss of X_val stays above ten times that of equal
            probabilities and its features are far from those of X.
        """
        with self._unchanged_on_failure(), undisturbed():
            return self._fit(X, y, sample_weight, X_val, y_val, sample_weight_val)

    def _takes_rows_in_parts(self) -> bool:
        """Whether ``partial_fit`` makes sense; scikit-learn hides it otherwise."""
        solver = (
            SOLVERS.get(self.optimizer) if isinstance(self.optimizer, str) else None
        )
        if solver is not None and solver.full_batch is not None:
            raise AttributeError(
                f"optimizer={self.optimizer!r} needs all rows at once and has no "
                "partial_fit: use a mini-batch optimizer, e.g. optimizer='sgd'"
            )
        return True

    @available_if(_takes_rows_in_parts)
    # False, or the method could not see whether the user skips validation.
    @_fit_context(prefer_skip_nested_validation=False)
    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> Self:
        """Train for one pass over some rows, from where the last call ended.

        ``early_stopping`` has no part in it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        classes : array-like of shape (n_classes,), default=None
            All labels that will ever occur. Needed on the first call, optional later.
        sample_weight : array-like of shape (n_samples,), default=None
            Scaled to mean one within the call; ``class_weight`` then multiplies it as
            it is.

        Returns
        -------
        self : TorchLogisticClassifier

        Raises
        ------
        ValueError
            As ``fit``, and for "balanced" weights, which need all rows.
        """
        with self._unchanged_on_failure(), undisturbed():
            return self._partial_fit(X, y, classes, sample_weight)

    def _validate_params(self) -> None:
        check_class(self.optimizer)
        super()._validate_params()

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        X_val: Any,
        y_val: Any,
        sample_weight_val: Any,
    ) -> Self:
        device = check_device(self.device, X)
        dtype = check_dtype(self.dtype, device)
        continued = self.warm_start and hasattr(self, "coef_")
        rows, classes = check_all_rows(
            self, X, y, sample_weight, dtype, device=device, reset=not continued
        )
        if continued:
            if not np.array_equal(classes, self.classes_):
                raise ValueError(
                    "warm_start=True continues only with the same classes: y has "
                    f"{classes.tolist()}, the fitted estimator "
                    f"{self.classes_.tolist()}"
                )
            self._check_same_intercept()
        seed = self._seed(continued=continued)
        given = check_validation_rows(
            self, X_val, y_val, sample_weight_val, classes, rows.dtype, device
        )
        held = None if given is None else given.encoded(classes)
        held_out = held is None and self.early_stopping
        # No other name for what is not trained on: it may be a copy of X.
        rows = rows.encoded(classes)
        if held_out:
            rows, held = hold_out(rows, classes, self.validation_fraction, seed)

        task = Task(
            rows=rows,
            held=held,
            held_out=held_out,
            classes=classes,
            device=device,
            seed=seed,
            continued=continued,
            epochs=self.epochs,
        )
        return self._learn(task, X, y, sample_weight)

    def _partial_fit(self, X: Any, y: Any, classes: Any, sample_weight: Any) -> Self:
        continued = hasattr(self, "coef_")
        if continued and not get_config()["skip_parameter_validation"]:
            self._validate_params()  # scikit-learn does so on the first call only
        if "balanced" in (self.class_weight, self.pos_weight):
            raise ValueError(
                "'balanced' weights need all rows and partial_fit sees some: compute "
                "the weights with sklearn.utils.class_weight.compute_class_weight and "
                "pass them as class_weight, or the ratio as pos_weight"
            )
        classes = to_host(classes)
        device = check_device(self.device, X)
        dtype = check_dtype(self.dtype, device)
        rows = check_training_rows(
            self, X, y, sample_weight, dtype, device=device, reset=not continued
        )
        rows = drop_weightless(rows)
        if not continued:
            known = check_given_classes(classes, rows.y)
        else:
            self._check_same_intercept()
            known = self.classes_
            if classes is not None and not np.array_equal(known, np.unique(classes)):
                raise ValueError(
                    f"classes={np.unique(classes).tolist()} is not the same as on the "
                    f"last call to partial_fit or fit: {known.tolist()}"
                )
            check_known_labels(rows.y, known)
        task = Task(
            rows=rows.encoded(known),
            held=None,
            classes=known,
            device=device,
            seed=self._seed(continued=continued),
            continued=continued,
            epochs=1,
            whole=False,
        )
        return self._learn(task, X, y, sample_weight)

    def _learn(self, task: Task, X: Any, y: Any, sample_weight: Any) -> Self:
        """Train and write the attributes; scikit-learn's callbacks see what came."""
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        report = {"X": X, "y": y, "metadata": metadata}
        with sklearn_callbacks(self, report, task.epochs) as task.watchers:
            net = train(self, task)
            self.__dict__.pop("validation_loss_curve_", None)
            self.__dict__.update(net.fitted_attributes())
        return self

    def _seed(self, *, continued: bool) -> int:
        """The seed of a run; of one that goes on, that of its first part."""
        if not continued:
            return check_seed(self.random_state)
        if "seed" not in self._run:
            raise ValueError(
                "this classifier is a candidate of a search, trained together with "
                "others: it cannot be continued. Fit a clone of it."
            )
        seed: int = self._run["seed"]
        return seed

    def _check_same_intercept(self) -> None:
        if self.fit_intercept != self._run["fit_intercept"]:
            raise ValueError(
                f"fit_intercept={self.fit_intercept} differs from the fit that would "
                "be continued: set it back, or fit a clone of the estimator"
            )

    @contextmanager
    def _unchanged_on_failure(self) -> Iterator[None]:
        """Keep the fitted state of before if the block does not end well."""

        def is_fitted_state(name: str) -> bool:
            return name == "_run" or (name.endswith("_") and not name.startswith("_"))

        before = {k: v for k, v in vars(self).items() if is_fitted_state(k)}
        try:
            yield
        except BaseException:
            for name in [k for k in vars(self) if is_fitted_state(k)]:
                delattr(self, name)
            self.__dict__.update(before)
            raise

    # Prediction: in NumPy and float64, from coef_ and intercept_

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits of rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        z : ndarray of shape (n_samples,) or (n_samples, n_classes)
            The log odds of the positive class; with three or more classes one logit
            each.

        Raises
        ------
        ValueError
            For X that is not finite, or has other features than the fit.

        Warns
        -----
        RuntimeWarning
            For rows so large that their logits are not finite.
        """
        check_is_fitted(self, "coef_")
        # An entry of X that is not finite leaves no finite logit, unless BLAS passes
        # over the zeros among the coefficients: X need not be read twice.
        look, dtypes = not self.coef_.all(), [np.float64, np.float32]
        X = check_features(self, X, dtypes, reset=False, ensure_all_finite=look)
        z = linear_logits(X, self.coef_, self.intercept_)
        check_logits(self, X, z)
        return z[:, 0] if len(self.classes_) == 2 else z

    def predict(self, X: Any) -> np.ndarray:
        """Predict the labels of rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,)
            The second class where the logit is above zero, the first elsewhere; with
            three or more the class of the greatest logit.
        """
        z = self.decision_function(X)
        return self.classes_[class_index(z)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict the probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        p : ndarray of shape (n_samples, n_classes)
            In the order of ``classes_``.
        """
        return probabilities(self.decision_function(X), overwrite=True)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Predict the logarithms of the probabilities; finite for any finite logit.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        log_p : ndarray of shape (n_samples, n_classes)
            In the order of ``classes_``.
        """
        return log_probabilities(self.decision_function(X))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy of the predictions.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
        """
        return super().score(X, to_host(y), to_host(sample_weight))

    # Other forms of the fitted model

    @property
    def module_(self) -> nn.Sequential:
        """The fitted model as a new ``nn.Sequential(linear=nn.Linear)`` on the CPU."""
        check_is_fitted(self, "coef_")
        parts = [self.coef_]
        if self._run["fit_intercept"]:
            parts.append(self.intercept_)
        return linear_module(*(torch.from_numpy(part.copy()) for part in parts))

    def to_sklearn(self) -> LogisticRegression:
        """Return a fitted ``LogisticRegression`` that predicts the same.

        For tools that know scikit-learn's classes only: ONNX and PMML converters,
        skops, explainers. Its parameters state the same objective, for the rows that
        were trained on: those that early stopping held out do not count. A
        ``weight_decay`` of torch, which "adamw" has by default, is not part of it.

        Returns
        -------
        model : sklearn.linear_model.LogisticRegression
        """
        check_is_fitted(self, "coef_")
        return to_logistic_regression(self)

    # Parameters of callbacks

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters of the estimator and, with ``deep``, of its callbacks.

        Parameters
        ----------
        deep : bool, default=True

        Returns
        -------
        params : dict
            Those of a callback are named ``callbacks__name`` and
            ``callbacks__name__param``.
        """
        params = super().get_params(deep=deep)
        if deep:
            for name, callback in named_callbacks(self.callbacks):
                params[f"callbacks__{name}"] = callback
                if hasattr(callback, "get_params") and not isinstance(callback, type):
                    for key, value in callback.get_params().items():
                        params[f"callbacks__{name}__{key}"] = value
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters of the estimator and its callbacks.

        Parameters
        ----------
        **params : dict
            As named by :meth:`get_params`. A callback may be replaced:
            ``callbacks__name=other``.

        Returns
        -------
        self : TorchLogisticClassifier

        Raises
        ------
        ValueError
            For a name that is not that of a parameter.
        """
        of_callbacks = {k: v for k, v in params.items() if k.startswith("callbacks__")}
        super().set_params(**{k: params[k] for k in params if k not in of_callbacks})
        for key, value in of_callbacks.items():
            name, _, parameter = key.removeprefix("callbacks__").partition("__")
            callbacks = dict(named_callbacks(self.callbacks))
            if name not in callbacks:
                raise ValueError(
                    f"Invalid parameter {key!r}: there is no callback {name!r}. "
                    f"Callbacks are {list(callbacks)}."
                )
            if not parameter:
                self.callbacks = replace_callback(self.callbacks or [], name, value)
            elif hasattr(callbacks[name], "get_params"):
                callbacks[name].set_params(**{parameter: value})
            else:
                raise ValueError(
                    f"Invalid parameter {key!r}: the callback {name!r} is "
                    f"{callbacks[name]!r}, which has no parameters."
                )
        return self

    def __sklearn_clone__(self) -> Self:
        # clone() would copy callbacks one by one; one that refers to another, as
        # LoadInitState does, must refer to the other's copy.
        bare = copy.copy(self)
        bare.callbacks = None
        clone = super(TorchLogisticClassifier, bare).__sklearn_clone__()
        clone.callbacks = copy.deepcopy(self.callbacks)
        return clone
