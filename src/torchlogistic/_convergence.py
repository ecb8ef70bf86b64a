"""Warnings of full-batch solvers that ended anywhere but at the optimum."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from ._fullbatch import FullBatch
from ._warnings import warn

# What a solver may leave to gain: so much, or so many squares of ``tol``, of which it
# leaves a few where features are scaled. And the max-norm of a gradient there.
FALL, FALLS = 1e-3, 10
STEEPEST = 1.0


def warn_if_short(
    solver: FullBatch, estimator: Any, n_iter: int, classes: np.ndarray
) -> None:
    """Warn if a full-batch solver ended anywhere but at the optimum."""
    separated = None if estimator.alpha else find_separated(solver, classes)
    l1 = estimator.alpha * estimator.l1_ratio
    # The gradient that is left says no more of a weight than whether it is zero.
    undecided = 0 < l1 <= estimator.tol and solver.gradient_norm > l1 / 10
    hidden = solver.converged and not (separated or undecided)
    enough = max(FALL, FALLS * min(estimator.tol, 1.0) ** 2)
    fall = solver.possible_fall(enough=enough) if hidden else 0.0
    if hidden and fall <= enough:
        return
    side = "within" if solver.converged else "above"
    at = (
        f"optimizer={estimator.optimizer!r}: the gradient's max-norm is "
        f"{solver.gradient_norm:.3g}, {side} tol={estimator.tol:g}"
    )
    if separated:
        message = (
            f"{at}, but there is no optimum: the coefficients separate {separated}, so "
            "that larger ones are always better. Set alpha > 0 for a finite optimum."
        )
    elif hidden:
        message = (
            f"{at}, but the loss can fall by {fall:.2g} or more yet: features are too "
            "small, or too far from zero, for the gradient to show it. Scale the "
            "features (StandardScaler), or set a smaller tol."
        )
    elif solver.converged:
        message = (
            f"{at}, which is not below the L1 penalty, alpha * l1_ratio = {l1:g}: "
            "which coefficients are zero is not decided yet. Set tol to a tenth of "
            f"that, {l1 / 10:.2g}, or less."
        )
    elif solver.stalled:
        dtype = str(solver.coef.values.dtype).removeprefix("torch.")
        finer = "" if dtype == "float64" else "use dtype='float64', "
        remedy = "Scale the features"
        if solver.gradient_norm <= STEEPEST:
            remedy += f", {finer}or accept a larger tol"
        message = f"{at}, and no step lowers the loss any more in {dtype}. {remedy}."
    else:
        more = "Increase epochs"
        if estimator.tol < torch.finfo(solver.coef.values.dtype).eps:
            single = solver.coef.values.dtype == torch.float32
            finer = "Use dtype='float64' for so small a tol"
            first = finer if single else "Set a tol that float64 resolves"
            more = f"{first}, increase epochs"
        remedy = (
            "raise alpha"
            if estimator.alpha
            else "set alpha > 0: without a penalty there is no optimum where a "
            "hyperplane separates the classes"
        )
        message = (
            f"{at}, after {n_iter} iterations. {more}, scale the features "
            f"(StandardScaler), or {remedy}."
        )
    warn(message, ConvergenceWarning)


def find_separated(solver: FullBatch, classes: np.ndarray) -> str | None:
    """What the coefficients separate, in words; None if nothing."""
    if solver.separated:
        return "the classes"
    index = solver.separated_class
    if index is None:
        return None
    return f"class {classes.tolist()[index]!r} from all others"
