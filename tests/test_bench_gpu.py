"""The benchmark for a GPU runs, if only on the CPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent / "benchmarks" / "bench_gpu.py"


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


def test_smoke():
    output = run("--smoke", "--rounds", "1")
    rows = [line.split(" | ") for line in output.splitlines() if line[:3] == "| 2"]
    assert {row[1] for row in rows} >= {
        "full gradient",
        "torch's X @ w and X.T @ r",
        "step, batch of 256",
        "64 candidates of a search",
        "newton, from the device",
        "torch.optim.LBFGS, from the device",
        "lbfgs, on the CPU",
    }
    assert all("at least 0.7: " in row[3] for row in rows if row[1] == "full gradient")
    assert all("at most 12: " in row[3] for row in rows if row[1].startswith("step"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is present")
def test_without_a_device_it_says_so():
    assert run().strip() == "There is no CUDA device here: nothing was measured."
