"""What runs on a device: torch's arithmetic, nothing read back inside an epoch.

Without a device. The fixture ``as_on_a_device`` lets torch compute what NumPy computes
on the CPU otherwise, the whole path of a device but for its kernels. Tensors of torch's
"meta" device have no values: what would wait for a device to read one fails on them.
"""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchlogistic import TorchLogisticClassifier, _arrays, _batches
from torchlogistic._batches import Batches
from torchlogistic._loss import make_loss
from torchlogistic._minibatch import MiniBatch
from torchlogistic._objective import Objective, allocate_coefficients
from torchlogistic._rows import Rows
from torchlogistic._steps import make_optimizer
from torchlogistic._stream import RandomStream
from torchlogistic._threads import Team

RULES = {
    "sgd": (SGD, {}),
    "momentum": (SGD, {"momentum": 0.9, "dampening": 0.1}),
    "nesterov": (SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "adam": (Adam, {"weight_decay": 0.1}),
    "amsgrad": (Adam, {"amsgrad": True}),
    "adamw": (AdamW, {"maximize": True}),
    "rmsprop": (RMSprop, {"centered": True, "momentum": 0.5}),
    "adagrad": (Adagrad, {"lr_decay": 0.1}),
}
every_rule = pytest.mark.parametrize(
    ("cls", "arguments"), RULES.values(), ids=RULES.keys()
)
both_losses = pytest.mark.parametrize("n_classes", [2, 3])


class OneDevice(TorchDispatchMode):
    """Fails on operations with tensors of two devices, which "meta" lets pass.

    A number is no tensor, and copies are what brings the order of rows to the device.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [
            t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)
        ]
        devices = {t.device for t in tensors if t.dim()}
        assert len(devices) < 2 or "copy" in func.name(), func
        return func(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_device(monkeypatch):
    monkeypatch.setattr(_arrays, "for_numpy", lambda tensor: False)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of three batches of ten rows with four float64 features."""
    monkeypatch.setitem(_batches.CHUNK_BYTES, "cpu", 3 * 10 * 4 * 8)


def make_rows(n_classes=2, *, weighted=True, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(75, 4, dtype=dtype, generator=generator)
    labels = torch.randint(n_classes, (75,), generator=generator)
    y = make_loss(n_classes).targets(labels, dtype)
    weight = torch.rand(75, dtype=dtype, generator=generator) if weighted else None
    return Rows(X, y, weight)


def make_solver(rows, cls=SGD, arguments=None, *, shuffle=True, **penalty):
    n_classes = 2 if rows.y.dim() == 1 else rows.y.shape[1]
    loss = make_loss(n_classes)
    coef = allocate_coefficients(rows, loss.n_outputs, fit_intercept=True)
    parameters = [torch.nn.Parameter(p) for p in coef.as_linear(coef.values)]
    optimizer = make_optimizer(cls, parameters, lr=0.05, **(arguments or {}))
    batches = Batches(
        rows,
        batch_size=10,
        shuffle=shuffle,
        stream=RandomStream(0),
        fit_intercept=True,
        validation=False,
        team=Team(1),
    )
    return MiniBatch(Objective(loss, **penalty), batches, coef, optimizer, Team(1))


def on_meta(rows):
    tensors = (rows.X, rows.y, rows.weight)
    return Rows(*(None if t is None else t.to("meta") for t in tensors))


@torch.no_grad()
@every_rule
@both_losses
@pytest.mark.parametrize(
    ("shuffle", "shared"), [(True, False), (True, True), (False, False)]
)
def test_an_epoch_reads_nothing_back(cls, arguments, n_classes, shuffle, shared):
    rows = on_meta(make_rows(n_classes))
    run = make_solver(rows, cls, arguments, shuffle=shuffle, alpha=0.1, l1_ratio=0.5)
    if shared:
        run.shared, run.step.make_gradient = True, run._share_gradient
    with OneDevice():
        for _ in range(3):
            run.epoch()
    with pytest.raises(RuntimeError, match="meta"):
        run.loss  # noqa: B018


@torch.no_grad()
def test_torch_step_reads_nothing_back():
    run = make_solver(on_meta(make_rows()), torch.optim.Adamax)
    run.epoch()
    run.epoch()


@torch.no_grad()
@every_rule
@both_losses
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("weighted", [True, False])
def test_epochs_equal_those_of_numpy(cls, arguments, n_classes, weighted, request):
    rows = make_rows(n_classes, weighted=weighted)

    def epochs(run):
        for _ in range(3):
            run.epoch()
            yield run.coef.values.clone(), run.loss

    run = make_solver(rows, cls, arguments, alpha=0.1, l1_ratio=0.5)
    expected = list(epochs(run))
    request.getfixturevalue("as_on_a_device")
    run = make_solver(rows, cls, arguments, alpha=0.1, l1_ratio=0.5)
    assert isinstance(run.batches.rooms[0].full.span.X, torch.Tensor)
    for found, wanted in zip(epochs(run), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


SETTINGS = {
    "all rows at once": {"batch_size": None},
    "large batches": {"batch_size": 100},
    "in order": {"shuffle": False},
    "no intercept": {"fit_intercept": False},
    "adam l1": {"optimizer": "adam", "alpha": 0.01, "l1_ratio": 0.7},
    "adamax": {"optimizer": torch.optim.Adamax},
    "lbfgs": {"optimizer": "lbfgs"},
    "lbfgs l1": {"optimizer": "lbfgs", "l1_ratio": 0.7},
    "newton": {"optimizer": "newton"},
    "newton l1": {"optimizer": "newton", "l1_ratio": 0.7},
    "weights": {"class_weight": "balanced", "optimizer": "newton"},
    "early stopping": {"early_stopping": True},
}


@both_losses
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_fits_equal_those_of_numpy(settings, n_classes, request, monkeypatch):
    X, y = make_classification(
        300, 5, n_informative=4, n_redundant=0, n_classes=n_classes, random_state=0
    )
    if settings.get("batch_size") == 100:
        monkeypatch.setitem(_batches.CHUNK_BYTES, "cpu", 1)
        monkeypatch.setitem(_batches.SHARED_BYTES, "cpu", 1)
    given = {"alpha": 0.01, "epochs": 50, "random_state": 0, **settings}
    clf = TorchLogisticClassifier(device="cpu", tol=1e-6, **given)
    expected = clf.fit(X, y)
    coef, losses = expected.coef_, expected.loss_curve_
    request.getfixturevalue("as_on_a_device")
    clf.fit(X, y)
    np.testing.assert_allclose(clf.coef_, coef, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(clf.loss_curve_, losses, rtol=1e-9)


def test_out_of_memory_says_what_to_do(monkeypatch):
    X, y = make_classification(60, 4, random_state=0)
    clf = TorchLogisticClassifier(device="cpu", random_state=0).fit(X, y)
    before = dict(vars(clf))

    def exhausted(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(MiniBatch, "epoch", exhausted)
    message = r"ran out of memory.*60 x 4 of float64: use a smaller batch_size, dtype="
    with pytest.raises(torch.OutOfMemoryError, match=message):
        clf.fit(X, y)
    assert vars(clf) == before
