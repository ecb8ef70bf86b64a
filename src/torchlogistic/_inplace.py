"""What update rules share: coefficients and state as one vector, frozen parts, L1.

A rule of ``_rules`` is applied in place to one vector of all coefficients rather than
to a list of parameters. Its state lives in the optimizer of torch as views of such
vectors, so that it can be saved, loaded and watched as usual.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from ._arrays import Array, Namespace, Number, as_array
from ._objective import Coefficients, Objective
from ._rows import Block

# Settings of the optimizers that are numbers, or pairs of numbers; others are switches.
NUMBERS = {
    "lr",
    "momentum",
    "dampening",
    "weight_decay",
    "betas",
    "eps",
    "alpha",
    "lr_decay",
    "initial_accumulator_value",
}

Listener = Callable[[], None]
# Of blocks with the columns of a given one and no more rows: writes the gradient into
# the coefficients.
MakeGradient = Callable[[Coefficients, Block], Callable[[Block], None]]


@dataclass(slots=True)
class Segment:
    """Coefficients that are updated as one array.

    All of them, unless a callback froze the weight or the intercept, or did so for a
    while: then each has a segment with its own number of steps.
    """

    values: Array
    gradient: Array
    weight: Array  # the part of the values that is penalised
    state: dict[str, Array]  # of the shape of the values
    scratch: Array
    # Of the shape of the weight: parts of the scratch, and of the gradient.
    weight_scratch: Array
    weight_gradient: Array
    n_steps: int


class InPlaceStep:
    """Update by a rule; abstract: a rule defines the methods that follow.

    The numbers of a rule stay the same for a fit, but for those that follow the number
    of steps or ``lr``. The attributes named in ``varying`` hold these: a recorded CUDA
    graph finds them in memory, on the device.

    With an L1 penalty each step is followed by its proximal step, of the length that
    the rule gives to a gradient of one: for rules that scale each coefficient, the
    proximal step in their metric [1]_. It leads to the minimum of the objective, which
    a proximal step of length ``lr`` would miss.

    References
    ----------
    .. [1] J. Yun, A. Lozano and E. Yang, "Adaptive Proximal Gradient Methods for
       Structured Neural Networks", NeurIPS 2021.
    """

    needs_closure = False  # one gradient a step
    counts = True  # whether the optimizer's state has the number of steps
    varying: tuple[str, ...]
    follows_steps = False  # whether the varying numbers change from step to step
    first_differs = False  # whether the first step is another function

    def __init__(
        self,
        objective: Objective,
        coef: Coefficients,
        optimizer: Optimizer,
        make_gradient: MakeGradient,
    ) -> None:
        self.objective = objective
        self.coef = coef
        self.optimizer = optimizer
        self.make_gradient = make_gradient
        self.xp = coef.xp
        self.l1 = has_any(objective.l1)
        self.l1_strength = self.number(objective.l1)
        self.largest = torch.finfo(coef.values.dtype).max
        self._scratch = torch.empty_like(coef.values)
        self._state: dict[str, Tensor] = {}
        self._views: dict[str, list[Tensor]] = {}
        # What a refresh found the last time.
        self._read: list[Any] | None = None
        self._whole: Segment | None = None  # the segment of all coefficients
        self._cut_names: list[str] = []
        self._made: Callable[[Block], None] | None = None  # the update, until a change

    def names(self, group: dict[str, Any]) -> list[str]:
        """Names of the tensors in the optimizer's state."""
        raise NotImplementedError

    def read(self, group: dict[str, Any]) -> None:
        """Read the numbers of the rule."""
        raise NotImplementedError

    def numbers(self, n_steps: int) -> tuple[Any, ...]:
        """The varying numbers at the ``n_steps``-th step."""
        raise NotImplementedError

    def adjust(self, n_steps: int) -> None:
        """Set the varying numbers for that step; for a rule that ``follows_steps``."""
        raise NotImplementedError

    def move(self, segment: Segment) -> None:
        """Update the values of a segment by its gradient, which may be overwritten."""
        raise NotImplementedError

    def reach(self, segment: Segment) -> Number:
        """Length of the step that the rule gives to a lasting gradient of the L1 norm.

        Called after ``move``, for the same step; a number, or an array of the shape of
        the weight.
        """
        raise NotImplementedError

    def over_root(self, length: Number, segment: Segment) -> Array:
        """What :meth:`reach` is where each coefficient is divided by the scratch."""
        root = segment.weight_scratch
        self.xp.divide(length, root, out=root)
        root *= self.l1_strength
        return root

    def add_decay(self, segment: Segment) -> None:
        """Add the weight decay to the gradient."""
        gradient, decay = segment.gradient, self.weight_decay
        self.xp.add_product(gradient, segment.values, decay, segment.scratch)

    def number(self, value: Any) -> Number:
        """A number in the form that arrays of the coefficients take quickest."""
        return self.xp.number(value, self.coef.arrays.values)

    def set_weight_decay(self, weight_decay: Any) -> None:
        """Take a weight decay that is added to the gradient."""
        self.decays = has_any(weight_decay)
        self.weight_decay = self.number(weight_decay)

    def penalised(self, stretch: Any) -> Any:
        """How far a rule takes a lasting gradient, where there is one of an L1 norm.

        Where candidates differ it is zero for those without: it may be infinite, and
        infinity times no penalty would not be a number.
        """
        l1 = self.objective.l1
        return np.where(l1 > 0, stretch, 0.0) if isinstance(l1, np.ndarray) else stretch

    def refresh(self) -> None:
        """Read what a callback may have changed since the last call."""
        group = self.optimizer.param_groups[0]
        numbers = [value for key, value in group.items() if key != "params"]
        if numbers != self._read:
            self._made = None
            self.read_numbers(group)
            self._names = self.names(group)
            self._read = numbers
        for name in self._names:
            if name not in self._state:
                self._state[name] = torch.zeros_like(self.coef.values)
                self._views[name] = self.coef.as_linear(self._state[name])
        for parameter in group["params"]:
            parameter.grad = None
        n_steps = [
            self._adopt(part, parameter) if parameter.requires_grad else None
            for part, parameter in enumerate(group["params"])
        ]
        whole = None not in n_steps and n_steps.count(n_steps[0]) == len(n_steps)
        if whole and self._whole is not None and self._cut_names == self._names:
            self._whole.n_steps = cast("int", n_steps[0])
            self.segments = [self._whole]
            return
        self._made = None
        self.segments = self._cut(n_steps)
        self._whole = self.segments[0] if whole else None
        self._cut_names = self._names

    def read_numbers(self, group: dict[str, Any]) -> None:
        """Read the numbers of all rules; each may be an array, one per output."""
        # Those of NumPy's float32 would be rounded before they are used.
        plain = {name: as_float(group[name]) for name in NUMBERS & group.keys()}
        group = {**group, **plain}
        rate = group["lr"]
        several = isinstance(rate, np.ndarray)
        self.rate = rate if several else min(rate, self.largest)
        self.lr = self.number(self.rate)
        self.maximize = group["maximize"]
        self.read(group)

    def _adopt(self, part: int, parameter: Tensor) -> int:
        """Make a parameter's state, which may be loaded, views of ours.

        Returns the number of steps it has seen.
        """
        if not self._names:  # nor does a rule without a state count its steps
            return 0
        state = self.optimizer.state.get(parameter, {})
        seen = 0
        for name in self._names:
            view, tensor = self._views[name][part], state.get(name)
            if tensor is None:
                view.zero_()
            else:
                seen = 1
                if tensor is not view:
                    view.copy_(tensor)
                    state[name] = view
        return int(state["step"]) if "step" in state else seen

    def _cut(self, n_steps: list[int | None]) -> list[Segment]:
        """Segments of parts that go together; None stands for a frozen part."""
        arrays, n = self.coef.arrays, self.coef.n_features
        state = {name: as_array(self._state[name]) for name in self._names}
        scratch = as_array(self._scratch)
        first = n_steps[0]
        if first is not None and n_steps.count(first) == len(n_steps):
            whole = arrays.values, arrays.gradient, arrays.weight
            rooms = scratch, scratch[:n], arrays.weight_gradient
            return [Segment(*whole, state, *rooms, first)]
        parts = [
            (slice(0, n), arrays.weight),
            (slice(n, None), arrays.values[:0]),
        ]
        return [
            Segment(
                values=arrays.values[rows],
                gradient=arrays.gradient[rows],
                weight=weight,
                state={name: array[rows] for name, array in state.items()},
                scratch=scratch[rows],
                weight_scratch=scratch[rows][: len(weight)],
                weight_gradient=arrays.gradient[rows][: len(weight)],
                n_steps=steps,
            )
            for (rows, weight), steps in zip(parts, n_steps, strict=False)
            if steps is not None
        ]

    def commit(self) -> None:
        """Leave the state where the optimizer keeps it."""
        if not (self.counts or self._names):
            return
        parameters = self.optimizer.param_groups[0]["params"]
        moved = [part for part, p in enumerate(parameters) if p.requires_grad]
        for i, part in enumerate(moved):
            segment = self.segments[min(i, len(self.segments) - 1)]
            state = self.optimizer.state[parameters[part]]
            if self.counts:
                state["step"] = torch.tensor(
                    float(segment.n_steps), dtype=torch.float32, device="cpu"
                )
            for name in self._names:
                state[name] = self._views[name][part]

    def update(self, block: Block, listener: Listener | None) -> None:
        """Update the coefficients; ``listener`` hears of the gradient before it."""
        self.make_update(block, listener)(block)

    def make_update(
        self, like: Block, listener: Listener | None = None
    ) -> Callable[[Block], None]:
        """The same as a function of blocks like a given one, and shorter ones.

        It holds until the next refresh. Without a listener it is made anew only if that
        finds a change: all calls give the same columns, and as many rows.
        """
        if listener is not None:
            return self._make_update(like, listener)
        if self._made is None:
            self._made = self._make_update(like, None)
        return self._made

    def _make_update(
        self, like: Block, listener: Listener | None
    ) -> Callable[[Block], None]:
        gradient = self.make_gradient(self.coef, like)
        adjust = self.adjust if self.follows_steps else None
        plain = not self.maximize and not self.l1
        apply = self.move if plain else self._apply
        segments = self.segments

        def update(block: Block) -> None:
            gradient(block)
            if listener is not None:
                listener()
            for segment in segments:
                segment.n_steps += 1
                if adjust is not None:
                    adjust(segment.n_steps)
                apply(segment)

        return update

    def repeat(self, block: Block, numbers: Sequence[Tensor]) -> None:
        """The update of the one segment, with the varying numbers from memory."""
        (segment,) = self.segments
        for name, number in zip(self.varying, numbers, strict=True):
            setattr(self, name, number)
        self.make_gradient(self.coef, block)(block)
        self._apply(segment)

    def _apply(self, segment: Segment) -> None:
        if self.maximize:
            gradient = segment.gradient
            gradient *= -1
        self.move(segment)
        if self.l1:
            # The gradient is used up.
            reach, scratch = self.reach(segment), segment.weight_gradient
            shrink(segment.weight, reach, scratch, self.xp)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_made": None}  # no function is copied or pickled

    def constants(self) -> Any:
        """What an update depends on besides the tensors and the varying numbers."""
        group = self.optimizer.param_groups[0]
        fixed = {k: v for k, v in group.items() if k not in ("params", "lr")}
        return fixed, [p.requires_grad for p in group["params"]]


def as_float(number: Any) -> Any:
    """A float of a number, which may be a tensor; an array of numbers as it is."""
    if isinstance(number, tuple | list):
        return tuple(map(as_float, number))
    return number if isinstance(number, np.ndarray) else float(number)


def has_any(number: Any) -> bool:
    """Whether a number, or any of an array of numbers, is not zero."""
    return bool(number.any() if isinstance(number, np.ndarray) else number)


def shrink(weight: Array, threshold: Number, scratch: Array, xp: Namespace) -> None:
    """Proximal step of the L1 norm, with memory for as many numbers.

    The threshold is one number or, for rules that scale each coefficient, one each.
    """
    one_each = getattr(threshold, "ndim", 0) == weight.ndim
    lowest = xp.negative(threshold, out=scratch) if one_each else -threshold
    weight -= xp.clip(weight, lowest, threshold, out=scratch)
