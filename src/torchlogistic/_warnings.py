"""Warnings that point to the line that called the package."""

from __future__ import annotations

import sys
import warnings

# Ours, those through which a user calls it, and what it calls itself through.
PASSED = {__package__, "sklearn", "skorch", "joblib", "contextlib"}


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the first line outside the package and of what it is called through.

    Python shows the line with the warning, and one of ours would not say which fit it
    was.
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and package(frame.f_globals) in PASSED:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def package(names: dict[str, object]) -> str:
    """The package of a module, by its global names."""
    return str(names.get("__name__", "")).partition(".")[0]
