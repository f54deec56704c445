"""Data that is not finite leaves no trace, neither in what acts nor in running statistics."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecFrameStack, VecMonitor, VecNormalize
from torch import nn

from sb3_trpo_ext.common.bad_data import GoodStatistics, acting_on_finite_observations, warn_of_skipped_rollout
from sb3_trpo_ext.trust_region.policy_step import StepStatus
from tests.cases import all_finite

NAN = float("nan")


def normalized(envs, **kwargs):
    return VecNormalize(DummyVecEnv(envs), **kwargs)


WRAPPERS = {
    "normalize": normalized,
    "normalize_observations": partial(normalized, norm_reward=False),
    "normalize_reward": partial(normalized, norm_obs=False),
    "monitor": lambda envs: VecMonitor(normalized(envs)),
    "check_nan": lambda envs: VecCheckNan(normalized(envs), warn_once=True),
    "frame_stack": lambda envs: VecFrameStack(normalized(envs), 3),
    "normalized_frame_stack": lambda envs: VecNormalize(VecFrameStack(DummyVecEnv(envs), 3)),
}


# Number of the step; step 0 is the first reset, which has no reward.
MOMENTS = {"first_reset": 0, "first_step": 1, "middle": 36, "seam": 48}
SPOILT = [("observation", moment) for moment in MOMENTS] + [("reward", moment) for moment in MOMENTS if MOMENTS[moment]]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("part", "moment"), SPOILT)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_running_statistics_recover(wrapper, part, moment, make_env, tiny, bits):
    environment = WRAPPERS[wrapper]([partial(make_env, (MOMENTS[moment], (part, NAN)), length=50), make_env])
    model = tiny(environment)
    parameters = [bits(model.get_parameters())]
    skipped = []
    for _ in range(7):
        model.learn(32, reset_num_timesteps=False)
        parameters.append(bits(model.get_parameters()))
        skipped.append(model.logger.name_to_value["train/update_status"] == StepStatus.SKIPPED.code)
    assert 1 <= sum(skipped) <= 3 and not any(skipped[-2:])
    for before, after, skip in zip(parameters, parameters[1:], skipped, strict=False):
        assert (before == after) == skip
    statistics = model.get_vec_normalize_env()
    assert np.isfinite(statistics.ret_rms.mean) and np.isfinite(statistics.ret_rms.var)
    if statistics.norm_obs:
        assert np.isfinite(statistics.obs_rms.mean).all() and np.isfinite(statistics.obs_rms.var).all()
        assert statistics.obs_rms.count > 64  # of real data, not of the start
    assert np.isfinite(statistics.returns).all() and all_finite(model)


def test_statistics_that_are_not_trained_stay_as_they_are(make_env, tiny, bits):
    environment = normalized([partial(make_env, (4, ("reward", NAN)))], training=False)
    before = bits(vars(environment.obs_rms)), bits(vars(environment.ret_rms))
    with pytest.warns(UserWarning, match="Update skipped"):
        tiny(environment).learn(16)
    assert (bits(vars(environment.obs_rms)), bits(vars(environment.ret_rms))) == before


class Seen(nn.Module):
    """Remembers what it was called with."""

    def forward(self, observations, deterministic=False):
        self.arguments = observations, deterministic
        return observations


BAD = torch.tensor([1.0, NAN, float("inf"), -float("inf")])


def test_a_policy_acts_on_zeros_in_the_place_of_what_is_not_finite():
    policy = Seen()
    with acting_on_finite_observations(policy):
        policy(BAD, True)
        assert policy.arguments[0].tolist() == [1, 0, 0, 0] and policy.arguments[1] is True
        assert policy({"a": BAD})["a"].tolist() == [1, 0, 0, 0]
    assert policy(BAD) is BAD, "only for the time of the context"


def test_a_policy_acts_as_before_after_an_error():
    policy = Seen()
    with pytest.raises(KeyError), acting_on_finite_observations(policy):
        raise KeyError
    assert policy(BAD) is BAD


def test_the_warning_names_the_parts_and_is_shown_once():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for _ in range(3):
            warn_of_skipped_rollout(["rewards", "observations"])
    assert len(shown) == 1
    assert "in its rewards, observations. The policy is unchanged." in str(shown[0].message)


def stepped(environment, steps):
    """The last observations after some random steps."""
    observations = environment.reset()
    for _ in range(steps):
        actions = np.stack([environment.action_space.sample() for _ in range(environment.num_envs)])
        observations = environment.step(actions)[0]
    return observations


def statistics_of(wrapper, bits):
    parts = wrapper.obs_rms.values() if isinstance(wrapper.obs_rms, dict) else [wrapper.obs_rms]
    return [bits(vars(part)) for part in (*parts, wrapper.ret_rms)]


DICT = spaces.Dict(one=spaces.Box(-1, 1, (2,)), two=spaces.Box(-1, 1, (3,)))


@pytest.mark.parametrize("observations", [spaces.Box(-1, 1, (3,)), DICT], ids=["vector", "dict"])
def test_statistics_are_restored_and_the_last_observations_normalised_by_them(observations, make_env, bits):
    environment = normalized([partial(make_env, observations=observations)])
    stepped(environment, 20)
    good, before = GoodStatistics(), statistics_of(environment, bits)
    good.remember(environment)
    last = stepped(environment, 5)
    assert statistics_of(environment, bits) != before
    restored = good.restore(last)
    assert statistics_of(environment, bits) == before
    original = environment.get_original_obs()
    triples = [(environment.obs_rms, original, restored)]
    if isinstance(observations, spaces.Dict):
        triples = [(rms, original[key], restored[key]) for key, rms in environment.obs_rms.items()]
    for rms, raw, ours in triples:
        np.testing.assert_allclose(ours, (raw - rms.mean) / np.sqrt(rms.var + 1e-8), rtol=1e-5)


def test_what_is_remembered_is_a_copy_that_can_be_restored_twice(make_env, bits):
    environment = normalized([make_env])
    stepped(environment, 20)
    good, before = GoodStatistics(), statistics_of(environment, bits)
    for _ in range(2):
        good.remember(environment)
        good.restore(stepped(environment, 3))
        assert statistics_of(environment, bits) == before


def test_statistics_that_are_bad_already_start_anew(make_env):
    environment = normalized([make_env])
    environment.obs_rms.mean[:], environment.ret_rms.var = NAN, np.float64("inf")
    environment.returns[:] = NAN
    good = GoodStatistics()
    good.remember(environment)
    environment.old_obs = np.ones((1, 3), np.float32)
    good.restore(environment.old_obs)
    assert (environment.obs_rms.mean == 0).all() and (environment.obs_rms.var == 1).all()
    assert environment.ret_rms.mean == 0 and environment.ret_rms.var == 1
    assert (environment.returns == 0).all()


def test_below_another_wrapper_the_last_observations_stay(make_env, bits):
    """Their frames cannot be normalised anew; the statistics can be restored."""
    environment = VecFrameStack(normalized([make_env]), 3)
    stepped(environment, 20)
    good, before = GoodStatistics(), statistics_of(environment.venv, bits)
    good.remember(environment)
    last = stepped(environment, 5)
    assert good.restore(last) is last
    assert statistics_of(environment.venv, bits) == before


def test_without_a_normalisation_in_training_nothing_is_touched(make_env, bits):
    resting = normalized([make_env], training=False)
    for environment in (DummyVecEnv([make_env]), resting):
        good, last = GoodStatistics(), np.ones((1, 3))
        good.remember(environment)
        assert good.restore(last) is last
    before = statistics_of(resting, bits)
    resting.training = True  # only since it was remembered
    good.restore(last)
    assert statistics_of(resting, bits) == before
