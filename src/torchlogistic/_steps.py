"""How each optimizer of torch updates the coefficients.

Those of ``_rules`` do it by a rule in place. Every other subclass of
``torch.optim.Optimizer`` keeps its own ``step``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ._inplace import InPlaceStep, Listener, MakeGradient
from ._objective import Coefficients, Objective
from ._rows import Block
from ._rules import AdagradStep, AdamStep, RMSpropStep, SGDStep


class TorchStep:
    """Update by the optimizer's own ``step``, with the gradient in ``.grad``.

    Serves every optimizer without a rule of ours. One that must evaluate the objective
    itself (its ``step`` asks for a closure) gets one that returns it.
    """

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
        self.views = coef.as_linear(coef.gradient)
        # Some optimizers take gradients by .view(-1), which needs contiguous ones.
        self.gradients = [view.contiguous() for view in self.views]
        closure = inspect.signature(optimizer.step).parameters.get("closure")
        self.needs_closure = closure is not None and closure.default is closure.empty

    def refresh(self) -> None:
        """Read what a callback may have changed since the last call."""
        # Parameters that a callback froze keep no gradient: torch skips them.
        parameters = self.optimizer.param_groups[0]["params"]
        for parameter, gradient in zip(parameters, self.gradients, strict=True):
            parameter.grad = gradient if parameter.requires_grad else None

    def commit(self) -> None:
        """Nothing to do: the state is the optimizer's own."""

    def compute(self, block: Block, listener: Listener | None) -> None:
        """Bring the gradient to where the optimizer reads it."""
        self.make_gradient(self.coef, block)(block)
        for gradient, view in zip(self.gradients, self.views, strict=True):
            if gradient.data_ptr() != view.data_ptr():
                gradient.copy_(view)
        if listener is not None:
            listener()

    def update(self, block: Block, listener: Listener | None) -> None:
        """Update the coefficients; ``listener`` hears of each gradient before it.

        The block is left with the logits of the first, of which its loss is known.
        """
        if not self.needs_closure:
            self.compute(block, listener)
            self.optimizer.step()
            return
        first: Tensor | None = None

        def closure() -> Tensor:
            nonlocal first
            self.compute(block, listener)
            if first is None:
                first = block.logits.clone()
            loss = self.objective.mean_loss(block)
            return loss + self.objective.penalty(self.coef)

        self.optimizer.step(closure)  # type: ignore[arg-type]
        if first is not None:
            block.logits.copy_(first)

    def make_update(self, like: Block) -> Callable[[Block], None]:
        """The same as a function of blocks, as the rules have it."""
        return partial(self.update, listener=None)


Step = TorchStep | InPlaceStep

# Optimizers with a rule of ours. AdamW is a subclass of Adam since torch 2.7.
STEPS: dict[type[Optimizer], type[InPlaceStep]] = {
    torch.optim.SGD: SGDStep,
    torch.optim.Adam: AdamStep,
    torch.optim.AdamW: AdamStep,
    torch.optim.RMSprop: RMSpropStep,
    torch.optim.Adagrad: AdagradStep,
}


def find_rule(cls: type[Optimizer]) -> type[InPlaceStep] | None:
    """The rule of ours for a class: one of torch's, or a subclass with its ``step``."""
    for known, rule in STEPS.items():
        # torch wraps the method of a class when it is first constructed.
        same = inspect.unwrap(cls.step) is inspect.unwrap(known.step)
        if issubclass(cls, known) and same:
            return rule
    return None


def make_step(
    objective: Objective,
    coef: Coefficients,
    optimizer: Optimizer,
    make_gradient: MakeGradient,
) -> Step:
    """Choose how an optimizer updates the coefficients."""
    rule = find_rule(type(optimizer))
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    if rule is None or (hooks and not objective.l1):  # ours does not call them
        return TorchStep(objective, coef, optimizer, make_gradient)
    return rule(objective, coef, optimizer, make_gradient)


def make_optimizer(
    cls: type[Optimizer], parameters: list[Tensor], **params: Any
) -> Optimizer:
    """Construct an optimizer, without the compiler if its rule is one of ours.

    ``Optimizer.add_param_group`` is wrapped in a switch for torch.compile that imports
    the compiler: two seconds in a fresh process, for an optimizer of which we use the
    state and not the step. We call what it wraps.
    """
    optimizer = cls.__new__(cls)
    plain = getattr(Optimizer.add_param_group, "__wrapped__", None)
    inherited = cls.add_param_group is Optimizer.add_param_group
    if find_rule(cls) is not None and inherited and plain is not None:
        vars(optimizer)["add_param_group"] = MethodType(plain, optimizer)
    optimizer.__init__(parameters, **params)  # type: ignore[misc]
    vars(optimizer).pop("add_param_group", None)
    return optimizer
