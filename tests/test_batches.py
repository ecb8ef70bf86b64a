"""The order of the rows, and the buffers they pass through."""

import itertools
import threading
import time

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch.utils.data import DataLoader, TensorDataset

from torchlogistic import TorchLogisticClassifier, _batches
from torchlogistic._batches import Batches, Copier
from torchlogistic._rows import Rows
from torchlogistic._stream import RandomStream
from torchlogistic._threads import Team
from torchlogistic._transfer import Transfer


def make_rows(n_rows, weighted=False, n_classes=2):
    X = torch.arange(3.0 * n_rows, dtype=torch.float64).view(n_rows, 3)
    shape = (n_rows,) if n_classes == 2 else (n_rows, n_classes)
    y = torch.arange(float(n_rows), dtype=torch.float64)
    y = y if n_classes == 2 else y[:, None].expand(shape).contiguous()
    weight = 1 + torch.arange(float(n_rows), dtype=torch.float64) if weighted else None
    return Rows(X, y, weight)


def make_batches(rows, batch_size, *, shuffle=True, seed=0, **kwargs):
    settings = {"fit_intercept": True, "validation": False, "team": Team(2), **kwargs}
    stream = RandomStream(seed)
    return Batches(
        rows, batch_size=batch_size, shuffle=shuffle, stream=stream, **settings
    )


def numbers(block):
    return (block.features[:, 0] / 3).long().tolist()


def visited(batches, by="iteration"):
    """Numbers of the rows, batch by batch, of one epoch."""
    if by == "iteration":
        return [numbers(block) for blocks, _ in batches for block in blocks]
    seen = []
    batches.each(lambda blocks: seen.extend(map(numbers, blocks)))
    return seen


def loaded(n_rows, batch_size, *, seed, epochs, validation):
    """The same from the program that the stream promises to equal."""
    torch.manual_seed(seed)
    data = TensorDataset(torch.arange(n_rows))
    loader = DataLoader(data, batch_size=batch_size, shuffle=True)
    val_loader = DataLoader(data, batch_size=batch_size)
    for _ in range(epochs):
        yield [batch.tolist() for (batch,) in loader]
        if validation:
            list(val_loader)


SOME = 3 * 8 * 16 * 2  # bytes of two batches of 16 rows
# Every way in which batches are copied: constants of the module that choose it.
WAYS = {
    "one chunk": {"CHUNK_BYTES": 2**20, "PADDED_BYTES": 2**20},
    "many chunks": {"CHUNK_BYTES": SOME},
    "a batch a chunk": {"CHUNK_BYTES": 1},
    "in turn": {"CHUNK_BYTES": SOME, "TURNS_BYTES": 1, "TURN_BYTES": SOME},
    "in turn, larger": {"CHUNK_BYTES": 1, "TURNS_BYTES": 1, "TURN_BYTES": 2 * SOME},
    "in turn, a batch each": {"CHUNK_BYTES": 1, "TURNS_BYTES": 1, "TURN_BYTES": 1},
    "shared": {"CHUNK_BYTES": 1, "SHARED_BYTES": 1},
}


def set_ways(monkeypatch, **constants):
    constants = {"PADDED_BYTES": 0, "TASK_BYTES": 100, **constants}
    for name, value in constants.items():
        if isinstance(by_device := getattr(_batches, name), dict):
            monkeypatch.setitem(by_device, "cpu", value)
        else:
            monkeypatch.setattr(_batches, name, value)


@pytest.fixture(params=WAYS)
def every_way(request, monkeypatch):
    set_ways(monkeypatch, **WAYS[request.param])


@pytest.mark.parametrize("by", ["iteration", "each"])
@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize("batch_size", [1, 16, 99])
@pytest.mark.usefixtures("every_way")
def test_shuffled_order_is_that_of_the_loader(batch_size, validation, by):
    batches = make_batches(make_rows(100), batch_size, seed=7, validation=validation)
    for expected in loaded(100, batch_size, seed=7, epochs=3, validation=validation):
        assert visited(batches, by) == expected


@pytest.mark.parametrize("by", ["iteration", "each"])
@pytest.mark.parametrize("batch_size", [1, 16, 100, 1000])
@pytest.mark.usefixtures("every_way")
def test_own_order(batch_size, by):
    rows = make_rows(100)
    batches = make_batches(rows, batch_size, shuffle=False)
    for _ in range(2):
        epoch = visited(batches, by)
        assert list(itertools.chain(*epoch)) == list(range(100))
        assert [len(b) for b in epoch[:-1]] == [min(batch_size, 100)] * (len(epoch) - 1)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.usefixtures("every_way")
def test_targets_and_weights_follow_their_rows(shuffle, n_classes):
    rows = make_rows(50, weighted=True, n_classes=n_classes)
    for blocks, span in make_batches(rows, 16, shuffle=shuffle):
        for block in blocks:
            number = block.X[:, 0] / 3
            assert (block.y.reshape(len(block), -1)[:, 0] == number).all()
            assert (block.weight.reshape(-1) == number + 1).all()
            assert np.shares_memory(block.z, span.z)
            assert block.logits.data_ptr() == block.z.ctypes.data
            assert block.logits.shape == block.y.shape
            shapes = block.z.shape, block.weight.shape
            assert np.broadcast_shapes(*shapes) == block.z.shape
            assert block.scale == 1 / len(block)


@pytest.mark.parametrize("by", ["iteration", "each"])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_size", [16, 50])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.usefixtures("every_way")
def test_what_the_losses_depend_on_is_recorded(shuffle, batch_size, weighted, by):
    """Targets, weights and what was written as logits, in the order of the visits."""
    rows = make_rows(50, weighted=weighted)
    batches = make_batches(rows, batch_size, shuffle=shuffle)
    for _ in range(2):
        seen = []

        def act(blocks, seen=seen):
            for block in blocks:
                block.z[...] = -block.y
                seen.extend(block.y.tolist())

        if by == "each":
            batches.each(act)
        else:
            for blocks, _ in batches:
                act(blocks)
        record = batches.record
        if batches.shared:
            assert record is None
            continue
        assert record.y.tolist() == seen
        assert (record.z == -record.y).all()
        assert record.logits.data_ptr() == record.z.ctypes.data
        assert (record.weight is None) != weighted
        if weighted:
            assert (record.weight.reshape(-1) == record.y + 1).all()


def batches_drawn_ahead(kind, monkeypatch):
    """Batches, and how to visit them."""
    set_ways(monkeypatch, **WAYS["in turn" if kind == "in turn" else "many chunks"])
    rows = make_rows(100)
    if kind == "passing through":
        rows.transfer = Transfer(torch.device("cpu"))
    batches = make_batches(rows, 16, seed=7, epochs=3)
    if kind == "on a device":
        batches.device = torch.device("cuda")
        monkeypatch.setattr(_batches, "send", lambda order, device: order)
    return batches, "each" if kind == "in turn" else "iteration"


ahead = pytest.mark.parametrize("kind", ["in turn", "on a device", "passing through"])


@ahead
def test_the_order_of_the_next_epoch_is_drawn_ahead(kind, monkeypatch):
    batches, by = batches_drawn_ahead(kind, monkeypatch)
    drawn = []
    for expected in loaded(100, 16, seed=7, epochs=4, validation=False):
        drawn.append(batches._drawn is not None)
        assert visited(batches, by) == expected
    assert drawn == [False, True, True, False]
    assert batches.stream.n_draws == 8  # no more than what was visited


@pytest.mark.parametrize("kind", ["on a device", "passing through"])
def test_who_leaves_an_epoch_leaves_no_thread_at_work(kind, monkeypatch):
    batches, _ = batches_drawn_ahead(kind, monkeypatch)
    chunks = iter(batches)
    next(chunks)
    assert batches._drawn is not None
    chunks.close()
    assert batches._drawn is None


def test_a_run_that_is_stopped_leaves_no_thread_at_work(monkeypatch):
    set_ways(monkeypatch, **WAYS["in turn"])
    seen = []

    class Stop(Callback):
        def on_epoch_end(self, net, **kwargs):
            batches = net.solver_.batches
            seen.append((batches, batches._drawn))
            raise KeyboardInterrupt  # which stops the run

    X, y = np.random.default_rng(0).normal(size=(200, 3)), np.arange(200) % 2
    clf = TorchLogisticClassifier(epochs=3, batch_size=16, callbacks=[Stop()])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    clf.fit(X, y)
    ((batches, drawn),) = seen
    assert drawn is not None
    assert batches._drawn is None


def test_an_epoch_that_is_left_does_not_spoil_the_next(monkeypatch):
    set_ways(monkeypatch, **WAYS["in turn"])
    batches = make_batches(make_rows(100), 16, seed=7, epochs=3)
    expected = list(loaded(100, 16, seed=7, epochs=3, validation=False))
    with pytest.raises(ZeroDivisionError):
        batches.each(lambda blocks: 1 // 0)
    stream = batches.stream
    batches.stream = RandomStream(stream.seed)  # where a callback may have put it
    for epoch in expected:
        assert visited(batches, "each") == epoch


@pytest.mark.parametrize("own", [True, False], ids=["this thread", "the other"])
def test_a_copy_that_fails_or_is_interrupted_is_not_waited_for(own, monkeypatch):
    set_ways(monkeypatch, **WAYS["in turn"])
    batches = make_batches(make_rows(3200), 16, epochs=3)
    gather, main, ended = Copier._gather, [], []

    def fail(self, index, targets):
        gather(self, index, targets)
        if (threading.get_ident() in main) == own and len(ended) >= 2:
            raise KeyboardInterrupt
        time.sleep(0.005)  # for the other thread, which has yet to start

    def visit():
        main.append(threading.get_ident())
        with pytest.raises(KeyboardInterrupt):
            batches.each(ended.append)
        ended.append("interrupted")

    monkeypatch.setattr(Copier, "_gather", fail)
    thread = threading.Thread(target=visit, daemon=True)
    thread.start()
    thread.join(timeout=30)
    assert ended[-1] == "interrupted"
    assert batches._drawn is None  # no thread is left at work


@pytest.mark.parametrize("by", ["iteration", "each"])
@pytest.mark.usefixtures("every_way")
def test_all_rows_at_once_are_not_shuffled_but_draw_as_if(by):
    batches = make_batches(make_rows(20), 20, seed=3)
    assert visited(batches, by) == [list(range(20))]
    assert batches.stream.n_draws == 2


def test_rows_in_order_are_not_copied(monkeypatch):
    monkeypatch.setitem(_batches.CHUNK_BYTES, "cpu", 1)
    rows = make_rows(40)
    for blocks, _ in make_batches(rows, 16, shuffle=False):
        for block in blocks:
            assert np.shares_memory(block.X, rows.X.numpy())


def test_in_turn_only_X_of_rows_in_order_is_copied(monkeypatch):
    set_ways(monkeypatch, **WAYS["in turn, a batch each"])
    rows = make_rows(100, weighted=True)
    buffers, seen = [], []

    def act(blocks):
        (block,) = blocks
        for copied, source in ((block.y, rows.y), (block.weight, rows.weight)):
            assert np.shares_memory(copied, source.numpy())
        assert not np.shares_memory(block.X, rows.X.numpy())
        assert np.shares_memory(block.z, batches.record.z)
        assert block.Xt.base is block.X.base
        buffers.append((block.X.ctypes.data, block.r.ctypes.data))
        seen.extend(numbers(block))

    batches = make_batches(rows, 16, shuffle=False)
    for _ in range(3):
        batches.each(act)
    assert seen == 3 * list(range(100))
    assert len(set(buffers)) <= 2  # one for each thread


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("long", [True, False])
def test_column_of_ones(long, shuffle, n_classes, monkeypatch):
    set_ways(
        monkeypatch, **WAYS["many chunks"], ONES_BYTES=3 * 8 * (15 if long else 16)
    )
    rows = make_rows(100, n_classes=n_classes)
    without = long and shuffle and n_classes == 2
    for blocks, _ in make_batches(rows, 16, shuffle=shuffle):
        for block in blocks:
            assert block.X.shape[1] == 3 + (not without)
            assert (block.X[:, 3:] == 1).all()
