"""The critic's view of a policy."""

import pytest
import torch

from sb3_trpo_ext.trust_region.value_function import ValueFunction
from tests.cases import make_actor, make_policy


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.RMSprop, torch.optim.AdamW])
def test_optimizer_is_the_one_that_the_policy_asks_for(optimizer):
    policy = make_policy("box", optimizer_class=optimizer, optimizer_kwargs={"weight_decay": 0.25})
    ValueFunction(make_actor(policy), 0.125)
    made = policy.optimizer
    assert type(made) is optimizer
    assert (made.param_groups[0]["lr"], made.param_groups[0]["weight_decay"]) == (0.125, 0.25)
