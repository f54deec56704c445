"""Whatever holds several environments, as a VecEnv of Stable-Baselines3."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import gymnasium as gym
from gymnasium.vector import SyncVectorEnv, VectorEnv
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from stable_baselines3.common.vec_env.patch_gym import _patch_env

from sb3_trpo_ext.common.in_process_vec_env import InProcessVecEnv
from sb3_trpo_ext.envs.autoreset import is_of_envpool
from sb3_trpo_ext.envs.gymnasium_vec_env import GymnasiumVecEnv

MakeEnv = Callable[[], gym.Env[Any, Any]]


def as_vec_env(environments: VectorEnv[Any, Any, Any] | VecEnv | Sequence[MakeEnv]) -> VecEnv:
    """
    A ``VecEnv`` whose infos have the statistics of ``Monitor`` where an episode ends, besides what ``DummyVecEnv``
    writes into them. One that is returned as it is has those that it had.

    :param environments: one of

        - a list of functions that make environments, each another one: they are stepped by :class:`InProcessVecEnv`,
          and put into a ``Monitor`` if they are in none;
        - a vector environment of gymnasium's: those of a ``SyncVectorEnv`` are stepped by :class:`InProcessVecEnv`,
          too, and all others go through :class:`GymnasiumVecEnv`;
        - an environment of EnvPool's, from ``envpool.make(…, env_type="gymnasium")``;
        - SB3's ``DummyVecEnv``, whose environments are stepped by :class:`InProcessVecEnv` from now on, and put into a
          ``Monitor`` if they are in none. Every other ``VecEnv`` is returned as it is.
    :return: which belongs to the caller; what was passed is not to be stepped by itself any more
    :raises ValueError: when it is something else, or can not be stepped without transitions that never were
    """
    if type(environments) is DummyVecEnv:
        vec_env = InProcessVecEnv([_giving(_monitored(env)) for env in environments.envs])
        # Whoever made it may have said what the next reset is to begin with.
        vec_env._seeds, vec_env._options = environments._seeds, environments._options
        return vec_env
    if isinstance(environments, VecEnv):
        return environments
    if type(environments) is SyncVectorEnv and _is_plain(environments):
        return InProcessVecEnv([_giving(_monitored(env)) for env in environments.envs])
    if isinstance(environments, VectorEnv) or is_of_envpool(environments):
        return GymnasiumVecEnv(cast(VectorEnv[Any, Any, Any], environments))
    if isinstance(environments, (str, gym.Env)) or not isinstance(environments, Sequence):
        raise ValueError(
            "as_vec_env() takes a list of functions that make environments, a vector environment of gymnasium's or one "
            f"of EnvPool's, got {environments!r}. Write [lambda: env] for an environment, and "
            "[lambda: gymnasium.make(id)] for an id."
        )
    if not environments:
        raise ValueError("as_vec_env() takes at least one function that makes an environment, got an empty list.")
    for i, make in enumerate(environments):
        if not callable(make):
            raise ValueError(
                f"as_vec_env() takes a list of functions that make environments, got {make!r} at index {i}. "
                "Write lambda: env for an environment, and lambda: gymnasium.make(id) for an id."
            )
    return InProcessVecEnv([_making(make) for make in environments])


def _making(make: MakeEnv) -> MakeEnv:
    return lambda: _monitored(_patch_env(make()))


def _giving(env: gym.Env[Any, Any]) -> MakeEnv:
    return lambda: env


def _monitored(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return env if is_wrapped(env, Monitor) else Monitor(env)


def _is_plain(vector_env: SyncVectorEnv) -> bool:
    """Whether its observations are those of its environments' own space, and not of one that it was given."""
    return bool(vector_env.single_observation_space == vector_env.envs[0].observation_space)
