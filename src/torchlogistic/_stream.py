"""The random stream of a run."""

from __future__ import annotations

import math

import torch
from torch import Tensor

DRAWS_AHEAD = 64  # numbers that the stream draws at a time
MANY_ROWS = 2**16  # whose order does not stay in a core's cache


class RandomStream:
    """The random numbers of a run, drawn as a plain PyTorch program draws them.

    The program calls ``torch.manual_seed(seed)`` and builds ``nn.Linear``, calls
    ``torch.manual_seed(seed)`` again, and iterates ``DataLoader(shuffle=True)``, and a
    validation loader if there is one, once an epoch. Each iterator of a loader draws a
    64-bit base seed for its workers, and the random sampler one for its permutation.
    All draws come from private generators on the CPU, whatever the device.

    Parameters
    ----------
    seed : int
    n_draws : int, default=0
        How many 64-bit numbers an earlier part of the run drew: with the seed, all that
        has to be kept to continue exactly.
    """

    def __init__(self, seed: int, n_draws: int = 0) -> None:
        self.seed = seed
        self.n_draws = n_draws
        self._generator = torch.Generator(device="cpu").manual_seed(seed)
        self._permutation = torch.Generator(device="cpu")
        self._ahead: list[int] = []  # drawn and not used yet, in reverse
        self._numbers(n_draws)

    def _numbers(self, n: int) -> Tensor:
        numbers = torch.empty(n, dtype=torch.int64, device="cpu")
        return numbers.random_(generator=self._generator)

    def _draw(self) -> int:
        self._look(1)
        self.n_draws += 1
        return self._ahead.pop()

    def _look(self, n: int) -> int:
        """The n-th of the numbers that will be drawn from now on."""
        if len(self._ahead) < n:
            later: list[int] = self._numbers(DRAWS_AHEAD).tolist()
            self._ahead = later[::-1] + self._ahead
        return self._ahead[-n]

    def initial_linear(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Fill the tensors of an ``nn.Linear`` as its constructor does, in float32."""
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        bound = 1 / math.sqrt(weight.shape[1])
        for tensor in (weight, bias):
            if tensor is not None:
                draw = torch.empty(tensor.shape, dtype=torch.float32, device="cpu")
                if tensor is weight:
                    torch.nn.init.kaiming_uniform_(
                        draw, a=math.sqrt(5), generator=generator
                    )
                else:
                    draw.uniform_(-bound, bound, generator=generator)
                tensor.copy_(draw)

    def epoch_seed(self, *, shuffle: bool, validation: bool) -> int:
        """Draw what one epoch draws and return the seed of its permutation."""
        self._draw()  # the loader's base seed
        seed = self._draw() if shuffle else 0
        if validation:
            self._draw()
        return seed

    def next_seed(self) -> int:
        """The seed of the next epoch that shuffles, which is not drawn yet."""
        return self._look(2)

    def permutation(self, n_rows: int, seed: int) -> Tensor:
        """Order of the rows in the epoch of a seed: (n_rows,) of integers.

        Of many rows they have 32 bits: half the memory, drawn in half the time.
        """
        self._permutation.manual_seed(seed)
        dtype = torch.int32 if MANY_ROWS <= n_rows < 2**31 else torch.int64
        return torch.randperm(
            n_rows, generator=self._permutation, dtype=dtype, device="cpu"
        )
