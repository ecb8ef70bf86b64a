"""Time whole fits against what users would write or pick instead.

Every case runs all contenders in turn, round after round in one process, and prints
ratios of the medians: the machine may be shared, so absolute times mean little. Before
anything is timed, all must end at the same coefficients.

    python tests/benchmarks/bench_fit.py --help
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import sklearn
import skorch
import torch
from sklearn.datasets import make_classification, make_moons
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchlogistic import TorchLogisticClassifier


@dataclass
class Case:
    """One problem: data and how long to train on them."""

    name: str
    make: Callable[[], tuple[np.ndarray, np.ndarray]]
    batch_size: int
    epochs: int
    rounds: int


def chapter() -> tuple[np.ndarray, np.ndarray]:
    X, y = make_moons(n_samples=100, noise=0.3, random_state=0)
    X, _, y, _ = train_test_split(X, y, test_size=0.2, random_state=13)
    return StandardScaler().fit_transform(X).astype(np.float32), y


def synthetic(n_rows: int, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    X, y = make_classification(n_rows, n_features, n_informative=10, random_state=0)
    return StandardScaler().fit_transform(X).astype(np.float32), y


CASES = {
    case.name: case
    for case in (
        Case("80 x 2", chapter, batch_size=16, epochs=100, rounds=15),
        Case(
            "100,000 x 50",
            partial(synthetic, 100_000, 50),
            batch_size=256,
            epochs=3,
            rounds=5,
        ),
    )
}

Fit = Callable[[np.ndarray, np.ndarray, Case], np.ndarray]


def ours(X: np.ndarray, y: np.ndarray, case: Case) -> np.ndarray:
    clf = TorchLogisticClassifier(
        epochs=case.epochs, batch_size=case.batch_size, random_state=42, device="cpu"
    )
    return clf.fit(X, y).coef_[0]


def loader_loop(X: np.ndarray, y: np.ndarray, case: Case) -> np.ndarray:
    """The chapter's loop: DataLoader, autograd, torch.optim."""
    torch.manual_seed(42)
    model = nn.Sequential(nn.Linear(X.shape[1], 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_fn = nn.BCEWithLogitsLoss()
    data = TensorDataset(
        torch.as_tensor(X).float(), torch.as_tensor(y.reshape(-1, 1)).float()
    )
    torch.manual_seed(42)
    loader = DataLoader(data, batch_size=case.batch_size, shuffle=True)
    for _ in range(case.epochs):
        losses = []
        for Xb, yb in loader:
            model.train()
            loss = loss_fn(model(Xb), yb)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        np.mean(losses)
    return model[0].weight.detach().numpy()[0]


def skorch_net(X: np.ndarray, y: np.ndarray, case: Case) -> np.ndarray:
    """NeuralNetBinaryClassifier as its users configure it: silent, no split."""
    torch.manual_seed(42)
    module = nn.Sequential(nn.Linear(X.shape[1], 1), nn.Flatten(0))
    torch.manual_seed(42)
    net = skorch.NeuralNetBinaryClassifier(
        module,
        lr=0.1,
        max_epochs=case.epochs,
        batch_size=case.batch_size,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )
    net.fit(X, y.astype(np.float32))
    return net.module_[0].weight.detach().numpy()[0]


CONTENDERS: dict[str, Fit] = {
    "torchlogistic": ours,
    "DataLoader loop": loader_loop,
    "skorch": skorch_net,
}


def seconds(fit: Fit, X: np.ndarray, y: np.ndarray, case: Case) -> float:
    start = time.perf_counter()
    fit(X, y, case)
    return time.perf_counter() - start


def run(case: Case) -> list[str]:
    """Time one case and return the rows of its table."""
    X, y = case.make()
    expected = ours(X, y, case)
    for name, fit in CONTENDERS.items():  # the first run warms up, too
        np.testing.assert_allclose(
            fit(X, y, case), expected, rtol=1e-3, atol=1e-4, err_msg=name
        )
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(case.rounds):
        for name, fit in CONTENDERS.items():
            times[name].append(seconds(fit, X, y, case))
    own = statistics.median(times["torchlogistic"])
    rows = []
    for name, values in times.items():
        ratios = [value / own for value in sorted(values)]
        rows.append(
            f"| {case.name} | {name} | {statistics.median(ratios):.1f} | "
            f"{ratios[0]:.1f} to {ratios[-1]:.1f} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--case", choices=CASES, action="append", help="default: all")
    parser.add_argument("--threads", type=int, help="threads of torch")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, scikit-learn "
        f"{sklearn.__version__}, skorch {skorch.__version__}, "
        f"{torch.get_num_threads()} threads\n"
    )
    print("| case | contender | time, torchlogistic = 1 | spread |")
    print("|---|---|---|---|")
    for name in arguments.case or CASES:
        print("\n".join(run(CASES[name])), flush=True)


if __name__ == "__main__":
    main()
