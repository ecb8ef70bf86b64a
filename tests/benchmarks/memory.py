"""Memory that a fit needs beside X, measured in a fresh process.

    python memory.py CONTENDER ROWS FEATURES

prints it as a share of X. The contender has run before on a few rows: what its
libraries allocate once does not count.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from data import gaussian
from peers import PEERS, Settings

SETTINGS = Settings(alpha=1e-4, batch_size=4096, epochs=1, max_iter=3)


def resident() -> int:
    """Bytes in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak() -> int:
    """Most bytes that were in memory at any time, or since they were forgotten."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak() -> None:
    """Let the peak start from now, where the system allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # making X needed hardly more than X: little is missed


def measure(contender: str, n_rows: int, n_features: int) -> float:
    few_X, few_y = gaussian(1000, n_features)
    PEERS[contender](few_X, few_y, SETTINGS)
    X, y = gaussian(n_rows, n_features)
    np.add.reduce(X)  # every page of X is there
    forget_peak()
    before = resident()
    PEERS[contender](X, y, SETTINGS)
    return max(0, peak() - before) / X.nbytes


def share_of_X(contender: str, n_rows: int, n_features: int) -> float:
    """The same, in a process of its own."""
    command = [sys.executable, __file__, contender, str(n_rows), str(n_features)]
    command.append(str(torch.get_num_threads()))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    from timing import threads

    name, *numbers = sys.argv[1:]
    n_rows, n_features, n_threads = map(int, numbers)
    with threads(n_threads):
        print(measure(name, n_rows, n_features))
