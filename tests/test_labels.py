"""Which classes there are, and the number of each row's class."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from torchlogistic import TorchLogisticClassifier
from torchlogistic._labels import check_labels, encode, sorted_labels


@pytest.mark.parametrize(
    "labels",
    [
        np.array([1, 0, 1]),
        np.array([-128, 127, 0], dtype=np.int8),
        np.array([255, 3, 3], dtype=np.uint8),
        np.array([2**64 - 1, 2**64 - 3], dtype=np.uint64),
        np.array([-(2**63), -(2**63) + 2]),
        np.array([0, 10**9, 5]),
        np.array([True, False]),
        np.array(["b", "a", "b"]),
    ],
    ids=lambda labels: f"{labels.dtype} {labels[0]}",
)
def test_sorted_labels_are_those_of_numpy(labels):
    found = sorted_labels(labels)
    assert found.dtype == labels.dtype
    np.testing.assert_array_equal(found, np.unique(labels))


DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float32, torch.float64),
]


@pytest.mark.parametrize("n_classes", [2, 5])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_are_encoded_as_arrays(dtype, n_classes):
    labels = torch.randint(
        n_classes, (100,), generator=torch.Generator().manual_seed(0)
    )
    labels = (3 * labels + 1).to(dtype)
    if n_classes == 2:
        labels[::2] = 0
    classes = sorted_labels(labels)
    expected, codes = np.unique(labels.numpy(), return_inverse=True)
    np.testing.assert_array_equal(classes, expected, strict=True)
    for form in (labels, labels.numpy()):
        found = encode(form, classes)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, codes)


@pytest.mark.parametrize("form", [torch.tensor, np.array], ids=["tensor", "array"])
def test_codes_beyond_a_byte(form):
    labels = np.arange(300)[::-1].copy()
    for n, size in [(256, 1), (257, 8)]:
        found = encode(form(labels[-n:]), np.arange(n))
        assert found.itemsize == size
        np.testing.assert_array_equal(found, labels[-n:])


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.uint32, object])
def test_classes_of_another_type(dtype):
    """Those that a first partial_fit announced may be of other numbers than y."""
    classes = np.array([1, 2, 4]).astype(dtype)
    found = encode(torch.tensor([4, 1, 2], dtype=torch.int8), classes)
    np.testing.assert_array_equal(found, [2, 0, 1])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 1.0, np.nan], "Input y contains NaN"),
        ([0.0, np.inf], "Input y contains infinity"),
        ([0.5, 1.0], "Unknown label type: continuous"),
    ],
)
def test_tensors_that_are_no_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        check_labels(torch.tensor(labels))


def test_many_classes_of_few_rows_are_labels():
    check_labels(torch.arange(50.0))
    check_labels(torch.arange(50) > 3)


@pytest.mark.parametrize("n_classes", [2, 11, 12, 22])
@pytest.mark.parametrize("dtype", [int, float, str, object])
def test_what_could_be_a_regression_is_warned_of_where_scikit_learn_does(
    n_classes, dtype
):
    """Once, whichever labels."""
    y = (np.arange(22) % n_classes).astype(str if dtype is object else dtype)
    y = y.astype(dtype)
    found = []
    for clf in (LogisticRegression(), TorchLogisticClassifier(epochs=1)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            clf.fit(np.zeros((22, 1)), y)
        messages = [str(warning.message) for warning in caught]
        found.append(sum("regression problem" in message for message in messages))
    assert found[0] == found[1] == (n_classes > 11)
