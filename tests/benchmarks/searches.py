"""Searches of a pipeline with a scaler, each as its users would write it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import skorch
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from data import Data
from peers import SEED
from torchlogistic import BatchedGridSearchCV, TorchLogisticClassifier


@dataclass(frozen=True)
class Grid:
    """What is searched: all combinations, each on so many folds."""

    lr: tuple[float, ...]
    epochs: tuple[int, ...]
    alpha: tuple[float, ...]
    batch_size: int
    cv: int
    scoring: str

    def small(self) -> Grid:
        return replace(self, lr=self.lr[-2:], epochs=self.epochs[:2])


@dataclass(frozen=True)
class AlphaGrid:
    """A search for the strength of the penalty, in full batches."""

    optimizer: str
    l1_ratio: float
    alpha: tuple[float, ...] = tuple(np.logspace(-5, 0, 15))
    cv: int = 5
    scoring: str = "roc_auc"

    def small(self) -> AlphaGrid:
        return replace(self, alpha=self.alpha[-3:-1])


def breast_cancer() -> Data:
    X, y = load_breast_cancer(return_X_y=True)
    return X.astype(np.float32), y


def search(
    kind: Any,
    classifier: Any,
    X: np.ndarray,
    y: np.ndarray,
    g: Grid | AlphaGrid,
    **grid: Any,
) -> Any:
    pipeline = Pipeline([("scale", StandardScaler()), ("clf", classifier)])
    grid = {f"clf__{name}": list(values) for name, values in grid.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of programs with too few epochs
        return kind(pipeline, grid, scoring=g.scoring, cv=g.cv).fit(X, y)


def ours(kind: Any, X: np.ndarray, y: np.ndarray, g: Grid) -> Any:
    clf = TorchLogisticClassifier(
        batch_size=g.batch_size, random_state=SEED, device="cpu"
    )
    return search(kind, clf, X, y, g, lr=g.lr, epochs=g.epochs, alpha=g.alpha)


def sgd_classifier(X: np.ndarray, y: np.ndarray, g: Grid) -> Any:
    """Row by row, in steps that are so many times smaller."""
    clf = SGDClassifier(
        loss="log_loss", learning_rate="constant", tol=None, random_state=SEED
    )
    rates = [lr / g.batch_size for lr in g.lr]
    return search(
        GridSearchCV, clf, X, y, g, eta0=rates, max_iter=g.epochs, alpha=g.alpha
    )


def skorch_net(X: np.ndarray, y: np.ndarray, g: Grid) -> Any:
    torch.manual_seed(SEED)
    net = skorch.NeuralNetBinaryClassifier(
        nn.Sequential(nn.Linear(X.shape[1], 1), nn.Flatten(0)),
        batch_size=g.batch_size,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )
    y = y.astype(np.float32)
    decays = {"optimizer__weight_decay": g.alpha}
    return search(GridSearchCV, net, X, y, g, lr=g.lr, max_epochs=g.epochs, **decays)


def ours_in_full_batches(kind: Any, X: np.ndarray, y: np.ndarray, g: AlphaGrid) -> Any:
    clf = TorchLogisticClassifier(
        optimizer=g.optimizer, epochs=500, l1_ratio=g.l1_ratio, device="cpu"
    )
    return search(kind, clf, X, y, g, alpha=g.alpha)


def logistic_regression(X: np.ndarray, y: np.ndarray, g: AlphaGrid) -> Any:
    """With the solver of the same kind, or its only one for a part of L1."""
    solver = {"lbfgs": "lbfgs", "newton": "newton-cholesky"}[g.optimizer]
    clf = LogisticRegression(
        solver="saga" if g.l1_ratio else solver,
        l1_ratio=g.l1_ratio,
        max_iter=500,
        random_state=SEED,
    )
    n_rows = len(X) * (g.cv - 1) / g.cv  # of a fold
    strengths = [1 / (alpha * n_rows) for alpha in g.alpha]
    return search(GridSearchCV, clf, X, y, g, C=strengths)


BATCHED = "BatchedGridSearchCV"
SEARCHES = {
    BATCHED: partial(ours, BatchedGridSearchCV),
    "GridSearchCV, torchlogistic": partial(ours, GridSearchCV),
    "GridSearchCV, SGDClassifier": sgd_classifier,
    "GridSearchCV, skorch": skorch_net,
}

FULL_BATCH_SEARCHES = {
    BATCHED: partial(ours_in_full_batches, BatchedGridSearchCV),
    "GridSearchCV, torchlogistic": partial(ours_in_full_batches, GridSearchCV),
    "GridSearchCV, LogisticRegression": logistic_regression,
}
SLOW = {"GridSearchCV, skorch"}  # minutes


def scores_differ(own: Any, other: Any, name: str, tolerance: float) -> str:
    """Empty if a search found what the package's own found.

    The tolerance is for the best score of other programs: they draw other numbers.
    """
    ours, theirs = (s.cv_results_["mean_test_score"] for s in (own, other))
    if "torchlogistic" in name:
        # In float32 two rows of nearly the same logit may change places.
        same = np.allclose(ours, theirs, atol=1e-3)
        return "" if same else "other scores"
    excess = other.best_score_ - own.best_score_
    return "" if abs(excess) <= tolerance else f"best score differs by {excess:+.3f}"
