"""Time the package against what users would write or pick instead.

    python tests/benchmarks/run.py --docs

runs all cases and both figures and writes them into the documentation. All times are
taken in alternating rounds, each when the threads of the one before have come to rest,
and compared as ratios; before anything is timed, all must have ended at the same
solution.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from pathlib import Path

import table
import timing
from cases import CASES
from contest import SCALES, Scale

DOCS = Path(__file__).parents[2] / "docs"


def parser() -> argparse.ArgumentParser:
    listing = "\n".join(f"  {name:12} {case.title}" for name, case in CASES.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"cases:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--case", choices=CASES, action="append", metavar="NAME", help="default: all"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the rows, fewer rounds"
    )
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help="default: as many as torch uses")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the table there too"
    )
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the figures")
    parser.add_argument(
        "--docs", action="store_true", help="all of it, into docs/benchmarks.md"
    )
    return parser


def run(names: list[str], scale: Scale) -> tuple[list[table.Row], int]:
    """Rows of the cases, and how many cases failed."""
    rows, n_failed = [], 0
    for name in names:
        start = time.perf_counter()
        try:
            for row in CASES[name].run(CASES[name].title, scale):
                rows.append(row)
                print(row, flush=True)
        except Exception:  # the others are worth their time all the same
            traceback.print_exc()
            n_failed += 1
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return rows, n_failed


def draw(folder: Path, scale: Scale) -> None:
    import plots  # matplotlib is optional

    folder.mkdir(parents=True, exist_ok=True)
    for figure in (plots.time_against_rows, plots.suboptimality):
        start = time.perf_counter()
        path = figure(folder, scale)
        print(f"{path}: {time.perf_counter() - start:.0f} s", file=sys.stderr)


def main() -> int:
    arguments = parser().parse_args()
    reduced = "smoke" if arguments.smoke else "quick" if arguments.quick else None
    if arguments.docs and (reduced or arguments.case):
        parser().error("--docs is for all cases at their full size")
    scale = SCALES[reduced or "full"]
    folder = DOCS / "images" if arguments.docs else arguments.plots
    if arguments.threads:  # for the processes that measure memory and imports
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    with timing.threads(arguments.threads):
        print(f"{table.facts()}\n")
        if reduced:
            print("Smaller than the cases say: a trial.\n")
        print(table.HEADER, flush=True)
        rows, n_failed = run(arguments.case or list(CASES), scale)
        if arguments.markdown:
            lines = [table.facts(), "", table.HEADER, *map(str, rows), ""]
            arguments.markdown.write_text("\n".join(lines))
        if arguments.docs:
            table.fill(DOCS / "benchmarks.md", rows)
        if folder is not None:
            draw(folder, scale)
    return min(n_failed, 1)


if __name__ == "__main__":
    sys.exit(main())
