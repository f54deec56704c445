"""Writes to a policy and changes of what it is made of are noticed, by whatever way, and nothing else is."""

import pytest
import torch
from torch import nn

from sb3_trpo_ext.common.watch import SMALL, Structure, Watch, set_noise_layers_only
from tests.cases import identical, make_policy, snapshot


def module_of(width=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2))


@torch.no_grad()
def in_place(module):
    module[0].bias.add_(1.0)


def by_data(module):
    module[0].bias.data[0] = 7.0


def by_new_data(module):
    module[0].weight.data = torch.zeros_like(module[0].weight)


def by_state_dict(module):
    module.load_state_dict({name: 2 * tensor for name, tensor in module.state_dict().items()})


def by_optimizer(module):
    module(torch.ones(1, 4, dtype=module[0].weight.dtype)).sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()


def by_numpy(module):
    module[2].weight.detach().numpy()[:] = 0


def to_nan(module):
    module[0].bias.data.fill_(torch.nan)


WRITES = [in_place, by_data, by_new_data, by_state_dict, by_optimizer, by_numpy, to_nan]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("write", WRITES)
def test_writes_are_noticed_and_undone_for_the_time_of_a_context(write, dtype):
    module = module_of().to(dtype)
    watch, before = Watch(module), snapshot(module)
    assert not watch.noticed()
    write(module)
    assert watch.noticed()
    after = [tensor.clone() for tensor in module.state_dict().values()]
    with watch.undone():
        assert identical(snapshot(module), before)
    for now, then in zip(module.state_dict().values(), after, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0, equal_nan=True)
    assert not Watch(module).noticed()


def test_what_was_written_comes_back_after_an_error_too():
    module = module_of()
    watch = Watch(module)
    in_place(module)
    after = snapshot(module)
    with pytest.raises(KeyError), watch.undone():
        raise KeyError
    assert identical(snapshot(module), after)


def test_reading_is_no_write():
    module = module_of()
    watch = Watch(module)
    module(torch.ones(2, 4)).sum().backward()
    module.train(False)
    module.requires_grad_(False)
    module.state_dict()
    assert not watch.noticed()


def test_large_tensors_are_watched_through_torchs_own_count():
    module = module_of(width=SMALL)
    watch = Watch(module)
    assert module[0].weight.numel() > SMALL
    with torch.no_grad():
        module[0].weight[5, 1] += 1
    assert watch.noticed()


def exchange(policy):
    policy.value_net = nn.Linear(4, 1)


def exchange_a_parameter(policy):
    policy.log_std = nn.Parameter(policy.log_std.detach().clone())


def freeze(policy):
    policy.action_net.bias.requires_grad_(False)


def hook(policy):
    policy.action_net.register_forward_hook(lambda module, inputs, output: output)


def replace_a_forward(policy):
    policy.action_net.forward = lambda inputs: inputs


def add_a_module(policy):
    policy.another = nn.Linear(1, 1)


def exchange_the_distribution(policy):
    policy.action_dist = make_policy("discrete").action_dist


CHANGES = [exchange, exchange_a_parameter, freeze, hook, replace_a_forward, add_a_module, exchange_the_distribution]


@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_what_a_policy_is_made_of(change):
    policy = make_policy("box")
    before = Structure(policy)
    assert before == Structure(policy)
    change(policy)
    assert before != Structure(policy)
    assert Structure(policy) == Structure(policy)


def test_a_structure_that_is_restored_is_the_same():
    policy = make_policy("box")
    before = Structure(policy)
    handle = policy.action_net.register_forward_hook(lambda module, inputs, output: output)
    freeze(policy)
    handle.remove()
    policy.action_net.bias.requires_grad_(True)
    assert before == Structure(policy)


def test_numbers_and_modes_are_no_structure():
    policy = make_policy("box")
    before = Structure(policy)
    with torch.no_grad():
        policy.log_std.add_(1.0)
    policy.set_training_mode(False)
    policy.get_distribution(torch.zeros(2, 3))
    assert before == Structure(policy) and before != "a policy"


def test_noise_is_drawn_and_no_statistics_move():
    layers = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Sequential(nn.Dropout(0.5)))
    layers.eval()
    set_noise_layers_only(layers)
    before = snapshot(layers)
    outputs = [layers(torch.ones(64, 3)) for _ in range(2)]
    assert not torch.equal(*outputs) and identical(snapshot(layers), before)
