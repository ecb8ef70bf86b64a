"""Warnings point to the line that called the package."""

import inspect

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch.callbacks import Checkpoint

from torchlogistic import BatchedGridSearchCV, TorchLogisticClassifier

X = np.random.default_rng(0).normal(size=(60, 2))
y = (X[:, 0] + np.random.default_rng(1).normal(size=60) > 0).astype(int)
SHORT = TorchLogisticClassifier(optimizer="lbfgs", epochs=1, device="cpu")
LONG_STEPS = TorchLogisticClassifier(lr=100.0, random_state=0, device="cpu")


def assert_points_here(fit, category):
    """Whether all warnings point to the line of ``fit``."""
    with pytest.warns(category) as caught:
        fit()
    where = __file__, inspect.getsourcelines(fit)[1]
    assert {(found.filename, found.lineno) for found in caught} == {where}


@pytest.mark.parametrize("clf", [SHORT, LONG_STEPS], ids=["short", "long steps"])
class TestFits:
    def test_fit(self, clf):
        assert_points_here(lambda: clf.fit(X, y), ConvergenceWarning)

    def test_pipeline(self, clf):
        model = make_pipeline(FunctionTransformer(), clf)
        assert_points_here(lambda: model.fit(X, y), ConvergenceWarning)

    @pytest.mark.parametrize("search", [GridSearchCV, BatchedGridSearchCV])
    def test_search(self, clf, search):
        model = make_pipeline(FunctionTransformer(), clf)
        grid = {"torchlogisticclassifier__alpha": [1e-5, 2e-5]}
        assert_points_here(
            lambda: search(model, grid, cv=3).fit(X, y), ConvergenceWarning
        )


def test_callback():
    """The warning of a Checkpoint comes out of a context manager."""
    checkpoint = Checkpoint(monitor=lambda net: False, load_best=True)
    clf = TorchLogisticClassifier(callbacks=[checkpoint], epochs=1, device="cpu")
    assert_points_here(lambda: clf.fit(X, y), UserWarning)
