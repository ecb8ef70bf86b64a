"""scikit-learn's estimator checks, over configurations of different code paths."""

import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.utils.estimator_checks import parametrize_with_checks

from torchlogistic import TorchLogisticClassifier

# With a random_state and full batches the order of the rows does not matter: weighting
# a row and repeating it must give the same model, and does.
FULL_BATCH = [
    # One of the checks has a class that a hundred steps of plain descent do not reach.
    TorchLogisticClassifier(batch_size=None, dtype="float64", epochs=1000),
    TorchLogisticClassifier(batch_size=None, dtype="float64", momentum=0.9),
    TorchLogisticClassifier(batch_size=None, dtype="float64", optimizer="adam"),
    TorchLogisticClassifier(optimizer="lbfgs", dtype="float64", epochs=1000),
    TorchLogisticClassifier(optimizer="newton", dtype="float64", alpha=1e-4),
]
MINI_BATCH = [
    TorchLogisticClassifier(),
    TorchLogisticClassifier(batch_size=7, optimizer="adam"),
    TorchLogisticClassifier(
        early_stopping=True, validation_fraction=0.3, momentum=0.9, tol=0
    ),
    TorchLogisticClassifier(
        alpha=0.01,
        l1_ratio=0.5,
        dtype="float32",
        shuffle=False,
        optimizer_params={"weight_decay": 1e-4},
    ),
]


def expected_failed_checks(estimator: TorchLogisticClassifier) -> dict[str, str]:
    if estimator in FULL_BATCH:
        return {}
    return {
        "check_sample_weight_equivalence_on_dense_data": (
            "a row repeated and a row weighted fall into different mini-batches"
        )
    }


checks = parametrize_with_checks(
    FULL_BATCH + MINI_BATCH, expected_failed_checks=expected_failed_checks
)
# scikit-learn < 1.9 passes a generator, of which pytest warns.
names, cases = checks.args


@pytest.mark.parametrize(names, list(cases), **checks.kwargs)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:.*estimator_checks_generator:UserWarning")
def test_estimator(estimator, check):
    check(estimator)


def test_multinomial_weight_equals_repetition():
    """The check that scikit-learn runs on two classes, on three."""
    X, y = make_classification(
        60, 4, n_informative=3, n_redundant=0, n_classes=3, random_state=0
    )
    weight = np.random.default_rng(0).integers(0, 4, size=len(y))
    clf = TorchLogisticClassifier(batch_size=None, dtype="float64", random_state=0)
    repeated = clf.fit(np.repeat(X, weight, axis=0), np.repeat(y, weight)).coef_
    weighted = clf.fit(X, y, sample_weight=weight).coef_
    np.testing.assert_allclose(weighted, repeated, rtol=1e-10)


@pytest.mark.parametrize(
    ("params", "n_failures"),
    [
        ("batch_size=None, dtype='float64', epochs=1000", 0),
        ("", 1),
        ("batch_size=7, optimizer='adam'", 1),
    ],
    ids=["full batch", "default", "adam"],
)
def test_checks_pass_with_scipy_array_api(params, n_failures):
    """SciPy reads SCIPY_ARRAY_API when it is imported: another process."""
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from sklearn.utils.estimator_checks import check_estimator\n"
        "from torchlogistic import TorchLogisticClassifier\n"
        f"clf = TorchLogisticClassifier({params})\n"
        "results = check_estimator(clf, on_skip=None, on_fail=None)\n"
        "passed = [r for r in results if r['status'] == 'passed']\n"
        "print(len(passed), 'passed')\n"
        "for r in results:\n"
        "    if r['status'] == 'failed':\n"
        "        print(r['check_name'])"
    )
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    passed, *failed = done.stdout.splitlines()
    assert int(passed.split()[0]) > 50
    # The one that is expected to fail in mini-batches.
    assert failed == ["check_sample_weight_equivalence_on_dense_data"] * n_failures
