"""The contract with Stable-Baselines3: wherever it works, this algorithm runs, predicts, saves, loads, repeats."""

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
from tests.acer.cases import ACTIONS, IMAGE, VECTOR, environments, logged

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
    assert model.num_timesteps == total and logged(model)["n_updates"] == updates
    assert bits(model.get_parameters()) == bits(again.get_parameters()) != initial
    assert logged(model)["n_replays"] == logged(again)["n_replays"] > 0 and logged(model)["skipped_updates"] == 0
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
        {"use_rms_prop": True},
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


def test_box_actions_without_dimensions(space_env, tiny, bits, tmp_path):
    scalar = spaces.Box(-1, 1, ())
    fulfils_contract(lambda: tiny(space_env(VECTOR, scalar)), tmp_path / "model", bits)


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
    fulfils_contract(lambda: tiny(wrap(environments(space_env, ACTIONS[action]))), tmp_path / "model", bits)


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


def test_callbacks(space_env, tiny, tmp_path):
    env = VecMonitor(environments(space_env, ACTIONS["discrete"]))
    seen = []
    callbacks = CallbackList(
        [
            EvalCallback(VecMonitor(environments(space_env, ACTIONS["discrete"])), eval_freq=10, verbose=0),
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
    assert tiny(environments(space_env, ACTIONS["discrete"])).learn(10_000, callback=stop).num_timesteps < 100
