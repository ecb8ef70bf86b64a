"""Update rules: what one gradient does to the coefficients.

Those of ``torch.optim``; see ``_inplace`` for what they are applied to.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from ._arrays import Number
from ._inplace import InPlaceStep, Segment, has_any


def geometric_sum(momentum: Any) -> Any:
    """The sum of all powers of a momentum: how far it takes what goes on for ever."""
    if np.ndim(momentum) == 0:
        return math.inf if momentum == 1 else 1 / (1 - momentum)
    with np.errstate(divide="ignore"):
        return 1 / (1 - momentum)


class SGDStep(InPlaceStep):
    """Stochastic gradient descent with momentum, as ``torch.optim.SGD`` [1]_.

    References
    ----------
    .. [1] I. Sutskever et al., "On the importance of initialization and momentum in
       deep learning", ICML 2013.
    """

    counts = False
    varying = ("lr", "length")

    def names(self, group: dict[str, Any]) -> list[str]:
        return ["momentum_buffer"] if has_any(group["momentum"]) else []

    def read(self, group: dict[str, Any]) -> None:
        self.has_momentum = self.first_differs = has_any(group["momentum"])
        self.momentum = self.number(group["momentum"])
        self.gain = self.number(1 - group["dampening"])
        self.nesterov = group["nesterov"]
        self.set_weight_decay(group["weight_decay"])
        self.stretch: Any = 1.0
        if self.has_momentum:
            self.stretch = (1 - group["dampening"]) * geometric_sum(group["momentum"])
            if self.nesterov:
                self.stretch = 1 + group["momentum"] * self.stretch
        self.stretch = self.penalised(self.stretch)
        self.length = self.number(self.numbers(1)[1])

    def numbers(self, n_steps: int) -> tuple[Any, ...]:
        return self.rate, self.rate * self.stretch * self.objective.l1

    def move(self, segment: Segment) -> None:
        gradient = direction = segment.gradient
        values, scratch = segment.values, segment.scratch
        if self.decays:
            self.add_decay(segment)
        if self.has_momentum:
            velocity = segment.state["momentum_buffer"]
            if segment.n_steps == 1:  # the first gradient is not dampened
                velocity[...] = direction
            else:
                keep, gain = self.momentum, self.gain
                self.xp.accumulate(velocity, keep, direction, gain, scratch)
            if self.nesterov:
                self.xp.add_product(direction, velocity, self.momentum, scratch)
            else:
                gradient = velocity
        self.xp.multiply(gradient, self.lr, out=direction)
        values -= direction

    def reach(self, segment: Segment) -> Number:
        return self.length


class AdamStep(InPlaceStep):
    """Adam and AdamW, as ``torch.optim.Adam`` and ``AdamW`` [1]_, [2]_.

    References
    ----------
    .. [1] D. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
    .. [2] I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", ICLR
       2019.
    """

    varying = ("added", "scale", "stride", "keep")
    follows_steps = True

    def names(self, group: dict[str, Any]) -> list[str]:
        return ["exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * group["amsgrad"]

    def read(self, group: dict[str, Any]) -> None:
        self.betas = group["betas"]
        self.beta1, self.beta2 = map(self.number, self.betas)
        self.rest1, self.rest2 = (self.number(1 - beta) for beta in self.betas)
        self.eps = group["eps"]
        self.amsgrad = group["amsgrad"]
        decoupled = isinstance(self.optimizer, torch.optim.AdamW)
        decoupled = group.get("decoupled_weight_decay", decoupled)
        self.set_weight_decay(0.0 if decoupled else group["weight_decay"])
        self.shrinks = decoupled and has_any(group["weight_decay"])
        self.kept = 1 - self.rate * group["weight_decay"]
        self.keep = self.number(self.kept)

    def numbers(self, n_steps: int) -> tuple[Any, ...]:
        # Both averages start at zero; the corrections are one number each.
        beta1, beta2 = self.betas
        correction = (1 - beta2**n_steps) ** 0.5
        scale = self.rate * correction
        return self.eps * correction, scale, scale / (1 - beta1**n_steps), self.kept

    def adjust(self, n_steps: int) -> None:
        added, scale, stride, _ = self.numbers(n_steps)
        self.added = self.number(added)
        self.scale = self.number(scale)
        self.stride = self.number(stride)

    def move(self, segment: Segment) -> None:
        gradient, values, root = segment.gradient, segment.values, segment.scratch
        mean, square = segment.state["exp_avg"], segment.state["exp_avg_sq"]
        if self.shrinks:
            values *= self.keep
        if self.decays:
            self.add_decay(segment)
        self.xp.accumulate(mean, self.beta1, gradient, self.rest1, root)
        gradient *= gradient
        self.xp.accumulate(square, self.beta2, gradient, self.rest2, gradient)
        if self.amsgrad:
            largest = segment.state["max_exp_avg_sq"]
            square = self.xp.maximum(largest, square, out=largest)
        self.xp.sqrt(square, out=root)
        root += self.added
        self.xp.divide(mean, root, out=gradient)
        gradient *= self.stride
        values -= gradient

    def reach(self, segment: Segment) -> Number:
        return self.over_root(self.scale, segment)


class RMSpropStep(InPlaceStep):
    """RMSprop, plain or centred, with momentum, as ``torch.optim.RMSprop`` [1]_.

    References
    ----------
    .. [1] G. Hinton, "Neural Networks for Machine Learning", lecture 6e, 2012.
    """

    varying = ("lr", "length")

    def names(self, group: dict[str, Any]) -> list[str]:
        return [
            "square_avg",
            *["momentum_buffer"] * has_any(group["momentum"]),
            *["grad_avg"] * group["centered"],
        ]

    def read(self, group: dict[str, Any]) -> None:
        self.decay = self.number(group["alpha"])
        self.rest = self.number(1 - group["alpha"])
        self.eps = self.number(group["eps"])
        self.has_momentum = has_any(group["momentum"])
        self.momentum = self.number(group["momentum"])
        self.centered = group["centered"]
        self.set_weight_decay(group["weight_decay"])
        stretch = geometric_sum(group["momentum"]) if self.has_momentum else 1.0
        self.stretch = self.penalised(stretch)
        self.length = self.number(self.numbers(1)[1])

    def numbers(self, n_steps: int) -> tuple[Any, ...]:
        return self.rate, self.rate * self.stretch

    def move(self, segment: Segment) -> None:
        gradient, values, root = segment.gradient, segment.values, segment.scratch
        if self.decays:
            self.add_decay(segment)
        square = segment.state["square_avg"]
        self.xp.multiply(gradient, gradient, out=root)
        self.xp.accumulate(square, self.decay, root, self.rest, root)
        if self.centered:
            mean = segment.state["grad_avg"]
            self.xp.accumulate(mean, self.decay, gradient, self.rest, root)
            self.xp.multiply(mean, mean, out=root)
            square = self.xp.subtract(square, root, out=root)
        self.xp.sqrt(square, out=root)
        root += self.eps
        gradient /= root
        if self.has_momentum:
            velocity = segment.state["momentum_buffer"]
            velocity *= self.momentum
            velocity += gradient
            gradient[...] = velocity
        gradient *= self.lr
        values -= gradient

    def reach(self, segment: Segment) -> Number:
        return self.over_root(self.length, segment)


class AdagradStep(InPlaceStep):
    """Adagrad, as ``torch.optim.Adagrad`` [1]_.

    References
    ----------
    .. [1] J. Duchi, E. Hazan and Y. Singer, "Adaptive Subgradient Methods for Online
       Learning and Stochastic Optimization", JMLR 12, 2011.
    """

    varying = ("step",)
    follows_steps = True

    def names(self, group: dict[str, Any]) -> list[str]:
        return ["sum"]

    def read(self, group: dict[str, Any]) -> None:
        self.lr_decay = group["lr_decay"]
        self.eps = self.number(group["eps"])
        self.set_weight_decay(group["weight_decay"])

    def numbers(self, n_steps: int) -> tuple[Any, ...]:
        return (self.rate / (1 + (n_steps - 1) * self.lr_decay),)

    def adjust(self, n_steps: int) -> None:
        self.step = self.number(*self.numbers(n_steps))

    def move(self, segment: Segment) -> None:
        gradient, values, root = segment.gradient, segment.values, segment.scratch
        if self.decays:
            self.add_decay(segment)
        total = segment.state["sum"]
        self.xp.multiply(gradient, gradient, out=root)
        total += root
        self.xp.sqrt(total, out=root)
        root += self.eps
        gradient /= root
        gradient *= self.step
        values -= gradient

    def reach(self, segment: Segment) -> Number:
        return self.over_root(self.step, segment)
