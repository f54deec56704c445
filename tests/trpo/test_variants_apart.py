"""What belongs to one variant is refused by the others, and mistakes of their users are answered."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from sb3_trpo_ext import ACER, TRPO, MaskableTRPO, RecurrentTRPO
from sb3_trpo_ext.trpo import MaskableMlpPolicy
from tests.trpo.masked_cases import vec_env

OBSERVATION = np.zeros((1, 4), np.float32)


@pytest.fixture(scope="module")
def models():
    return {
        "TRPO": TRPO("MlpPolicy", "CartPole-v1", n_steps=16),
        "MaskableTRPO": MaskableTRPO("MlpPolicy", vec_env("method", "discrete"), n_steps=16),
        "RecurrentTRPO": RecurrentTRPO("MlpLstmPolicy", "CartPole-v1", n_steps=16),
    }


KINDS = (TRPO, MaskableTRPO, RecurrentTRPO)


@pytest.mark.parametrize("loads", KINDS)
@pytest.mark.parametrize("saves", KINDS)
def test_a_file_is_loaded_by_the_class_that_saved_it(saves, loads, models, tmp_path):
    models[saves.__name__].save(tmp_path / "model")
    if saves is loads:
        assert type(loads.load(tmp_path / "model")) is loads
        return
    with pytest.raises(ValueError, match=f"was saved by {saves.__name__}, not by {loads.__name__}"):
        loads.load(tmp_path / "model")


@pytest.mark.parametrize("algorithm", [TRPO, ACER])
def test_a_misspelt_policy_argument_is_answered(algorithm):
    with pytest.raises(ValueError, match=r"dict\(netarch=...\)\) is no argument of MlpPolicy. Did you mean net_arch"):
        algorithm("MlpPolicy", "CartPole-v1", policy_kwargs={"netarch": [8]})


def test_arguments_of_recurrent_ppo_that_do_not_exist_are_answered():
    with pytest.raises(ValueError, match=r"lstm_kwargs=...\)\) is no argument of RecurrentMlpPolicy"):
        RecurrentTRPO("MlpLstmPolicy", "CartPole-v1", policy_kwargs={"lstm_kwargs": {}})


def as_dict(env):
    space = spaces.Dict(vector=env.observation_space)
    return gym.wrappers.TransformObservation(env, lambda observation: {"vector": observation}, space)


def test_dict_observations_need_their_policy():
    env = make_vec_env(lambda: as_dict(gym.make("CartPole-v1")), 1)
    with pytest.raises(ValueError, match="MultiInputLstmPolicy"):
        RecurrentTRPO("MlpLstmPolicy", env)


@pytest.mark.parametrize(
    "state", [(np.zeros((1, 2, 64)),) * 2, (np.zeros((1, 1, 64)),), np.zeros((1, 1, 64))], ids=["n", "parts", "array"]
)
def test_a_state_of_another_shape_is_answered(state, models):
    with pytest.raises(ValueError, match=r"predict\(state=...\) must be None, or .* 2 array.* of shape \(1, 1, 64\)"):
        models["RecurrentTRPO"].predict(OBSERVATION, state=state)


def test_episode_starts_of_another_length_are_answered(models):
    with pytest.raises(ValueError, match="one value for each of 1 observations, got 2"):
        models["RecurrentTRPO"].predict(OBSERVATION, episode_start=[True, False])


def test_one_episode_start_is_for_all(models):
    model, two = models["RecurrentTRPO"], np.ones((2, 4), np.float32)
    _, state = model.predict(two)
    fresh = model.predict(two, deterministic=True)[1]
    for start in (True, [True, True], np.array([1.0, 1.0])):
        after = model.predict(two, state=state, episode_start=start, deterministic=True)[1]
        assert np.array_equal(after[0], fresh[0])


class ForgetsToReturn(gym.Wrapper):
    def action_masks(self):
        pass


def test_masks_that_are_none_are_answered():
    env = make_vec_env(lambda: ForgetsToReturn(gym.make("CartPole-v1")), 1)
    with pytest.raises(ValueError, match=r"got \[None\]. Does action_masks\(\) return them"):
        MaskableTRPO("MlpPolicy", env, n_steps=16).learn(16)


def test_a_policy_of_another_variant_is_refused_before_anything_is_said_of_it():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="MaskableTRPO for the other"):
            TRPO(MaskableMlpPolicy, "CartPole-v1")
