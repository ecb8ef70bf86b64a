"""Many models in one training run: candidates of a search, on several folds.

Candidates that differ only in numbers (step size, penalty, momentum, weights of
classes) see the same batches. Their coefficients are columns of one matrix: the two
products of a step then read the batch once for all of them. Folds have other rows;
they are a leading axis, so that a step on small batches costs one round of calls for
all folds. The rules, the objective and the random stream are those of a single fit,
and so are the coefficients, but for rounding.

Shapes, with F folds, C candidates and K outputs of the loss:

* coefficients: (F, n_features [+ 1], C * K); outputs of a candidate are neighbours
* rows X: (F, n, n_features [+ 1]); logits: (F, n, C * K)
* targets: (F, n, 1) or (F, n, C * K); weights: (F, n, 1) or (F, n, C * K)

What goes in and out is on the host; what is computed with is on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from ._arrays import SERIAL_ENTRIES, Array, as_array, as_tensor, namespace, send
from ._batches import CHUNK_BATCHES, CHUNK_BYTES
from ._graphs import GraphedSteps, find_recorder
from ._inplace import InPlaceStep, Segment
from ._loss import Logits, Loss, write_softmax
from ._objective import Coefficients, Objective
from ._rows import Block, Rows
from ._stream import RandomStream

# Bytes of a buffer of batches with their logits: in a core's second-level cache, and on
# a device as in ``_batches``.
BUFFER_BYTES = {"cpu": 2**20, "cuda": CHUNK_BYTES["cuda"]}


@dataclass
class Settings:
    """What all candidates of a run share.

    Parameters
    ----------
    seed, batch_size : int
    shuffle, fit_intercept : bool
    validation : bool
        Whether a validation loader is iterated too; see :class:`._stream.RandomStream`.
    rule : type
        Of :mod:`._rules`.
    optimizer : torch.optim.Optimizer
        Its parameter group has the numbers of the rule; those in ``numbers`` replace
        them by one per candidate.
    numbers : dict of str to ndarray of shape (n_candidates,), or a pair of such
    device : torch.device
    """

    seed: int
    batch_size: int
    shuffle: bool
    fit_intercept: bool
    validation: bool
    rule: type[InPlaceStep]
    optimizer: Any
    numbers: dict[str, Any]
    device: torch.device


class CandidateLoss:
    """A loss of logits that are those of several candidates side by side."""

    def __init__(self, loss: Loss, n_candidates: int) -> None:
        self.loss = loss
        self.n_outputs = loss.n_outputs * n_candidates
        self._shape = (n_candidates, loss.n_outputs)

    def _apart(self, z: Array) -> Array:
        """Logits of each candidate on an axis of their own, if it has several."""
        return z if self._shape[1] == 1 else z.reshape(*z.shape[:-1], *self._shape)

    @staticmethod
    def few_rows(z: Array) -> int:
        return 0  # ``write_mean`` decides by the number of all logits

    def write_mean(self, block: Logits) -> None:
        if self._shape[1] == 1:
            few = self.loss.few_rows(block.z)
            if few and block.z.size <= few:
                expit(block.z, block.r)
            else:
                self.loss.mean(block.logits, block.residual)
        elif isinstance(block.z, np.ndarray):
            write_softmax(self._apart(block.z), self._apart(block.r))
        else:
            self.loss.mean(self._apart(block.logits), self._apart(block.residual))

    def value(self, z: Tensor, y: Tensor) -> Tensor:
        """Losses, (F, n, C)."""
        return self.loss.value(self._apart(z), self._apart(y))


@dataclass(frozen=True)
class CandidateObjective(Objective):
    """The objectives of all candidates, with one strength of the penalty each.

    ``l2_factor`` is ``l2`` where it is computed with.
    """

    l2: Any = 0.0
    l1: Any = 0.0
    l2_factor: Any = 0.0


class Stack:
    """Rows of several folds in one array, and the order in which an epoch takes them.

    Parameters
    ----------
    folds : list of Rows
        ``y`` of shape (n, 1) or (n, C * K), ``weight`` None in all or in none, of shape
        (n, 1) or (n, C * K).
    settings : Settings
    """

    def __init__(self, folds: list[Rows], settings: Settings) -> None:
        self.lengths = [len(fold) for fold in folds]
        self.n_rows = max(self.lengths)
        self.batch_size = min(settings.batch_size, self.n_rows)
        self.n_batches = -(-self.n_rows // self.batch_size)
        self.settings = settings
        self.stream = RandomStream(settings.seed)
        ends = np.cumsum([0, *self.lengths])
        self.offsets, self.nothing = ends[:-1], int(ends[-1])
        X = self._stacked([fold.X for fold in folds])
        if settings.fit_intercept:
            ones = np.ones((len(X), 1), dtype=X.dtype)
            ones[self.nothing] = 0
            X = np.hstack([X, ones])
        self.X = self._sent(X)
        self.y = self._sent(self._stacked([fold.y for fold in folds]))
        weights = [fold.weight for fold in folds if fold.weight is not None]
        width = max((weight.shape[1] for weight in weights), default=1)
        weights = [weight.expand(-1, width) for weight in weights]
        self.weight = self._sent(self._stacked(weights)) if weights else None

    def _stacked(self, parts: list[Tensor]) -> np.ndarray:
        """All parts, and one row of zeros: it adds nothing to any gradient."""
        nothing = np.zeros((1, parts[0].shape[1]), dtype=parts[0].numpy().dtype)
        return np.concatenate([*(part.numpy() for part in parts), nothing])

    def _sent(self, array: np.ndarray) -> Array:
        return as_array(send(torch.from_numpy(array), self.settings.device))

    def epoch_order(self) -> np.ndarray:
        """Numbers of the rows in the order of an epoch: (F, n_rows)."""
        seed = self.stream.epoch_seed(
            shuffle=self.settings.shuffle, validation=self.settings.validation
        )
        order = np.full((len(self.lengths), self.n_rows), self.nothing)
        known: dict[int, np.ndarray] = {}
        for fold, (n, offset) in enumerate(
            zip(self.lengths, self.offsets, strict=True)
        ):
            if n not in known:
                in_order = not self.settings.shuffle or self.settings.batch_size >= n
                known[n] = (
                    np.arange(n)
                    if in_order
                    else self.stream.permutation(n, seed).numpy()
                )
            order[fold, :n] = known[n] + offset
        return order


class Buffer:
    """Room for consecutive batches of all folds, cut into blocks once."""

    def __init__(self, stack: Stack, n_outputs: int) -> None:
        self.stack = stack
        n_folds, p = len(stack.lengths), stack.X.shape[1]
        row_bytes = n_folds * (p + 2 * n_outputs) * stack.X.itemsize
        batch = stack.batch_size
        kind = stack.settings.device.type
        n_batches = max(1, BUFFER_BYTES.get(kind, 2**20) // (row_bytes * batch))
        n_batches = min(n_batches, CHUNK_BATCHES.get(kind, n_batches))
        self.capacity = min(n_batches * batch, stack.n_rows)
        empty = as_tensor(stack.X).new_empty
        shape = (n_folds, self.capacity)
        self.X = as_array(empty((*shape, p)))
        self.y = as_array(empty((*shape, stack.y.shape[1])))
        self.weight = None
        if stack.weight is not None:
            self.weight = as_array(empty((*shape, stack.weight.shape[1])))
        self.logits = empty((*shape, n_outputs))
        self.residual = empty((*shape, n_outputs))
        self._cut: dict[tuple[int, ...], list[Block]] = {}

    def fill(self, order: np.ndarray) -> None:
        """Copy rows of all folds: order of shape (F, n), n at most the capacity."""
        n = order.shape[1]
        pairs = [(self.stack.X, self.X), (self.stack.y, self.y)]
        if self.stack.weight is not None and self.weight is not None:
            pairs.append((self.stack.weight, self.weight))
        index = as_array(send(torch.from_numpy(order), self.stack.settings.device))
        xp = namespace(self.logits)
        for source, out in pairs:
            if n == self.capacity:
                xp.take(source, index, out)
            else:
                out[:, :n] = source[index]

    def blocks(self, start: int, n: int) -> list[Block]:
        """The batches of the first n rows, which are those from ``start`` on."""
        # Folds with fewer rows end earlier.
        counts = [max(0, min(n, length - start)) for length in self.stack.lengths]
        key = tuple(counts)
        if key not in self._cut:
            size = self.stack.batch_size
            self._cut[key] = [
                self._block(a, min(a + size, n), counts) for a in range(0, n, size)
            ]
        return self._cut[key]

    def _block(self, start: int, stop: int, counts: list[int]) -> Block:
        rows = (slice(None), slice(start, stop))
        n_rows = [max(1, min(stop, count) - start) for count in counts]
        if len(set(n_rows)) == 1:  # which is quicker than an equal number for each
            n_rows = n_rows[:1]
        X, logits, residual = self.X[rows], self.logits[rows], self.residual[rows]
        scale = 1.0 / logits.new_tensor(n_rows)[:, None, None]
        return Block(
            X=X,
            Xt=X.swapaxes(1, 2),
            y=self.y[rows],
            weight=None if self.weight is None else self.weight[rows],
            z=as_array(logits),
            r=as_array(residual),
            n_features=X.shape[2] - self.stack.settings.fit_intercept,
            scale=as_array(scale),
        )


class CandidateRun:
    """Train all candidates on all folds, an epoch at a time.

    Parameters
    ----------
    folds : list of Rows
        With the same number of batches each.
    loss : Loss
    l2, l1 : ndarray of shape (n_candidates,)
    settings : Settings

    Attributes
    ----------
    coef : Coefficients
        Values of shape (F, n_features [+ 1], C * K).
    """

    def __init__(
        self,
        folds: list[Rows],
        loss: Loss,
        *,
        l2: np.ndarray,
        l1: np.ndarray,
        settings: Settings,
    ) -> None:
        self.loss, self.settings = loss, settings
        self.n_candidates, k = len(l2), loss.n_outputs
        stack = self.stack = Stack(folds, settings)
        n_features = folds[0].X.shape[1]
        coef = self.coef = self._start(n_features, k)
        self.objective = CandidateObjective(
            CandidateLoss(loss, self.n_candidates),  # type: ignore[arg-type]
            l2=self._per_output(l2) if l2.any() else 0.0,
            l1=self._per_output(l1) if l1.any() else 0.0,
            l2_factor=coef.xp.number(self._per_output(l2), coef.arrays.values),
        )
        self.buffer = Buffer(stack, self.n_candidates * k)
        self.step = self._make_step()
        recorder = find_recorder(settings.device)
        self.graphs = None if recorder is None else GraphedSteps(self.step, recorder)

    def _per_output(self, numbers: np.ndarray) -> np.ndarray:
        return np.repeat(numbers.astype(np.float64), self.loss.n_outputs)

    def _start(self, n_features: int, k: int) -> Coefficients:
        """The initial coefficients of a single fit, for all."""
        fit_intercept = self.settings.fit_intercept
        weight = torch.empty(k, n_features, dtype=torch.float32)
        bias = torch.empty(k, dtype=torch.float32)
        self.stack.stream.initial_linear(weight, bias if fit_intercept else None)
        one = torch.cat([weight.t(), bias[None]]) if fit_intercept else weight.t()
        n_folds = len(self.stack.lengths)
        values = one.to(as_tensor(self.stack.X).dtype)
        values = values.repeat(n_folds, 1, self.n_candidates).contiguous()
        values = values.to(self.settings.device)
        return Coefficients(values, fit_intercept=fit_intercept)

    def _make_step(self) -> InPlaceStep:
        coef, settings = self.coef, self.settings
        step = settings.rule(
            self.objective, coef, settings.optimizer, self.objective.make_gradient
        )
        group = dict(settings.optimizer.param_groups[0])
        for name, numbers in settings.numbers.items():
            pair = isinstance(numbers, tuple)
            group[name] = (
                tuple(map(self._per_output, numbers))
                if pair
                else self._per_output(numbers)
            )
        step.read_numbers(group)
        arrays, xp = coef.arrays, coef.xp
        scratch = xp.zeros_like(arrays.values)
        state = {name: xp.zeros_like(arrays.values) for name in step.names(group)}
        if "sum" in state:  # torch's Adagrad starts from a number of the user's
            state["sum"] += step.number(group["initial_accumulator_value"])
        step.segments = [
            Segment(
                values=arrays.values,
                gradient=arrays.gradient,
                weight=arrays.weight,
                state=state,
                scratch=scratch,
                weight_scratch=scratch[:, : coef.n_features],
                weight_gradient=arrays.weight_gradient,
                n_steps=0,
            )
        ]
        return step

    def mean_losses(self, rows: Rows, fold: int, values: np.ndarray) -> np.ndarray:
        """Mean losses of all candidates on some rows of a fold: (C,).

        Parameters
        ----------
        rows : Rows
            With targets and weights as in the stack.
        fold : int
        values : ndarray of the shape of the coefficients
        """
        n, k = self.coef.n_features, self.loss.n_outputs
        tensors = rows.X, rows.y, torch.from_numpy(values[fold])
        X, y, own = (as_array(send(t, self.settings.device)) for t in tensors)
        z = as_array(as_tensor(own).new_empty((len(X), own.shape[-1])))
        product = self.coef.xp.product(2, (*X.shape, own.shape[-1]))
        product(X, own[:n], z)
        if self.coef.fit_intercept:
            z += own[n]
        losses = as_array(self.objective.loss.value(as_tensor(z), as_tensor(y)))
        if rows.weight is not None:
            weight = as_array(send(rows.weight, self.settings.device))
            losses *= weight if weight.shape[1] == 1 else weight[:, ::k]
        return on_host(losses).mean(axis=0, dtype=np.float64)

    def values(self) -> np.ndarray:
        """A copy of the coefficients."""
        return on_host(self.coef.arrays.values).copy()

    def epoch(self) -> np.ndarray:
        """One pass over the rows; returns the mean loss of each model: (F, C)."""
        losses: Any = 0.0
        for start, n in self._fill():
            self._update(self.buffer.blocks(start, n))
            losses = losses + self._losses(start, n)
        return on_host(losses) / np.array(self.stack.lengths)[:, None]

    def _update(self, blocks: list[Block]) -> None:
        if self.graphs is not None:
            self.graphs.run(blocks)
            return
        update = self.step.make_update(blocks[0])
        for block in blocks:
            update(block)

    def _fill(self) -> Iterator[tuple[int, int]]:
        order, capacity = self.stack.epoch_order(), self.buffer.capacity
        for start in range(0, self.stack.n_rows, capacity):
            part = order[:, start : start + capacity]
            self.buffer.fill(part)
            yield start, part.shape[1]

    def _losses(self, start: int, n: int) -> Array:
        """Sums of the losses of the rows in the buffer: (F, C)."""
        buffer, loss, device = self.buffer, self.objective.loss, self.settings.device
        k = self.loss.n_outputs
        lengths = np.array(self.stack.lengths)[:, None, None]
        # In parts, for which torch starts no threads of its own.
        step = n
        if device.type == "cpu":
            step = max(1, SERIAL_ENTRIES // (loss.n_outputs * len(lengths)))
        total: Any = 0.0
        for a in range(0, n, step):
            rows = (slice(None), slice(a, min(a + step, n)))
            y = as_tensor(buffer.y[rows])
            values = as_array(loss.value(buffer.logits[rows], y).double())
            if buffer.weight is not None:
                weight = buffer.weight[rows]
                values *= weight if weight.shape[2] == 1 else weight[:, :, ::k]
            here = np.arange(start + a, start + a + values.shape[1])
            counts = torch.from_numpy((here < lengths).astype(np.float64))
            # A product sums over rows sooner than a sum does.
            total = total + as_array(send(counts, device)) @ values
        return total[:, 0]


def on_host(array: Array) -> np.ndarray:
    """The array itself, or a copy of what is on a device, for which the host waits."""
    host: np.ndarray = as_tensor(array).cpu().numpy()
    return host
