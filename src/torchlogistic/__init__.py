"""Logistic regression in torch behind the scikit-learn interface."""

from importlib.metadata import version

from ._classifier import TorchLogisticClassifier
from ._search import BatchedGridSearchCV, BatchedRandomizedSearchCV

__version__ = version("torchlogistic")

__all__ = [
    "BatchedGridSearchCV",
    "BatchedRandomizedSearchCV",
    "TorchLogisticClassifier",
    "__version__",
]
