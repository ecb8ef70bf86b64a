"""Data that several test files share."""

import os

import matplotlib
import pytest
import torch
from sklearn.datasets import make_moons
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

matplotlib.use("Agg")
if not torch.cuda.is_available():  # read when Triton is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Scripts that import one another and optional packages; test_benchmarks.py runs them.
collect_ignore = ["benchmarks"]


@pytest.fixture(autouse=True)
def on_the_cpu(request, monkeypatch):
    """Tests without the marker ``gpu`` compute on the CPU, whatever there is."""
    if torch.cuda.is_available() and not request.node.get_closest_marker("gpu"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


class Chapter:
    """The chapter's data: 80 rows to train on, 20 to validate, scaled."""

    def __init__(self):
        X, y = make_moons(n_samples=100, noise=0.3, random_state=0)
        X_train, X_val, self.y_train, self.y_val = train_test_split(
            X, y, test_size=0.2, random_state=13
        )
        self.raw_train, self.raw_val = X_train, X_val
        scaler = StandardScaler().fit(X_train)
        self.X_train, self.X_val = scaler.transform(X_train), scaler.transform(X_val)


@pytest.fixture(scope="session")
def chapter():
    return Chapter()
