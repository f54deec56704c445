"""Vector environments of which it is not known that they show no transition that never was are refused."""

import gymnasium as gym
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from sb3_trpo_ext.envs import as_vec_env
from sb3_trpo_ext.envs.autoreset import autoreset_mode, check, is_of_envpool
from tests.vec_envs import Various


class Custom(VectorEnv):
    """Says nothing but how it resets."""

    def __init__(self, mode):
        self.num_envs = 2
        self.metadata = {} if mode is None else {"autoreset_mode": mode}


@pytest.mark.parametrize("mode", [None, "sometimes"])
def test_one_that_does_not_say_how_it_resets(mode):
    with pytest.raises(ValueError, match=rf"metadata\['autoreset_mode'\] how it is reset, got {mode!r}"):
        as_vec_env(Custom(mode))


def test_an_unknown_one_that_resets_in_the_next_step():
    with pytest.raises(ValueError, match=r"Custom.* in the step after .*autoreset_mode=AutoresetMode\.SAME_STEP"):
        as_vec_env(Custom(AutoresetMode.NEXT_STEP))


def test_gymnasiums_own_vector_entry_point():
    """It ignores reset_mask, and would reset all."""
    vector_env = gym.make_vec("CartPole-v1", 2, vectorization_mode="vector_entry_point")
    with pytest.raises(ValueError, match=r"in the step after an episode's last.*vectorization_mode=\"sync\""):
        as_vec_env(vector_env)


def test_an_async_one_that_forgets_that_it_was_reset():
    vector_env = AsyncVectorEnv([Various] * 2, shared_memory=False)
    with pytest.raises(ValueError, match=r"even if it was reset before.*shared_memory=False"):
        as_vec_env(vector_env)
    vector_env.close()


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED, "SameStep", "Disabled"])
def test_the_other_modes_are_what_they_say(mode):
    check(Custom(mode))
    assert autoreset_mode(Custom(mode)) in ("SameStep", "Disabled")


def test_only_what_envpool_made_is_envpools():
    assert not is_of_envpool(SyncVectorEnv([Various]))
    assert is_of_envpool(type("Pool", (), {"__module__": "envpool.python"})())
