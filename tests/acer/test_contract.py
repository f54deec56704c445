"""The contract with Stable-Baselines3: wherever it works, this algorithm runs, predicts, saves, loads, repeats."""

import json
import zipfile
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import (
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)
from torch import nn

from sb3_trpo_ext import ACER
from sb3_trpo_ext.acer.buffer import Sequences
from sb3_trpo_ext.acer.settings import step_settings

ACTIONS = {
    "discrete": spaces.Discrete(3),
    "box": spaces.Box(-1, 1, (2,)),
    "box_matrix": spaces.Box(-2, 1, (2, 2)),
}
VECTOR = spaces.Box(-1, 1, (3,))
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
OBSERVATIONS = {
    "box": ("MlpPolicy", VECTOR),
    "box_matrix": ("MlpPolicy", spaces.Box(-1, 1, (2, 3))),
    "discrete": ("MlpPolicy", spaces.Discrete(4)),
    "multi_discrete": ("MlpPolicy", spaces.MultiDiscrete([3, 2])),
    "multi_binary": ("MlpPolicy", spaces.MultiBinary(3)),
    "image": ("CnnPolicy", IMAGE),
    "dict": ("MultiInputPolicy", spaces.Dict(vector=VECTOR, picture=IMAGE, choice=spaces.Discrete(3))),
}


def fulfils_contract(make, path, bits, updates=4):
    """
    ``make()`` gives a new model each time: it runs, repeats bit for bit, predicts, saves, loads.

    :return: the trained model
    """
    model = make()
    initial = bits(model.get_parameters())
    total = updates * model.n_steps * model.n_envs
    model.learn(total)
    again = make().learn(total)
    assert model.num_timesteps == total and model._n_updates == updates
    assert bits(model.get_parameters()) == bits(again.get_parameters()) != initial
    assert model._n_replays == again._n_replays > 0 and model._n_skipped_updates == 0
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.policy.parameters())
    assert all(np.isfinite(v) for k, v in model.logger.name_to_value.items() if k.startswith("train"))

    environment = model.get_env()
    observations = environment.reset()
    model.save(path)
    loaded = ACER.load(path, device=model.device)
    for deterministic in (True, False):
        actions = []
        for each in (model, loaded):
            each.set_random_seed(5)
            actions.append(each.predict(observations, deterministic=deterministic)[0])
        assert bits(actions[0]) == bits(actions[1])
        assert all(environment.action_space.contains(action) for action in actions[0])
    assert bits(loaded.get_parameters()) == bits(model.get_parameters())
    return model


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_space_with_every_observation_space(action, observation, space_env, tiny, bits, tmp_path):
    policy, observation_space = OBSERVATIONS[observation]
    fulfils_contract(lambda: tiny(space_env(observation_space, ACTIONS[action]), policy), tmp_path / "model", bits)


class Extractor(BaseFeaturesExtractor):
    """Batch normalization and dropout, and a parameter that nothing uses."""

    def __init__(self, observation_space, features_dim=5):
        super().__init__(observation_space, features_dim)
        self.net = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.2))
        self.unused = nn.Parameter(torch.zeros(2))

    def forward(self, observations):
        return self.net(observations)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    "settings",
    [
        {"features_extractor_class": Extractor},
        {"features_extractor_class": Extractor, "share_features_extractor": False},
        {"net_arch": {"pi": [4], "vf": [6, 5]}, "activation_fn": nn.ReLU, "ortho_init": False},
        {"net_arch": []},
        {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"momentum": 0.5}},
    ],
)
def test_custom_networks(settings, action, space_env, tiny, bits, tmp_path):
    fulfils_contract(lambda: tiny(space_env(VECTOR, ACTIONS[action]), policy_kwargs=settings), tmp_path / "model", bits)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    "settings",
    [
        {"trust_region": False},
        {"bias_correction": False},
        {"importance_clip": float("inf")},
        {"importance_clip": 0},
        {"trust_region_delta": 0.0},
        {"ent_coef": 0.0},
        {"use_rms_prop": False},
        {"learn_std": True},
        {"n_action_samples": 1},
        {"n_steps": 1, "replay_start": 0},
        {"gamma": 1.0, "average_policy_decay": 0.0},
        {"learning_rate": "lin_0.001"},
        {"max_grad_norm": 1e-3},
    ],
    ids=str,
)
def test_every_part_can_be_switched(settings, action, space_env, tiny, bits, tmp_path):
    fulfils_contract(lambda: tiny(space_env(VECTOR, ACTIONS[action]), **settings), tmp_path / "model", bits)


def test_without_replay(space_env, tiny):
    model = tiny(space_env(VECTOR, ACTIONS["discrete"]), replay_ratio=0, buffer_size=10**12).learn(60)
    assert model._n_updates == 10 and model._n_replays == 0 and len(model.replay_buffer) == 0


def test_box_actions_without_dimensions(space_env, tiny, bits, tmp_path):
    scalar = spaces.Box(-1, 1, ())
    fulfils_contract(lambda: tiny(space_env(VECTOR, scalar)), tmp_path / "model", bits)


@pytest.mark.parametrize("rms_prop", [True, False])
def test_the_optimizers_settings_can_be_given(rms_prop, space_env, tiny, tmp_path):
    env, given = space_env(VECTOR, ACTIONS["discrete"]), {"optimizer_kwargs": {"weight_decay": 0.1, "eps": 1e-3}}
    tiny(env, use_rms_prop=rms_prop, policy_kwargs=given).learn(12).save(tmp_path / "model")
    for model in (tiny(env, use_rms_prop=rms_prop, policy_kwargs=given), ACER.load(tmp_path / "model", env=env)):
        group = model.policy.optimizer.param_groups[0]
        assert (group["weight_decay"], group["eps"]) == (0.1, 1e-3)


def test_replays_wait_for_their_start_and_follow_their_mean(space_env, tiny):
    model = tiny(space_env(VECTOR, ACTIONS["discrete"]), replay_ratio=3, replay_start=61, buffer_size=120).learn(60)
    assert model._n_replays == 0 and len(model.replay_buffer) == 60
    model.learn(1800, reset_num_timesteps=False)
    assert model._n_replays / 300 == pytest.approx(3, rel=0.15)


def _environments(space_env, action, n=2, wrapper=DummyVecEnv):
    return wrapper([lambda: space_env(VECTOR, ACTIONS[action]) for _ in range(n)])


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    "wrap",
    [
        VecNormalize,
        VecMonitor,
        VecCheckNan,
        lambda env: VecFrameStack(env, 2),
        lambda env: VecMonitor(VecNormalize(env)),
        lambda env: VecNormalize(VecFrameStack(env, 2)),
        lambda env: VecNormalize(env, norm_obs=False),
        lambda env: VecNormalize(env, norm_reward=False),
    ],
)
def test_wrappers(wrap, action, space_env, tiny, bits, tmp_path):
    fulfils_contract(lambda: tiny(wrap(_environments(space_env, action))), tmp_path / "model", bits)


def test_observations_changed_after_normalisation_are_stored_as_seen(space_env, tiny):
    env = VecFrameStack(VecNormalize(_environments(space_env, "discrete")), 2)
    with pytest.warns(UserWarning, match="Put VecNormalize outermost"):
        model = tiny(env)
    model.learn(48)
    assert model._n_replays > 0


def test_dictionaries_and_images_with_normalisation(space_env, tiny, bits, tmp_path):
    space = OBSERVATIONS["dict"][1]
    model = fulfils_contract(
        lambda: tiny(
            VecNormalize(DummyVecEnv([lambda: space_env(space, ACTIONS["box"])] * 2), norm_obs_keys=["vector"]),
            "MultiInputPolicy",
        ),
        tmp_path / "model",
        bits,
    )
    stored = model.replay_buffer.get(np.zeros(2, int)).observations
    assert stored["picture"].dtype == np.uint8 and stored["picture"].shape[2:] == (1, 36, 36)
    assert abs(stored["vector"]).max() <= 1, "stored as the environment gave it"


def test_subprocesses_see_the_same_as_one_process(tiny, bits):
    def train(kind):
        env = make_vec_env("CartPole-v1", 2, seed=0, vec_env_cls=kind)
        try:
            return bits(tiny(env).learn(72).get_parameters())
        finally:
            env.close()

    assert train(DummyVecEnv) == train(SubprocVecEnv)


def test_what_is_stored_is_not_normalised_and_is_normalised_when_drawn(space_env, tiny):
    class Recorder(gym.Wrapper):
        def __init__(self, env):
            super().__init__(env)
            self.seen, self.rewards, self.final = [], [], []

        def reset(self, **kwargs):
            observation, info = self.env.reset(**kwargs)
            self.seen.append(observation)
            return observation, info

        def step(self, action):
            observation, reward, terminated, truncated, info = self.env.step(action)
            (self.final if truncated else self.seen).append(observation)
            self.rewards.append(reward)
            return observation, reward, terminated, truncated, info

    recorder = Recorder(space_env(VECTOR, ACTIONS["discrete"], length=4))
    env = VecNormalize(DummyVecEnv([lambda: recorder]))
    model = tiny(env, buffer_size=10**4).learn(60)
    buffer = model.replay_buffer
    stored = [buffer.get(np.array([slot])) for slot in range(buffer.n_stored)]
    np.testing.assert_array_equal(np.concatenate([s.rewards[:, 0] for s in stored]), np.float32(recorder.rewards))
    np.testing.assert_array_equal(np.concatenate([s.observations[:-1, 0] for s in stored]), recorder.seen[:60])
    for one, other in pairwise(stored):
        np.testing.assert_array_equal(one.observations[-1], other.observations[0])
    final = [t.observation for s in stored for t in s.timeouts]
    np.testing.assert_allclose(final, recorder.final, rtol=1e-4, atol=1e-5)

    np.random.seed(0)
    raw = buffer.sample()
    np.random.seed(0)
    drawn = buffer.sample(env)
    np.testing.assert_allclose(drawn.observations, env.normalize_obs(raw.observations))
    np.testing.assert_allclose(drawn.rewards, env.normalize_reward(raw.rewards), rtol=1e-6)


def test_behaviour_statistics_are_those_of_the_policy_that_acted(space_env, tiny):
    """On the rollout just collected the importance weights are exactly 1."""
    for action in ACTIONS:
        model = tiny(VecNormalize(_environments(space_env, action)), replay_ratio=0).learn(24)
        values = model.logger.name_to_value
        assert values["train/importance_weight_mean"] == pytest.approx(1, abs=1e-5)
        assert values["train/importance_weight_max"] == pytest.approx(1, abs=1e-4)


def test_time_limits_are_bootstrapped_and_terminal_states_are_not(tiny):
    class Constant(gym.Env):
        """Reward 1 for ever, in episodes of one step."""

        observation_space, action_space = VECTOR, ACTIONS["discrete"]

        def __init__(self, truncate):
            self.truncate = truncate

        def reset(self, *, seed=None, options=None):
            return np.zeros(3, np.float32), {}

        def step(self, action):
            return np.zeros(3, np.float32), 1.0, not self.truncate, self.truncate, {}

    for truncate, worth in ((False, 1.0), (True, 1 / (1 - 0.9))):
        model = tiny(Constant(truncate), gamma=0.9, learning_rate=3e-3, n_steps=10, buffer_size=100)
        model.learn(10_000)
        value = model.policy.predict_values(torch.zeros(1, 3)).item()
        assert value == pytest.approx(worth, rel=0.15)


def test_callbacks(space_env, tiny, tmp_path):
    env = VecMonitor(_environments(space_env, "discrete"))
    seen = []
    callbacks = CallbackList(
        [
            EvalCallback(VecMonitor(_environments(space_env, "discrete")), eval_freq=10, verbose=0),
            CheckpointCallback(12, str(tmp_path), save_replay_buffer=True),
            EveryNTimesteps(10, ConvertCallback(lambda local, _: seen.append(sorted(local)) or True)),
            StopTrainingOnMaxEpisodes(7),
        ]
    )
    model = tiny(env).learn(10_000, callback=callbacks)
    assert model.num_timesteps < 200 and {"rewards", "new_obs", "infos", "dones", "actions"} <= set(seen[-1])
    saved = next(tmp_path.glob("*replay_buffer*"))
    tiny(env).load_replay_buffer(saved)
    stop = EvalCallback(env, StopTrainingOnRewardThreshold(-1e9), eval_freq=6, verbose=0)
    assert tiny(_environments(space_env, "discrete")).learn(10_000, callback=stop).num_timesteps < 100


@pytest.mark.parametrize("action", ACTIONS)
def test_resumed_training_is_uninterrupted_training(action, space_env, tiny, bits, tmp_path):
    """With the replay buffer and the average policy saved beside the model; the environment starts an episode anew."""

    def continued(model):
        model.set_env(_environments(space_env, action))
        model.get_env().seed(3)
        model.set_random_seed(3)
        model.env.action_space.seed(3)
        return bits(model.learn(72, reset_num_timesteps=False).get_parameters())

    model = tiny(_environments(space_env, action), buffer_size=10**4).learn(72)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "replay_buffer.pkl")
    loaded = ACER.load(tmp_path / "model", _environments(space_env, action), device="cpu")
    assert len(loaded.replay_buffer) == 0
    loaded.load_replay_buffer(tmp_path / "replay_buffer.pkl", truncate_last_traj=True)
    assert continued(loaded) == continued(model)


def test_resumed_training_with_normalisation(space_env, tiny, bits, tmp_path):
    """Time limits' observations come back from the disk as they were, bit for bit."""

    def continued(model):
        model.set_random_seed(3)
        model._last_obs = None
        return bits(model.learn(72, reset_num_timesteps=False).get_parameters())

    env = VecNormalize(_environments(space_env, "box"))
    model = tiny(env, buffer_size=10**4).learn(72)
    assert any(model.replay_buffer._timeouts)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    env.save(tmp_path / "env")
    resumed = VecNormalize.load(str(tmp_path / "env"), _environments(space_env, "box"))
    loaded = ACER.load(tmp_path / "model", resumed, device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer")
    resumed.returns = env.returns.copy()
    assert continued(loaded) == continued(model)


def test_a_standard_deviation_that_is_no_longer_learned_is_the_averages_too(space_env, tiny, tmp_path):
    env = space_env(VECTOR, ACTIONS["box"])
    model = tiny(env, learn_std=True, learning_rate=0.01).learn(60)
    assert not torch.equal(model.policy.log_std, model.average_policy.log_std)
    model.save(tmp_path / "model")
    loaded = ACER.load(tmp_path / "model", env=env, device="cpu", learn_std=False)
    assert torch.equal(loaded.policy.log_std, model.policy.log_std)
    assert torch.equal(loaded.average_policy.log_std, loaded.policy.log_std)


def test_the_average_policy_is_saved_and_lags_behind(space_env, tiny, tmp_path, bits):
    model = tiny(space_env(VECTOR, ACTIONS["discrete"]), learning_rate=0.01).learn(60)
    model.save(tmp_path / "model")
    parameters = ACER.load(tmp_path / "model", device="cpu").get_parameters()
    assert bits(parameters["average_policy"]) == bits(model.get_parameters()["average_policy"])
    assert bits(parameters["average_policy"]) != bits(parameters["policy"])
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        assert not {"replay_buffer", "_learner", "average_policy"} & set(json.loads(archive.read("data")))


def test_the_average_policy_is_the_running_mean_of_the_policies(space_env, tiny):
    model = tiny(space_env(VECTOR, ACTIONS["box"]), average_policy_decay=0.8, replay_ratio=0)
    expected = [p.detach().clone() for p in model.policy.parameters()]
    for i in range(1, 6):
        model.learn(6, reset_num_timesteps=False)
        assert model._n_updates == i
        expected = [
            0.8 * old + 0.2 * new.detach() for old, new in zip(expected, model.policy.parameters(), strict=True)
        ]
        for mean, parameter in zip(expected, model.average_policy.parameters(), strict=True):
            torch.testing.assert_close(parameter, mean)


@pytest.mark.parametrize("learned", [True, False])
def test_fixed_and_learned_std(learned, space_env, tiny):
    model = tiny(space_env(VECTOR, ACTIONS["box"]), learn_std=learned, policy_kwargs={"log_std_init": -1.0}).learn(60)
    assert bool((model.policy.log_std == -1.0).all()) is not learned


def test_settings_can_be_replaced_when_loading(space_env, tiny, tmp_path):
    env = space_env(VECTOR, ACTIONS["discrete"])
    tiny(env).learn(12).save(tmp_path / "model")
    model = ACER.load(tmp_path / "model", env=env, trust_region=False, importance_clip=2.0, replay_ratio=0)
    settings = step_settings(model)
    assert settings.delta is None and settings.clip == 2.0
    before = model._n_replays
    model.learn(12, reset_num_timesteps=False)
    assert model._n_replays == before


@pytest.mark.parametrize("rms_prop", [True, False])
def test_loading_with_the_other_optimizer_starts_it_afresh(rms_prop, space_env, tiny, tmp_path, bits):
    env = space_env(VECTOR, ACTIONS["discrete"])
    model = tiny(env, use_rms_prop=rms_prop).learn(12)
    model.save(tmp_path / "model")
    with pytest.warns(UserWarning, match="optimizer starts afresh"):
        loaded = ACER.load(tmp_path / "model", env=env, device="cpu", use_rms_prop=not rms_prop)
    assert bits(loaded.policy.state_dict()) == bits(model.policy.state_dict())
    assert not loaded.policy.optimizer.state and type(loaded.policy.optimizer) is not type(model.policy.optimizer)
    loaded.learn(12, reset_num_timesteps=False)
    loaded.save(tmp_path / "again")
    again = ACER.load(tmp_path / "again", env=env, device="cpu")
    assert again.policy.optimizer.state and type(again.policy.optimizer) is type(loaded.policy.optimizer)


def test_parameters_from_a_file_and_a_new_epsilon(space_env, tiny, tmp_path, bits):
    env = space_env(VECTOR, ACTIONS["discrete"])
    model = tiny(env).learn(12)
    model.save(tmp_path / "model")
    other = tiny(env, seed=1)
    other.set_parameters(tmp_path / "model", device="cpu")
    assert bits(other.get_parameters()) == bits(model.get_parameters())
    loaded = ACER.load(tmp_path / "model", env=env, device="cpu", rms_prop_eps=0.25)
    assert loaded.policy.optimizer.param_groups[0]["eps"] == 0.25 and loaded.policy.optimizer.state


def test_policies_save_and_load_alone(space_env, tiny, tmp_path, bits):
    model = tiny(space_env(VECTOR, ACTIONS["box"])).learn(12)
    model.policy.save(tmp_path / "policy.pth")
    loaded = type(model.policy).load(tmp_path / "policy.pth")
    assert bits(loaded.state_dict()) == bits(model.policy.state_dict())


def test_the_policy_answers_what_sb3s_policies_answer(space_env, tiny):
    for action in ACTIONS:
        policy = tiny(space_env(VECTOR, ACTIONS[action])).policy
        actions, values, log_prob = policy(torch.zeros(5, 3))
        assert values.shape == (5, 1) and log_prob.shape == (5,)
        again, likelihood, entropy = policy.evaluate_actions(
            torch.zeros(5, 3), actions.flatten(1) if action != "discrete" else actions
        )
        torch.testing.assert_close(again, values)
        torch.testing.assert_close(likelihood, log_prob)
        assert entropy.shape == (5,)


def test_sequences_name_what_is_not_finite():
    good = Sequences(np.zeros((3, 1, 2)), np.zeros((2, 1)), np.zeros((2, 1)), np.zeros((2, 1, 2)), np.zeros((2, 1)))
    assert good.not_finite() == []
    good.rewards[1] = np.nan
    good.observations[2] = np.inf
    assert sorted(good.not_finite()) == ["observations", "rewards"]
