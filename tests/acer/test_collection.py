"""What a rollout gives: sequences as the policy saw them, and as the environments gave them."""

import warnings
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import ConvertCallback
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
)

from sb3_trpo_ext.acer.collection import usable_normalizer
from tests.acer.cases import ACTIONS, IMAGE, VECTOR, environments, logged


def test_observations_changed_after_normalisation_are_stored_as_seen(space_env, tiny):
    env = VecFrameStack(VecNormalize(environments(space_env, ACTIONS["discrete"])), 2)
    with pytest.warns(UserWarning, match="Put VecNormalize outermost"):
        model = tiny(env)
    model.learn(48)
    assert logged(model)["n_replays"] > 0


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
        model = tiny(VecNormalize(environments(space_env, ACTIONS[action])), replay_ratio=0).learn(24)
        values = model.logger.name_to_value
        assert values["train/importance_weight_mean"] == pytest.approx(1, abs=1e-5)
        assert values["train/importance_weight_max"] == pytest.approx(1, abs=1e-4)


class Bonus(VecEnvWrapper):
    """Adds 1000 to every reward, as curiosity or preferences add something of their own."""

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, rewards + 1000, dones, infos


class Mirror(Bonus):
    """Observations of the other sign, in the same space."""

    def reset(self):
        return -self.venv.reset()

    def step_wait(self):
        observations, rewards, dones, infos = self.venv.step_wait()
        for i in np.flatnonzero(dones):
            infos[i]["terminal_observation"] = -infos[i]["terminal_observation"]
        return -observations, rewards, dones, infos


class OwnMonitor(VecMonitor):
    """What a subclass does is not known."""


@pytest.mark.parametrize("wrapper", [Bonus, Mirror, OwnMonitor])
@pytest.mark.parametrize("between", [lambda env: env, VecMonitor, VecNormalize], ids=["", "VecMonitor", "twice"])
def test_what_an_unknown_wrapper_outside_changes_is_stored_as_seen(wrapper, between, space_env, tiny):
    """The rollout and the replays are of the same observations and rewards."""
    inner = VecNormalize(environments(space_env, ACTIONS["discrete"]))
    env = wrapper(between(inner))
    expected = rf"Another wrapper \({wrapper.__name__}\).*Put VecNormalize outermost: VecNormalize\({wrapper.__name__}"
    with pytest.warns(UserWarning, match=expected):
        model = tiny(env, buffer_size=10**4)
    seen = {"observations": [], "rewards": [], "timeouts": []}

    def note(local, _):
        seen["observations"].append(local["self"]._last_obs)
        seen["rewards"].append(local["rewards"])
        final = [
            info["terminal_observation"] for info, done in zip(local["infos"], local["dones"], strict=True) if done
        ]
        seen["timeouts"].extend(final)
        return True

    model.learn(120, ConvertCallback(note))
    assert logged(model)["n_replays"] > 0 and len(seen["timeouts"]) == 12
    stored = [model.replay_buffer.get(np.full(2, slot)) for slot in range(model.replay_buffer.n_stored)]
    np.testing.assert_array_equal(np.concatenate([each.rewards for each in stored]), seen["rewards"])
    np.testing.assert_array_equal(np.concatenate([each.observations[:-1] for each in stored]), seen["observations"])
    final = [timeout.observation for each in stored for timeout in each.timeouts]
    np.testing.assert_array_equal(final, seen["timeouts"])


def test_what_an_unknown_wrapper_outside_adds_is_replayed(space_env, tiny):
    """Targets without a future are the rewards, from the rollout and from the replays alike."""
    with pytest.warns(UserWarning, match="Put VecNormalize outermost"):
        model = tiny(
            Bonus(VecNormalize(environments(space_env, ACTIONS["discrete"]))),
            **{"gamma": 0.0, "learning_rate": 0.0, "replay_ratio": 20, "replay_start": 12},
        )
    model.learn(12)
    assert logged(model)["n_replays"] > 5 and logged(model)["q_retrace_mean"] == pytest.approx(1000, abs=11)


def test_an_unknown_wrapper_is_noticed_when_the_environment_is_replaced(space_env, tiny):
    def inner():
        return VecNormalize(environments(space_env, ACTIONS["discrete"]))

    model = tiny(inner())
    with pytest.warns(UserWarning, match=r"Another wrapper \(Bonus\)"):
        model.set_env(Bonus(inner()))
    assert model.learn(24).replay_buffer.get(np.zeros(2, int)).rewards.min() > 900


IMAGES = spaces.Dict(vector=VECTOR, picture=IMAGE)
PICTURE_AS_IT_IS = {"norm_obs_keys": ["vector"]}
HARMLESS = {
    "monitor": (VECTOR, {}, VecMonitor),
    "check_nan": (VECTOR, {}, VecCheckNan),
    "both": (VECTOR, {}, lambda env: VecCheckNan(VecMonitor(env))),
    "inside": (VECTOR, {}, lambda env: env),
    "stack, rewards only": (VECTOR, {"norm_obs": False}, lambda env: VecFrameStack(env, 2)),
    "one frame": (VECTOR, {}, lambda env: VecFrameStack(env, 1)),
    "transposed, rewards only": (IMAGE, {"norm_obs": False}, VecTransposeImage),
    "transposed, another part": (IMAGES, PICTURE_AS_IT_IS, VecTransposeImage),
    "extracted, rewards only": (IMAGES, {"norm_obs": False}, lambda env: VecExtractDictObs(env, "vector")),
}


@pytest.mark.parametrize("space, settings, wrap", HARMLESS.values(), ids=HARMLESS.keys())
def test_wrappers_that_leave_alone_what_is_normalised_may_stand_outside(space, settings, wrap, space_env, tiny):
    inner = VecNormalize(DummyVecEnv([lambda: space_env(space, ACTIONS["discrete"])] * 2), **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert usable_normalizer(wrap(inner)) is inner


def test_a_recorder_of_videos_may_stand_outside(tmp_path):
    pytest.importorskip("moviepy")
    inner = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1", render_mode="rgb_array")]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert usable_normalizer(VecVideoRecorder(inner, str(tmp_path), lambda step: False)) is inner


CHANGING = {
    "stack": (VECTOR, {}, lambda env: VecFrameStack(env, 2), "VecFrameStack"),
    "extracted": (IMAGES, PICTURE_AS_IT_IS, lambda env: VecExtractDictObs(env, "vector"), "VecExtractDictObs"),
    "two": (VECTOR, {"norm_obs": False}, lambda env: Mirror(VecMonitor(Bonus(env))), "Mirror, Bonus"),
}


@pytest.mark.parametrize("space, settings, wrap, named", CHANGING.values(), ids=CHANGING.keys())
def test_wrappers_that_change_what_is_normalised_are_named(space, settings, wrap, named, space_env):
    inner = VecNormalize(DummyVecEnv([lambda: space_env(space, ACTIONS["discrete"])] * 2), **settings)
    with pytest.warns(UserWarning, match=rf"Another wrapper \({named}\)"):
        assert usable_normalizer(wrap(inner)) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet = VecNormalize(inner.venv, norm_obs=False, norm_reward=False)
        assert usable_normalizer(wrap(quiet)) is None, "there is nothing to undo"


NO_ARRAYS = {
    "discrete": ("MlpPolicy", spaces.Discrete(4), {"norm_obs": False}),
    "multi_discrete": ("MlpPolicy", spaces.MultiDiscrete([3, 2]), {"norm_obs": False}),
    "dict": ("MultiInputPolicy", spaces.Dict(vector=VECTOR, choice=spaces.Discrete(3)), PICTURE_AS_IT_IS),
    "dict, rewards only": ("MultiInputPolicy", spaces.Dict(choice=spaces.Discrete(3)), {"norm_obs": False}),
}


@pytest.mark.parametrize("policy, space, settings", NO_ARRAYS.values(), ids=NO_ARRAYS.keys())
def test_time_limits_with_observations_that_are_no_arrays(policy, space, settings, space_env, tiny, tmp_path):
    """Under VecNormalize, which leaves them alone; they are stored, saved and replayed with the others."""

    class Numbers(space_env):
        def _observe(self):
            """As many environments give them, which need not be NumPy's."""
            observation = super()._observe()
            if isinstance(observation, dict):
                return observation | {"choice": int(observation["choice"])}
            return int(observation) if np.ndim(observation) == 0 else observation

    env = VecNormalize(DummyVecEnv([lambda: Numbers(space, ACTIONS["discrete"], length=4)] * 2), **settings)
    model = tiny(env, policy, buffer_size=10**4).learn(120)
    stored = [model.replay_buffer.get(np.full(2, slot)) for slot in range(model.replay_buffer.n_stored)]
    final = [timeout.observation for each in stored for timeout in each.timeouts]
    assert len(final) == 30 and logged(model)["n_replays"] > 0 and logged(model)["skipped_updates"] == 0
    assert all(env.venv.observation_space.contains(observation) for observation in final)
    model.save_replay_buffer(tmp_path / "buffer")
    model.load_replay_buffer(tmp_path / "buffer")
    model.learn(120, reset_num_timesteps=False)
    assert logged(model)["skipped_updates"] == 0
