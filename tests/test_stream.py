"""The random stream of a run."""

import pytest
import torch
from torch import nn

from torchlogistic._stream import RandomStream


@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("seed", [0, 42])
def test_initial_linear_is_that_of_torch(seed, n_outputs):
    torch.manual_seed(seed)
    linear = nn.Linear(5, n_outputs)
    weight = torch.empty(n_outputs, 5, dtype=torch.float64)
    bias = torch.empty(n_outputs, dtype=torch.float64)
    RandomStream(seed).initial_linear(weight, bias)
    assert weight.equal(linear.weight.double())
    assert bias.equal(linear.bias.double())


def test_stream_continues_where_it_ended():
    def epochs(stream, n):
        seeds = [stream.epoch_seed(shuffle=True, validation=True) for _ in range(n)]
        return [stream.permutation(30, seed).tolist() for seed in seeds]

    whole = epochs(RandomStream(5), 7)
    first = RandomStream(5)
    assert epochs(first, 3) == whole[:3]
    assert epochs(RandomStream(5, first.n_draws), 4) == whole[3:]
