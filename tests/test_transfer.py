"""Rows that pass through a device: the same bits as rows that are there.

The device is the CPU, with torch's arithmetic. Copies are not asynchronous there, so a
double spoils what a device may overwrite as soon as it may.
"""

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification
from skorch.callbacks import EpochScoring

from torchlogistic import (
    TorchLogisticClassifier,
    _arrays,
    _batches,
    _gradient,
    _hessian,
    _transfer,
    _validation,
)
from torchlogistic._batches import Batches
from torchlogistic._rows import Rows
from torchlogistic._stream import RandomStream
from torchlogistic._threads import Team
from torchlogistic._transfer import Slot, Transfer, fits

CPU = torch.device("cpu")


class Spoiling(Transfer):
    """Overwrites a slot's rows on the device when the next ones are asked for."""

    n_released = 0

    def release(self, slot):
        type(self).n_released += 1
        for tensor in slot.device:
            tensor.fill_(torch.nan)


@pytest.fixture(autouse=True)
def as_on_a_device(monkeypatch):
    monkeypatch.setattr(_arrays, "for_numpy", lambda tensor: False)
    monkeypatch.setitem(_batches.CHUNK_BYTES, "cpu", 3 * 16 * 5 * 8)
    monkeypatch.setattr(_gradient, "STREAMED_BYTES", 70 * 5 * 8)
    monkeypatch.setattr(_hessian, "DEVICE_HESSIAN_BYTES", 90 * 9 * 8)


def test_host_waits_before_it_writes():
    """The protocol: each slot is waited for, filled, sent, used and released."""
    log = []

    class Logged(Transfer):
        def wait(self, slot):
            log.append(("wait", slot.name))

        def send(self, slot, n_rows):
            log.append(("send", slot.name, n_rows))

        def release(self, slot):
            log.append(("release", slot.name))

    slots = [Slot([], []) for _ in range(2)]
    slots[0].name, slots[1].name = "ab"

    def fill(slot):
        log.append(("fill", slot.name))
        return 7

    for slot in Logged(CPU).run(slots, [fill] * 3):
        log.append(("use", slot.name))
    assert log == [
        step
        for n in "aba"
        for step in (
            ("wait", n),
            ("fill", n),
            ("send", n, 7),
            ("use", n),
            ("release", n),
        )
    ]


def make_batches(transfer, *, shuffle, batch_size, n_classes=2):
    X = torch.arange(100.0).view(-1, 1) * torch.ones(5)
    y = X[:, 0] if n_classes == 2 else X[:, :n_classes].contiguous()
    rows = Rows(X, y, X[:, 0] + 1, transfer)
    return Batches(
        rows,
        batch_size=batch_size,
        shuffle=shuffle,
        stream=RandomStream(0),
        fit_intercept=True,
        validation=False,
        team=Team(1),
    )


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [7, 16, 60])
def test_batches_are_the_same(batch_size, shuffle, n_classes):
    arguments = {"shuffle": shuffle, "batch_size": batch_size, "n_classes": n_classes}

    def visited(transfer):
        batches = make_batches(transfer, **arguments)
        for _ in range(2):
            for chunk, _ in batches:
                for block in chunk:
                    assert block.weight.flatten().equal(block.X[:, 0] + 1)
                    assert block.y.reshape(len(block), -1)[:, 0].equal(block.X[:, 0])
                    yield block.features.tolist()

    assert list(visited(Spoiling(CPU))) == list(visited(None))


SETTINGS = {
    "sgd": {"momentum": 0.9},
    "adam in order": {"optimizer": "adam", "shuffle": False},
    "torch's step": {"optimizer": torch.optim.Adamax},
    "all rows at once": {"batch_size": None},
    "large batches": {"batch_size": 200},
    "l1": {"l1_ratio": 0.5, "class_weight": "balanced"},
    "lbfgs": {"optimizer": "lbfgs"},
    "lbfgs l1": {"optimizer": "lbfgs", "l1_ratio": 0.5},
    "newton": {"optimizer": "newton", "class_weight": "balanced"},
    "newton, no intercept": {"optimizer": "newton", "fit_intercept": False},
    "early stopping": {"early_stopping": True},
    "scores": {"callbacks": [EpochScoring("accuracy", on_train=True)]},
}


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_fits_are_the_same(settings, n_classes, monkeypatch):
    X, y = make_classification(
        500, 5, n_informative=4, n_redundant=0, n_classes=n_classes, random_state=0
    )
    arguments = {"batch_size": 16, "epochs": 30, "alpha": 0.01, "tol": 2e-3, **settings}
    clf = TorchLogisticClassifier(device="cpu", random_state=0, **arguments).fit(X, y)
    coef, history = clf.coef_, clf.history_
    monkeypatch.setattr(_validation, "fits", lambda device, n_bytes: False)
    monkeypatch.setattr(_validation, "Transfer", Spoiling)
    monkeypatch.setattr(Spoiling, "n_released", 0)
    clf.fit(X, y)
    assert Spoiling.n_released
    np.testing.assert_allclose(clf.coef_, coef, rtol=1e-9, atol=1e-12)
    for new, old in zip(clf.history_, history, strict=True):
        for key in {"train_loss", "valid_loss", "accuracy"} & old.keys():
            assert new[key] == pytest.approx(old[key], rel=1e-10)


def test_pieces_of_other_sizes_get_other_slots():
    transfer = Spoiling(CPU)
    for n_rows, width in [(3, 2), (2, 2), (5, 2), (4, 3)]:
        sources = [torch.rand(n, width) for n in (n_rows, n_rows, n_rows, 1)]
        arrived = [piece.clone() for piece in transfer.pieces(sources)]
        torch.testing.assert_close(arrived, sources)


def test_copies_have_no_buffers():
    transfer = Transfer(CPU)
    list(transfer.pieces([torch.rand(3, 2)]))
    for other in (copy.deepcopy(transfer), pickle.loads(pickle.dumps(transfer))):
        assert other.device == CPU
        assert not other._slots
    slot = Slot([torch.rand(2)], [torch.rand(2)])
    slot.sent = slot.used = (n for n in "ab")  # no more to be copied than an event
    assert copy.deepcopy(slot).sent is None


def test_fits(monkeypatch):
    assert fits(CPU, 2**60)
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (600, 9999))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    free = 600 + 500 - 100
    assert fits(cuda, int(_transfer.MARGIN * free))
    assert not fits(cuda, int(_transfer.MARGIN * free) + 1)
