"""RecurrentTRPO: trajectories and values by hand, the contract with SB3, masks and memory at once, and learning."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_trpo_ext import TRPO, MaskableTRPO, RecurrentTRPO
from sb3_trpo_ext.trpo import MaskableMlpPolicy, RecurrentMlpPolicy
from tests.cases import each_device
from tests.trpo.masked_cases import SOURCES, Doors, WithMethod
from tests.trpo.masked_cases import vec_env as masked_vec_env

VECTOR, IMAGE = spaces.Box(-1, 1, (3,)), spaces.Box(0, 255, (36, 36, 1), np.uint8)
OBSERVATIONS = {
    "vector": ("MlpLstmPolicy", VECTOR),
    "discrete": ("MlpLstmPolicy", spaces.Discrete(4)),
    "multi_discrete": ("MlpLstmPolicy", spaces.MultiDiscrete([3, 2])),
    "image": ("CnnLstmPolicy", IMAGE),
    "dict": ("MultiInputLstmPolicy", spaces.Dict(vector=VECTOR, picture=IMAGE)),
}
ACTIONS = {
    "box": spaces.Box(-1, 1, (2,)),
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(3),
}
SMALL = {"net_arch": [8], "lstm_hidden_size": 6}
OF_PICTURES = {"image": {"features_dim": 8}, "dict": {"cnn_output_dim": 8}}
KINDS = {
    "lstm": {},
    "gru": {"recurrent": "gru"},
    "shared": {"shared_lstm": True},
    "none": {"enable_critic_lstm": False},
}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_way = pytest.mark.parametrize("fast", [True, False], ids=["by hand", "autograd"])


def make(env, policy="MlpLstmPolicy", **settings):
    policy_kwargs = {**SMALL, **settings.pop("policy_kwargs", {})}
    return RecurrentTRPO(
        policy, env, policy_kwargs=policy_kwargs, **{"n_steps": 16, "seed": 0, "device": "cpu", **settings}
    )


@pytest.fixture
def three_envs(space_env):
    """Whose episodes have different lengths, and end by time limits."""

    def build(observations=VECTOR, actions=ACTIONS["box"]):
        return DummyVecEnv([lambda i=i: space_env(observations, actions, length=5 + 2 * i) for i in range(3)])

    return build


# ------------------------------------------------------------------------------------------- a rollout by hand
class Watches(BaseCallback):
    """Keeps what every step returned."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def _on_step(self):
        keys = ("new_obs", "dones", "infos", "rewards")
        self.steps.append({key: self.locals[key] for key in keys})
        return True


@each_kind
@pytest.mark.parametrize("action", ["box", "discrete"])
def test_a_rollout_is_the_policy_stepped_by_hand(kind, action, three_envs):
    """Actions, values, log-probabilities, and the values at time limits with the memory of that moment."""
    env = three_envs(actions=ACTIONS[action])
    model = make(env, policy_kwargs=KINDS[kind], gamma=0.9)
    model.learn(48)
    last_obs, starts, states = model._last_obs.copy(), model._last_episode_starts.copy(), model._memory.now
    policy = model.policy
    watch = Watches()
    torch.manual_seed(7)
    callback = model._init_callback(watch)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 16)

    torch.manual_seed(7)
    buffer, rewards = model.rollout_buffer, np.zeros((16, 3), np.float32)
    with torch.no_grad():
        for t, seen in enumerate(watch.steps):
            obs = torch.as_tensor(last_obs)
            actions, values, log_probs, states = policy(obs, states, torch.as_tensor(starts))
            np.testing.assert_array_equal(buffer.observations[t], last_obs)
            np.testing.assert_allclose(buffer.actions[t].reshape(actions.shape), actions)
            np.testing.assert_allclose(buffer.values[t], values.flatten(), rtol=1e-6)
            np.testing.assert_allclose(buffer.log_probs[t], log_probs, rtol=1e-6)
            rewards[t] = seen["rewards"]
            for i in np.flatnonzero(seen["dones"]):
                end = torch.as_tensor(seen["infos"][i]["terminal_observation"])[None]
                state = tuple(part[:, i : i + 1] for part in states.vf)
                rewards[t, i] += 0.9 * float(policy.predict_values(end, state, torch.zeros(1)))
            last_obs, starts = seen["new_obs"], seen["dones"]
        last = policy.predict_values(torch.as_tensor(last_obs), states.vf, torch.as_tensor(starts)).flatten()
    np.testing.assert_allclose(buffer.rewards, rewards, rtol=1e-5)
    assert sum(int(seen["dones"].sum()) for seen in watch.steps) >= 5

    again = RolloutBuffer(16, VECTOR, ACTIONS["discrete"], "cpu", model.gae_lambda, 0.9, 3)
    again.rewards, again.values, again.episode_starts = rewards, buffer.values, buffer.episode_starts
    again.compute_returns_and_advantage(last, starts)
    np.testing.assert_allclose(buffer.advantages, again.advantages, rtol=1e-4, atol=1e-5)


@each_kind
@each_way
def test_at_the_policy_that_acted_the_ratio_is_1(kind, fast, three_envs):
    """Evaluated in whole pieces of episodes, each from the state in which it began."""
    model = make(three_envs(), policy_kwargs=KINDS[kind], fast=fast)
    model.learn(96)
    model.collect_rollouts(model.env, model._init_callback(None), model.rollout_buffer, 16)
    rollout = model._rollout()
    assert len(rollout.inputs.lengths) > 6 and int(rollout.inputs.lengths.sum()) == 48
    family = model.actor.family(rollout.inputs)
    stored = torch.as_tensor(model.rollout_buffer.swap_and_flatten(model.rollout_buffer.log_probs)).flatten()
    torch.testing.assert_close(family.log_prob(rollout.actions), stored, rtol=1e-4, atol=1e-5)
    values = model.value_function.values(rollout.inputs).flatten()
    torch.testing.assert_close(values, rollout.values, rtol=1e-4, atol=1e-5)


def test_states_after_a_reset_are_zeros_and_go_on_between_rollouts(three_envs):
    model = make(three_envs())
    model.learn(48)
    kept = model._memory.now
    assert float(kept.pi[0].abs().max()) > 0
    model.learn(48, reset_num_timesteps=False)
    torch.testing.assert_close(model._memory.first.pi, kept.pi)
    model.learn(48)  # resets the environments
    assert float(model._memory.first.pi[0].abs().max()) == 0


# ------------------------------------------------------------------------------------------- contract
@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_runs_repeats_predicts_saves_and_loads(observation, action, kind, three_envs, bits, tmp_path):
    policy, space = OBSERVATIONS[observation]
    own = {"features_extractor_kwargs": OF_PICTURES[observation]} if observation in OF_PICTURES else {}

    def trained():
        env = three_envs(space, ACTIONS[action])
        return make(env, policy, policy_kwargs={**KINDS[kind], **own}).learn(96)

    model = trained()
    assert bits(model.get_parameters()) == bits(trained().get_parameters())
    assert model.logger.name_to_value["train/update_status"] in (0, 1)
    model.save(tmp_path / "model")
    loaded = RecurrentTRPO.load(tmp_path / "model", env=three_envs(space, ACTIONS[action]))
    assert bits(loaded.get_parameters()) == bits(model.get_parameters())
    observations, state = loaded.env.reset(), None
    for start in (True, False):
        answers = [each.predict(observations, state, np.full(3, start), deterministic=True) for each in (model, loaded)]
        assert bits(answers[0]) == bits(answers[1])
        state = answers[0][1]
    loaded.learn(48, reset_num_timesteps=False)
    assert loaded.num_timesteps == 144


@each_kind
def test_by_hand_and_by_autograd_learn_the_same(kind, three_envs):
    def parameters(fast):
        model = make(three_envs(), policy_kwargs=KINDS[kind], fast=fast).learn(48)
        return torch.cat([parameter.flatten() for parameter in model.policy.parameters()])

    torch.testing.assert_close(parameters(True), parameters(False), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"critic": "adam", "batch_size": 16},
        {"critic": "adam", "batch_size": 16, "fast": False},
        {"sub_sampling_factor": 2},
        {"curvature_sampling_factor": 3},
        {"use_sde": True, "sde_sample_freq": 4},
        {"trust_region": "euclidean"},
        {"line_search_max_iter": 0},
        {"policy_kwargs": {"n_lstm_layers": 2}},
    ],
    ids=str,
)
def test_settings_of_trpo(settings, three_envs):
    model = make(three_envs(), **settings).learn(96)
    assert model.logger.name_to_value["train/update_status"] in (0, 1)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.policy.parameters())


class Scaled(RolloutBuffer):
    """Advantages of its own."""

    def compute_returns_and_advantage(self, last_values, dones):
        super().compute_returns_and_advantage(last_values, dones)
        self.advantages *= 2


def test_a_rollout_buffer_of_ones_own(three_envs):
    model = make(three_envs(), rollout_buffer_class=Scaled, normalize_advantage=False).learn(48)
    assert type(model.rollout_buffer) is Scaled

    class Adds(RolloutBuffer):
        def add(self, *args):
            super().add(*args)

    with pytest.raises(ValueError, match=r"RecurrentTRPO\(rollout_buffer_class=...\) must leave SB3's add\(\)"):
        make(three_envs(), rollout_buffer_class=Adds)


def test_callbacks_normalisation_and_evaluation(three_envs, space_env):
    env = VecNormalize(three_envs())
    callback = EvalCallback(
        VecNormalize(DummyVecEnv([lambda: Monitor(space_env(VECTOR, ACTIONS["box"]))])), eval_freq=16
    )
    model = make(env).learn(96, callback=callback)
    assert np.isfinite(callback.last_mean_reward) and model.policy.normalizer is None
    plain = make(three_envs()).learn(96)
    assert int(plain.policy.normalizer.moments[0].count) == 96


def test_an_exchanged_memory_acts_and_learns(three_envs):
    model = make(three_envs()).learn(48)
    torch.manual_seed(3)
    model.policy.actor_memory = torch.nn.LSTM(3, 6)
    before = model.policy.actor_memory.weight_hh_l0.detach().clone()
    model.learn(48)
    assert not torch.equal(before, model.policy.actor_memory.weight_hh_l0)


def test_processes_of_their_own(space_env):
    env = SubprocVecEnv([lambda: space_env(VECTOR, ACTIONS["box"])] * 2, start_method="fork")
    try:
        make(env).learn(64)
    finally:
        env.close()


@pytest.mark.parametrize("part", ["observation", "reward"])
def test_bad_data_is_skipped_and_training_goes_on(part, make_env):
    env = make_env((5, (part, np.nan)))
    model = make(env)
    with pytest.warns(UserWarning, match="Update skipped"):
        model.learn(16)
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    model.learn(32, reset_num_timesteps=False)
    assert model._n_skipped_updates == 1 and model._n_updates == 2
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.policy.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))


def test_what_it_is_not_for_is_refused(three_envs):
    with pytest.raises(ValueError, match=r"must be a subclass of sb3_trpo_ext.trpo.RecurrentMlpPolicy, got Maskable"):
        RecurrentTRPO(MaskableMlpPolicy, three_envs())
    with pytest.raises(ValueError, match="RecurrentTRPO those with memory"):
        MaskableTRPO(RecurrentMlpPolicy, WithMethod())
    with pytest.raises(ValueError, match="RecurrentTRPO for the one"):
        TRPO(RecurrentMlpPolicy, three_envs())
    with pytest.raises(ValueError, match=r"RecurrentTRPO\(rollouts_per_update=...\) must be 1, got 2"):
        make(three_envs(), rollouts_per_update=2)


# ------------------------------------------------------------------------------------------- masks and memory
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("action", ["discrete", "multi_discrete", "multi_binary"])
def test_masks_and_memory_at_once(source, action):
    """No closed door is tried in training, nor in evaluation that knows of no masks."""
    env = masked_vec_env(source, action)
    model = make(env, "MultiInputLstmPolicy" if source == "observations" else "MlpLstmPolicy").learn(96)
    assert sum(one.unwrapped.tried for one in env.envs) == 96
    assert not model._masks.rollout.all()
    if source != "infos":
        evaluate_policy(model, masked_vec_env(source, action), n_eval_episodes=3, warn=False)


def test_without_masks_nothing_is_forbidden():
    class Open(Doors):
        def step(self, action):
            return self._next(), 0.0, False, False, {}

    model = make(Open()).learn(32)
    assert model._masks.rollout.all()
    assert model.predict(np.zeros(5, np.float32))[0].shape == ()


# ------------------------------------------------------------------------------------------- learning
class Recall(gym.Env):
    """What was shown in the first step pays in the last one."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.cue = 0, int(self.np_random.integers(2))
        return np.array([2.0 * self.cue - 1, 0], np.float32), {}

    def step(self, action):
        self.time += 1
        over = self.time == 4
        return np.array([0, self.time / 4], np.float32), float(over and action == self.cue), over, False, {}


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_what_was_seen_is_remembered(kind):
    settings = {"n_steps": 128, "target_kl": 0.05, "seed": 1, "device": "cpu"}
    env = make_vec_env(Recall, 4, seed=1)
    model = RecurrentTRPO("MlpLstmPolicy", env, policy_kwargs={"lstm_hidden_size": 16, **KINDS[kind]}, **settings)
    model.learn(25 * 512)
    assert evaluate_policy(model, env, 40)[0] > 0.95
    forgetful = TRPO("MlpPolicy", make_vec_env(Recall, 4, seed=1), **settings).learn(25 * 512)
    assert evaluate_policy(forgetful, env, 40)[0] < 0.8


@pytest.mark.parametrize("observation", ["vector", "image"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "shared", "none"])
@pytest.mark.parametrize("fast", [True, False])
@each_device
def test_on_every_device(observation, kind, fast, device, three_envs, tmp_path):
    policy, space = OBSERVATIONS[observation]
    own = {"features_extractor_kwargs": OF_PICTURES[observation]} if observation in OF_PICTURES else {}
    model = make(three_envs(space), policy, device=device, fast=fast, policy_kwargs={**KINDS[kind], **own}).learn(96)
    assert model.logger.name_to_value["train/update_status"] in (0, 1)
    assert all(part.device.type == device for side in model._memory.present for part in side)
    model.save(tmp_path / "model")
    loaded = RecurrentTRPO.load(tmp_path / "model", device=device)
    observations = model.env.reset()
    expected, state = model.predict(observations, deterministic=True)
    np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0], expected)
    assert all(isinstance(part, np.ndarray) for part in state)


def test_actions_are_kept_within_their_bounds(three_envs):
    model = make(three_envs(), policy_kwargs={"log_std_init": 3.0})
    observations = model.env.reset()
    actions, _ = model.predict(observations)
    assert float(np.abs(actions).max()) == 1.0


def test_going_on_in_another_precision(three_envs):
    model = make(three_envs()).learn(48)
    model.policy.double()
    model.learn(48, reset_num_timesteps=False)
    assert model.num_timesteps == 96


def test_a_policy_that_is_exchanged_when_a_rollout_starts_remembers_anew(three_envs):
    class Exchanges(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_start(self):
            kind = type(self.model.policy)
            self.model.policy = kind(VECTOR, ACTIONS["box"], lambda _: 1e-3, lstm_hidden_size=9, net_arch=[8])

    model = make(three_envs()).learn(96, callback=Exchanges())
    assert model._memory.present.pi[0].shape[-1] == 9
