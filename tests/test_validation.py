"""From what users pass to what the solvers take."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs

from torchlogistic import TorchLogisticClassifier, _validation
from torchlogistic._loss import make_loss
from torchlogistic._validation import check_batch_size
from torchlogistic._weighting import Weighting


@pytest.mark.parametrize(
    ("n_rows", "expected"),
    [
        (3, 3),
        (10, 10),
        (20, 16),
        (8000, 16),
        (15_999, 16),
        (16_000, 32),
        (100_000, 128),
        (5_000_000, 8192),
    ],
)
def test_automatic_batch_size(n_rows, expected):
    """The power of two below n / 500, between 16 and 8192, and at most n."""
    assert check_batch_size("auto", n_rows) == expected


@pytest.mark.parametrize(
    ("batch_size", "expected"), [(None, 50), (1, 1), (50, 50), (51, 50)]
)
def test_given_batch_size(batch_size, expected):
    assert check_batch_size(batch_size, 50) == expected


# Numbers whose order as strings is another one.
X, Y = make_blobs(60, centers=3, random_state=0)
Y = np.array([3, 12, 20])[Y]


def make(**params):
    settings = {"epochs": 2, "random_state": 0, "device": "cpu"}
    return TorchLogisticClassifier(**{**settings, **params})


class TestLabelsOfAnotherType:
    @pytest.mark.parametrize(
        ("y", "y_val", "types"),
        [
            (Y, Y.astype(str), ("str", "int")),
            (Y, Y.astype(str).astype(object), ("str", "int")),
            (Y.astype(str), Y, ("int", "str")),
            (Y.astype(str), Y.astype(float), ("float", "str")),
            (Y.astype(str), Y.astype("S"), ("bytes", "str")),
        ],
        ids=["str, int", "object, int", "int, str", "float, str", "bytes, str"],
    )
    def test_validation_rows(self, y, y_val, types):
        message = "y_val has labels of type {}, y of type {}: convert".format(*types)
        with pytest.raises(ValueError, match=message):
            make().fit(X, y, X_val=X, y_val=y_val)

    def test_partial_fit(self):
        message = "y has labels of type str, classes of type int: convert"
        clf = make()
        with pytest.raises(ValueError, match=message):
            clf.partial_fit(X, Y.astype(str), classes=np.arange(30))
        clf.partial_fit(X, Y, classes=np.arange(30))
        with pytest.raises(ValueError, match=message):
            clf.partial_fit(X, Y.astype(str))

    @pytest.mark.parametrize(
        ("y", "y_val"),
        [
            (Y, Y.astype(float)),
            (Y, Y.astype(np.uint8)),
            (Y.astype(str), Y.astype(str).astype(object)),
            (Y > 3, (Y > 3).astype(int)),
        ],
        ids=["int, float", "int, uint8", "str, object", "bool, int"],
    )
    def test_equal_labels_are_known(self, y, y_val):
        clf = make().fit(X, y, X_val=X, y_val=y_val)
        expected = make().fit(X, y, X_val=X, y_val=y)
        assert clf.validation_loss_curve_ == expected.validation_loss_curve_


class TestWeightsOfValidationRows:
    """The message names the argument that is wrong."""

    @pytest.mark.parametrize(
        ("weight", "message"),
        [
            (np.zeros(60), "^sample_weight_val.*at least one non-zero number"),
            (np.ones(50), r"^sample_weight_val: .*\(50,\), expected \(60,\)"),
            (np.ones((60, 2)), "^sample_weight_val: .*1D array or scalar"),
            (np.full(60, np.nan), "^sample_weight_val: .*contains NaN"),
            (-np.ones(60), "^sample_weight_val must not be negative"),
        ],
        ids=["zero", "too few", "two columns", "NaN", "negative"],
    )
    def test_message(self, weight, message):
        with pytest.raises(ValueError, match=message):
            make().fit(X, Y, X_val=X, y_val=Y, sample_weight_val=weight)


@pytest.mark.parametrize("weighting", [{"class_weight": "balanced"}, {}])
def test_weights_are_cast_before_they_move(weighting, monkeypatch):
    """Not every device has float64."""

    def to_device(array, device):
        tensor = torch.as_tensor(array)
        if device.type != "cpu" and tensor.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return tensor.to(device)

    monkeypatch.setattr(_validation, "to_device", to_device)
    y, loss, classes = (Y > 3).astype(np.uint8), make_loss(2), np.array([0, 1])
    weight = np.linspace(1, 2, len(y))
    rows = _validation.Encoded(X.astype(np.float32), y, weight)
    weights = Weighting.from_parameters(
        weighting.get("class_weight"), None, rows, classes, whole=True
    )
    moved = _validation.to_rows(rows, weights, loss, torch.device("meta"))
    assert moved.weight.dtype == torch.float32


class TestLargeArraysAreCheckedByAllThreads:
    @pytest.fixture(autouse=True)
    def _no_array_is_small(self, monkeypatch):
        monkeypatch.setattr(_validation, "SHARED_BYTES", 0)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("row", [0, 59])
    @pytest.mark.parametrize(
        ("value", "found"),
        [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")],
    )
    def test_what_is_not_finite_is_named(self, value, found, row, dtype):
        bad = X.astype(dtype)
        bad[row, 1] = value
        with pytest.raises(ValueError, match=f"Input X contains {found}"):
            make().fit(bad, Y)
        with pytest.raises(ValueError, match=f"Input X contains {found}"):
            make().fit(X.astype(dtype), Y).predict(bad)

    def test_finite_numbers_whose_sum_is_not_are_taken(self):
        large = np.full_like(X, 1e308)
        assert not _validation._is_finite(large, [np.float64])
        assert len(_validation.check_features(make(), large, [np.float64])) == len(X)

    def test_scikit_learn_is_spared_a_second_look(self, monkeypatch):
        seen = []
        monkeypatch.setattr(
            _validation, "validate_data", lambda *args, **kwargs: seen.append(kwargs)
        )
        for dtype in ([np.float64, np.float32], [np.float32]):
            _validation.check_features(make(), X, dtype)
        flags = [kwargs.get("ensure_all_finite", True) for kwargs in seen]
        assert flags == [False, True]  # what is converted may overflow
