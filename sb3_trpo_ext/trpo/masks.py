"""Where action masks come from: the environments that are trained in, and those that a policy is asked about."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

METHOD = "action_masks"  # of an environment, as sb3-contrib's ActionMasker has it
KEY = "action_mask"  # of a dictionary of observations, or of an info
Masks: TypeAlias = NDArray[np.bool_]
MASKABLE = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
OFFERS_A_METHOD = f"a method {METHOD}() of the environment (sb3-contrib's ActionMasker adds one) or of the VecEnv"
OFFERS = f'{OFFERS_A_METHOD}, a part "{KEY}" of Dict observations, or infos["{KEY}"] of reset and step'


def width(space: spaces.Space[Any]) -> int:
    """
    How many numbers a mask has: n for Discrete(n), the sum of the choices' sizes for MultiDiscrete, two for each bit of
    MultiBinary, the first for 0 and the second for 1; none for other actions.

    :param space: of the actions
    """
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    return 2 * int(np.prod(space.shape)) if isinstance(space, spaces.MultiBinary) else 0


def as_rows(masks: Any, space: spaces.Space[Any], n: int) -> Masks:
    """
    Masks in the one form that everything else takes.

    :param masks: of n states, each flat or a list for each choice; for one state also without the outer list
    :param space: of the actions
    :param n: of states
    :return: shape (n, :func:`width`)
    :raises ValueError: when these are not n masks of 0 and 1
    """
    if masks is None or any(mask is None for mask in masks):
        raise ValueError(
            f"Action masks must say of each choice whether it is allowed, got {masks!r}. Does {METHOD}() return them?"
        )
    rows = _rectangle(masks)
    if rows is None:  # choices of different sizes
        states = masks if n > 1 or len(masks) == 1 else [masks]
        rows = np.stack([np.concatenate([np.ravel(choice) for choice in state]) for state in states])
    if rows.size != n * width(space) or (n > 1 and len(rows) != n):
        raise ValueError(
            f"Action masks of {n} state(s) must have {width(space)} numbers each for {space}, got {rows.size} in all. "
            "A mask says of each choice whether it is allowed; of MultiDiscrete all choices follow one another, of "
            "MultiBinary each bit has two, first for 0, then for 1."
        )
    if rows.dtype != bool and not (is_binary := (rows == 0) | (rows == 1)).all():
        raise ValueError(
            f"Action masks must be of 0 and 1, or False and True, got {rows[~is_binary][0]}. If a VecNormalize changed "
            f'them, leave "{KEY}" out of its norm_obs_keys.'
        )
    return rows.reshape(n, -1).astype(bool, copy=False)


def _rectangle(masks: Any) -> NDArray[Any] | None:
    """Nested lists as an array; None where they are ragged."""
    try:
        array = np.asarray(masks)
    except ValueError:
        return None
    return None if array.dtype == object else array


def forbidding_all(masks: Masks, space: spaces.Space[Any]) -> int | None:
    """
    :param masks: as :func:`as_rows` returns them
    :param space: of the actions
    :return: the first state in which some choice has no allowed option; None where there is none
    """
    if isinstance(space, spaces.Discrete):
        has_any = masks.any(axis=1)
    else:
        sizes = space.nvec if isinstance(space, spaces.MultiDiscrete) else np.full(masks.shape[1] // 2, 2)
        starts = np.cumsum(sizes) - sizes
        has_any = np.logical_or.reduceat(masks, starts, axis=1).all(axis=1)
    return None if has_any.all() else int(has_any.argmin())


def reader(env: VecEnv) -> Callable[[], Any] | None:
    """
    How to ask environments what they allow now.

    :param env: of n environments
    :return: a function that returns n masks; None where there is no method for it
    """
    own = getattr(env, METHOD, None)
    if callable(own):
        return own  # type: ignore[no-any-return]
    if env.has_attr(METHOD):
        return lambda: env.env_method(METHOD)
    return None


class MaskSource:
    """
    What is allowed in the environments that are trained in, and what was allowed during the rollout.

    :param action_space: of the environments
    """

    def __init__(self, action_space: spaces.Space[Any]):
        self._space = action_space
        self._read: Callable[[Any], Any] | None = None
        self.told: list[Any] = []
        """By the infos of each environment's present state; None where they say nothing."""
        self._n_envs = 0
        self._rollout: list[Masks] = []

    def forget(self) -> None:
        """What infos told was of other episodes."""
        self.told = []

    def look_at(self, env: VecEnv, required: bool) -> None:
        """
        Find out where the masks come from.

        :param env: that is trained in, reset at least once
        :param required: whether there have to be masks
        :raises ValueError: when there have to be, and are none
        """
        self.ignore(env)
        if isinstance(env.observation_space, spaces.Dict) and KEY in env.observation_space.spaces:
            self._read = lambda observations: observations[KEY]
        elif (method := reader(env)) is not None:
            self._read = lambda _: method()
        elif all(mask is not None for mask in self.told):
            self._read = lambda _: self.told
        elif required:
            raise ValueError(
                f"The environment offers no action masks. They may come from {OFFERS}. learn(use_masking=False) trains "
                "without any."
            )

    def ignore(self, env: VecEnv) -> None:
        """
        From now on everything is allowed.

        :param env: as :meth:`look_at`
        """
        self._n_envs, self._read = env.num_envs, None
        if len(self.told) != env.num_envs:
            self.told = [info.get(KEY) for info in env.unwrapped.reset_infos]

    @property
    def is_used(self) -> bool:
        """Whether something may be forbidden."""
        return self._read is not None

    def note(self, infos: Sequence[dict[str, Any]], dones: NDArray[Any], env: VecEnv) -> None:
        """
        What a step of the environments told. Called after each.

        :param infos: of all environments
        :param dones: whether an episode ended, and a new one began
        :param env: that made the step
        """
        if all(mask is None for mask in self.told):
            return
        firsts = env.unwrapped.reset_infos
        for i, (info, done) in enumerate(zip(infos, dones, strict=True)):
            info = firsts[i] if done else info
            if KEY not in info:
                raise ValueError(
                    f'infos["{KEY}"] of environment {i} is missing, which had one after its first reset. It has to be '
                    "there after every reset and step."
                )
            self.told[i] = info[KEY]

    def begin(self) -> None:
        """Forget the last rollout."""
        self._rollout = []

    def now(self, observations: Any) -> Masks:
        """
        What the present states allow; kept as those of the rollout's next step.

        :param observations: of the present states, as they come from the VecEnv
        :return: shape (n, :func:`width`)
        :raises ValueError: when it is nothing, or no mask
        """
        masks = self.peek(observations)
        self._rollout.append(masks)
        return masks

    def peek(self, observations: Any) -> Masks:
        """As :meth:`now`, and nothing is kept."""
        if self._read is None:
            return np.ones((self._n_envs, width(self._space)), dtype=bool)
        masks = as_rows(self._read(observations), self._space, self._n_envs)
        if (i := forbidding_all(masks, self._space)) is not None:
            raise ValueError(
                f"The action mask of environment {i} at step {len(self._rollout)} of the rollout allows nothing, at "
                "least for one choice. In every state that an action follows something must be allowed: end the "
                "episode where nothing is."
            )
        return masks.copy()

    @property
    def rollout(self) -> Masks:
        """What was allowed in the rollout's T steps so far, shape (T, n, :func:`width`)."""
        return np.stack(self._rollout)


class MaskFromInfo(gym.Wrapper[Any, Any, Any, Any]):
    """
    Gives an environment that tells its mask in ``info["action_mask"]`` a method for it, by which evaluation finds it.

    :param env: whose reset and step tell it
    """

    _mask: Any = None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """As the environment's."""
        observation, info = self.env.reset(**kwargs)
        self._mask = info[KEY]
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._mask = info.get(KEY, self._mask)  # a last state needs none
        return observation, reward, terminated, truncated, info

    def action_masks(self) -> Any:
        """What the present state allows."""
        return self._mask


def of_question(policy: BasePolicy, observation: Any, n: int, given: Any, required: bool = True) -> Masks | None:
    """
    The masks with which a policy that was trained with masks is asked for actions.

    SB3's ``evaluate_policy``, its ``EvalCallback`` and RL Zoo's ``enjoy`` know of no masks: they step an environment of
    their own and hand over observations. The environment is therefore looked for among the variables of whoever is
    calling, and the attributes of its ``self``, so that what is evaluated by them takes no forbidden action either. The
    nearest caller that has one of the policy's actions is the one that is asked.

    :param policy: that is asked
    :param observation: as ``predict`` takes it
    :param n: how many observations these are
    :param given: the masks that the caller gave; None if it gave none
    :param required: whether there have to be masks; False to take only what is given
    :return: shape (n, :func:`width`); None where there need be none, or the caller says ``use_masking = False``, as
        sb3-contrib's evaluation
    :raises ValueError: when there are no masks to be found, or one allows nothing
    """
    if given is None and required:
        tells = isinstance(observation, dict) and KEY in observation
        given = observation[KEY] if tells else _of_callers_environment(policy, n)
    if given is None:
        return None
    masks = as_rows(given, policy.action_space, n)
    if (i := forbidding_all(masks, policy.action_space)) is not None:
        raise ValueError(f"The action mask of state {i} allows nothing, at least for one choice.")
    return masks


def _of_callers_environment(policy: BasePolicy, n: int) -> Masks | None:
    """The masks of the environment that the nearest caller with one has; None if the caller wants none."""
    frame = sys._getframe(2)
    while frame is not None:
        variables = frame.f_locals
        found = [one for one in _within_reach(variables) if _is_environment_of(policy, one, n)]
        if found and variables.get("use_masking") is False:
            return None
        if found:
            return _agreed(policy, [mask for mask in map(_asked, found) if mask is not None], n)
        frame = frame.f_back  # type: ignore[assignment]
    return _agreed(policy, [], n)


def _within_reach(variables: Mapping[str, Any]) -> list[Any]:
    """A caller's variables, and the attributes of its object, unless that is a policy or an algorithm."""
    owner = variables.get("self")
    has_env = not isinstance(owner, (BasePolicy, BaseAlgorithm))
    return [*variables.values(), *(vars(owner).values() if has_env and hasattr(owner, "__dict__") else ())]


def _agreed(policy: BasePolicy, masks: list[Any], n: int) -> Masks:
    """What all that were asked say."""
    rows = [as_rows(mask, policy.action_space, n) for mask in masks]
    if not rows:
        raise ValueError(
            "predict() needs to know which actions are allowed, and finds no environment that says so where it was "
            "called from. Give action_masks=..., or evaluate in an environment that offers masks by "
            f"{OFFERS_A_METHOD}; MaskFromInfo adds the method to one that tells its masks in infos."
        )
    if not all(np.array_equal(one, rows[0]) for one in rows):
        raise ValueError(
            f"predict() finds {len(rows)} environments where it was called from, which allow different actions. Give "
            f"it the masks of the one that is meant: predict(observation, action_masks=env.{METHOD}())."
        )
    return rows[0]


def _is_environment_of(policy: BasePolicy, candidate: Any, n: int) -> bool:
    """Whether it is one, or n of them, with a policy's spaces."""
    kind = type(candidate)  # not isinstance, which asks a weak reference to what is gone
    if not issubclass(kind, (gym.Env, VecEnv)):
        return False
    n_envs = candidate.num_envs if issubclass(kind, VecEnv) else 1
    return bool(n_envs == n and getattr(candidate, "action_space", None) == policy.action_space)


def _asked(env: Any) -> Any:
    """What an environment allows now; None where it does not say."""
    if isinstance(env, VecEnv):
        ask = reader(env)
        return None if ask is None else ask()
    return env.get_wrapper_attr(METHOD)() if env.has_wrapper_attr(METHOD) else None
