"""The table: rows in Markdown, and where they stand in the documentation."""

from __future__ import annotations

import datetime
import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"

HEADER = """\
| case | against | ratio, median (spread) | torchlogistic | memory, limit | goal |
|---|---|---|---|---|---|"""

PACKAGES = (
    "torch",
    "numpy",
    "scikit-learn",
    "skorch",
    "scikit-learn-intelex",
    "glum",
    "skglm",
)


@dataclass(frozen=True)
class Row:
    """One comparison.

    Parameters
    ----------
    case, against : str
    ratio : object
        Time of the other, relative to the package's own: more than one is faster.
    own : str
        The package's own time.
    share : str
        Memory, or share of the machine's limit.
    goal : str
        What it should be, and whether it is.
    """

    case: str
    against: str = ""
    ratio: object = ""
    own: str = ""
    share: str = ""
    goal: str = ""

    def __str__(self) -> str:
        cells = (self.case, self.against, self.ratio, self.own, self.share, self.goal)
        return "| " + " | ".join(str(cell) for cell in cells) + " |"


def seconds(value: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def at_least(goal: float | None, value: float) -> str:
    if goal is None:
        return ""
    return f"at least {goal:g}: {'met' if value >= goal else '**missed**'}"


def at_most(goal: float | None, value: float) -> str:
    if goal is None:
        return ""
    return f"at most {goal:g}: {'met' if value <= goal else '**missed**'}"


def processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def facts() -> str:
    """When, on what and with which versions."""
    versions = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} absent")
    today = datetime.date.today()
    return (
        f"{today.day} {today:%B %Y}. {processor()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads. {', '.join(versions)}."
    )


def fill(page: Path, rows: list[Row]) -> None:
    """Write the table between the two marks of a page."""
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    table = "\n".join([HEADER, *map(str, rows)])
    page.write_text(f"{before}{BEGIN}\n{facts()}\n\n{table}\n{END}{after}")
