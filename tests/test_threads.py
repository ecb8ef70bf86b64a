"""A team of threads: all tasks are done, failures are raised, threads end."""

import _thread
import gc
import itertools
import os
import subprocess
import sys
import threading
import time
from functools import partial

import joblib
import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from torchlogistic import (
    TorchLogisticClassifier,
    _arrays,
    _batches,
    _gradient,
    _threads,
)
from torchlogistic._arrays import NumpyNamespace
from torchlogistic._threads import Begun, Team


def begin(team, tasks, helpers=None):
    """Tasks that other threads have been asked to run."""
    begun = Begun(tasks)
    team.ask(begun, len(tasks) - 1 if helpers is None else helpers)
    return begun


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("n_tasks", [1, 2, 7])
def test_all_tasks_are_done(size, n_tasks):
    team, done = Team(size), []
    for _ in range(3):
        done.clear()
        team.run([lambda i=i: done.append(i) for i in range(n_tasks)])
        assert sorted(done) == list(range(n_tasks))


@pytest.mark.parametrize("failing", [0, 1])
def test_an_exception_in_any_task_is_raised_when_all_have_ended(failing):
    done = []

    def task(i):
        time.sleep(0.01 * i)
        if i == failing:
            raise RuntimeError("in a thread")
        done.append(i)

    team = Team(2)
    with pytest.raises(RuntimeError, match="in a thread"):
        team.run([lambda i=i: task(i) for i in range(2)])
    assert done == [1 - failing]
    team.run([lambda: done.append(5)] * 2)
    assert done == [1 - failing, 5, 5]


def interrupted(work, k):
    """Whether an interrupt at the k-th instruction of ``_threads`` comes out of work.

    None if there are not so many.
    """
    seen, found = [], []

    def trace(frame, event, arg):
        # A team of another test may be collected meanwhile, whose end Python would not
        # let an exception out of.
        ours = frame.f_code.co_filename == _threads.__file__
        if not ours or frame.f_code.co_name == "__del__":
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            seen.append(frame.f_lasti)
            if len(seen) == k:
                raise KeyboardInterrupt
        return trace

    def run():
        sys.settrace(trace)
        try:
            work()
            found.append(False)
        except KeyboardInterrupt:
            found.append(True)
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout=30)
    assert found, f"hangs after an interrupt at instruction {k}"
    return found[0] if len(seen) >= k else None


@pytest.mark.parametrize("size", [1, 2, 3])
def test_an_interrupt_at_any_moment_ends_the_turns(size):
    team, left = Team(size), []
    team.run([partial(time.sleep, 0.001)] * size)  # the threads exist
    for k in itertools.count(1):
        done = []

        def act(item, prepared, done=done):
            assert not left
            done.append(item)

        turns = partial(team.in_turn, range(4), [lambda item: item] * size, act)
        came_out = interrupted(turns, k)
        left.append(k)  # a thread that still acted would fail, and say so later
        time.sleep(0.0005)
        left.clear()
        assert done == list(range(len(done)))
        if came_out is None:
            break
        assert came_out
    assert k > 50
    assert done == [0, 1, 2, 3]
    team.run([partial(done.append, 4)] * 2)
    assert done.count(4) == 2


def test_a_team_keeps_to_the_limit_of_a_worker():
    size = joblib.Parallel(n_jobs=2)(
        joblib.delayed(lambda: Team().size)() for _ in "ab"
    )
    assert size == [1, 1] or torch.get_num_threads() > 2  # joblib shares the cores
    assert Team().size == min(torch.get_num_threads(), _threads.MOST_THREADS)


@pytest.mark.parametrize("n_threads", [1, 3, 64])
def test_of_many_threads_a_team_has_some(n_threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    assert Team().size == min(n_threads, _threads.MOST_THREADS)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("n_items", [0, 1, 20])
def test_turns_follow_the_order_of_the_items(size, n_items):
    """Whoever prepared an item acts on it, and nobody else at the same time."""
    team, done, at_work = Team(size), [], []

    def prepare(item):
        time.sleep(0.001 * (item % 3))
        return item, _thread.get_ident()

    def act(item, prepared):
        at_work.append(item)
        assert prepared == (item, _thread.get_ident())
        assert at_work == [item]
        done.append(item)
        at_work.clear()

    team.in_turn(range(n_items), [prepare] * size, act)
    assert done == list(range(n_items))


@pytest.mark.parametrize("failing", [0, 1, 5])
@pytest.mark.parametrize("when", ["prepare", "act"])
@pytest.mark.parametrize("own", [True, False], ids=["this thread", "the other"])
@pytest.mark.parametrize("exception", [ZeroDivisionError, KeyboardInterrupt])
def test_a_turn_that_fails_is_the_last(failing, when, own, exception):
    team, done, main = Team(2), [], _thread.get_ident()

    def fail(stage, item):
        time.sleep(0.001)  # for the other thread, which has yet to start
        mine = (_thread.get_ident() == main) == own
        if stage == when and item >= failing and mine:
            raise exception

    def act(item, prepared):
        fail("act", item)
        done.append(item)

    with pytest.raises(exception):
        team.in_turn(range(50), [lambda item: fail("prepare", item)] * 2, act)
    assert done == list(range(len(done)))
    # Items may be prepared while nobody has acted on the one before.
    assert failing - (when == "prepare") <= len(done) < 50
    team.run([partial(done.append, -1)] * 2)  # the team goes on
    assert done.count(-1) == 2


@pytest.mark.parametrize("size", [1, 2, 3])
def test_tasks_that_are_begun_are_completed_once_each(size):
    team, done = Team(size), []
    complete = begin(team, [partial(done.append, i) for i in range(20)])
    complete()
    assert sorted(done) == list(range(20))


def test_a_task_that_nobody_has_begun_is_not_waited_for():
    team, gate, done = Team(2), _thread.allocate_lock(), []
    gate.acquire()
    busy = begin(team, [gate.acquire], helpers=1)
    wait_until(lambda: not team._inboxes[0].qsize())
    begin(team, [partial(done.append, i) for i in range(3)])()
    assert done == [0, 1, 2]  # all by this thread, as the other is busy
    gate.release()
    busy()
    for helpers in (0, 1):
        with pytest.raises(ZeroDivisionError, match="by zero"):
            begin(team, [lambda: 1 // 0], helpers)()


def test_who_comes_late_does_not_end_the_wait():
    gate, ended = _thread.allocate_lock(), []
    gate.acquire()
    begun = Begun([gate.acquire])
    helper = threading.Thread(target=begun.help)
    helper.start()
    wait_until(lambda: not begun._todo)
    caller = threading.Thread(target=lambda: ended.append(begun()))
    caller.start()
    time.sleep(0.01)
    begun.help()  # and finds nothing to do
    time.sleep(0.01)
    assert not ended
    gate.release()
    caller.join(timeout=30)
    helper.join(timeout=30)
    assert ended == [None]


def test_what_is_stopped_has_ended():
    team, done = Team(2), []

    def work():
        time.sleep(0.01)
        done.append("begun")
        raise KeyboardInterrupt

    begun = begin(team, [work], helpers=1)
    wait_until(lambda: not begun._todo)
    begun.stop()
    assert done == ["begun"]
    begun.stop()  # as often as one likes
    left = Begun([partial(done.append, "left")])  # which nobody was asked to begin
    left.stop()
    left()
    assert done == ["begun"]


def test_a_call_may_follow_one_that_failed():
    begun = begin(Team(2), [lambda: 1 // 0, lambda: None], helpers=1)
    with pytest.raises(ZeroDivisionError):
        begun()
    begun()
    begun.stop()


def test_threads_end_with_the_team():
    team, workers = Team(3), set()

    def work():
        time.sleep(0.01)
        workers.add(_thread.get_ident())

    for _ in range(3):
        team.run([work] * 6)
    assert len(workers) == 3
    workers.discard(_thread.get_ident())
    assert workers <= sys._current_frames().keys()
    del team
    gc.collect()
    wait_until(lambda: not workers & sys._current_frames().keys())


def wait_until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_floating_point_errors_are_quiet_in_every_thread():
    with np.errstate(all="ignore"):
        Team(2).run([lambda: np.float32(1e38) * np.full(2, 1e38, np.float32)] * 2)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [64, 700, 5000, 20_000])
def test_large_data_give_the_same_with_any_number_of_threads(
    batch_size, shuffle, monkeypatch
):
    monkeypatch.setattr(_batches, "TURNS_BYTES", 2**20)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 110)).astype(np.float32)
    y = (X[:, 0] + rng.normal(size=len(X)) > 0).astype(int)
    coefs = []
    for n_threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n_threads: n)
        clf = TorchLogisticClassifier(
            batch_size=batch_size,
            shuffle=shuffle,
            epochs=2,
            random_state=0,
            device="cpu",
        )
        coefs.append(clf.fit(X, y).coef_.tolist())
    assert coefs[0] == coefs[1] == coefs[2]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("n_rows", [10_000, 80_000])
def test_steps_on_large_batches_wake_no_threads_of_blas(n_rows, n_classes, shuffle):
    """Beside threads that take turns, they would double the time of an epoch."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, 110)).astype(np.float32)
    y = np.digitize(X[:, 0] + rng.normal(size=len(X)), [-0.5, 0.5][: n_classes - 1])
    coefs = []
    for n_threads in (1, 2):
        with threadpool_limits(n_threads, user_api="blas"):
            clf = TorchLogisticClassifier(
                batch_size=5000, shuffle=shuffle, epochs=2, random_state=0, device="cpu"
            )
            coefs.append(clf.fit(X, y).coef_.tolist())
    assert coefs[0] == coefs[1]


STEPS = {
    "small batches": {"batch_size": 16},
    "large batches": {"batch_size": 300},
    "large batches in order": {"batch_size": 300, "shuffle": False},
    "validation": {"batch_size": 300, "early_stopping": True},
    "all rows": {"batch_size": None, "optimizer": "adam"},
    "an optimizer of its own": {"batch_size": 300, "optimizer": torch.optim.Rprop},
    "lbfgs": {"optimizer": "lbfgs", "tol": 1e-3},
    "lbfgs with L1": {"optimizer": "lbfgs", "tol": 1e-2, "l1_ratio": 0.5},
    "newton": {"optimizer": "newton"},
}


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", STEPS)
def test_no_product_of_a_fit_wakes_threads_of_blas(name, n_classes, monkeypatch):
    """They spin for a while, and so slow down what follows, be it the next fit."""
    limit = 1000
    monkeypatch.setattr(_arrays, "SERIAL_VECTOR", limit)
    monkeypatch.setattr(_arrays, "SERIAL_COLUMNS", limit)
    monkeypatch.setattr(_gradient, "PIECE_PRODUCTS", limit)
    choose, sizes, cut = NumpyNamespace.product, [], []

    def product(n_axes, shape=None):
        chosen = choose(n_axes, shape)
        if isinstance(chosen, partial):  # it cuts slices
            cut.append(shape)
            return chosen

        def noted(a, b, out):
            sizes.append(a.size * (1 if b.ndim == 1 else b.shape[-1]))
            chosen(a, b, out)

        return noted

    monkeypatch.setattr(NumpyNamespace, "product", staticmethod(product))
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 5))
    y = np.digitize(X[:, 0] + rng.normal(size=len(X)), [-0.5, 0.5][: n_classes - 1])
    settings = {"alpha": 0.1, "epochs": 50, "lr": 0.01, "random_state": 0}
    clf = TorchLogisticClassifier(**settings, **STEPS[name], device="cpu")
    clf.fit(X, y).predict(X)
    assert max(sizes, default=0) <= limit
    assert cut  # the loss at the end, of a thousand rows, at least


FORK = """
import os
import signal
import sys
import numpy as np
import torch
from torchlogistic import TorchLogisticClassifier

torch.set_num_threads(2)
torch.ones(2**20).sigmoid_()  # the thread that this wakes is not copied
rng = np.random.default_rng(0)
rows = rng.normal(size=(40_000, 2)), np.arange(40_000) % 3, rng.random(40_000)
half = torch.ones(40_000, 2, dtype=torch.bfloat16)
wide = rng.normal(size=(4, 40_000)), np.arange(4) % 2
settings = {"device": "cpu", "random_state": 0}
rprop = {"optimizer": torch.optim.Rprop, "batch_size": 2}
results = [
    lambda: TorchLogisticClassifier(epochs=1, **settings).fit(*rows).coef_,
    lambda: TorchLogisticClassifier(epochs=1, **settings).fit(*wide).coef_,
    lambda: TorchLogisticClassifier(epochs=1, **rprop, **settings).fit(*wide).coef_,
    lambda: fitted.predict_proba(half),
]
fitted = TorchLogisticClassifier(epochs=1, **settings).fit(*rows)
before = [result() for result in results]
child = os.fork()
if child == 0:
    signal.alarm(30)
    same = [np.array_equal(result(), old) for result, old in zip(results, before)]
    os._exit(0 if all(same) and torch.get_num_threads() == 2 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
WORKER = """
import multiprocessing
import sys
import numpy as np
import torch

torch.set_num_threads(2)
torch.ones(2**20).sigmoid_()

def work():
    from torchlogistic import TorchLogisticClassifier

    X = np.random.default_rng(0).normal(size=(40_000, 2))
    TorchLogisticClassifier(epochs=1, device="cpu").fit(X, X[:, 0] > 0)

worker = multiprocessing.get_context("fork").Process(target=work, daemon=True)
worker.start()
worker.join(30)
sys.exit(worker.exitcode != 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("script", [FORK, WORKER], ids=["fork", "worker"])
def test_a_forked_process_trains(script):
    """Without the threads that torch believes it has, to the same bits."""
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
