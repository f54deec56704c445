"""A vector environment of gymnasium's, or of EnvPool's, as a VecEnv of Stable-Baselines3."""

import time
import warnings
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from sb3_trpo_ext.common.in_process_vec_env import independent, set_where_it_is
from sb3_trpo_ext.envs.autoreset import autoreset_mode, check, is_of_envpool


class GymnasiumVecEnv(VecEnv):
    """
    SB3 expects that an environment whose episode has ended is reset in the same step. Vector environments do it in one
    of three ways (``metadata["autoreset_mode"]``), of which nothing is to be seen from outside:

    - ``SAME_STEP``: as SB3 expects it. The episode's last observation and info are in ``final_obs``, ``final_info``.
    - ``DISABLED``: whoever steps resets. It is done here at once, of those alone that have ended (``reset_mask``).
    - ``NEXT_STEP``, gymnasium's and EnvPool's default: the step after the last ignores the action and resets, which
      would be a transition that never was. ``SyncVectorEnv`` and ``AsyncVectorEnv`` do not reset again what was reset
      before, so it is done here at once, too. Of EnvPool, those alone that have ended are stepped once more.

    Where an episode ends, infos have what SB3's ``Monitor`` says of it, unless the environments are in a ``Monitor``
    themselves.

    :param vector_env: which then belongs to this one
    :raises ValueError: when no way is known to step it without transitions that never were
    """

    def __init__(self, vector_env: VectorEnv[Any, Any, Any]):
        check(vector_env)
        self.vector_env = vector_env
        self._base: Any = vector_env.unwrapped
        self._same_step = autoreset_mode(vector_env) == "SameStep"
        self._is_of_envpool = is_of_envpool(vector_env)
        # Whether what it returns is made anew in each step: not where wrappers or the environments may keep it.
        alone = self._base is vector_env
        self._fresh = self._is_of_envpool or (alone and isinstance(vector_env, AsyncVectorEnv) and vector_env.copy)
        super().__init__(vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space)
        self._monitored = all(self._inner_is_wrapped(Monitor))
        self._started = time.time()
        self._rewards: list[list[float]] = [[] for _ in range(self.num_envs)]

    def reset(self) -> VecEnvObs:
        """
        :return: first observations of new episodes
        """
        first = None if self._is_of_envpool else self._seeds[0]  # the others' follow
        seed = None if first is None else int(first)
        observations, told = self.vector_env.reset(seed=seed, options=self._options[0] or None)
        self.reset_infos = self._infos(told, self.num_envs)
        self._rewards = [[] for _ in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        firsts: VecEnvObs = self._own(observations)
        return firsts

    def step_async(self, actions: NDArray[Any]) -> None:
        """
        :param actions: of all environments
        """
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """
        :return: observations, rewards, whether episodes ended, and infos, as of ``DummyVecEnv``
        """
        observations, rewards, *ends, told = self.vector_env.step(self._actions)
        terminated, truncated = (np.asarray(end, bool) for end in ends)
        observations, infos = self._own(observations), self._infos(told, self.num_envs)
        dones = terminated | truncated
        ended = np.flatnonzero(dones).tolist()
        if self._same_step:
            for i in ended:
                self.reset_infos[i], infos[i] = infos[i], _last_info(infos[i])
        elif ended:
            for i in ended:
                infos[i]["terminal_observation"] = _row(observations, i)
            self._begin_episodes(dones, observations)
        for info, timeout in zip(infos, (truncated & ~terminated).tolist(), strict=True):
            info["TimeLimit.truncated"] = timeout
        if not self._monitored:
            for so_far, reward in zip(self._rewards, np.asarray(rewards).tolist(), strict=True):
                so_far.append(reward)
            for i in ended:
                infos[i]["episode"] = self._statistics(i)
        return observations, np.array(rewards, np.float32), dones, infos

    def _begin_episodes(self, ended: NDArray[Any], observations: Any) -> None:
        """Reset some of the environments, and write their first observations over the last ones."""
        which = np.flatnonzero(ended)
        if self._is_of_envpool:
            # Steps of those alone, of which each is the one that resets. A reset by hand would be another: it begins
            # a new game where only a life is lost. What comes back has a row for each, and says whose it is.
            first, *_, told = self._base.step(self._actions[which], which)
            which, rows = told["env_id"], np.arange(len(which))
        else:
            first, told = self.vector_env.reset(options={"reset_mask": ended.copy()})
            rows = which
        for target, source in zip(_parts(observations), _parts(first), strict=True):
            target[which] = source[rows]
        infos = self._infos(told, len(_parts(first)[0]))
        for i, row in zip(which.tolist(), rows.tolist(), strict=True):
            self.reset_infos[i] = infos[row]

    def _statistics(self, i: int) -> dict[str, float]:
        """Of the episode that has ended in one environment, as Monitor computes them."""
        rewards, self._rewards[i] = self._rewards[i], []
        seconds = time.time() - self._started
        return {"r": round(sum(rewards), 6), "l": len(rewards), "t": round(seconds, 6)}

    def _own(self, observations: Any) -> Any:
        """Observations that nobody else writes to."""
        return observations if self._fresh else deepcopy(observations)

    def _infos(self, told: Any, rows: int) -> list[dict[str, Any]]:
        """What was told of some environments, for each by itself."""
        if self._is_of_envpool:  # which says there whose rows these are
            told = {key: value for key, value in told.items() if key not in ("env_id", "players")}
        infos = told if isinstance(told, list) else _split(told, rows)  # a list is what DictInfoToList makes of it
        return infos if self._fresh else [independent(info) for info in infos]

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """
        :param seed: of the first environment at the next reset; the others' follow. EnvPool's are given their seeds by
            ``envpool.make(…, seed=…)``, and no others later
        :return: those of all environments
        """
        if self._is_of_envpool:
            made_with = int(self._base.config["seed"])
            if seed is not None and seed != made_with:
                warnings.warn(
                    f"EnvPool takes seeds when it is made. These environments were made with {made_with}, and their "
                    f"episodes are those of this seed, from the first one. For others, make them anew with "
                    f"envpool.make(…, seed={seed}).",
                    stacklevel=2,
                )
            return [made_with + i for i in range(self.num_envs)]
        return super().seed(seed)

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """
        :param options: of the next reset, the same for all environments
        :raises ValueError: when they are not, or the environments take none
        """
        given = options if isinstance(options, list) else [options or {}]
        if any(one != given[0] for one in given):
            raise ValueError(
                f"A vector environment is reset with one dictionary of options for all, got {options!r}. Give "
                "as_vec_env() a list of functions that make the environments, which are reset one by one."
            )
        if self._is_of_envpool and given[0]:
            raise ValueError(f"EnvPool takes no options of a reset, got {given[0]!r}. Write them into envpool.make(…).")
        super().set_options(given[0])

    def close(self) -> None:
        """Close the environments."""
        self.vector_env.close()

    def render(self, mode: str | None = None) -> NDArray[Any] | None:
        """
        :param mode: as of ``VecEnv``
        :return: the frames of all environments in one image, where the mode is rgb_array
        """
        if self.render_mode == "human":
            self.vector_env.render()
            return None
        return super().render(mode)

    def get_images(self) -> Sequence[NDArray[Any] | None]:
        """
        :return: a frame of each environment
        """
        if self._is_of_envpool:
            return list(self._base.render(np.arange(self.num_envs)))
        frames: Any = self.vector_env.render()
        return list(frames)

    def has_attr(self, attr_name: str) -> bool:
        """
        :param attr_name: of an attribute of the environments
        :return: whether all have it
        """
        if isinstance(self._base, AsyncVectorEnv):  # where asking for one that is missing ends the process
            return all(self._base.call("has_wrapper_attr", attr_name))
        return super().has_attr(attr_name)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """
        :param attr_name: of an attribute of the environments
        :param indices: of those that are asked, all by default
        :return: its values
        :raises AttributeError: when it is missing, or the environments can not be asked
        """
        chosen = list(self._get_indices(indices))
        if attr_name == "render_mode":
            return [self.vector_env.render_mode for _ in chosen]
        if isinstance(self._base, SyncVectorEnv):
            return [self._base.envs[i].get_wrapper_attr(attr_name) for i in chosen]
        self._check_there(attr_name)
        values = self._base.get_attr(attr_name)
        return [values[i] for i in chosen]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        :param attr_name: of an attribute of the environments
        :param value: for each
        :param indices: of those that are given it, all by default; of an ``AsyncVectorEnv``, all
        :raises AttributeError: when the environments can not be reached
        """
        if isinstance(self._base, SyncVectorEnv):
            for i in self._get_indices(indices):
                set_where_it_is(self._base.envs[i], attr_name, value)
            return
        self._check_reachable(attr_name)
        self._check_all(indices)
        self._base.set_attr(attr_name, [value] * self.num_envs)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """
        :param method_name: of a method of the environments
        :param method_args: its arguments
        :param indices: of those whose method is called, all by default; of an ``AsyncVectorEnv``, all
        :param kwargs: its keyword arguments
        :return: what it returned
        :raises AttributeError: when it is missing, or the environments can not be reached
        """
        if isinstance(self._base, SyncVectorEnv):
            methods = self.get_attr(method_name, indices)
            return [method(*method_args, **kwargs) for method in methods]
        self._check_there(method_name)
        self._check_all(indices)
        return list(self._base.call(method_name, *method_args, **kwargs))

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """
        :param wrapper_class: of a single environment; in other processes it is known by its name. What Monitor does is
            done here
        :param indices: of those that are asked, all by default
        :return: of each whether it is in such a wrapper
        """
        inside = self._inner_is_wrapped(wrapper_class)
        return [wrapper_class is Monitor or inside[i] for i in self._get_indices(indices)]

    def _inner_is_wrapped(self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]]) -> list[bool]:
        """Of each environment by itself."""
        if isinstance(self._base, SyncVectorEnv):
            return [is_wrapped(env, wrapper_class) for env in self._base.envs]
        if isinstance(self._base, AsyncVectorEnv):
            # As text an environment is its wrappers' names: <Monitor<TimeLimit<…>>>.
            return [f"<{wrapper_class.__name__}<" in text for text in self._base.call("__str__")]
        return [False] * self.num_envs

    def _check_reachable(self, name: str) -> None:
        """
        :param name: of an attribute
        """
        if not isinstance(self._base, AsyncVectorEnv):
            raise AttributeError(
                f"The environments of {type(self._base).__name__} are no Python objects of their own, so {name!r} can "
                "not be reached. Say it when they are made, or give as_vec_env() a list of functions that make others."
            )

    def _check_there(self, name: str) -> None:
        """
        :param name: of an attribute
        """
        self._check_reachable(name)
        if not self.has_attr(name):
            raise AttributeError(f"The environments of {self.vector_env} have no attribute {name!r}.")

    def _check_all(self, indices: VecEnvIndices) -> None:
        """An ``AsyncVectorEnv`` hands everything on to all of its processes."""
        if sorted(self._get_indices(indices)) != list(range(self.num_envs)):
            raise ValueError(
                f"An AsyncVectorEnv reaches all of its environments or none, got indices={indices!r}. Leave indices "
                "away, or use Stable-Baselines3's SubprocVecEnv."
            )


def _split(told: dict[str, Any], rows: int) -> list[dict[str, Any]]:
    """
    :param told: name → what is said of each environment. Beside it, of name ``_name``, may be a mask of those for which
        it is said
    :param rows: how many environments
    :return: for each what is said of it
    """
    columns: dict[str, Any] = {}
    for name, values in told.items():
        if isinstance(name, str) and name[:1] == "_" and name[1:] in told:
            continue
        if isinstance(values, dict):
            columns[name] = _split(values, rows)
        elif isinstance(values, (np.ndarray, list, tuple)) and len(values) == rows:
            columns[name] = values
        else:
            columns[name] = [values] * rows  # said of all together
    if not columns:
        return [{} for _ in range(rows)]
    infos = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    for name in columns:
        if f"_{name}" in told:
            for i in np.flatnonzero(~np.asarray(told[f"_{name}"], bool)).tolist():
                del infos[i][name]
    return infos


def _last_info(info: dict[str, Any]) -> dict[str, Any]:
    """
    :param info: of an environment that was reset in the same step; what belongs to the last one is taken out
    :return: that of the last step
    """
    if "final_obs" not in info:
        raise ValueError(f"An episode ended with autoreset_mode=SAME_STEP, but final_obs is not in its info: {info!r}.")
    last: dict[str, Any] = info.pop("final_info", {})
    last["terminal_observation"] = info.pop("final_obs")
    return last


def _parts(observations: Any) -> list[NDArray[Any]]:
    """The arrays of observations, of which there are several in a Dict or Tuple."""
    if isinstance(observations, dict):
        return [observations[key] for key in sorted(observations)]
    return list(observations) if isinstance(observations, tuple) else [observations]


def _row(observations: Any, i: int) -> Any:
    """A copy of one environment's."""
    if isinstance(observations, dict):
        return {key: array[i].copy() for key, array in observations.items()}
    return (
        tuple(array[i].copy() for array in observations) if isinstance(observations, tuple) else observations[i].copy()
    )
