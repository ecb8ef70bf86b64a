"""A solver for benchopt's benchmark of l2 logistic regression.

Copied into ``solvers/`` of a clone of benchopt/benchmark_logreg_l2, it runs there:

    benchopt run . -d simulated -s torchlogistic -s sklearn

The objective there is ``sum log(1 + exp(-y x'w)) + lmbd / 2 ||w||^2``, without an
intercept and with labels of -1 and 1.
"""

import warnings

import numpy as np
from benchopt import BaseSolver
from scipy.sparse import issparse
from sklearn.exceptions import ConvergenceWarning

from torchlogistic import TorchLogisticClassifier


class Solver(BaseSolver):
    name = "torchlogistic"

    install_cmd = "conda"
    requirements = ["pip::torch", "pip::torchlogistic"]  # noqa: RUF012

    parameters = {"optimizer": ["lbfgs", "newton", "sgd"]}  # noqa: RUF012

    sampling_strategy = "iteration"

    def skip(self, X, y, lmbd, fit_intercept=False):  # which not every version has
        if issparse(X):
            return True, "torchlogistic takes dense X only"
        if fit_intercept:
            return True, "the solver is without an intercept"
        if self.optimizer == "newton" and X.shape[1] > 10_000:
            return True, "newton takes 10,000 features at most"
        return False, None

    def set_objective(self, X, y, lmbd, fit_intercept=False):
        self.X, self.y = X, y
        self.clf = TorchLogisticClassifier(
            optimizer=self.optimizer,
            momentum=0.9 * (self.optimizer == "sgd"),
            lr=0.02,
            alpha=lmbd / len(X),  # the mean of the losses here, their sum there
            fit_intercept=False,
            tol=0.0,
            random_state=0,
            device="cpu",
        )
        self.run(1)  # what torch loads on its first use is not timed

    def run(self, n_iter):
        if n_iter == 0:
            self.coef = np.zeros(self.X.shape[1])
            return
        with warnings.catch_warnings():
            # Few iterations are what is asked for.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.coef = self.clf.set_params(epochs=n_iter).fit(self.X, self.y).coef_[0]

    def get_result(self):
        return {"beta": self.coef}
