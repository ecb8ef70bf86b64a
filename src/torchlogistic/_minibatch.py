"""Mini-batch training: the fused epoch.

A step is closed-form: one product of the batch with the coefficients, the residual of
the loss, one product of the transposed batch with it, and the update, all written into
arrays that were allocated before the first epoch. Autograd has no part in it, nothing
is copied to the host, and the loss of an epoch is computed from the logits it left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor
from torch.optim import Optimizer

from ._batches import Batches
from ._gradient import PieceGradient
from ._graphs import GraphedSteps, find_recorder
from ._inplace import InPlaceStep, Listener, MakeGradient
from ._kernels import BatchGradient
from ._objective import Coefficients, Objective
from ._rows import Block
from ._steps import make_step
from ._threads import Team


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
    team : Team
        Threads that share the work on a large batch, or take turns with smaller ones.
    """

    def __init__(
        self,
        objective: Objective,
        batches: Batches,
        coef: Coefficients,
        optimizer: Optimizer,
        team: Team,
    ) -> None:
        self.objective = objective
        self.batches = batches
        self.coef = coef
        self.team = team
        self.pieces = PieceGradient(objective, team)
        self.shared = batches.shared
        self.step = make_step(objective, coef, optimizer, self._find_gradient())
        # Whether each gradient adds the loss of its batch. Of several gradients of a
        # batch, for an optimizer that asks for them, the first one's logits remain.
        self._adds_losses = self.shared and not self.step.needs_closure
        self.graphs = self._find_graphs()
        self._loss_sum: Tensor | float | None = None
        self.n_batches = batches.n_batches
        self.done = False  # a given number of epochs is what it runs

    def _find_gradient(self) -> MakeGradient:
        """What computes the gradient of a batch."""
        if self.shared:
            return self._share_gradient
        if self.batches.device.type == "cuda":
            return BatchGradient(self.objective, self.coef).make
        return self.objective.make_gradient

    def _find_graphs(self) -> GraphedSteps | None:
        """What records updates, on a device that does, for batches where it pays."""
        recorder = find_recorder(self.batches.device)
        if recorder is None or self.shared or not isinstance(self.step, InPlaceStep):
            return None
        return GraphedSteps(self.step, recorder)

    def refresh(self) -> None:
        """Read what a callback may have changed since the last update."""
        self.step.refresh()

    @property
    def loss(self) -> float:
        """Mean loss of the last epoch; waits for the device."""
        assert self._loss_sum is not None  # there is at least one row
        return float(self._loss_sum) / self.batches.n_rows

    def visit(self) -> Iterator[Block]:
        """Visit the batches of one epoch and add up their losses."""
        for batches, _ in self._chunks():
            yield from batches

    def _chunks(self) -> Iterator[tuple[list[Block], Block]]:
        """The batches of one epoch, chunk by chunk; adds up their losses."""
        self._loss_sum = None
        by_chunk = self.batches.record is None and not self._adds_losses
        for batches, span in self.batches:
            yield batches, span
            if by_chunk:
                self._add_loss(self.objective.epoch_loss(span, self.team.map))
        self._add_recorded()

    def _add_recorded(self) -> None:
        """All losses of an epoch at once, where its logits were kept."""
        if self.batches.record is not None:
            record, each = self.batches.record, self.team.map
            self._loss_sum = self.objective.epoch_loss(record, each)

    def _share_gradient(
        self, coef: Coefficients, like: Block
    ) -> Callable[[Block], None]:
        def write_gradient(block: Block) -> None:
            loss = self.pieces.evaluate(block, coef)
            if self._adds_losses:
                self._add_loss(loss)

        return write_gradient

    def _add_loss(self, part: Tensor | float) -> None:
        self._loss_sum = part if self._loss_sum is None else self._loss_sum + part

    def update(self, block: Block, listener: Listener | None = None) -> None:
        """One step on a batch."""
        self.step.update(block, listener)
        self.step.commit()

    def stop(self) -> None:
        """Leave no thread at work; for the end of a run."""
        self.batches.stop()

    def epoch(self) -> None:
        """One pass over the data, with nobody listening to its batches."""
        self._loss_sum = None
        self.refresh()
        update = self.step.make_update(self.batches.rooms[0].full.batches[0])

        def train(batches: list[Block]) -> None:
            for batch in batches:
                update(batch)

        in_turn = isinstance(self.step, InPlaceStep) and self.graphs is None
        if in_turn and self.batches.record is not None:
            self.batches.each(train)
            self._add_recorded()
        else:
            act = train if self.graphs is None else self.graphs.run
            for batches, _ in self._chunks():
                act(batches)
        self.step.commit()
