"""ACER's settings: which values they may have, alone and together."""

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from gymnasium import spaces

from sb3_trpo_ext.acer.policies import MlpPolicy
from sb3_trpo_ext.acer.step import Settings
from sb3_trpo_ext.common.settings import DISTRIBUTED, Rule, none_or, number, one_of, schedule, schedule_of, whole

if TYPE_CHECKING:
    from sb3_trpo_ext.acer.acer import ACER


def _is_limit(value: Any) -> bool:
    return value is None or value == math.inf or number(0)(value)


def _whole_number(value: Any) -> Any:
    """1e5 as 100000; what is no whole number as it is."""
    is_whole = isinstance(value, Real) and not isinstance(value, Integral) and float(value).is_integer()
    return int(value) if is_whole else value


def _steps(low: int) -> Callable[[Any], bool]:
    """Whether a value is a whole number ≥ ``low``, which may be written as 1e5."""
    return lambda value: whole(low)(_whole_number(value))


_SCHEDULE = 'It may be a number, a function of the remaining progress, or a string such as "lin_0.001".'

RULES = (
    Rule("learning_rate", schedule_of(number(0)), "a number >= 0 or a schedule", _SCHEDULE),
    Rule("n_steps", _steps(1), "a whole number >= 1", "It counts steps per environment and update."),
    Rule("replay_ratio", number(0), "a number >= 0", "It is the mean number of replays per update; 0 for none."),
    Rule("replay_start", _steps(0), "a whole number >= 0", "It counts steps of all environments; 1000 is usual."),
    Rule("buffer_size", _steps(1), "a whole number >= 1", "It counts steps of all environments; 50000 is usual."),
    Rule("gamma", number(0, 1), "between 0 and 1", "0.99 is usual."),
    Rule("q_coef", number(0), "a number >= 0", "0.5 is usual."),
    Rule("ent_coef", schedule_of(number(0)), "a number >= 0 or a schedule", f"0 means no entropy bonus. {_SCHEDULE}"),
    Rule("max_grad_norm", number(0, open_low=True), "a number > 0", "10 is usual; a large number clips nothing."),
    Rule("rms_prop_eps", number(0, open_low=True), "a number > 0", "1e-5 is usual."),
    Rule("use_rms_prop", one_of(True, False), "True or False", "False is Adam."),
    Rule("importance_clip", _is_limit, "None or a number >= 0 (math.inf for no limit)", "None chooses."),
    Rule("bias_correction", one_of(True, False), "True or False", "True is the paper's."),
    Rule("trust_region", one_of(True, False), "True or False", "True is the paper's."),
    Rule("trust_region_delta", number(0), "a number >= 0", "0.1 is usual."),
    Rule(
        "trust_region_metric",
        one_of("fisher", "euclidean"),
        '"fisher" or "euclidean"',
        "The second is the paper's; the first does not depend on the unit of the actions.",
    ),
    Rule("normalize_returns", one_of(True, False), "True or False", "True is independent of the rewards' scale."),
    Rule("average_policy_decay", number(0, 1), "between 0 and 1", "0.99 is usual."),
    Rule("n_action_samples", whole(1), "a whole number >= 1", "5 is usual."),
    Rule("learn_std", one_of(True, False), "True or False", "False keeps the standard deviation of Box actions fixed."),
    Rule("stats_window_size", whole(1), "a whole number >= 1", "It counts episodes; 100 is usual."),
    *DISTRIBUTED,
    Rule("num_threads", none_or(whole(1)), "None or a whole number >= 1", "None chooses."),
)


def take_whole_numbers(model: "ACER") -> None:
    """
    Numbers of steps are used as lengths of arrays, which 1e5 could not be.

    :param model: whose settings have passed :data:`RULES`
    """
    for name in ("n_steps", "replay_start", "buffer_size"):
        setattr(model, name, _whole_number(getattr(model, name)))


def check_space_and_policy(model: "ACER") -> None:
    """
    :param model: whose settings have passed :data:`RULES`
    :raises ValueError: when they are not those of ACER
    """
    space = model.action_space
    if not isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.Box)):
        raise ValueError(
            f"ACER(env=...) must have a Discrete, MultiDiscrete or Box action space, got {space}. Its critic must rate "
            "actions; use TRPO for others."
        )
    if not (isinstance(model.policy_class, type) and issubclass(model.policy_class, MlpPolicy)):
        raise ValueError(
            f"ACER(policy=...) must be one of {', '.join(model.policy_aliases)} or a subclass of ACER's policies, "
            f"got {model.policy_class}. Its critic must rate actions, which SB3's does not."
        )
    if model.policy_kwargs.get("use_sde"):
        raise ValueError(
            "ACER has no state-dependent exploration. Its replay compares, action by action, the present policy with "
            "that which acted, and keeps mean and standard deviation of each for it; the noise of gSDE, which is drawn "
            "for many steps at once, is no such distribution. Leave use_sde out of policy_kwargs."
        )


def check_replay(model: "ACER") -> None:
    """
    :param model: whose settings have passed :data:`RULES`
    :raises ValueError: when replay would never start
    """
    rollout = model.n_steps * model.n_envs
    kept = max(1, model.buffer_size // rollout) * rollout
    if model.replay_ratio > 0 and model.replay_start > kept:
        raise ValueError(
            f"ACER(replay_start=...) must be at most what the replay buffer holds, got {model.replay_start}: replay "
            f"would never start. With buffer_size={model.buffer_size} that is {kept} steps, in whole rollouts of "
            f"n_steps × n_envs = {rollout}. Lower it, raise buffer_size, or set replay_ratio=0 for no replay."
        )


def step_settings(model: "ACER") -> Settings:
    """The settings of a gradient step as they are now; they may have changed since the last update."""
    clip = model.importance_clip
    if clip is None:
        clip = 5.0 if isinstance(model.action_space, spaces.Box) else 10.0
    return Settings(
        gamma=model.gamma,
        importance_clip=float(clip),
        bias_correction=model.bias_correction,
        trust_region_delta=model.trust_region_delta if model.trust_region else None,
        average_policy_decay=model.average_policy_decay,
        ent_coef=ent_coef(model),
        q_coef=model.q_coef,
        max_grad_norm=model.max_grad_norm,
        n_action_samples=model.n_action_samples,
        learn_std=model.learn_std,
        return_scale=model.return_scale,
        advantage_scale=model.advantage_scale,
        fisher_metric=model.trust_region_metric == "fisher",
    )


def ent_coef(model: "ACER") -> float:
    """The weight of the entropy at this point of its schedule."""
    return schedule(model.ent_coef)(model._current_progress_remaining)


def n_statistics(space: spaces.Space[Any]) -> int:
    """How many numbers describe a distribution over actions."""
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    return int(space.n) if isinstance(space, spaces.Discrete) else 2 * math.prod(space.shape or ())
