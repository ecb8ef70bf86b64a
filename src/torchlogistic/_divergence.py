"""Whether training led anywhere, and what to do where it did not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning
from torch.optim import Optimizer

from ._objective import Coefficients, Objective
from ._rows import Rows, view_block
from ._warnings import warn

# Losses are judged by their ratio to that of equal probabilities for all classes.
DIVERGED = 2e4  # at the end
# At the end and in the worst epoch. Steps of lr=1e6 on scaled rows lead there; those of
# lr=0.1 on rows with features of a thousand do not, quite.
SUSPECT, EXPLODED = 2.0, 3e4
# Epochs from which on the first of the two alone is worth a warning, unless the run was
# to be longer, the ratio from which on more epochs would not help, and that which does
# not wait for so many.
BEGUN, FAR, LOST = 10, 10.0, 100.0
CHECKED_ROWS = 1000
# Of fewer rows of a stream a few that are on the wrong side make a high loss.
STREAMED_ROWS = 100
# Of features whose root mean squares are no larger, neither the scale nor an offset is
# what is wrong.
SCALED = 10.0
# An lr that suits scaled features; the default.
SUITS = 0.1
# What an optimizer needs that compares gradients.
ALL_ROWS = "set batch_size=None, or use optimizer='lbfgs'"


@dataclass(frozen=True)
class Judge:
    """Compares the losses of a run with that of equal probabilities for all classes.

    Parameters
    ----------
    objective : Objective
    rows : Rows
    held : Rows, optional
        Rows to validate on.
    held_out : bool
        Whether these were taken from the rows that ``fit`` got.
    whole : bool
        Whether ``rows`` are all there are, and not a part of a stream.
    mixes : bool
        Whether the optimizer takes differences of gradients of several mini-batches.
    """

    objective: Objective
    rows: Rows
    held: Rows | None = None
    held_out: bool = False
    whole: bool = True
    mixes: bool = False

    def of_optimizer(self, optimizer: Optimizer, n_batches: int) -> Judge:
        """The judge of runs with an optimizer; warns of one that needs all rows."""
        if not isinstance(optimizer, torch.optim.LBFGS) or n_batches == 1:
            return self
        if optimizer.param_groups[0]["line_search_fn"] is not None:
            return self  # it bounds what comes of such differences
        warn(
            f"{type(optimizer).__name__} takes differences of gradients, and those of "
            f"two mini-batches differ by their rows as well: {ALL_ROWS}.",
            UserWarning,
        )
        return replace(self, mixes=True)

    def null_loss(self, rows: Rows) -> float:
        """Loss of equal probabilities; ``pos_weight`` may make it large."""
        scale = 1.0 if rows.weight is None else rows.weight.mean().item()
        return scale * self.objective.loss.null_value

    def loss_at(self, coef: Coefficients, rows: Rows) -> float:
        """Mean loss of rows."""
        block = view_block(rows)
        self.objective.logits(block, coef)
        return self.objective.mean_loss(block).item()

    def remedy(self, lr: float | None, *, longer: bool = False) -> str:
        """What to do: to scale features that are not, or to take shorter steps."""
        held = "X" if self.held_out else "X_val"
        for name, rows in ("X", self.rows), (held, self.held):
            if rows is None:
                continue
            ends = torch.stack(torch.aminmax(rows.X))  # NaN, if any is
            if not ends.isfinite().all():  # scikit-learn was told not to look
                return f"{name} has values that are not finite: impute or remove them."
        size = sample_of(self.rows).X.cpu().double().square().mean(dim=0).sqrt()
        scaled = bool((size <= SCALED).all())
        advice = []
        if self.mixes:
            advice.append(ALL_ROWS)
        if not scaled or lr is None:
            advice.append(
                "scale the features, e.g. make_pipeline(StandardScaler(), "
                "TorchLogisticClassifier())"
            )
        if lr is not None and (scaled or lr > 1) and not self.mixes:
            alpha = self.objective.alpha
            # Of an lr of 1e5 a tenth is no better. Steps of 2 / alpha do not shrink
            # the coefficients any more.
            shorter = min(SUITS, lr / 10, 1 / alpha if alpha else SUITS)
            advice.append(f"try lr={shorter:.2g}{' or a lower alpha' if alpha else ''}")
        text = ", and ".join(advice)
        text = f"{text[0].upper()}{text[1:]}"
        return f"{text}, or train longer." if longer else f"{text}."

    def divergence(self, what: str, lr: float | None) -> ValueError:
        """The error that says what was found."""
        rate = "" if lr is None else f" with lr={lr:g}"
        return ValueError(
            f"Training diverged{rate}: {what}, against {self.null_loss(self.rows):.3g} "
            f"of equal probabilities for all classes. {self.remedy(lr)}"
        )

    def epoch_divergence(
        self, prefix: str, epoch: int, loss: float, lr: float | None
    ) -> ValueError:
        """The error for an epoch whose loss is not a number."""
        kind = "loss" if prefix == "train" else "validation loss"
        return self.divergence(f"in epoch {epoch} the mean {kind} became {loss:g}", lr)

    def check_end(
        self,
        coef: Coefficients,
        history: list[dict[str, Any]],
        lr: float | None,
        *,
        stopped: bool,
    ) -> None:
        """Raise ValueError if the coefficients at the end are of no use.

        Warn of those that are worse than none.

        Parameters
        ----------
        coef : Coefficients
        history : list of dict
            One for each epoch.
        lr : float, optional
            The step size at the end, of a solver that has one.
        stopped : bool
            Whether the run ended before the last epoch that it was given.
        """
        if not history:
            return
        sample = sample_of(self.rows)
        loss, null = self.loss_at(coef, sample), self.null_loss(sample)
        if not loss <= DIVERGED * null:
            at = f"after epoch {len(history)}"
            rows = "1 row" if len(sample) == 1 else f"{len(sample)} rows"
            what = f"{at} the mean loss of {rows} was {loss:.3g}"
            raise self.divergence(what, lr)
        if loss <= SUSPECT * null:
            return
        worst, epoch = max((row["train_loss"], i + 1) for i, row in enumerate(history))
        if worst > EXPLODED * null:
            what = f"in epoch {epoch}, the worst, the mean loss was {worst:.3g}"
            raise self.divergence(what, lr)
        # Whether there was time enough. A solver without lr stops where it is done.
        begun = len(history) >= BEGUN or (stopped and lr is not None)
        clear = begun or loss > LOST * null
        if clear and (self.whole or len(sample) >= STREAMED_ROWS):
            warn(
                f"The mean loss at the end, of {len(sample)} rows, is {loss:.3g}, "
                f"above the {null:.3g} of equal probabilities for all classes. "
                f"{self.remedy(lr, longer=loss <= FAR * null and not stopped)}",
                ConvergenceWarning,
            )

    def check_held(self, coef: Coefficients, losses: Sequence[float | None]) -> None:
        """Warn of rows to validate on whose features are not like those of X.

        Parameters
        ----------
        coef : Coefficients
        losses : list of float
            Of these rows after each epoch; None for an epoch that has none.
        """
        known = [loss for loss in losses if loss is not None]
        if self.held is None or self.held_out or not known:
            return
        least, far = min(known), FAR * self.null_loss(self.held)
        if least <= far:
            return
        held = sample_of(self.held)
        # Early stopping may have gone back to before the first epoch.
        still = self.loss_at(coef, held) > far
        if still and are_apart(held, sample_of(self.rows)):
            warn(
                f"The mean loss of X_val is {least:.3g} or more, far above that of "
                "equal probabilities for all classes, and its features are far from "
                "those of X. Transform X_val as X: a Pipeline does so with "
                "transform_input=['X_val'].",
                UserWarning,
            )


def are_apart(rows: Rows, others: Rows) -> bool:
    """Whether some feature is many standard deviations of others from their mean."""
    X, Z = (some.X.cpu().double() for some in (rows, others))
    distance = (X - Z.mean(dim=0)).square().mean(dim=0).sqrt()
    return bool((distance > SCALED * Z.std(dim=0, correction=0)).any())


def sample_of(rows: Rows) -> Rows:
    """Some rows, spread over all, which will do for a judgement."""
    return rows.every(-(-len(rows) // CHECKED_ROWS))
