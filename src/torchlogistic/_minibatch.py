"""Mini-batch training: the fused epoch.

A step is closed-form: one product of the batch with the coefficients, the residual of
the loss, one product of the transposed batch with it, and the update, all written into
tensors that were allocated before the first epoch. No graph is recorded, nothing is
copied to the host, and the loss of an epoch is computed from the logits it left behind.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.optim import Optimizer

from ._objective import Coefficients, Objective
from ._rows import Batches, Block
from ._steps import Listener, make_step


class MiniBatch:
    """The mini-batch solver: one epoch at a time over the batches.

    Parameters
    ----------
    objective : Objective
    batches : Batches
    coef : Coefficients
    optimizer : torch.optim.Optimizer
        Over ``nn.Linear`` parameters that are views of ``coef.values``; its parameter
        group is read anew each epoch, so that schedulers work on it.
    """

    def __init__(
        self,
        objective: Objective,
        batches: Batches,
        coef: Coefficients,
        optimizer: Optimizer,
    ) -> None:
        self.objective = objective
        self.batches = batches
        self.coef = coef
        self.step = make_step(objective, coef, optimizer)
        self._loss_sum: Tensor | None = None
        self.n_batches = 0
        self.done = False  # a given number of epochs is what it runs

    def refresh(self) -> None:
        """Read what a callback may have changed since the last update."""
        self.step.refresh()

    @property
    def loss(self) -> float:
        """Mean loss of the last epoch; waits for the device."""
        assert self._loss_sum is not None  # there is at least one row
        return self._loss_sum.item() / self.batches.n_rows

    def visit(self) -> Iterator[Block]:
        """Visit the batches of one epoch and add up their losses."""
        loss_sum: Tensor | None = None
        self.n_batches = 0
        for chunk in self.batches:
            yield from chunk.batches
            self.n_batches += len(chunk.batches)
            chunk_sum = self.objective.loss_sum(chunk.block)
            loss_sum = chunk_sum if loss_sum is None else loss_sum + chunk_sum
        self._loss_sum = loss_sum

    def update(self, block: Block, listener: Listener | None = None) -> None:
        """One step on a batch."""
        self.step.update(block, listener)
        self.step.commit()

    def epoch(self) -> None:
        """One pass over the data, with nobody listening to its batches."""
        self.refresh()
        update = self.step.update
        for batch in self.visit():
            update(batch, None)
        self.step.commit()
