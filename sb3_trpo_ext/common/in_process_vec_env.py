"""SB3's ``DummyVecEnv`` at a lower price: what nothing can change is not copied, and nothing is copied twice."""

from collections import OrderedDict
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs

#: Types whose values nobody can change, so that they may be handed on. Of NumPy's, a record can be written to.
UNCHANGEABLE = frozenset({bool, int, float, complex, str, bytes, type(None), *np.sctypeDict.values()} - {np.void})


class InProcessVecEnv(DummyVecEnv):
    """
    Environments that are stepped one after the other in this process. What it returns is what ``DummyVecEnv`` returns,
    bit for bit, and nobody else writes to it later.

    Differs from ``DummyVecEnv``:

    1. Of what an environment says in ``info``, numbers, strings and the like are handed on, and the rest is copied.
       ``DummyVecEnv`` asks ``deepcopy`` about every value of every step, which costs more than a step of CartPole.
    2. Observations are written into arrays that are then given away, not copied out of arrays that are kept.
    3. The last ``info`` of an episode, with ``terminal_observation``, is copied before the environment is reset. So
       it is right also of environments that write to the same arrays again, where ``DummyVecEnv`` shows what the
       reset has written.
    4. An attribute is set where it is, in the environment or one of its wrappers. ``DummyVecEnv`` sets it in the
       outermost wrapper, ``Monitor`` as a rule, where the environment does not see it.

    :param env_fns: functions that make the environments, each another one
    :raises ValueError: when two of them give the same environment
    """

    def step_wait(self) -> VecEnvStepReturn:
        """
        :return: observations, rewards, whether episodes ended, and infos, as of ``DummyVecEnv``
        """
        rewards, dones, infos = self.buf_rews, self.buf_dones, []
        plain = self.buf_obs.get(None)  # type: ignore[call-overload]  # the key where observations have no parts
        for i, env in enumerate(self.envs):
            observation, rewards[i], terminated, truncated, info = env.step(self.actions[i])
            info["TimeLimit.truncated"] = truncated and not terminated
            dones[i] = done = terminated or truncated
            if done:
                info["terminal_observation"] = observation
            infos.append(independent(info))
            if done:
                observation, self.reset_infos[i] = env.reset()
            if plain is None:
                self._save_obs(i, observation)
            else:
                plain[i] = observation
        return self._obs_from_buf(), rewards.copy(), dones.copy(), infos

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        :param attr_name: of an attribute of the environments
        :param value: for each
        :param indices: of those that are given it, all by default
        """
        for env in self._get_target_envs(indices):
            set_where_it_is(env, attr_name, value)

    def _obs_from_buf(self) -> VecEnvObs:
        """Give the arrays away, and go on with others."""
        filled: Any = self.buf_obs
        if None in filled:  # observations have no parts: the way of nearly all, for which each microsecond counts
            plain = filled[None]
            filled[None] = np.empty(plain.shape, plain.dtype)
            return plain  # type: ignore[no-any-return]
        self.buf_obs = OrderedDict((key, np.empty_like(array)) for key, array in filled.items())
        return dict_to_obs(self.observation_space, filled)


def set_where_it_is(env: gym.Env[Any, Any], name: str, value: Any) -> None:
    """
    :param env: an environment in its wrappers
    :param name: of an attribute that one of them has, or else of a new one of the environment's own
    :param value: for it
    """
    while isinstance(env, gym.Wrapper) and not hasattr(env, name):
        env = env.env
    setattr(env, name, value)


def independent(info: dict[str, Any]) -> dict[str, Any]:
    """
    ``deepcopy(info)``, which is asked only about what can change.

    :param info: of an environment
    :return: a copy that shares nothing that somebody could write to
    """
    if type(info) is not dict:
        return deepcopy(info)
    copied, memo = info.copy(), None
    for name, value in info.items():
        kind = type(value)
        if kind in UNCHANGEABLE:
            continue
        if kind is np.ndarray and not value.dtype.hasobject:  # as deepcopy does it, at a tenth of its time
            copied[name] = value.copy("K")
        else:
            memo = memo or {id(info): copied}
            copied[name] = deepcopy(value, memo)
    return copied
