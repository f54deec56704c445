"""How a policy is asked: with zeros, with present states, with recorded ones; and that the answers are its own."""

from functools import partial

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy

from sb3_trpo_ext.common.inputs import Inputs
from sb3_trpo_ext.kernels.chain import forward
from sb3_trpo_ext.trust_region.heads import Heads
from tests.cases import ACTIONS, POLICIES, make_batch, make_policy, reference_entropy, reference_kl, torch_reference

STEPS, ENVS = 3, 2
VECTOR = spaces.Box(-1, 1, (3,))
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
SPACES = {
    "vector": (ActorCriticPolicy, VECTOR),
    "discrete": (ActorCriticPolicy, spaces.Discrete(4)),
    "multi_discrete": (ActorCriticPolicy, spaces.MultiDiscrete([3, 2])),
    "image": (ActorCriticCnnPolicy, IMAGE),
    "dict": (MultiInputActorCriticPolicy, spaces.Dict(vector=VECTOR, number=spaces.Discrete(3), picture=IMAGE)),
}
# What the policy's tensors have after their first dimension, and their kind of numbers.
LAYOUTS = {
    "vector": ((3,), torch.float32),
    "discrete": ((), torch.int64),
    "multi_discrete": ((2,), torch.int64),
    "image": ((3, 36, 36), torch.uint8),
    "dict": {"vector": ((3,), torch.float32), "number": ((), torch.int64), "picture": ((3, 36, 36), torch.uint8)},
}
each_space = pytest.mark.parametrize("space", SPACES)
each_policy = pytest.mark.parametrize("name", POLICIES)


def heads_of(space, action="box"):
    torch.manual_seed(0)
    kind, observations = SPACES[space]
    return Heads(kind(observations, ACTIONS[action], lambda _: 1e-3, net_arch=[4]))


def parts(value):
    """Of observations or their layout: by key, "" for one that is no dictionary."""
    return value if isinstance(value, dict) else {"": value}


def drawn(space, *shape):
    """Random observations as arrays of shape (*shape, …)."""
    if isinstance(space, spaces.Dict):
        return {key: drawn(part, *shape) for key, part in space.spaces.items()}
    flat = np.stack([space.sample() for _ in range(int(np.prod(shape)))])
    return flat.reshape(*shape, *space.shape)


@each_space
def test_blank_is_two_states_of_zeros_that_the_policy_takes(space):
    heads = heads_of(space)
    blank = heads.blank()
    assert len(blank) == 2
    for key, tensor in parts(blank.observations).items():
        assert tensor.shape[1:] == parts(LAYOUTS[space])[key][0] and not bool(tensor.any())
    assert heads.values(blank).shape == (2, 1)


@each_space
def test_present_states_are_as_the_environments_gave_them_and_a_copy(space):
    heads = heads_of(space)
    observations = drawn(SPACES[space][1], ENVS)
    inputs = heads.present(observations)
    for key, tensor in parts(inputs.observations).items():
        shape, dtype = parts(LAYOUTS[space])[key]
        array = parts(observations)[key]
        assert (tensor.shape, tensor.dtype) == ((ENVS, *shape), dtype)
        np.testing.assert_array_equal(tensor.numpy(), array)
        before = array.copy()
        array[:] = 0  # an environment that writes into its last observation
        np.testing.assert_array_equal(tensor.numpy(), before)
    assert heads.values(inputs).shape == (ENVS, 1)


@each_space
def test_recorded_states_are_the_rows_that_a_layout_chooses(space):
    heads = heads_of(space)
    observation_space = SPACES[space][1]
    kind = DictRolloutBuffer if space == "dict" else RolloutBuffer
    buffer = kind(STEPS, observation_space, ACTIONS["box"], n_envs=ENVS)
    steps = [drawn(observation_space, ENVS) for _ in range(STEPS)]
    for observations in steps:
        nothing = np.zeros(ENVS)
        buffer.add(observations, np.zeros((ENVS, 3)), nothing, nothing, torch.zeros(ENVS), torch.zeros(ENVS))

    def last_first(array):
        assert array.shape[:2] == (STEPS, ENVS)
        return array.reshape(STEPS * ENVS, *array.shape[2:])[::-1].copy()

    inputs = heads.recorded(buffer, last_first)
    assert len(inputs) == STEPS * ENVS
    for key, tensor in parts(inputs.observations).items():
        in_time = np.concatenate([parts(observations)[key] for observations in steps])
        np.testing.assert_array_equal(tensor.numpy().reshape(in_time.shape), in_time[::-1])
    # The policy says the same about them as about the observations of the steps.
    values = torch.cat([heads.values(heads.present(observations)) for observations in steps])
    torch.testing.assert_close(heads.values(inputs), values.flip(0))


@each_policy
def test_families_and_values_are_the_policys(name):
    policy = make_policy(name, precise=True)
    heads, inputs, others = Heads(policy), make_batch(policy, 5).inputs, make_batch(policy, 5, seed=2).inputs
    family, new = heads.family(inputs), heads.family(others)
    reference, new_reference = (torch_reference(policy, one.observations) for one in (inputs, others))
    torch.testing.assert_close(family.entropy(), reference_entropy(reference))
    torch.testing.assert_close(family.kl(new), reference_kl(reference, new_reference))
    assert all(tensor.requires_grad for tensor in family.statistics)
    values = heads.values(inputs)
    assert values.requires_grad and torch.equal(values, policy.predict_values(inputs.observations))


@each_policy
def test_evaluation_is_that_of_sb3(name):
    policy = make_policy(name)
    batch = make_batch(policy, 6)
    actions = batch.actions.long().flatten() if name == "discrete" else batch.actions
    values, log_prob = Heads(policy).evaluate(batch.inputs, actions)
    expected_values, expected_log_prob, _ = policy.evaluate_actions(batch.inputs.observations, actions)
    assert torch.equal(values, expected_values) and torch.equal(log_prob, expected_log_prob)


@pytest.mark.parametrize("action", ACTIONS)
def test_the_networks_output_gives_the_same_families_as_the_policy(action):
    heads = heads_of("vector", action)
    inputs = Inputs(torch.randn(5, 3))
    network = heads.actor_network()
    output = forward(network.layers, network.inputs(inputs))
    for ours, theirs in zip(
        heads.family_of_output(output, inputs).statistics, heads.family(inputs).statistics, strict=True
    ):
        # Logits are the same distribution whatever is added to all of them.
        if action in ("discrete", "multi_discrete"):
            sizes = [ours.shape[1]] if action == "discrete" else list(ACTIONS[action].nvec)
            ours, theirs = (torch.cat([p.softmax(dim=1) for p in x.split(sizes, dim=1)], dim=1) for x in (ours, theirs))
        torch.testing.assert_close(ours, theirs)


class OwnForward(ActorCriticPolicy):
    def forward(self, observations, deterministic=False):
        return super().forward(observations, deterministic)


class OwnBuffer(RolloutBuffer):
    pass


def test_only_sb3s_own_ways_are_collected_fast():
    make = partial(RolloutBuffer, STEPS, VECTOR, ACTIONS["box"])
    own = OwnForward(VECTOR, ACTIONS["box"], lambda _: 1e-3)
    assert heads_of("vector").can_collect_fast(make())
    assert heads_of("dict").can_collect_fast(DictRolloutBuffer(STEPS, SPACES["dict"][1], ACTIONS["box"]))
    assert not Heads(own).can_collect_fast(make())
    assert not heads_of("vector").can_collect_fast(OwnBuffer(STEPS, VECTOR, ACTIONS["box"]))
