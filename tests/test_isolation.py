"""A fit neither depends on torch's and NumPy's global settings nor changes them."""

# ruff: noqa: NPY002 (the legacy generators of NumPy are what is tested)

import os
import random
import sys
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification

from torchlogistic import BatchedGridSearchCV, TorchLogisticClassifier

# In float32 and large enough that a lower precision of products would show.
X, Y3 = make_classification(
    600,
    32,
    n_informative=8,
    n_classes=3,
    n_clusters_per_class=1,
    flip_y=0.3,
    random_state=0,
)
X = X.astype(np.float32)
Y2 = (Y3 > 0).astype(int)

CONFIGURATIONS = {
    "mini-batches": {"batch_size": 16},
    "all rows": {"batch_size": None, "momentum": 0.9},
    "adam": {"batch_size": 64, "optimizer": "adam"},
    "class": {"batch_size": 64, "optimizer": torch.optim.Adamax},
    "lbfgs": {"optimizer": "lbfgs", "alpha": 0.1, "epochs": 100},
    "newton": {"optimizer": "newton", "alpha": 0.1, "epochs": 100},
}
FULL_BATCH = ("lbfgs", "newton")
every_configuration = pytest.mark.parametrize(
    "params", CONFIGURATIONS.values(), ids=CONFIGURATIONS
)
both_losses = pytest.mark.parametrize("y", [Y2, Y3], ids=["binary", "multinomial"])


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The data are small; threads that wait for each other only cost time."""
    with number_of_threads(1):
        yield


def make(**params):
    defaults = {"epochs": 3, "random_state": 0, "device": "cpu"}
    return TorchLogisticClassifier(**{**defaults, **params})


def fit(params, y):
    """All that a fit gives, and a partial_fit after it."""
    held = {"X_val": X[:50], "y_val": y[:50]}
    clf = make(**params).fit(X, y, sample_weight=np.ones(len(y)), **held)
    curves = [clf.loss_curve_, clf.validation_loss_curve_]
    if params.get("optimizer") not in FULL_BATCH:
        clf.partial_fit(X, y)
    weight = clf.module_.state_dict()["linear.weight"].numpy()
    return [clf.coef_, clf.intercept_, curves, clf.predict_proba(X), weight]


def settings():
    """Everything global that a fit could change."""
    return {
        "torch generator": torch.get_rng_state().numpy().tobytes(),
        "NumPy generator": np.random.get_state()[1].tobytes(),
        "NumPy position": np.random.get_state()[2],
        "Python generator": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "autocast dtype": torch.get_autocast_dtype("cpu"),
        "autocast cache": torch.is_autocast_cache_enabled(),
        "threads": torch.get_num_threads(),
        "threads between operations": torch.get_num_interop_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "anomalies": torch.is_anomaly_enabled(),
        "matmul precision": legacy_precision(),
        "precision on the CPU": fp32_precision("mkldnn"),
        "precision on CUDA": fp32_precision("cuda"),
        "warning filters": list(warnings.filters),
        "floating point errors": np.geterr(),
        "environment": dict(os.environ),
        "recursion limit": sys.getrecursionlimit(),
    }


@contextmanager
def setting_of(get, set_, value):
    """Set something global and put it back, however the block ends."""
    before = get()
    set_(value)
    try:
        yield
    finally:
        set_(before)


def default_dtype(dtype):
    return setting_of(torch.get_default_dtype, torch.set_default_dtype, dtype)


def default_device(device):
    return setting_of(lambda: None, torch.set_default_device, device)


def number_of_threads(n):
    return setting_of(torch.get_num_threads, torch.set_num_threads, n)


def deterministic_algorithms():
    return setting_of(lambda: False, torch.use_deterministic_algorithms, True)


def matmul_precision(precision):
    return setting_of(
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
        precision,
    )


def backend_precision(backend, precision):
    """The newer way to set the precision, for one backend."""
    return setting_of(
        lambda: fp32_precision(backend),
        lambda value: setattr(
            getattr(torch.backends, backend).matmul, "fp32_precision", value
        ),
        precision,
    )


def fp32_precision(backend):
    return getattr(getattr(torch.backends, backend).matmul, "fp32_precision", None)


def legacy_precision():
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # torch's answer where backends differ
        return None


@contextmanager
def seeds(seed):
    state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state[0])
        np.random.set_state(state[1])
        random.setstate(state[2])


@contextmanager
def warning_filter(action):
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        yield


SETTINGS = {
    "nothing": lambda: number_of_threads(torch.get_num_threads()),
    "generators": lambda: seeds(7),
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype float16": lambda: default_dtype(torch.float16),
    "default device": lambda: default_device("meta"),
    "default device of a block": lambda: torch.device("meta"),
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "inference_mode": torch.inference_mode,
    "autocast bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast float16": lambda: torch.autocast("cpu", torch.float16),
    "two threads": lambda: number_of_threads(2),
    "deterministic algorithms": deterministic_algorithms,
    "matmul precision medium": lambda: matmul_precision("medium"),
    "matmul precision high": lambda: matmul_precision("high"),
    "anomaly detection": torch.autograd.detect_anomaly,
    "NumPy errors": lambda: np.errstate(all="raise"),
    "warnings as errors": lambda: warning_filter("error"),
    "warnings ignored": lambda: warning_filter("ignore"),
}

if fp32_precision("mkldnn") is not None:  # torch 2.9 and later
    SETTINGS["precision on the CPU"] = lambda: backend_precision("mkldnn", "bf16")
    SETTINGS["precision on CUDA"] = lambda: backend_precision("cuda", "tf32")


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
@every_configuration
@both_losses
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_neither_depends_on_settings_nor_changes_them(setting, y, params):
    expected = fit(params, y)
    with setting():
        before = settings()
        result = fit(params, y)
        after = settings()
    assert after == before
    for one, other in zip(result, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def search_results():
    grid = {"lr": [0.1, 0.3]}
    search = BatchedGridSearchCV(make(epochs=2), grid, scoring="neg_log_loss", cv=2)
    search.fit(X, Y3)
    return search.cv_results_["mean_test_score"], search.best_estimator_.coef_


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_nor_does_a_search(setting):
    expected = search_results()
    with setting():
        before = settings()
        results = search_results()
        after = settings()
    assert after == before
    for one, other in zip(results, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "failing",
    [{"lr": 1e30}, {"optimizer": "sdg"}, {"dtype": "float16"}],
    ids=["diverges", "refused late", "refused early"],
)
@pytest.mark.parametrize(
    "setting",
    ["default device", "inference_mode", "autocast bfloat16", "matmul precision high"],
)
def test_settings_after_a_failure(setting, failing):
    with SETTINGS[setting]():
        before = settings()
        with pytest.raises(ValueError, match=r"diverged|not known|Got 'float16'"):
            make(**failing).fit(X, Y2)
        assert settings() == before


def test_tensors_made_in_inference_mode():
    with torch.inference_mode():
        rows, labels = torch.from_numpy(X) * 1, torch.from_numpy(Y2) * 1
        clf = make().fit(rows, labels)
        proba = clf.predict_proba(rows)
    np.testing.assert_array_equal(clf.fit(rows, labels).predict_proba(rows), proba)
    # What a fit in inference mode leaves behind can be trained.
    module = clf.module_
    module(torch.from_numpy(X).to(module.linear.weight)).sum().backward()
    assert module.linear.weight.grad.isfinite().all()


def test_module_made_in_inference_mode_is_the_fitted_model():
    clf = make().fit(X, Y2)
    with torch.inference_mode():
        z = clf.module_(torch.from_numpy(X))[:, 0]
    np.testing.assert_allclose(z, clf.decision_function(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "params",
    [CONFIGURATIONS[name] for name in CONFIGURATIONS if name not in FULL_BATCH],
)
def test_fits_in_turn_do_not_disturb_each_other(params):
    """Two warm starts whose epochs alternate end where each ends alone."""
    params = {**params, "warm_start": True, "epochs": 1}
    alone = [make(**{**params, "epochs": 4, "random_state": s}) for s in (0, 1)]
    alone = [clf.fit(X, Y3).coef_ for clf in alone]
    pair = [make(**{**params, "random_state": s}) for s in (0, 1)]
    for _ in range(4):
        for clf in pair:
            clf.fit(X, Y3)
    for clf, expected in zip(pair, alone, strict=True):
        np.testing.assert_array_equal(clf.coef_, expected)


class TestRandomState:
    def test_none_draws_from_numpy_alone(self):
        with seeds(0):
            torch_state = torch.get_rng_state()
            one = make(random_state=None).fit(X, Y2).coef_
            other = make(random_state=None).fit(X, Y2).coef_
            assert torch.equal(torch.get_rng_state(), torch_state)
        with seeds(0):
            again = make(random_state=None).fit(X, Y2).coef_
        assert not np.array_equal(one, other)
        np.testing.assert_array_equal(one, again)

    def test_instance_is_advanced_by_each_fit(self):
        stream = np.random.RandomState(0)
        one, other = (make(random_state=stream).fit(X, Y2).coef_ for _ in range(2))
        assert not np.array_equal(one, other)
        stream = np.random.RandomState(0)
        np.testing.assert_array_equal(make(random_state=stream).fit(X, Y2).coef_, one)

    @pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, np.int64(3)])
    def test_seed_decides_everything(self, seed):
        one, other = (make(random_state=seed).fit(X, Y2).coef_ for _ in range(2))
        np.testing.assert_array_equal(one, other)
        assert not np.array_equal(one, make(random_state=1).fit(X, Y2).coef_)
