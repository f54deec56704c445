"""Who normalises observations: what a new policy does by default, and what does not go together."""

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from gymnasium.wrappers import NormalizeObservation
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecExtractDictObs, VecNormalize
from torch import Tensor, nn

from sb3_trpo_ext.common.normalization import OPTION, is_normalizable, normalizable_keys, normalizer_of

PREFIX = "normalizer."  # of the statistics' names in a policy's state dictionary
# A policy's methods that ask its networks.
WAYS = ("forward", "evaluate_actions", "get_distribution", "predict_values", "extract_features", "_build")


def default_of(space: spaces.Space[Any], env: GymEnv | None) -> bool | list[str]:
    """
    What a new policy normalises unless it is told: all that can be, and is not normalised already.

    :param space: of observations
    :param env: that gives them; None for none yet
    """
    done = normalized_by(env, space)
    if not isinstance(space, spaces.Dict):
        return is_normalizable(space) and not done
    keys = normalizable_keys(space)
    left = [key for key in keys if key not in done]
    if not left:
        return False
    return True if left == keys else left


def goes_through_features(policy_class: type[Any], known: Sequence[type[Any]]) -> bool:
    """
    Whether every way to a policy's networks is known to end in ``extract_features``, where observations are normalised.

    :param policy_class: one of ours or a subclass
    :param known: ours
    """
    parameters = inspect.signature(policy_class.__init__).parameters
    takes_it = OPTION in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return takes_it and all(
        any(getattr(policy_class, way) is getattr(one, way) for one in (*known, ActorCriticPolicy)) for way in WAYS
    )


def normalized_by(env: GymEnv | None, space: spaces.Space[Any]) -> list[str]:
    """
    The parts of its observations that an environment has normalised itself, by a wrapper of SB3 or gymnasium.

    :param env: with all its wrappers, or None
    :param space: of its observations
    :return: keys of a Dict; of any other space, whose only part has the key "", [""] or []
    """
    if env is None:
        return []
    parts = list(space) if isinstance(space, spaces.Dict) else [""]
    if not isinstance(env, VecEnv):
        return parts if is_wrapped(env, NormalizeObservation) else []
    if any(env.env_is_wrapped(NormalizeObservation)):
        return parts
    found: set[str] = set()
    extracted: str | None = None  # the only part of a dictionary that further out is left of it
    wrapper: VecEnv = env
    while isinstance(wrapper, VecEnvWrapper):
        if isinstance(wrapper, VecExtractDictObs):
            extracted = wrapper.key
        elif isinstance(wrapper, VecNormalize) and wrapper.norm_obs:
            keys = parts if wrapper.norm_obs_keys is None else wrapper.norm_obs_keys
            found.update(keys if extracted is None else parts if extracted in keys else ())
        wrapper = wrapper.venv
    return [part for part in parts if part in found]


def lacks_statistics(policy: nn.Module, parameters: dict[str, Any]) -> bool:
    """
    :param policy: that may normalise
    :param parameters: state dictionary that it is to be given
    :return: whether that has all that the policy has, but its statistics: it is of one that did not normalise
    """
    missing = policy.state_dict().keys() - parameters.keys()
    return bool(missing) and all(name.startswith(PREFIX) for name in missing)


def weights_differ(policy: nn.Module, first: dict[str, Tensor]) -> bool:
    """
    :param policy: any
    :param first: parameters by name
    :return: whether the policy has others, but for the noise of actions, which does not look at observations
    """
    now = dict(policy.named_parameters())
    if now.keys() != first.keys():
        return True
    return not all(torch.equal(now[name], value) for name, value in first.items() if name != "log_std")


def check_not_normalized_twice(policy: Any, env: GymEnv | None) -> None:
    """
    :param policy: any
    :param env: that it is going to see observations of; None for none
    :raises ValueError: when both normalise
    """
    normalizer = normalizer_of(policy)
    if normalizer is None:
        return
    twice = [part for part in normalized_by(env, policy.observation_space) if part in (normalizer.keys or [""])]
    if twice:
        names = ", ".join(twice) or "all"
        raise ValueError(
            f"Observations ({names}) would be normalised twice: by a wrapper of the environment, "
            "and by the policy. Use VecNormalize(..., norm_obs=False), or make the model with "
            "policy_kwargs=dict(normalize_observations=False)."
        )


def check_option_of_another_policy(policy_class: type[Any], chosen: object) -> None:
    """
    :param policy_class: none of ours
    :param chosen: what it is to normalise
    :raises ValueError: when that is anything
    """
    if chosen:
        raise ValueError(
            f'policy_kwargs=dict({OPTION}=...) is for this package\'s policies, such as "MlpPolicy", and subclasses of '
            f"them, got {chosen!r} with {policy_class.__name__}. Leave it out, or wrap the environment in VecNormalize."
        )


def check_statistics_fit(policy: nn.Module, parameters: dict[str, Any]) -> None:
    """
    :param policy: that is to be given parameters
    :param parameters: state dictionary
    :raises ValueError: when they are of one that normalises and this does not, or the other way round
    """
    normalises = normalizer_of(policy) is not None
    if not normalises and any(name.startswith(PREFIX) for name in parameters):
        raise ValueError(
            "The parameters are those of a policy that normalises observations; this one does not, because it was told "
            "so, or because its environment does. Set them in a model that is made without such a wrapper."
        )
    if normalises and lacks_statistics(policy, parameters):
        raise ValueError(
            "The parameters are those of a policy that does not normalise observations; this one was told to. Set them "
            f"in a model that is made with policy_kwargs=dict({OPTION}=False)."
        )


def warn_of_own_ways(policy_class: type[Any]) -> None:
    """
    :param policy_class: that asks its networks in a way of its own, or does not take the argument
    """
    warnings.warn(
        f"{policy_class.__name__} has its own __init__, or its own way to its networks: whether observations can be "
        "normalised there is not known, and they are left as they are. Where all ways go through extract_features, "
        f"policy_kwargs=dict({OPTION}=True) switches it on; False leaves them without this warning.",
        stacklevel=4,
    )


def warn_of_weights_from_elsewhere() -> None:
    """Where weights were written before the first rollout."""
    warnings.warn(
        "The policy's weights were written before it has seen an observation, and belong to observations as they come: "
        f"these are not normalised. policy_kwargs=dict({OPTION}=True) normalises them all the same; after "
        "policy.normalizer.take_in(observations) weights can be fitted to normalised ones.",
        stacklevel=4,
    )
