"""Mini-batch training: in-place update rules and the fused epoch.

A step is closed-form: one product of the batch with the coefficients, the residual of
the loss, one product of the transposed batch with it, and the update, all written into
tensors that were allocated before the first epoch. No graph is recorded, nothing is
copied to the host, and the loss of an epoch is computed from the logits it left behind.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ._objective import Coefficients, Objective
from ._rows import Batches, Block

Listener = Callable[[], None]


class TorchStep:
    """Update by the optimizer's own ``step``, with the gradient in ``.grad``.

    Serves every subclass of ``torch.optim.Optimizer``. One that must evaluate the
    objective itself (its ``step`` asks for a closure) gets one that returns it.
    """

    def __init__(
        self, objective: Objective, coef: Coefficients, optimizer: Optimizer
    ) -> None:
        self.objective = objective
        self.coef = coef
        self.optimizer = optimizer
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

    def compute(self, block: Block, listener: Listener | None) -> None:
        """Bring the gradient to where the optimizer reads it."""
        self.objective.gradient(block, self.coef)
        for gradient, view in zip(self.gradients, self.views, strict=True):
            if gradient.data_ptr() != view.data_ptr():
                gradient.copy_(view)
        if listener is not None:
            listener()

    def update(self, block: Block, listener: Listener | None) -> None:
        """Update the coefficients; ``listener`` hears of each gradient before it."""
        if self.needs_closure:

            def closure() -> Tensor:
                self.compute(block, listener)
                loss = self.objective.loss_sum(block) * block.scale
                return loss + self.objective.penalty(self.coef)

            self.optimizer.step(closure)  # type: ignore[arg-type]
        else:
            self.compute(block, listener)
            self.optimizer.step()


class SGDStep:
    """Stochastic gradient descent with momentum, in place.

    The rule of ``torch.optim.SGD`` [1]_, whose momentum buffers are views of one tensor
    here, so that the optimizer's state can be saved and loaded as usual.

    References
    ----------
    .. [1] I. Sutskever et al., "On the importance of initialization and momentum in
       deep learning", ICML 2013, in the form of torch.optim.SGD.
    """

    def __init__(
        self, objective: Objective, coef: Coefficients, optimizer: Optimizer
    ) -> None:
        self.objective = objective
        self.coef = coef
        self.optimizer = optimizer
        self.velocity = torch.zeros_like(coef.values)
        self._views = coef.as_linear(self.velocity)
        self._torch_step = TorchStep(objective, coef, optimizer)

    def refresh(self) -> None:
        """Read what a callback may have changed since the last call."""
        group = self.optimizer.param_groups[0]
        self.lr = float(group["lr"])
        self.momentum = group["momentum"]
        self.dampening = group["dampening"]
        self.nesterov = group["nesterov"]
        self.weight_decay = group["weight_decay"]
        complete = not self.momentum or self._share_state(group["params"])
        # Ascent, coefficients that a callback froze, and momentum that only some of
        # them have yet, are left to torch.
        movable = all(p.requires_grad for p in group["params"])
        self.delegates = group["maximize"] or not (movable and complete)
        if self.delegates:
            self._torch_step.refresh()
        else:
            for parameter in group["params"]:
                parameter.grad = None

    def _share_state(self, parameters: list[Tensor]) -> bool:
        """Make the optimizer's state, which may be loaded, views of ``velocity``.

        Returns whether all parameters have state, or none.
        """
        missing = 0
        for parameter, view in zip(parameters, self._views, strict=True):
            state = self.optimizer.state[parameter]
            buffer = state.get("momentum_buffer")
            if buffer is None:
                missing += 1  # torch starts the buffer with the first gradient
            elif buffer is not view:
                view.copy_(buffer)
                state["momentum_buffer"] = view
        self.first = missing > 0
        return missing in (0, len(parameters))

    def _start_state(self) -> None:
        self.velocity.copy_(self.coef.gradient)
        parameters = self.optimizer.param_groups[0]["params"]
        for parameter, view in zip(parameters, self._views, strict=True):
            self.optimizer.state[parameter]["momentum_buffer"] = view
        self.first = False

    def update(self, block: Block, listener: Listener | None) -> None:
        if self.delegates:
            self._torch_step.update(block, listener)
            return
        coef = self.coef
        self.objective.gradient(block, coef)
        if listener is not None:
            listener()
        direction = coef.gradient
        if self.weight_decay:
            direction.add_(coef.values, alpha=self.weight_decay)
        if self.momentum:
            if self.first:
                self._start_state()
            else:
                self.velocity.mul_(self.momentum)
                self.velocity.add_(direction, alpha=1 - self.dampening)
            if self.nesterov:
                direction.add_(self.velocity, alpha=self.momentum)
            else:
                direction = self.velocity
        coef.values.add_(direction, alpha=-self.lr)


Step = TorchStep | SGDStep

# Optimizers with an update rule of ours; the others keep their own step.
STEPS: dict[type[Optimizer], type[Step]] = {torch.optim.SGD: SGDStep}


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
    if cls in STEPS and plain is not None:
        vars(optimizer)["add_param_group"] = MethodType(plain, optimizer)
    optimizer.__init__(parameters, **params)  # type: ignore[misc]
    vars(optimizer).pop("add_param_group", None)
    return optimizer


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
        self.optimizer = optimizer
        step = next((s for c, s in STEPS.items() if is_plain(optimizer, c)), TorchStep)
        self.step = step(objective, coef, optimizer)
        self.loss = torch.zeros((), dtype=torch.float64, device="cpu")
        self.n_batches = 0
        self.done = False  # a given number of epochs is what it runs

    def refresh(self) -> None:
        """Read what a callback may have changed since the last update."""
        self.step.refresh()

    def visit(self) -> Iterator[Block]:
        """Visit the batches of one epoch and record their mean loss in ``loss``."""
        loss_sum: Tensor | None = None
        self.n_batches = 0
        for chunk in self.batches:
            yield from chunk.batches
            self.n_batches += len(chunk.batches)
            chunk_sum = self.objective.loss_sum(chunk.block)
            loss_sum = chunk_sum if loss_sum is None else loss_sum + chunk_sum
        assert loss_sum is not None  # there is at least one row
        self.loss = loss_sum / len(self.batches.rows)

    def update(self, block: Block, listener: Listener | None = None) -> None:
        """One step on a batch."""
        self.step.update(block, listener)
        if self.objective.l1 and not self.coef.frozen[0]:
            lr = float(self.optimizer.param_groups[0]["lr"])
            self.objective.shrink(self.coef, lr)

    def epoch(self) -> None:
        """One pass over the data, with nobody listening to its batches."""
        self.refresh()
        update = self.update if self.objective.l1 else self.step.update
        for batch in self.visit():
            update(batch, None)


def is_plain(optimizer: Optimizer, cls: type[Optimizer]) -> bool:
    """Whether an optimizer is of the class itself, not of a subclass with own ideas."""
    return isinstance(optimizer, cls) and type(optimizer).step is cls.step
