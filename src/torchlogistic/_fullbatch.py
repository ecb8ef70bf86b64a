"""What the full-batch solvers share: state, gradient, when to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ._objective import Coefficients, Objective
from ._rows import Block

# Iterations after which the logits are computed anew rather than updated: rounding
# would add up.
REFRESH = 20


class FullBatch:
    """One iteration an epoch; abstract: a solver defines ``reset`` and ``iterate``.

    Parameters
    ----------
    objective : Objective
    block : Block
        All rows.
    coef : Coefficients
    tol : float
        Max-norm of the gradient at which the solver has converged.

    Attributes
    ----------
    loss : float
        Mean loss, without the penalty, at the coefficients.
    gradient_norm : float
        Max-norm of the gradient there.
    converged : bool
    stalled : bool
        Whether no step lowers the objective any more, at the precision of the dtype.
    """

    n_batches = 1

    def __init__(
        self, objective: Objective, block: Block, coef: Coefficients, *, tol: float
    ) -> None:
        self.objective = objective
        self.block = block
        self.coef = coef
        self.tol = tol
        self.loss = float("inf")
        self.precision = 4 * torch.finfo(coef.values.dtype).eps
        self.gradient_norm = float("inf")
        self.stalled = False
        self._seen: Tensor | None = None
        self._age = 0

    @property
    def converged(self) -> bool:
        return self.gradient_norm <= self.tol

    @property
    def done(self) -> bool:
        """Whether another iteration would change nothing."""
        return self.converged or self.stalled

    @property
    def separated(self) -> bool:
        """Whether the coefficients put every row on its side, where none is best."""
        labels = self.objective.loss.labels(self.block.y)
        z = self.block.logits
        predicted = (z > 0).to(labels.dtype) if z.dim() == 1 else z.argmax(dim=1)
        return bool((predicted == labels).all())

    def reset(self) -> None:
        """Forget what earlier iterations learned."""
        raise NotImplementedError

    def iterate(self) -> bool:
        """One iteration; False if no step lowers the objective."""
        raise NotImplementedError

    def evaluate(self) -> None:
        """Gradient and its norm at the logits in the block."""
        self.objective.gradient_at_logits(self.block, self.coef)
        self.coef.zero_frozen()
        self.gradient_norm = self.coef.gradient.abs().max().item()

    def refresh_logits(self) -> None:
        """Logits, gradient and loss at the coefficients, from X."""
        self.objective.logits(self.block, self.coef)
        self.evaluate()
        self.loss = self.objective.loss_sum(self.block).item() * self.block.scale
        self._age = 0

    def refresh(self) -> None:
        """Notice coefficients that a callback changed since the last iteration."""
        if self._seen is None or not torch.equal(self._seen, self.coef.values):
            self.reset()
            self.refresh_logits()

    def visit(self) -> Iterator[Block]:
        """Visit the one batch."""
        yield self.block

    def update(self, block: Block, listener: Callable[[], None] | None = None) -> None:
        """One iteration; ``listener`` hears of the gradient it starts from."""
        self.refresh()
        if listener is not None:
            listener()
        if not self.done:
            self._age += 1
            if self._age % REFRESH == 0:
                self.refresh_logits()
            self.stalled = not self.iterate()
        self._seen = self.coef.values.clone()

    def epoch(self) -> None:
        """One iteration, with nobody listening."""
        self.update(self.block)
