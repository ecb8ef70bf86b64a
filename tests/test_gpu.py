"""On a CUDA device: the same numbers as on the CPU, and no wait inside an epoch.

What can be tested without one is in test_device, test_graphs, test_transfer and
test_triton; the last runs its kernel here where there is a device.
"""

import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification

from torchlogistic import (
    BatchedGridSearchCV,
    TorchLogisticClassifier,
    _batches,
    _candidates,
    _gradient,
    _kernels,
    _minibatch,
    _tensors,
    _together,
    _validation,
)
from torchlogistic._batches import Batches
from torchlogistic._gradient import FullGradient
from torchlogistic._loss import make_loss
from torchlogistic._minibatch import MiniBatch
from torchlogistic._objective import Objective, allocate_coefficients
from torchlogistic._rows import Rows, view_block
from torchlogistic._solvers import SOLVERS
from torchlogistic._steps import make_optimizer
from torchlogistic._stream import RandomStream
from torchlogistic._threads import Team
from torchlogistic._transfer import Transfer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = torch.device("cuda")
HOST = torch.device("cpu")

every_optimizer = pytest.mark.parametrize("optimizer", SOLVERS)
every_rule = pytest.mark.parametrize(
    "optimizer", [name for name, solver in SOLVERS.items() if not solver.full_batch]
)
both_losses = pytest.mark.parametrize("n_classes", [2, 3])


def make_data(n_classes=2, n_rows=2000):
    return make_classification(
        n_rows, 8, n_informative=5, n_classes=n_classes, random_state=0
    )


def fit(data, device=DEVICE, **settings):
    settings = {"epochs": 30, "alpha": 0.01, "tol": 1e-5, "lr": 0.01, **settings}
    clf = TorchLogisticClassifier(device=device, random_state=0, **settings)
    return clf.fit(*data)


def assert_close(found, expected, rtol):
    np.testing.assert_allclose(found.coef_, expected.coef_, rtol=rtol, atol=rtol / 10)
    # In float32 a solver may need one iteration more.
    assert found.loss_curve_[-1] == pytest.approx(expected.loss_curve_[-1], rel=rtol)


@every_optimizer
@both_losses
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-8), ("float32", 5e-3)])
def test_equals_the_cpu(optimizer, n_classes, dtype, rtol):
    data = make_data(n_classes)
    settings = {"optimizer": optimizer, "dtype": dtype}
    if dtype == "float32":
        settings["tol"] = 1e-4
    assert_close(fit(data, **settings), fit(data, HOST, **settings), rtol)


@every_optimizer
@both_losses
def test_tensors_stay_on_the_device(optimizer, n_classes, monkeypatch):
    X, y = make_data(n_classes)
    expected = fit((X, y), optimizer=optimizer)
    to_host = _tensors.to_host

    def fail(values):
        assert not isinstance(values, torch.Tensor) or not len(values), "to the host"
        return to_host(values)

    for module in (_tensors, _validation):
        monkeypatch.setattr(module, "to_host", fail)
    there = torch.from_numpy(X).to(DEVICE), torch.from_numpy(y).to(DEVICE)
    found = fit(there, optimizer=optimizer)
    assert_close(found, expected, 1e-12)
    np.testing.assert_array_equal(found.classes_, expected.classes_, strict=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda X, y: (X, y > 0),
        lambda X, y: (X.half().double(), y.to(torch.uint8)),
        lambda X, y: (X.T.contiguous().T, y.double()),
        lambda X, y: ((10 * X).int(), y[:, None][:, 0]),
    ],
    ids=["bool", "uint8", "transposed", "integers"],
)
@pytest.mark.parametrize(
    "settings", [{}, {"early_stopping": True}, {"class_weight": {0: 0.0, 1: 1, 2: 2}}]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_forms_of_tensors_on_the_device(change, settings, weighted):
    X, y = change(*map(torch.from_numpy, make_data(3)))
    if y.dtype == torch.bool:
        settings = {k: v for k, v in settings.items() if k != "class_weight"}
    weight = np.arange(len(y)) % 4 if weighted else None
    expected = fit((X.numpy(), y.numpy(), weight), **settings)
    found = fit((X.to(DEVICE), y.to(DEVICE), weight), device="auto", **settings)
    assert_close(found, expected, 1e-9)
    assert found.device_ == "cuda:0"


def test_validation_rows_on_the_device():
    X, y = make_data()
    there = torch.from_numpy(X).to(DEVICE), torch.from_numpy(y).to(DEVICE)
    clf = TorchLogisticClassifier(device=DEVICE, random_state=0, epochs=3)
    expected = clf.fit(X, y, X_val=X[:50], y_val=y[:50]).validation_loss_curve_
    clf.fit(*there, X_val=there[0][:50], y_val=there[1][:50])
    np.testing.assert_allclose(clf.validation_loss_curve_, expected, rtol=1e-12)


@every_rule
@both_losses
@pytest.mark.parametrize("l1_ratio", [0.0, 0.5])
def test_graphs_equal_single_steps(optimizer, n_classes, l1_ratio, monkeypatch):
    data = make_data(n_classes)
    settings = {"optimizer": optimizer, "l1_ratio": l1_ratio, "batch_size": 64}
    graphed = fit(data, **settings)
    monkeypatch.setattr(_minibatch, "find_recorder", lambda device: None)
    assert_close(graphed, fit(data, **settings), 1e-12)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_graphs_of_each_device():
    data = make_data()
    grid = {"lr": [0.01, 0.1]}
    found = []
    for device in ("cuda:0", "cuda:1"):
        clf = fit(data, device, batch_size=64)
        search = BatchedGridSearchCV(clf, grid, cv=2).fit(*data)
        found.append((clf.coef_, search.best_estimator_.coef_))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@every_rule
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_kernel_of_batches(
    optimizer, shuffle, fit_intercept, class_weight, monkeypatch
):
    pytest.importorskip("triton", reason="needs Triton")
    settings = {"shuffle": shuffle, "fit_intercept": fit_intercept}
    settings |= {"class_weight": class_weight, "optimizer": optimizer, "epochs": 5}
    X, y = make_data()
    data = np.ascontiguousarray(X[:, :5]), y  # rows of an odd length
    find, found = _kernels.find_batch_kernel, []

    def note(block):
        found.append(find(block))
        return found[-1]

    monkeypatch.setattr(_kernels, "find_batch_kernel", note)
    by_kernel = fit(data, **settings)
    assert found
    assert None not in found
    monkeypatch.setattr(_kernels, "find_batch_kernel", lambda block: None)
    assert_close(by_kernel, fit(data, **settings), 1e-9)


@every_optimizer
@both_losses
@pytest.mark.parametrize("batch_size", [64, None])
def test_rows_that_pass_through(optimizer, n_classes, batch_size, monkeypatch):
    data = make_data(n_classes, n_rows=20_000)
    settings = {"optimizer": optimizer, "batch_size": batch_size, "epochs": 5}
    settings["tol"] = 0.1
    monkeypatch.setattr(_gradient, "STREAMED_BYTES", 3000 * 8 * 8)
    resident = fit(data, **settings)
    monkeypatch.setattr(_validation, "fits", lambda device, n_bytes: False)
    assert_close(fit(data, **settings), resident, 1e-9)


def make_rows(n_rows, n_features, dtype=torch.float32, device=DEVICE):
    X = torch.randn(n_rows, n_features, dtype=dtype, device=device)
    return Rows(X, (X[:, 0] > 0).to(dtype))


@torch.no_grad()
@pytest.mark.parametrize("n_features", [16, 100, 512])
def test_kernel_equals_products(n_features, monkeypatch):
    pytest.importorskip("triton", reason="needs Triton")
    rows = make_rows(200_000, n_features)
    results = []
    for kernel in (True, True, False):
        coef = allocate_coefficients(rows, 1, fit_intercept=True)
        coef.values.fill_(0.1)
        block = view_block(rows)
        if not kernel:
            monkeypatch.setattr(_gradient, "find_kernel", lambda block: None)
        else:
            assert _gradient.find_kernel(block) is not None
        loss = FullGradient(Objective(make_loss(2)), block, Team(1)).evaluate(coef)
        results.append((loss, coef.gradient))
    assert results[0][0] == results[1][0]
    assert results[0][1].equal(results[1][1])
    torch.testing.assert_close(results[0], results[2], rtol=1e-5, atol=1e-6)


@contextmanager
def no_waiting():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@torch.no_grad()
@every_rule
@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("batch_size", [64, 40_000])
def test_an_epoch_does_not_wait(optimizer, graphs, resident, batch_size, monkeypatch):
    monkeypatch.setitem(_batches.SHARED_BYTES, "cuda", 2**24)  # for the longer one
    if not graphs:
        monkeypatch.setattr(_minibatch, "find_recorder", lambda device: None)
    rows = make_rows(100_000, 128, device=DEVICE if resident else HOST)
    rows.transfer = None if resident else Transfer(DEVICE)
    coef = allocate_coefficients(rows, 1, fit_intercept=True)
    parameters = [torch.nn.Parameter(p) for p in coef.as_linear(coef.values)]
    batches = Batches(
        rows,
        batch_size=batch_size,
        shuffle=True,
        stream=RandomStream(0),
        fit_intercept=True,
        validation=False,
        team=Team(2),
        epochs=5,
    )
    cls = SOLVERS[optimizer].torch_class
    optimizer = make_optimizer(cls, parameters, lr=0.01)
    objective = Objective(make_loss(2), alpha=0.1, l1_ratio=0.5)
    run = MiniBatch(objective, batches, coef, optimizer, Team(1))
    for _ in range(3):  # kernels are built, graphs recorded
        run.epoch()
    with no_waiting():
        run.epoch()
    assert np.isfinite(run.loss)
    assert batches._drawn is not None
    run.stop()


@torch.no_grad()
@pytest.mark.parametrize("name", ["lbfgs", "newton"])
def test_full_batch_from_rows_on_the_device(name):
    rows = make_rows(50_000, 20, torch.float64)
    coef = allocate_coefficients(rows, 1, fit_intercept=True)
    objective = Objective(make_loss(2), alpha=1e-3)
    make = SOLVERS[name].full_batch
    solver = make(objective, view_block(rows), coef, tol=1e-8, team=Team())
    for _ in range(100):
        if solver.done:
            break
        solver.epoch()
    assert solver.converged


def search(data, device, **settings):
    clf = TorchLogisticClassifier(
        device=device, dtype="float64", random_state=0, batch_size=64, **settings
    )
    grid = {"lr": [0.01, 0.1], "alpha": [0.0, 0.01], "epochs": [1, 4]}
    return BatchedGridSearchCV(clf, grid, scoring="neg_log_loss", cv=3).fit(*data)


@every_rule
@both_losses
@pytest.mark.parametrize("early_stopping", [False, True])
def test_searches_equal_those_on_the_cpu(optimizer, n_classes, early_stopping):
    settings = {"optimizer": optimizer, "early_stopping": early_stopping}
    data = make_data(n_classes)
    found, expected = (search(data, device, **settings) for device in (DEVICE, HOST))
    scores = [each.cv_results_["mean_test_score"] for each in (found, expected)]
    np.testing.assert_allclose(*scores, rtol=1e-8)
    assert found.best_params_ == expected.best_params_
    assert found.best_estimator_.device_ == fit(data, epochs=1).device_


@pytest.mark.parametrize("reason", ["no graphs", "no memory"])
def test_searches_without_graphs_or_memory(reason, monkeypatch):
    data = make_data()
    expected = search(data, DEVICE)
    if reason == "no graphs":
        monkeypatch.setattr(_candidates, "find_recorder", lambda device: None)
    else:
        monkeypatch.setattr(_together, "fits", lambda device, n_bytes: False)
    scores = [
        s.cv_results_["mean_test_score"] for s in (search(data, DEVICE), expected)
    ]
    np.testing.assert_allclose(*scores, rtol=1e-9)
