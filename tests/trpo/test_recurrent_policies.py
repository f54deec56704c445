"""A policy with memory, called as sb3-contrib's, as SB3's, and step by step."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy

from sb3_trpo_ext.trpo import RecurrentCnnPolicy, RecurrentMlpPolicy, RecurrentMultiInputPolicy
from tests.cases import ACTIONS

VECTOR, IMAGE = spaces.Box(-1, 1, (4,)), spaces.Box(0, 255, (3, 36, 36), np.uint8)
POLICIES = {
    "mlp": (RecurrentMlpPolicy, VECTOR),
    "cnn": (RecurrentCnnPolicy, IMAGE),
    "dict": (RecurrentMultiInputPolicy, spaces.Dict(vector=VECTOR, image=IMAGE)),
}
KINDS = {
    "lstm": {},
    "gru": {"recurrent": "gru"},
    "two layers": {"n_lstm_layers": 2},
    "shared": {"shared_lstm": True},
    "no memory of the critic": {"enable_critic_lstm": False},
}
each_kind = pytest.mark.parametrize("kind", KINDS)
S, T = 3, 5


def make(kind="lstm", name="mlp", action="discrete", **settings):
    policy_class, space = POLICIES[name]
    torch.manual_seed(0)
    settings = {"lstm_hidden_size": 6, "last_layer_gain": 1.0, **KINDS[kind], **settings}
    policy = policy_class(space, ACTIONS[action], lambda _: 1e-3, **settings)
    policy.set_training_mode(False)
    return policy


def some(space, n):
    space.seed(0)
    batch = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([one[key] for one in batch]) for key in batch[0]}
    return np.stack(batch)


STARTS = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 0, 0]]).float()


@each_kind
@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("action", ["box", "discrete", "multi_discrete", "multi_binary"])
def test_sequences_at_once_are_steps_one_after_the_other(kind, name, action):
    """As sb3-contrib's: S sequences one after the other, episode starts inside, states in the end."""
    policy = make(kind, name, action)
    observations = some(policy.observation_space, S * T)
    obs = policy.obs_to_tensor(observations)[0]
    states = policy.first_states(S)
    states = type(states)(*(tuple(torch.randn_like(part) for part in side) for side in states))
    torch.manual_seed(1)
    actions, values, log_prob, ends = policy(obs, states, STARTS.flatten())
    evaluated = policy.evaluate_actions(obs, actions, states, STARTS.flatten())
    torch.testing.assert_close(evaluated[:2], (values, log_prob))
    torch.testing.assert_close(policy.predict_values(obs, states.vf, STARTS.flatten()), values)

    for t in range(T):
        rows = torch.arange(S) * T + t
        now = {key: part[rows] for key, part in obs.items()} if isinstance(obs, dict) else obs[rows]
        distribution, _ = policy.get_distribution(now, states.pi, STARTS[:, t])
        torch.testing.assert_close(distribution.log_prob(actions[rows]), log_prob[rows], rtol=1e-4, atol=1e-5)
        _, step_values, _, states = policy(now, states, STARTS[:, t])
        torch.testing.assert_close(step_values, values[rows], rtol=1e-4, atol=1e-5)
    for side, end in zip(states, ends, strict=True):
        torch.testing.assert_close(side, end, rtol=1e-4, atol=1e-5)


@each_kind
def test_where_an_episode_starts_nothing_is_remembered(kind):
    policy = make(kind)
    obs = torch.randn(2, 4)
    states = policy.first_states(2)
    states = type(states)(*(tuple(part + 3 for part in side) for side in states))

    def asked(*memory):  # SB3 has one distribution object, which every call overwrites
        distribution, after = policy.get_distribution(obs, *memory)
        return distribution.distribution.logits, after

    fresh, fresh_state = asked()
    forgotten, state = asked(states.pi, torch.ones(2))
    remembered, _ = asked(states.pi, torch.zeros(2))
    torch.testing.assert_close((forgotten, state), (fresh, fresh_state))
    assert not torch.allclose(remembered, fresh)


def test_called_as_sb3s_each_observation_is_a_first_one():
    policy = make()
    obs = torch.randn(4, 4)
    actions, values, log_prob, _ = policy(obs)
    torch.testing.assert_close(policy.evaluate_actions(obs, actions)[:2], (values, log_prob))
    torch.testing.assert_close(policy.predict_values(obs[2:3]), values[2:3])


@each_kind
@pytest.mark.parametrize("action", ["box", "discrete"])
def test_predict_hands_its_state_from_call_to_call(kind, action):
    policy = make(kind, action=action)
    observations = some(VECTOR, T)
    whole, _ = policy.get_distribution(torch.as_tensor(observations), policy.first_states(1).pi, torch.zeros(T))
    expected, state = whole.mode().detach().numpy(), None
    for t in range(T):
        chosen, state = policy.predict(observations[t], state, np.array([t == 0]), deterministic=True)
        np.testing.assert_allclose(
            chosen, np.clip(expected[t], -1, 1) if action == "box" else expected[t], rtol=1e-5, atol=1e-6
        )
        assert chosen.shape == policy.action_space.shape
        assert all(part.shape == (policy.n_lstm_layers, 1, 6) for part in state)
    again, _ = policy.predict(observations[0], state, np.array([True]), deterministic=True)
    first, _ = policy.predict(observations[0], deterministic=True)
    np.testing.assert_array_equal(again, first)


def test_states_have_the_form_of_sb3_contribs():
    ours, theirs = make(), RecurrentActorCriticPolicy(VECTOR, ACTIONS["discrete"], lambda _: 1e-3, lstm_hidden_size=6)
    observations = some(VECTOR, 3)
    for kind, count in (("lstm", 2), ("gru", 1)):
        state = make(kind).predict(observations)[1]
        assert len(state) == count and state[0].dtype == np.float32
    shapes = [[part.shape for part in policy.predict(observations)[1]] for policy in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_masks_and_memory_at_once():
    policy = make()
    obs, masks = torch.randn(6, 4), np.eye(4, dtype=bool)[[0, 1, 2, 3, 0, 1]]
    actions, *_ = policy(obs, policy.first_states(2), torch.zeros(6), action_masks=masks)
    assert actions.tolist() == [0, 1, 2, 3, 0, 1]
    chosen, state = policy.predict(obs[:2].numpy(), action_masks=masks[2:4])
    assert chosen.tolist() == [2, 3] and state is not None


@each_kind
def test_saved_and_loaded_it_is_the_same(kind, tmp_path, bits):
    policy = make(kind)
    policy.save(tmp_path / "policy")
    loaded = RecurrentMlpPolicy.load(tmp_path / "policy")
    assert bits(loaded.state_dict()) == bits(policy.state_dict())
    assert (loaded.recurrent, loaded.shared_lstm) == (policy.recurrent, policy.shared_lstm)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recurrent": "rnn"}, r'recurrent=...\) must be "lstm" or "gru", got \'rnn\''),
        ({"lstm_hidden_size": 0}, "whole number >= 1, got 0"),
        ({"n_lstm_layers": 1.5}, "whole number >= 1, got 1.5"),
        ({"shared_lstm": "yes"}, "True or False"),
        ({"shared_lstm": True, "enable_critic_lstm": False}, "Leave one of them out"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        RecurrentMlpPolicy(VECTOR, ACTIONS["discrete"], lambda _: 1e-3, **settings)
