"""Contenders: functions that fit to the given settings and return a Solution.

The package's own fits stand among the others. Penalties are converted from this
package's ``alpha``, a multiple of the mean loss. A package is imported inside the
function that needs it, since most are optional.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, SGDClassifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from solution import Solution
from torchlogistic import TorchLogisticClassifier

SEED = 42


@dataclass(frozen=True)
class Settings:
    """What to minimise and how far; each contender reads what concerns it."""

    alpha: float = 0.0
    l1_ratio: float = 0.0
    # mini-batches
    lr: float = 0.1
    momentum: float = 0.0
    batch_size: int | str = 16
    epochs: int = 1
    shuffle: bool = True
    # all rows at once
    tol: float = 1e-4
    max_iter: int = 1000


Fit = Callable[[np.ndarray, np.ndarray, Settings], Solution]


def ours(optimizer: str, X: np.ndarray, y: np.ndarray, s: Settings) -> Solution:
    mini_batches = optimizer == "sgd"
    clf = TorchLogisticClassifier(
        optimizer=optimizer,
        lr=s.lr,
        momentum=s.momentum,
        batch_size=s.batch_size,
        epochs=s.epochs if mini_batches else s.max_iter,
        shuffle=s.shuffle,
        alpha=s.alpha,
        l1_ratio=s.l1_ratio,
        tol=s.tol,
        random_state=SEED,
        device="cpu",
    ).fit(X, y)
    return Solution.of(clf.coef_, clf.intercept_)


# Loops in torch


def linear(n_features: int, *more: nn.Module) -> nn.Sequential:
    torch.manual_seed(SEED)
    return nn.Sequential(nn.Linear(n_features, 1), *more)


def solution_of(model: Any) -> Solution:
    return Solution.of(model[0].weight.detach(), model[0].bias.detach())


def sgd(model: nn.Module, s: Settings) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=s.lr, momentum=s.momentum)


def loader_loop(X: np.ndarray, y: np.ndarray, s: Settings) -> Solution:
    """The chapter's program: DataLoader, autograd, torch.optim."""
    model = linear(X.shape[1])
    optimizer = sgd(model, s)
    loss_fn = nn.BCEWithLogitsLoss()
    data = TensorDataset(
        torch.as_tensor(X).float(), torch.as_tensor(y.reshape(-1, 1)).float()
    )
    torch.manual_seed(SEED)
    loader = DataLoader(data, batch_size=s.batch_size, shuffle=s.shuffle)
    for _ in range(s.epochs):
        losses = []
        for Xb, yb in loader:
            model.train()
            loss = loss_fn(model(Xb), yb)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        np.mean(losses)
    return solution_of(model)


def slicing_loop(X: np.ndarray, y: np.ndarray, s: Settings) -> Solution:
    """A hand-written loop over slices of tensors, with autograd and torch.optim."""
    model = linear(X.shape[1])
    optimizer = sgd(model, s)
    loss_fn = nn.BCEWithLogitsLoss()
    Xt, yt = torch.from_numpy(X), torch.from_numpy(y[:, None]).to(torch.float32)
    torch.manual_seed(SEED)
    for _ in range(s.epochs):
        # The draws of a DataLoader, so that the order is the same: one for its workers,
        # one that seeds the permutation.
        _, seed = (int(torch.empty((), dtype=torch.int64).random_()) for _ in range(2))
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(Xt), generator=generator)
        total = torch.zeros(())
        for index in order.split(s.batch_size):
            loss = loss_fn(model(Xt[index]), yt[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        total.item()
    return solution_of(model)


def skorch_net(X: np.ndarray, y: np.ndarray, s: Settings) -> Solution:
    """NeuralNetBinaryClassifier as its users configure it: silent, no split."""
    import skorch

    module = linear(X.shape[1], nn.Flatten(0))
    torch.manual_seed(SEED)
    net = skorch.NeuralNetBinaryClassifier(
        module,
        lr=s.lr,
        optimizer__momentum=s.momentum,
        max_epochs=s.epochs,
        batch_size=s.batch_size,
        iterator_train__shuffle=s.shuffle,
        train_split=None,
        verbose=0,
    )
    net.fit(X, y.astype(np.float32))
    return solution_of(net.module_)


def torch_lbfgs(X: np.ndarray, y: np.ndarray, s: Settings) -> Solution:
    Xt = torch.from_numpy(X)
    yt = torch.from_numpy(y).to(Xt.dtype)
    w = torch.zeros(X.shape[1], dtype=Xt.dtype, requires_grad=True)
    b = torch.zeros((), dtype=Xt.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [w, b],
        max_iter=s.max_iter,
        max_eval=2 * s.max_iter,
        tolerance_grad=s.tol,
        tolerance_change=0.0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(Xt @ w + b, yt)
        loss = loss + s.alpha / 2 * (w @ w)
        loss.backward()
        return loss

    optimizer.step(closure)
    return Solution.of(w.detach(), b.detach())


# scikit-learn and packages of its kind


def inverse_strength(X: np.ndarray, s: Settings) -> float:
    """C of scikit-learn."""
    return 1 / (s.alpha * len(X)) if s.alpha else np.inf


def logistic_regression(
    solver: str, X: np.ndarray, y: np.ndarray, s: Settings
) -> Solution:
    clf = LogisticRegression(
        C=inverse_strength(X, s), solver=solver, tol=s.tol, max_iter=s.max_iter
    )
    if s.l1_ratio:
        clf.set_params(l1_ratio=s.l1_ratio)
        if clf.penalty == "l2":  # scikit-learn < 1.8
            clf.set_params(penalty="elasticnet")
    clf.fit(X, y)
    return Solution.of(clf.coef_, clf.intercept_)


def sgd_classifier(X: np.ndarray, y: np.ndarray, s: Settings) -> Solution:
    """Row by row, from the same start.

    Steps that are so many times smaller lead to where those of the mini-batches lead.
    """
    start = solution_of(linear(X.shape[1]))
    clf = SGDClassifier(
        loss="log_loss",
        penalty=None,
        learning_rate="constant",
        eta0=s.lr / s.batch_size,
        max_iter=s.epochs,
        tol=None,
        shuffle=s.shuffle,
        random_state=SEED,
    ).fit(X, y, coef_init=start.coef, intercept_init=[start.intercept])
    return Solution.of(clf.coef_, clf.intercept_)


def intelex(X: np.ndarray, y: np.ndarray, s: Settings) -> Solution:
    """Its other solvers fall back to scikit-learn's on a CPU."""
    from sklearnex.linear_model import LogisticRegression as Accelerated

    clf = Accelerated(
        C=inverse_strength(X, s),
        solver="lbfgs",
        tol=s.tol,
        max_iter=s.max_iter,
        n_jobs=torch.get_num_threads(),
    ).fit(X, y)
    return Solution.of(clf.coef_, clf.intercept_)


def glum_irls(solver: str, X: np.ndarray, y: np.ndarray, s: Settings) -> Solution:
    from glum import GeneralizedLinearRegressor

    model = GeneralizedLinearRegressor(
        family="binomial",
        alpha=s.alpha,
        l1_ratio=s.l1_ratio,
        solver=solver,
        gradient_tol=s.tol,
        max_iter=s.max_iter,
        copy_X=False,
    ).fit(X, y.astype(X.dtype))
    return Solution.of(model.coef_, model.intercept_)


def skglm_net(X: np.ndarray, y: np.ndarray, s: Settings) -> Solution:
    from skglm import SparseLogisticRegression

    model = SparseLogisticRegression(
        alpha=s.alpha, l1_ratio=s.l1_ratio, tol=s.tol, max_iter=s.max_iter
    ).fit(X, y)
    return Solution.of(model.coef_, model.intercept_)


class Peer:
    """A contender and the package that it needs."""

    def __init__(self, fit: Fit, package: str = "torch") -> None:
        self.fit = fit
        self.package = package

    @property
    def available(self) -> bool:
        return find_spec(self.package) is not None

    def __call__(self, X: np.ndarray, y: np.ndarray, settings: Settings) -> Solution:
        with warnings.catch_warnings():
            # Whether a fit got where it should is checked, not taken from warnings.
            warnings.simplefilter("ignore")
            return self.fit(X, y, settings)


PEERS = {
    "torchlogistic sgd": Peer(partial(ours, "sgd")),
    "torchlogistic lbfgs": Peer(partial(ours, "lbfgs")),
    "torchlogistic newton": Peer(partial(ours, "newton")),
    "DataLoader loop": Peer(loader_loop),
    "slicing loop": Peer(slicing_loop),
    "skorch": Peer(skorch_net, "skorch"),
    "torch.optim.LBFGS": Peer(torch_lbfgs),
    "LogisticRegression lbfgs": Peer(partial(logistic_regression, "lbfgs")),
    "LogisticRegression newton-cholesky": Peer(
        partial(logistic_regression, "newton-cholesky")
    ),
    "LogisticRegression saga": Peer(partial(logistic_regression, "saga")),
    "SGDClassifier": Peer(sgd_classifier),
    "scikit-learn-intelex lbfgs": Peer(intelex, "sklearnex"),
    "glum irls-ls": Peer(partial(glum_irls, "irls-ls"), "glum"),
    "glum irls-cd": Peer(partial(glum_irls, "irls-cd"), "glum"),
    "skglm": Peer(skglm_net, "skglm"),
}


def present(names: list[str]) -> list[str]:
    """Of some contenders those whose package is installed; notes of the others."""
    for name in names:
        if not PEERS[name].available:
            package = PEERS[name].package
            print(f"{name}: skipped, {package} is not installed", file=sys.stderr)
    return [name for name in names if PEERS[name].available]
