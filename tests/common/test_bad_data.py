"""Data that is not finite leaves no trace, neither in what acts nor in running statistics."""

from functools import partial

import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecFrameStack, VecMonitor, VecNormalize

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
        skipped.append(model.logger.name_to_value["train/update_status"] == "skipped")
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
