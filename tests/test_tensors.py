"""Tensors on an accelerator: trained on where they are, to the same bits.

The accelerator is the CPU here, taken for one. Whatever would bring its rows to the
host fails.
"""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.utils import assert_all_finite

from torchlogistic import TorchLogisticClassifier, _arrays, _tensors, _validation
from torchlogistic._loss import make_loss
from torchlogistic._solvers import SOLVERS
from torchlogistic._tensors import is_on, labels_stay, rows_stay, take
from torchlogistic._weighting import Weighting

CPU = torch.device("cpu")
WEIGHT = np.arange(120) % 4  # some are zero


def make_data(n_classes=2, dtype=np.float64):
    X, y = make_classification(
        120, 6, n_informative=4, n_classes=n_classes, random_state=0
    )
    return X.astype(dtype), y


def make(**params):
    settings = {"epochs": 8, "random_state": 0, "device": "cpu", "tol": 0.1}
    settings.update(alpha=0.01, lr=0.05)
    return TorchLogisticClassifier(**{**settings, **params})


@pytest.fixture
def there(monkeypatch):
    """Put tensors on the CPU on an accelerator, which rows do not leave."""
    monkeypatch.setattr(_tensors, "is_accelerator", lambda device: True)
    to_host = _tensors.to_host

    def fail(values):
        assert not isinstance(values, torch.Tensor) or not len(values), "to the host"
        return to_host(values)

    monkeypatch.setattr(_validation, "to_host", fail)


def assert_same(found, expected):
    for name in ("coef_", "intercept_", "classes_"):
        one, other = getattr(found, name), getattr(expected, name)
        np.testing.assert_array_equal(one, other, strict=True)
    assert found.n_features_in_ == expected.n_features_in_
    for name in ("loss_curve_", "validation_loss_curve_"):
        assert getattr(found, name, None) == getattr(expected, name, None)


def tensors(*arrays):
    return [None if a is None else torch.from_numpy(a.copy()) for a in arrays]


@pytest.mark.usefixtures("there")
class TestRowsStay:
    @pytest.mark.parametrize("optimizer", SOLVERS)
    @pytest.mark.parametrize("n_classes", [2, 3])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_same_bits(self, optimizer, n_classes, dtype):
        X, y = make_data(n_classes, dtype)
        clf = make(optimizer=optimizer)
        assert_same(clone(clf).fit(*tensors(X, y)), clf.fit(X, y))

    @pytest.mark.parametrize(
        "params",
        [
            {"class_weight": "balanced"},
            {"class_weight": {0: 0.0, 1: 1.0, 2: 2.0}},
            {"early_stopping": True, "tol": 1e-4},
            {"dtype": "float32"},
            {"dtype": "float64"},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
    def test_parameters(self, params, weight):
        X, y = make_data(3)
        clf = make(**params)
        found = clone(clf).fit(*tensors(X, y), weight)
        assert_same(found, clf.fit(X, y, weight))

    @pytest.mark.parametrize(
        "change",
        [
            lambda X, y: (X.requires_grad_() * 1, y.double().requires_grad_()),
            lambda X, y: (X.T.contiguous().T, y > 0),
            lambda X, y: ((10 * X).int(), y.to(torch.int8)),
            lambda X, y: (X.half(), y.float()),
            lambda X, y: (X.bfloat16(), y),
            lambda X, y: (X[::2, :3], y[::2]),
        ],
        ids=["gradient", "transposed", "integers", "half", "bfloat16", "strided"],
    )
    def test_forms(self, change):
        X, y = change(*tensors(*make_data()))
        plain = X.detach().double().contiguous()
        dtype = "float32" if X.dtype == torch.bfloat16 else "float64"
        expected = make(dtype=dtype).fit(plain.numpy(), y.detach().numpy())
        assert_same(make().fit(X, y), expected)

    def test_validation_rows_and_labels_of_the_host(self):
        X, y = make_data()
        rows = [X[:80], y[:80]], {"X_val": X[80:], "y_val": y[80:]}
        expected = make().fit(*rows[0], **rows[1])
        found = make().fit(
            torch.from_numpy(X[:80]),
            y[:80],
            X_val=torch.from_numpy(X[80:]),
            y_val=y[80:].tolist(),
        )
        assert_same(found, expected)

    def test_in_parts(self):
        X, y = make_data(3)
        models = []
        for form in (tensors, lambda *arrays: arrays):
            clf = make()
            for part in (slice(0, 50), slice(50, 120)):
                clf.partial_fit(*form(X[part], y[part]), classes=np.arange(4))
            models.append(clf)
        assert_same(*models)

    def test_rows_are_not_written(self):
        X, y = tensors(*make_data(dtype=np.float32))
        before = X.clone(), y.clone()
        for optimizer in SOLVERS:
            make(optimizer=optimizer).fit(X, y)
        assert X.equal(before[0])
        assert y.equal(before[1])

    def test_rows_are_not_copied(self):
        X, y = tensors(*make_data())
        clf = make()
        rows = _validation.check_training_rows(
            clf, X, y, None, [np.float64], device=CPU
        )
        assert rows.X.data_ptr() == X.data_ptr()
        assert rows.y.data_ptr() == y.data_ptr()
        encoded = rows.encoded(np.arange(2))
        ready = _validation.to_rows(encoded, Weighting(), make_loss(2), CPU)
        assert ready.X.data_ptr() == X.data_ptr()


@pytest.mark.usefixtures("there")
class TestBadRows:
    """What scikit-learn says of arrays, of tensors that it does not see."""

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_not_finite(self, value, dtype):
        X, y = make_data(dtype=dtype)
        X[7, 3] = value
        with pytest.raises(ValueError, match=r"(?s)^Input X contains") as there:
            make().fit(*tensors(X, y))
        with pytest.raises(ValueError, match=r"(?s)^Input X contains") as here:
            make().fit(X, y)
        assert str(there.value) == str(here.value)

    def test_both_kinds_as_scikit_learn_says(self):
        X, y = make_data()
        X[7, 3], X[2, 1] = np.nan, np.inf
        with pytest.raises(ValueError, match="Input X contains NaN"):
            assert_all_finite(X, input_name="X")
        with pytest.raises(ValueError, match="Input X contains NaN"):
            make().fit(*tensors(X, y))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda X, y: (X, y[:-1]), "inconsistent numbers of samples"),
            (lambda X, y: (X[:0], y[:0]), "0 sample"),
            (lambda X, y: (X[:, :0], y), "0 feature"),
            (lambda X, y: (X, y + 0.5), "Unknown label type: continuous"),
            (lambda X, y: (X, y * torch.nan), "Input y contains NaN"),
            (lambda X, y: (X, y * 0), "contains only one class: 0"),
        ],
        ids=["lengths", "no rows", "no features", "numbers", "NaN", "one class"],
    )
    def test_message(self, change, message):
        with pytest.raises(ValueError, match=message):
            make().fit(*change(*tensors(*make_data())))

    @pytest.mark.parametrize("n_rows", [2, 120])  # two could be taken for X and y
    def test_no_labels(self, n_rows):
        X, _ = tensors(*make_data())
        with pytest.raises(ValueError, match="requires y to be passed"):
            make().fit(X[:n_rows], None)

    def test_other_features_than_before(self):
        X, y = tensors(*make_data())
        clf = make().partial_fit(X, y, classes=[0, 1])
        with pytest.raises(ValueError, match=r"^X has 3 features"):
            clf.partial_fit(X[:, :3], y)
        with pytest.raises(ValueError, match=r"y has labels \[2\]"):
            clf.partial_fit(X, y * 2)
        with pytest.raises(ValueError, match="X_val: X has 3 features"):
            clf.fit(X, y, X_val=X[:, :3], y_val=y.tolist())


class TestWhatStays:
    DTYPES = (np.float64, np.float32)

    @pytest.fixture(autouse=True)
    def _everything_is_there(self, monkeypatch):
        monkeypatch.setattr(_tensors, "is_accelerator", lambda device: True)

    def stays(self, X, device=CPU):
        return rows_stay(X, device, list(self.DTYPES))

    def test_rows(self):
        X = torch.ones(4, 3)
        for form in (X, X.double(), X.half(), X.bfloat16(), X.int(), X[::2], X.T):
            assert self.stays(form)
        for form in (X.numpy(), X[0], X.to_sparse(), X * 1j, X.tolist()):
            assert not self.stays(form)

    def test_only_from_accelerator_to_accelerator(self, monkeypatch):
        X, meta = torch.ones(4, 3), torch.device("meta")
        for there in (CPU, meta):
            monkeypatch.setattr(_tensors, "is_accelerator", there.__eq__)
            assert not self.stays(X, meta)
            assert not self.stays(X.to(meta), CPU)

    def test_rows_that_need_a_copy_need_room(self, monkeypatch):
        asked = []

        def no_room(device, n_bytes):
            asked.append(n_bytes)
            return False

        monkeypatch.setattr(_tensors, "fits", no_room)
        X = torch.ones(4, 3)
        assert self.stays(X)
        assert not self.stays(X.half())
        assert not self.stays(X.T)
        assert asked == [4 * 3 * 8, 4 * 3 * 4]
        index = np.array([2, 0])
        X[2] = 5.0
        found = take(X, index)
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found, X.numpy()[index])
        assert asked[2:] == [2 * 3 * 4]

    def test_a_fit_without_room(self, monkeypatch):
        monkeypatch.setattr(_arrays, "for_numpy", lambda tensor: False)
        X, y = make_data()
        expected = make(early_stopping=True).fit(X, y, WEIGHT)
        for module in (_tensors, _validation):
            monkeypatch.setattr(module, "fits", lambda device, n_bytes: False)
        assert_same(make(early_stopping=True).fit(*tensors(X, y), WEIGHT), expected)

    def test_rows_that_are_there_stay_there(self, monkeypatch):
        """Without room for them elsewhere, and for what is computed of them: an error
        of the device says what would take less."""
        monkeypatch.setattr(_validation, "fits", lambda device, n_bytes: False)
        rows = _validation.Encoded(torch.ones(4, 3), np.array([0, 1, 0, 1]))
        ready = _validation.to_rows(rows, Weighting(), make_loss(2), CPU)
        assert ready.transfer is None
        assert ready.X is rows.X
        rows = _validation.Encoded(np.ones((4, 3)), rows.y)
        ready = _validation.to_rows(rows, Weighting(), make_loss(2), CPU)
        assert ready.transfer is not None

    def test_labels_that_need_room(self, monkeypatch):
        X, y = torch.ones(4, 3), torch.arange(4)
        monkeypatch.setattr(_tensors, "fits", lambda device, n_bytes: n_bytes < 100)
        assert labels_stay(y[:3], X)
        assert not labels_stay(y, X)

    def test_auto_is_the_device_of_the_rows(self, monkeypatch):
        monkeypatch.setattr(_validation, "is_accelerator", torch.device("meta").__eq__)
        device = _validation.check_device("auto", torch.ones(2, device="meta"))
        assert device == torch.device("meta")
        assert _validation.check_device("cpu", torch.ones(2, device="meta")) == CPU
        present = _validation.check_device("auto")
        assert _validation.check_device("auto", torch.ones(2)) == present

    def test_labels(self):
        X, y = torch.ones(4, 3), torch.arange(4)
        for form in (y, y > 1, y.byte(), y.float(), y.double()):
            assert labels_stay(form, X)
        for form in (y.numpy(), y[:, None], y.half(), y * 1j, y.to("meta"), [0, 1]):
            assert not labels_stay(form, X)

    def test_where_rows_are(self):
        assert not is_on(np.ones(2), CPU)
        assert is_on(torch.ones(2), CPU)
        assert not is_on(torch.ones(2), torch.device("meta"))
        assert is_on(torch.ones(2, device="meta"), torch.device("meta"))


def test_the_index_goes_where_the_rows_are():
    """A device has rows without values here, which an index on the host cannot take."""
    found = take(torch.ones(4, 3, device="meta"), np.array([2, 0]))
    assert found.shape == (2, 3)
    assert found.is_meta


def test_tensors_on_the_host_are_arrays():
    X, y = make_data()
    assert not rows_stay(torch.from_numpy(X), torch.device("cuda"), [np.float64])
    assert not rows_stay(torch.from_numpy(X), CPU, [np.float64])
    assert_same(make().fit(*tensors(X, y)), make().fit(X, y))
