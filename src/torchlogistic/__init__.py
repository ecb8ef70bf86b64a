"""Logistic regression in torch behind the scikit-learn interface."""

from importlib.metadata import version

from ._classifier import TorchLogisticClassifier

__version__ = version("torchlogistic")

__all__ = ["TorchLogisticClassifier", "__version__"]
