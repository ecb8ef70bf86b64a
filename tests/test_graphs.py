"""Recorded updates against those that are started one by one, bit for bit.

A CUDA graph is simulated on the CPU: what is recorded is not done, and a launch repeats
the same operations on the same memory with the same Python numbers.
"""

import copy
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchlogistic import _arrays, _batches, _candidates, _graphs, _minibatch
from torchlogistic._batches import Batches
from torchlogistic._candidates import CandidateRun, Settings
from torchlogistic._graphs import find_recorder
from torchlogistic._loss import make_loss
from torchlogistic._minibatch import MiniBatch
from torchlogistic._objective import Objective, allocate_coefficients
from torchlogistic._rows import Rows
from torchlogistic._steps import STEPS, make_optimizer
from torchlogistic._stream import RandomStream
from torchlogistic._threads import Team
from torchlogistic._transfer import Transfer


class Tape(TorchDispatchMode):
    """Notes operations instead of doing those that write into tensors there are."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        arguments = [*zip(func._schema.arguments, args, strict=False)]
        arguments += [
            (a, kwargs[a.name]) for a in func._schema.arguments if a.name in kwargs
        ]
        written = [v for a, v in arguments if a.alias_info and a.alias_info.is_write]
        if written:
            self.calls.append((func, args, kwargs, None))
            return written[0]
        result = func(*args, **kwargs)
        assert "item" not in str(func) and "scalar_dense" not in str(func)
        if not func.is_view:
            self.calls.append((func, args, kwargs, result))
        return result

    def launch(self):
        for func, args, kwargs, result in self.calls:
            new = func(*args, **kwargs)
            if result is not None:
                for old, value in zip(
                    tree_leaves(result), tree_leaves(new), strict=True
                ):
                    old.copy_(value)


class TapeRecorder:
    def __init__(self):
        self.n_recordings = self.n_launches = 0

    def record(self, function):
        self.n_recordings += 1
        with Tape() as tape:
            function()

        def launch():
            self.n_launches += 1
            tape.launch()

        return launch


@pytest.fixture(autouse=True)
def as_on_a_device(monkeypatch):
    """Torch's arithmetic; chunks of three batches."""
    monkeypatch.setattr(_arrays, "for_numpy", lambda tensor: False)
    monkeypatch.setitem(_batches.CHUNK_BYTES, "cpu", 3 * 10 * 4 * 4)


@pytest.fixture
def recorder(monkeypatch):
    recorder = TapeRecorder()
    monkeypatch.setattr(_minibatch, "find_recorder", lambda device: recorder)
    return recorder


def make_solver(
    cls, arguments, n_classes=2, *, weighted=True, transfer=None, **penalty
):
    n_rows = 75
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n_rows, 4, generator=generator)
    labels = torch.randint(n_classes, (n_rows,), generator=generator)
    loss = make_loss(n_classes)
    weight = torch.rand(n_rows, generator=generator) if weighted else None
    rows = Rows(X, loss.targets(labels, X.dtype), weight, transfer)
    coef = allocate_coefficients(rows, loss.n_outputs, fit_intercept=True)
    parameters = [torch.nn.Parameter(p) for p in coef.as_linear(coef.values)]
    optimizer = make_optimizer(cls, parameters, **{"lr": 0.05, **arguments})
    batches = Batches(
        rows,
        batch_size=10,
        shuffle=True,
        stream=RandomStream(0),
        fit_intercept=True,
        validation=False,
        team=Team(1),
    )
    return MiniBatch(Objective(loss, **penalty), batches, coef, optimizer, Team(1))


def make_both(monkeypatch, *args, **kwargs):
    graphed = make_solver(*args, **kwargs)
    with monkeypatch.context() as patch:
        patch.setattr(_minibatch, "find_recorder", lambda device: None)
        return graphed, make_solver(*args, **kwargs)


def assert_same(graphed, eager):
    assert graphed.coef.values.equal(eager.coef.values)
    assert graphed.loss == eager.loss
    states = [run.step.optimizer.state_dict()["state"] for run in (graphed, eager)]
    torch.testing.assert_close(*states, rtol=0, atol=0)


RULES = {
    "sgd": (SGD, {}),
    "momentum": (SGD, {"momentum": 0.9, "dampening": 0.1}),
    "nesterov": (SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "adam": (Adam, {"weight_decay": 0.1}),
    "amsgrad": (Adam, {"amsgrad": True}),
    "adamw": (AdamW, {"maximize": True}),
    "rmsprop": (RMSprop, {}),
    "rmsprop centred": (RMSprop, {"centered": True, "momentum": 0.5}),
    "adagrad": (Adagrad, {"lr_decay": 0.1}),
}
every_rule = pytest.mark.parametrize(
    ("cls", "arguments"), RULES.values(), ids=RULES.keys()
)


@torch.no_grad()
@every_rule
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("l1_ratio", [0.0, 0.5])
def test_equals_single_steps(
    cls, arguments, n_classes, weighted, l1_ratio, recorder, monkeypatch
):
    penalty = {"alpha": 0.1, "l1_ratio": l1_ratio}
    both = make_both(
        monkeypatch, cls, arguments, n_classes, weighted=weighted, **penalty
    )
    for epoch in range(4):
        for run in both:
            run.step.optimizer.param_groups[0]["lr"] = 0.1 / (1 + epoch)
            run.epoch()
        assert_same(*both)
    # 75 rows are two chunks of three batches, and one of a batch and a half. The first
    # time that each is met, nothing is recorded; a new learning rate changes nothing.
    assert recorder.n_recordings == 2
    assert recorder.n_launches == 4 * 3 - 2


@torch.no_grad()
@pytest.mark.parametrize(
    ("cls", "arguments", "change"),
    [
        (SGD, {"momentum": 0.9}, {"momentum": 0.8}),
        (SGD, {}, {"momentum": 0.8}),
        (Adam, {}, {"betas": (0.8, 0.99)}),
        (AdamW, {}, {"weight_decay": 0.5}),
        (RMSprop, {}, {"eps": 1e-3}),
    ],
)
def test_other_changes_are_recorded_anew(cls, arguments, change, recorder, monkeypatch):
    both = make_both(monkeypatch, cls, arguments)
    for epoch in range(6):
        for run in both:
            if epoch == 3:
                run.step.optimizer.param_groups[0].update(change)
            run.epoch()
        assert_same(*both)
    assert recorder.n_recordings == 4


@torch.no_grad()
@every_rule
def test_frozen_parts(cls, arguments, recorder, monkeypatch):
    both = make_both(monkeypatch, cls, arguments)
    for epoch in range(8):
        for run in both:
            bias = run.step.optimizer.param_groups[0]["params"][1]
            bias.requires_grad_(epoch not in (2, 3))
            run.epoch()
        assert_same(*both)


@torch.no_grad()
@every_rule
def test_state_that_a_callback_loads_counts(cls, arguments, recorder, monkeypatch):
    both = make_both(monkeypatch, cls, arguments)
    early = copy.deepcopy(both[0].step.optimizer.state_dict())
    for epoch in range(6):
        for run in both:
            if epoch == 3:
                run.step.optimizer.load_state_dict(copy.deepcopy(early))
            run.epoch()
        assert_same(*both)


@torch.no_grad()
def test_batches_that_somebody_watches_are_not_recorded(recorder, monkeypatch):
    both = make_both(monkeypatch, Adam, {})
    for _ in range(3):
        both[0].epoch()
        for block in both[1].visit():
            both[1].refresh()
            both[1].update(block, lambda: None)
        assert_same(*both)
    assert recorder.n_recordings == 2


@torch.no_grad()
def test_rows_that_pass_through_the_device(recorder, monkeypatch):
    """Each of the two buffers has recordings of its own."""
    transfer = Transfer(torch.device("cpu"))
    both = make_both(monkeypatch, Adam, {}, transfer=transfer)
    for _ in range(4):
        for run in both:
            run.epoch()
        assert_same(*both)
    assert recorder.n_recordings == 3  # 30 and 30 and 15 rows


@torch.no_grad()
def test_a_failed_recording_is_a_warning(monkeypatch):
    class Broken:
        def record(self, function):
            function()
            raise RuntimeError("operation not permitted when stream is capturing")

    class Undone(Tape, Broken):
        def record(self, function):
            with self:
                super(Tape, self).record(function)

    monkeypatch.setattr(_minibatch, "find_recorder", lambda device: Undone())
    both = make_both(monkeypatch, Adam, {})
    with pytest.warns(RuntimeWarning, match="CUDA graph.*not permitted when stream"):
        for _ in range(2):
            for run in both:
                run.epoch()
    for run in both:
        run.epoch()
    assert_same(*both)


def test_recordings_are_not_copied(recorder):
    run = make_solver(SGD, {})
    with torch.no_grad():
        run.epoch()
        run.epoch()
    assert not copy.deepcopy(run.graphs)._recordings


@pytest.mark.usefixtures("recorder")
def test_steps_of_torch_and_large_batches_are_not_recorded(monkeypatch):
    assert make_solver(SGD, {}).graphs is not None
    assert make_solver(torch.optim.Adamax, {}).graphs is None
    monkeypatch.setitem(_batches.SHARED_BYTES, "cpu", 1)
    assert make_solver(SGD, {}).graphs is None


def test_chunks_hold_no_more_batches_than_a_graph(monkeypatch):
    monkeypatch.setitem(_batches.CHUNK_BYTES, "cpu", 2**20)
    monkeypatch.setitem(_batches.CHUNK_BATCHES, "cpu", 4)
    chunks = [list(batches) for batches, _ in make_solver(SGD, {}).batches]
    assert [len(batches) for batches in chunks] == [4, 4]
    assert len(chunks[1][-1]) == 5


def make_candidates(cls, arguments, n_classes, l1):
    """Three candidates on two folds, whose last batches are not of one size."""
    loss = make_loss(n_classes)
    generator = torch.Generator().manual_seed(0)
    folds = []
    for n_rows in (75, 78):
        X = torch.randn(n_rows, 4, generator=generator)
        labels = torch.randint(n_classes, (n_rows,), generator=generator)
        y = loss.targets(labels, X.dtype)
        folds.append(Rows(X, y[:, None] if n_classes == 2 else y.repeat(1, 3)))
    nothing = torch.nn.Parameter(torch.zeros(1))
    return CandidateRun(
        folds,
        loss,
        l2=np.array([0.0, 0.1, 0.1]),
        l1=np.array([0.0, 0.01, 0.1]) * l1,
        settings=Settings(
            seed=0,
            batch_size=10,
            shuffle=True,
            fit_intercept=True,
            validation=False,
            rule=STEPS[cls],
            optimizer=make_optimizer(cls, [nothing], lr=0.1, **arguments),
            numbers={"lr": np.array([0.01, 0.03, 0.1])},
            device=torch.device("cpu"),
        ),
    )


@torch.no_grad()
@every_rule
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("l1", [0.0, 1.0])
def test_candidates(cls, arguments, n_classes, l1, monkeypatch):
    """Numbers that differ from candidate to candidate are in the table, too."""
    row_bytes = 4 * 2 * (5 + 2 * 3 * (n_classes if n_classes > 2 else 1))
    monkeypatch.setitem(_candidates.BUFFER_BYTES, "cpu", 3 * 10 * row_bytes)
    recorder = TapeRecorder()
    eager = make_candidates(cls, arguments, n_classes, l1)
    monkeypatch.setattr(_candidates, "find_recorder", lambda device: recorder)
    graphed = make_candidates(cls, arguments, n_classes, l1)
    assert eager.buffer.capacity == 30
    for _ in range(4):
        losses = [run.epoch() for run in (graphed, eager)]
        np.testing.assert_array_equal(*losses)
        assert graphed.coef.values.equal(eager.coef.values)
    # As above: chunks of 30 and 30 rows, and one of 15 and 18.
    assert recorder.n_recordings == 2
    assert recorder.n_launches == 4 * 3 - 2


class FakeCuda:
    """Stands in for ``torch.cuda``; knows on which device a graph was recorded."""

    def __init__(self):
        self.current = 0
        self.recorded = []

    @contextmanager
    def device(self, device):
        before, self.current = self.current, device.index
        yield
        self.current = before

    def current_device(self):
        return self.current

    def Stream(self, index):
        return index

    class CUDAGraph:
        def replay(self):
            pass

    @contextmanager
    def graph(self, graph, *, stream, capture_error_mode):
        self.recorded.append((stream, self.current))
        yield


def test_graphs_are_recorded_on_their_device(monkeypatch):
    """Whichever was the first of the process, or is the current one."""
    cuda = FakeCuda()
    monkeypatch.setattr(torch, "cuda", cuda)
    _graphs.capture_stream.cache_clear()
    for index in (0, 1, 1, 0):
        find_recorder(torch.device("cuda", index)).record(lambda: None)()
    _graphs.capture_stream.cache_clear()
    assert cuda.recorded == [(0, 0), (1, 1), (1, 1), (0, 0)]
