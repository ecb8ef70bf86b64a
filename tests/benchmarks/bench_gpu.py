"""Time training on a CUDA device against what its memory allows, and against peers.

Data of each shape are made on the device. Every contender minimises the same objective,
and the table says how far above the least value it ended. Without a CUDA device the
script says so and ends.

    python tests/benchmarks/bench_gpu.py --help
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # read when SciPy is imported

import numpy as np
import sklearn
import skorch
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from table import at_least, at_most
from torchlogistic import TorchLogisticClassifier
from torchlogistic._batches import Batches
from torchlogistic._folds import Fold
from torchlogistic._gradient import FullGradient
from torchlogistic._loss import make_loss
from torchlogistic._minibatch import MiniBatch
from torchlogistic._objective import Objective, allocate_coefficients
from torchlogistic._rows import Rows, view_block
from torchlogistic._steps import make_optimizer
from torchlogistic._stream import RandomStream
from torchlogistic._threads import Team
from torchlogistic._together import fit_together

SHAPES = {
    "84M x 16": (84_000_000, 16),
    "10.5M x 128": (10_500_000, 128),
    "2.6M x 512": (2_600_000, 512),
}
SMOKE = {"2000 x 16": (2000, 16), "500 x 40": (500, 40)}
SHARE = 0.4  # of the free memory that X may take: peers make copies and graphs
STEP_ROWS = 1_000_000  # for the time of a step; the order of more is the host's work
CANDIDATE_ROWS = 100_000
SKORCH_ROWS = 20_000  # a DataLoader takes rows one by one
STEP_EPOCHS = 3  # that are timed
SLOW = 2.0  # seconds of a fit that is timed only once
TOLERANCE = 1e-5  # of the gradient, for all full-batch contenders
# Goals: share of the bandwidth of a copy, microseconds, and seconds on a shape.
GRADIENT_SHARE, STEP_MICROSECONDS = 0.7, 12.0
NEWTON_SECONDS = {(10_500_000, 128): 0.2}


@dataclass
class Problem:
    """Rows on a device and the objective on them."""

    X: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        self.alpha = 1.0 / len(self.X)  # C=1 of scikit-learn
        self.objective = Objective(make_loss(2), alpha=self.alpha)
        self._copies: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def device(self) -> torch.device:
        return self.X.device

    @property
    def n_bytes(self) -> int:
        return self.X.nbytes

    def on(self, source: str) -> tuple[Tensor, Tensor]:
        """Rows on a kind of device, and their labels."""
        if source not in self._copies:
            self._copies[source] = self.X.to(source), self.y.to(source, torch.int64)
        return self._copies[source]

    def value(self, w: Tensor, b: Tensor) -> float:
        """The objective in float64, at coefficients of shapes (d,) and (1,)."""
        total = 0.0
        for X, y in zip(self.X.split(2**20), self.y.split(2**20), strict=True):
            z = (X @ w.to(X) + b.to(X)).double()
            total += make_loss(2).value(z, y.double()).sum().item()
        return total / len(self.X) + self.alpha / 2 * w.double().square().sum().item()


def make_problem(n_rows: int, n_features: int, device: torch.device) -> Problem:
    """Rows of correlated features; as many of them as fit."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        n_rows = min(n_rows, int(SHARE * free / (4 * n_features)))
    generator = torch.Generator(device).manual_seed(0)
    X = torch.empty(n_rows, n_features, device=device).normal_(generator=generator)
    X[:, 1:] += 0.5 * X[:, :1]
    w = torch.linspace(-1, 1, n_features, device=device)
    noise = torch.empty(n_rows, device=device).uniform_(generator=generator)
    return Problem(X, (torch.sigmoid(X @ w / 2 - 0.5) > noise).float())


def seconds(function: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Median time of a function, after a first call that is not counted.

    If that takes long, one call more has to do.
    """

    def once() -> float:
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    if once() > SLOW:
        return once()
    return statistics.median(once() for _ in range(rounds))


def copy_bandwidth(device: torch.device, n_bytes: int) -> float:
    """Bytes read and written in a second by a copy within the device's memory."""
    source = torch.ones(n_bytes // 4, device=device)
    out = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: out.copy_(source), device, 9)


# The parts of this package


@torch.no_grad()
def gradient_seconds(problem: Problem) -> float:
    rows = Rows(problem.X, problem.y)
    coef = allocate_coefficients(rows, 1, fit_intercept=True)
    full = FullGradient(problem.objective, view_block(rows), Team())
    return seconds(lambda: full.evaluate(coef), problem.device, 9)


@torch.no_grad()
def products_seconds(problem: Problem) -> float:
    """Those of torch, one after the other: what a gradient takes without a kernel."""
    X, y = problem.X, problem.y
    w = torch.zeros_like(X[0])
    return seconds(lambda: (torch.mv(X, w), torch.mv(X.T, y)), problem.device, 9)


@torch.no_grad()
def step_seconds(problem: Problem, batch_size: int) -> float:
    """Time of an epoch over its number of steps, with graphs where there are any."""
    rows = Rows(problem.X[:STEP_ROWS], problem.y[:STEP_ROWS])
    coef = allocate_coefficients(rows, 1, fit_intercept=True)
    parameters = [nn.Parameter(p) for p in coef.as_linear(coef.values)]
    batches = Batches(
        rows,
        batch_size=batch_size,
        shuffle=True,
        stream=RandomStream(0),
        fit_intercept=True,
        validation=False,
        team=Team(),
        epochs=STEP_EPOCHS + 3,
    )
    optimizer = make_optimizer(torch.optim.SGD, parameters, lr=0.01, momentum=0.9)
    run = MiniBatch(problem.objective, batches, coef, optimizer, Team())
    run.epoch()
    run.epoch()  # recorded
    return seconds(run.epoch, problem.device, STEP_EPOCHS) / run.n_batches


# Peers

Solution = tuple[Tensor, Tensor]


def sklearn_lbfgs(problem: Problem) -> Solution:
    with sklearn.config_context(array_api_dispatch=True):
        model = LogisticRegression(tol=TOLERANCE, max_iter=200)
        model.fit(problem.X, problem.y)
    return torch.as_tensor(model.coef_)[0], torch.as_tensor(model.intercept_)


def torch_lbfgs(problem: Problem) -> Solution:
    w = torch.zeros(problem.X.shape[1], device=problem.device, requires_grad=True)
    b = torch.zeros(1, device=problem.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [w, b],
        max_iter=200,
        tolerance_grad=TOLERANCE,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        z = problem.X @ w + b
        loss = nn.functional.binary_cross_entropy_with_logits(z, problem.y)
        loss = loss + problem.alpha / 2 * w.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return w.detach(), b.detach()


def skorch_step_seconds(problem: Problem, batch_size: int) -> float:
    X, y = problem.X[:SKORCH_ROWS], problem.y[:SKORCH_ROWS]
    net = skorch.NeuralNetBinaryClassifier(
        nn.Sequential(nn.Linear(X.shape[1], 1), nn.Flatten(0)),
        lr=0.01,
        max_epochs=1,
        batch_size=batch_size,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
        device=str(problem.device),
    ).initialize()
    n_steps = math.ceil(len(X) / batch_size)
    return seconds(lambda: net.partial_fit(X, y), problem.device, 3) / n_steps


def estimator(
    problem: Problem, optimizer: str, source: str, device: str
) -> Callable[[], Solution]:
    """A whole fit of ours, from rows on the source."""
    X, y = problem.on(source)

    def fit() -> Solution:
        clf = TorchLogisticClassifier(
            optimizer=optimizer,
            alpha=problem.alpha,
            epochs=200,
            tol=TOLERANCE,
            dtype="float32",
            device=device,
        ).fit(X, y)
        return torch.as_tensor(clf.coef_[0]), torch.as_tensor(clf.intercept_)

    return fit


def candidates_seconds(problem: Problem, rounds: int) -> tuple[float, float]:
    """Joint fits of one candidate of a search, and of 64."""
    X, y = (t[:CANDIDATE_ROWS].cpu().numpy() for t in (problem.X, problem.y))
    settings = {"batch_size": 256, "epochs": 5, "device": problem.device.type}
    grid = product(np.geomspace(0.001, 0.1, 8), np.geomspace(1e-6, 1e-2, 8))
    many = [
        TorchLogisticClassifier(lr=lr, alpha=alpha, random_state=0, **settings)
        for lr, alpha in grid
    ]
    fold = Fold(X, y.astype(np.int64))
    one, all_of_them = (
        seconds(partial(fit_together, members, [fold]), problem.device, rounds)
        for members in (many[:1], many)
    )
    return one, all_of_them


# The table

NEWTON = "newton, from the device"


def rows_of_parts(
    problem: Problem, bandwidth: float, rounds: int
) -> Iterator[tuple[str, str, str]]:
    time_of_one = gradient_seconds(problem)
    share = problem.n_bytes / time_of_one / bandwidth
    text = f"{share:.2f} of the copy, {at_least(GRADIENT_SHARE, share)}"
    yield "full gradient", f"{1e3 * time_of_one:.3g} ms", text
    time_of_both = products_seconds(problem)
    text = f"{problem.n_bytes / time_of_both / bandwidth:.2f} of the copy"
    yield "torch's X @ w and X.T @ r", f"{1e3 * time_of_both:.3g} ms", text
    for batch_size in (256, 8192):
        own = 1e6 * step_seconds(problem, batch_size)
        other = 1e6 * skorch_step_seconds(problem, batch_size)
        text = f"skorch: {other:.4g} us, {at_most(STEP_MICROSECONDS, own)}"
        yield f"step, batch of {batch_size}", f"{own:.3g} us", text
    one, many = candidates_seconds(problem, rounds)
    yield "64 candidates of a search", f"{many:.3g} s", f"{many / one:.2g} x one"


def contenders(problem: Problem) -> Iterator[tuple[str, Callable[[], Solution]]]:
    device = problem.device.type
    own = partial(estimator, problem)
    for optimizer in ("newton", "lbfgs"):
        yield f"{optimizer}, from the device", own(optimizer, device, device)
    yield "scikit-learn lbfgs, from the device", lambda: sklearn_lbfgs(problem)
    yield "torch.optim.LBFGS, from the device", lambda: torch_lbfgs(problem)
    for optimizer in ("newton", "lbfgs"):
        name = f"{optimizer}, from the host to the device"
        yield name, own(optimizer, "cpu", device)
        yield f"{optimizer}, on the CPU", own(optimizer, "cpu", "cpu")


def keep(fit: Callable[[], Solution], solutions: list[Solution]) -> None:
    solutions[:] = [fit()]


def rows_of_fits(problem: Problem, rounds: int) -> Iterator[tuple[str, str, str]]:
    found: list[tuple[str, float, float]] = []
    for name, fit in contenders(problem):
        solutions: list[Solution] = []
        try:
            time_of_one = seconds(partial(keep, fit, solutions), problem.device, rounds)
            value = problem.value(*(t.to(problem.device) for t in solutions[-1]))
            found.append((name, time_of_one, value))
            print(f"{name}: {time_of_one:.3g} s", file=sys.stderr)
        except (RuntimeError, TypeError, ValueError) as error:
            text = str(error).replace("|", "/").split("\n")[0]
            yield name, "-", f"left out: {type(error).__name__}: {text[:80]}"
    least = min(value for *_, value in found)
    for name, time_of_one, value in found:
        text = f"{value / least - 1:.1e} above the least"
        if name == NEWTON:
            goal = at_most(NEWTON_SECONDS.get(tuple(problem.X.shape)), time_of_one)
            text += f", {goal}" * bool(goal)
        yield name, f"{time_of_one:.3g} s", text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--shape", choices=SHAPES, action="append", help="default: all")
    parser.add_argument("--rounds", type=int, default=3, help="of each fit")
    parser.add_argument(
        "--smoke", action="store_true", help="tiny shapes on the CPU: does it run?"
    )
    arguments = parser.parse_args()
    if not arguments.smoke and not torch.cuda.is_available():
        print("There is no CUDA device here: nothing was measured.")
        return
    device = torch.device("cpu" if arguments.smoke else "cuda")
    shapes = SMOKE if arguments.smoke else SHAPES
    name = "the CPU, as a test" if arguments.smoke else torch.cuda.get_device_name()
    bandwidth = copy_bandwidth(device, 2**20 if arguments.smoke else 2**30)
    print(
        f"{name}, copy {bandwidth / 1e9:.4g} GB/s; Python {platform.python_version()}, "
        f"torch {torch.__version__}, scikit-learn {sklearn.__version__}, skorch "
        f"{skorch.__version__}, {torch.get_num_threads()} threads\n"
    )
    print("| float32 | what | time | |\n|---|---|---|---|")
    for shape in arguments.shape or shapes:
        problem = make_problem(*shapes[shape], device)
        size = f"{len(problem.X):,} x {problem.X.shape[1]}"
        for row in rows_of_parts(problem, bandwidth, arguments.rounds):
            print(f"| {size} | {' | '.join(row)} |", flush=True)
        for row in rows_of_fits(problem, arguments.rounds):
            print(f"| {size} | {' | '.join(row)} |", flush=True)
        del problem


if __name__ == "__main__":
    main()
