"""The linear module around given tensors: torch's own, and without a copy."""

import pytest
import torch

from torchlogistic._module import linear_module

LAYOUTS = {
    "binary": torch.arange(1.0, 4.0).view(1, 3),
    "view of a vector": torch.arange(4.0)[:3].view(-1, 1).t(),
    "multinomial": torch.arange(8.0).view(4, 2)[:3].t(),
}


@pytest.mark.parametrize("weight", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
def test_linear_module_is_that_of_torch_around_given_tensors(weight, with_bias):
    bias = torch.ones(len(weight)) if with_bias else None
    state = torch.random.get_rng_state()
    module = linear_module(weight, bias)
    assert torch.equal(torch.random.get_rng_state(), state)

    plain = torch.nn.Sequential()
    plain.add_module("linear", torch.nn.Linear(3, len(weight), bias=with_bias))
    assert repr(module) == repr(plain)
    assert list(module.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(module.state_dict())
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module(rows), plain(rows))

    module(rows).sum().backward()
    assert all(p.grad is not None for p in module.parameters())
    with torch.no_grad():
        module.linear.weight.zero_()
    assert not weight.any()
    weight.copy_(plain.linear.weight.detach())


@pytest.mark.parametrize("weight", LAYOUTS.values(), ids=LAYOUTS)
def test_state_of_linear_module_is_contiguous_and_loads_in_place(weight):
    weight = weight.clone(memory_format=torch.preserve_format)
    module = linear_module(weight, torch.ones(len(weight)))
    state = module.state_dict(prefix="my.")
    assert list(state) == ["my.linear.weight", "my.linear.bias"]
    assert all(tensor.is_contiguous() for tensor in state.values())
    doubled = {name[3:]: 2 * tensor for name, tensor in state.items()}
    expected = 2 * weight
    module.load_state_dict(doubled)
    assert torch.equal(weight, expected)
    assert module.linear.weight.data_ptr() == weight.data_ptr()
