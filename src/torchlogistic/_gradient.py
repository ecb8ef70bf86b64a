"""Loss and gradient over all rows, in one pass over X.

Both products of a gradient, ``X w`` and ``X' r``, read X. Done one after the other on
all rows, each reads it from main memory. Here the rows are cut into pieces that stay
in a core's cache from the first product to the second, and each thread has pieces of
its own: X is read once, by all cores. The pieces are summed in groups that do not
depend on the number of threads, and so does the result not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Thread

import torch
from torch import Tensor

from ._objective import Coefficients, Objective, accumulator
from ._rows import Block

PIECE_BYTES = 2**20  # of X: half to all of a core's second-level cache
# torch starts threads of its own from this many entries on.
SERIAL_ENTRIES = 2**15
GROUPS = 16
# With more columns one matrix product is faster than a vector product for each.
MAX_COLUMNS = 8


class FullGradient:
    """Evaluate the smooth objective and its gradient on all rows.

    Parameters
    ----------
    objective : Objective
    block : Block
        All rows; logits and residuals are left in it.
    """

    def __init__(self, objective: Objective, block: Block) -> None:
        self.objective = objective
        self.block = block
        self.wide = accumulator(block.X)
        step = self._piece_rows()
        pieces = [block[i : i + step] for i in range(0, len(block), step)]
        n_groups = min(GROUPS, len(pieces))
        self.groups = [
            pieces[len(pieces) * i // n_groups : len(pieces) * (i + 1) // n_groups]
            for i in range(n_groups)
        ]

    def _piece_rows(self) -> int:
        block = self.block
        n_outputs = self.objective.loss.n_outputs
        if block.X.device.type != "cpu" or n_outputs > MAX_COLUMNS:
            return len(block)
        row_bytes = block.n_columns * block.X.element_size()
        return max(1, min(PIECE_BYTES // row_bytes, SERIAL_ENTRIES // n_outputs))

    def evaluate(self, coef: Coefficients) -> float:
        """Logits and residuals into the block, gradient into ``coef``.

        Returns the mean loss. One synchronization with the device.
        """
        return self._run(coef, fresh=True)

    def at_logits(self, coef: Coefficients) -> float:
        """The same, where the logits stand in the block already."""
        return self._run(coef, fresh=False)

    def _run(self, coef: Coefficients, *, fresh: bool) -> float:
        sums = [torch.zeros_like(coef.weight, dtype=self.wide) for _ in self.groups]

        def work(start: int, step: int) -> Callable[[], None]:
            def run() -> None:
                for i in range(start, len(self.groups), step):
                    for piece in self.groups[i]:
                        if fresh:
                            self._logits(piece, coef)
                        self._add(piece, coef, sums[i])

            return run

        # 1. The gradient of the weights, which takes the passes over X.
        n_threads = min(torch.get_num_threads(), len(self.groups))
        run_together([work(i, n_threads) for i in range(n_threads)])
        gradient = sums[0]
        for other in sums[1:]:
            gradient += other
        scale = self.block.scale
        coef.weight_gradient.copy_(gradient.mul_(scale))
        if self.objective.l2:
            coef.weight_gradient.add_(coef.weight, alpha=self.objective.l2)

        # 2. What needs vectors of n entries only.
        if coef.fit_intercept:
            total = self.block.residual.sum(dim=0, dtype=self.wide)
            coef.intercept_gradient.copy_(total.mul_(scale))
        coef.zero_frozen()
        return self.objective.loss_sum(self.block).item() * scale

    def _logits(self, piece: Block, coef: Coefficients) -> None:
        if not self._by_column(coef):
            self.objective.logits(piece, coef)
            return
        for k, weight in enumerate(coef.weight.unbind(1)):
            torch.mv(piece.X, weight, out=piece.logits[:, k])
        if coef.fit_intercept:
            piece.logits.add_(coef.intercept)

    def _add(self, piece: Block, coef: Coefficients, gradient: Tensor) -> None:
        """Residuals of a piece, and their part of the gradient of the weights."""
        residual = self.objective.loss.residual(piece.logits, piece.y, piece.residual)
        if piece.weight is not None:
            residual.mul_(piece.weight)
        if self._by_column(coef):
            for k, column in enumerate(residual.unbind(1)):
                gradient[:, k] += torch.mv(piece.Xt, column)
        elif residual.dim() == 2:  # this order of the factors is the faster one
            gradient += torch.mm(residual.t(), piece.X).t()
        else:
            gradient += torch.mv(piece.Xt, residual)

    def _by_column(self, coef: Coefficients) -> bool:
        return (
            coef.values.dim() == 2
            and coef.values.shape[1] <= MAX_COLUMNS
            and coef.values.device.type == "cpu"
        )


def run_together(tasks: Sequence[Callable[[], None]]) -> None:
    """Run tasks at the same time, the first one in this thread.

    torch's operations release Python's lock. An exception in any task is raised here,
    when all have ended.
    """
    failures: list[BaseException] = []

    def guarded(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            failures.append(error)

    threads = [Thread(target=guarded, args=(task,)) for task in tasks[1:]]
    for thread in threads:
        thread.start()
    try:
        tasks[0]()
    finally:
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
