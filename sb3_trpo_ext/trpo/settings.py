"""TRPO's settings: which values they may have, and the parts of an update that they stand for."""

import math
import warnings
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim

from sb3_trpo_ext.common.settings import DISTRIBUTED, Rule, none_or, number, one_of, schedule, schedule_of, whole
from sb3_trpo_ext.kernels.vector import count
from sb3_trpo_ext.trpo.policies import MlpPolicy
from sb3_trpo_ext.trpo.reuse import Discounts
from sb3_trpo_ext.trust_region.advantages import has_sb3s_advantages
from sb3_trpo_ext.trust_region.direction import (
    Backtracking,
    Direction,
    KfacNaturalGradient,
    NaturalGradient,
    Search,
    Unsearched,
)
from sb3_trpo_ext.trust_region.policy_step import StepStatus
from sb3_trpo_ext.trust_region.region import EuclideanRegion, KLRegion, TrustRegion, averaged, summed

if TYPE_CHECKING:
    from sb3_trpo_ext.trpo.trpo import TRPO

KLReduction: TypeAlias = Literal["sum", "mean"]
Region: TypeAlias = Literal["kl", "euclidean"]
Preconditioner: TypeAlias = Literal["kfac"]
CriticMethod: TypeAlias = Literal["trust_region", "adam"]

KL_PER_DIMENSION = 0.02  # nats, of target_kl=None, at the start of learn
DAMPING_PER_DIMENSION = 0.1  # of cg_damping=None
GAE_LAMBDA_OF_SEVERAL_DIMENSIONS, CRITIC_GAE_LAMBDA = 0.8, 0.95  # of gae_lambda=None
MAX_DAMPING_FACTOR = 1024.0  # of adaptive_damping: ten failures in a row
FITTED: dict[CriticMethod, str] = {"trust_region": "in a trust region", "adam": "by minibatches"}
WIDEST_FOR_KFAC = 2048  # inputs or outputs of a layer
LARGEST_LOG_STD = 40.0  # the square of its exponential is a float32
ACTION_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
# Settings of each kind of critic, with their defaults.
CRITIC_SETTINGS: dict[CriticMethod, dict[str, Any]] = {
    "trust_region": {"n_critic_steps": 3, "critic_max_kl": 0.1},
    "adam": {"learning_rate": 1e-3, "batch_size": 128, "n_critic_updates": 10},
}

_SCHEDULE = 'It may be a number, a function of the remaining progress, or "lin_0.02" (to 0), "lin_0.02_0.01".'
_SWITCH = (one_of(True, False), "True or False")
RULES = (
    Rule("learning_rate", schedule_of(number(0)), "a number >= 0 or a schedule", _SCHEDULE),
    Rule(
        "target_kl",
        none_or(schedule_of(number(0, open_low=True))),
        "a number > 0, a schedule or None",
        f"{_SCHEDULE} None is 0.02 per dimension, falling to 0.",
    ),
    Rule("n_steps", whole(1), "a whole number >= 1", "It counts steps per environment and update."),
    Rule("batch_size", whole(1), "a whole number >= 1", "It is the critic's minibatch; 128 is usual."),
    Rule("gamma", number(0, 1), "between 0 and 1", "0.99 is usual."),
    Rule("gae_lambda", number(0, 1), "between 0 and 1", "0.8 to 0.95 are usual."),
    Rule("critic_gae_lambda", none_or(number(0, 1)), "None or between 0 and 1", "None is as gae_lambda."),
    Rule("cg_max_steps", whole(1), "a whole number >= 1", "10 to 25 are usual."),
    Rule("cg_damping", none_or(number(0)), "a number >= 0 or None", "None is 0.1 per dimension."),
    Rule("adaptive_damping", *_SWITCH, "False keeps cg_damping as it is."),
    Rule("cg_tolerance", number(0, 1, open_high=True), "at least 0 and below 1", "It is relative to the gradient."),
    Rule(
        "line_search_shrinking_factor",
        number(0, 1, open_low=True, open_high=True),
        "above 0 and below 1",
        "0.8 is usual; each trial takes this fraction of the one before.",
    ),
    Rule("line_search_max_iter", whole(0), "a whole number >= 0", "0 takes the natural gradient step unsearched."),
    Rule("n_critic_updates", whole(1), "a whole number >= 1", "It counts Adam's passes over the critic's samples."),
    Rule("ent_coef", schedule_of(number(-math.inf)), "a finite number or a schedule", _SCHEDULE),
    Rule("sde_sample_freq", whole(-1), "a whole number >= -1", "-1 draws new noise once per rollout."),
    Rule("stats_window_size", whole(1), "a whole number >= 1", "It counts episodes; 100 is usual."),
    Rule("use_sde", *_SWITCH, "False draws independent noise at each step."),
    Rule("normalize_advantage", *_SWITCH, "True is usual."),
    Rule("fast", *_SWITCH, "True is faster."),
    Rule("sub_sampling_factor", whole(1), "a whole number >= 1", "1 uses all samples."),
    Rule(
        "curvature_sampling_factor",
        lambda value: value == "auto" or whole(1)(value),
        'a whole number >= 1 or "auto"',
        "1 uses all states.",
    ),
    Rule("kl_reduction", one_of(*get_args(KLReduction)), '"sum" or "mean"', '"mean" is sb3-contrib\'s.'),
    Rule("cg_preconditioner", one_of(None, "kfac"), 'None or "kfac"', "None is the plain conjugate gradient."),
    Rule(
        "critic",
        one_of(None, *get_args(CriticMethod)),
        'None, "trust_region" or "adam"',
        'None is "trust_region" but for images; "adam" is sb3-contrib\'s.',
    ),
    Rule("n_critic_steps", whole(1), "a whole number >= 1", "3 is usual; many fit the noise of a rollout."),
    Rule("critic_max_kl", number(0, open_low=True), "a number > 0", "0.1 is usual."),
    Rule("rollouts_per_update", whole(1), "a whole number >= 1", "1 learns from the newest rollout alone."),
    Rule("num_threads", none_or(whole(1, 1024)), "None or a whole number from 1 to 1024", "None chooses."),
    *DISTRIBUTED,
    Rule("trust_region", one_of(*get_args(Region)), '"kl" or "euclidean"', '"kl" is TRPO.'),
)


def check_policy_class(policy_class: type[Any], name: str) -> None:
    """
    :param policy_class: that the constructor was given or that an alias stands for
    :param name: of the algorithm
    :raises ValueError: when it is no actor-critic policy, or asks for more than observations
    """
    if not issubclass(policy_class, ActorCriticPolicy):
        raise ValueError(
            f"{name}(policy=...) must be a subclass of Stable-Baselines3's ActorCriticPolicy, got "
            f"{policy_class.__name__}, which is none. For action masks use MaskableTRPO."
        )
    if hasattr(policy_class, "_process_sequence") or hasattr(policy_class, "has_memory"):
        raise ValueError(
            f"{name}(policy=...) must be a policy without memory and masks, got {policy_class.__name__}. Use "
            "RecurrentTRPO for the one, MaskableTRPO for the other."
        )


def check_bounds(env: Any, name: str) -> None:
    """
    :param env: that the constructor was given
    :param name: of the algorithm
    :raises ValueError: when its actions have no bounds
    """
    space = getattr(env, "action_space", None)
    if isinstance(space, spaces.Box) and not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ValueError(
            f"{name}(env=...) must have Box actions between finite bounds, got {space}. Wrap the environment in "
            "gymnasium's RescaleAction or ClipAction, or give its Box finite low and high."
        )


def check_spaces(model: "TRPO") -> None:
    """
    :param model: whose settings have passed :data:`RULES`
    :raises ValueError: when there is no distribution over its actions, or not the one that is asked for
    """
    name = type(model).__name__
    space, is_ours = model.action_space, issubclass(model.policy_class, MlpPolicy)
    if not isinstance(space, ACTION_SPACES):
        names = ", ".join(kind.__name__ for kind in ACTION_SPACES)
        raise ValueError(f"{name}(env=...) must have an action space of type {names}, got {space}.")
    if isinstance(space, (spaces.MultiBinary, spaces.MultiDiscrete)) and len(space.shape) != 1:
        raise ValueError(
            f"{name}(env=...) must have MultiBinary or MultiDiscrete actions of one dimension, got {space}. Flatten "
            "them in a wrapper of the environment."
        )
    if model.use_sde and not isinstance(space, spaces.Box):
        raise ValueError(
            f"{name}(use_sde=True) needs Box actions, got {space}. Leave use_sde out: the actions of other spaces are "
            "drawn from probabilities, not with noise."
        )
    log_std_init = model.policy_kwargs.get("log_std_init", None if is_ours else 0.0)
    within = number(-LARGEST_LOG_STD, LARGEST_LOG_STD)
    if not (none_or(within) if is_ours else within)(log_std_init):
        raise ValueError(
            f"{name}(policy_kwargs=dict(log_std_init=...)) must be between {-LARGEST_LOG_STD} and {LARGEST_LOG_STD}, "
            f"got {log_std_init!r}. It is the logarithm of a standard deviation; 0, -1 and -2 are usual."
        )


def check_sizes(model: "TRPO") -> None:
    """
    :param model: whose settings have passed :data:`RULES`
    :raises ValueError: when they do not fit one another
    """
    name = type(model).__name__
    if model.cg_preconditioner == "kfac" and model.cg_damping == 0:
        raise ValueError(
            f'{name}(cg_preconditioner="kfac") must have a cg_damping above 0, got 0, with which its factors may have '
            "no inverse. Leave cg_damping out, or set cg_preconditioner=None."
        )
    if model.adaptive_damping and model.cg_damping == 0:
        raise ValueError(
            f"{name}(adaptive_damping=True) must have a cg_damping above 0, got 0, which doubling leaves at 0. Leave "
            "cg_damping out."
        )
    samples = model.n_steps * model.n_envs
    if model.normalize_advantage and samples <= model.sub_sampling_factor:
        raise ValueError(
            f"{name}(n_steps=...) must give more than one sample per update for advantages to be normalised, got "
            f"n_steps={model.n_steps}, {model.n_envs} environment(s) and sub_sampling_factor="
            f"{model.sub_sampling_factor}. Raise n_steps or set normalize_advantage=False."
        )
    samples *= model.rollouts_per_update
    if critic_method(model) == "adam" and samples > model.batch_size and samples % model.batch_size:
        warnings.warn(
            f"batch_size={model.batch_size} does not divide n_steps * n_envs * rollouts_per_update = {samples}: "
            f"the last minibatch of the critic's every pass has {samples % model.batch_size} samples. Choose a "
            f"factor of {samples}.",
            stacklevel=5,
        )


def check_preconditioner(model: "TRPO") -> None:
    """
    :param model: that was built
    :raises ValueError: when its actor is not of the kind that a preconditioner is known for
    """
    if model.cg_preconditioner != "kfac":
        return
    name = type(model).__name__
    if not model.actor.is_dense:
        raise ValueError(
            f'{name}(cg_preconditioner="kfac") needs an actor of dense layers alone, none of them frozen, and '
            f"fast=True, got a {model.policy_class.__name__}. Set it to None."
        )
    if (widest := model.actor.widest) > WIDEST_FOR_KFAC:
        raise ValueError(
            f'{name}(cg_preconditioner="kfac") inverts a matrix for each layer, as large as its inputs: at most '
            f"{WIDEST_FOR_KFAC}, got {widest}, which would take minutes for each update. Set it to None."
        )


class Chosen(NamedTuple):
    """
    :param given: those of the critics' settings that were passed to the constructor
    :param values: all of them
    """

    given: dict[str, Any]
    values: dict[str, Any]


def chosen_for_the_critics(**arguments: Any) -> Chosen:
    """
    :param arguments: of the constructor; None for the default
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    defaults = {name: value for settings in CRITIC_SETTINGS.values() for name, value in settings.items()}
    return Chosen(given, defaults | given)


def warn_of_the_other_critic(method: CriticMethod, given: dict[str, Any]) -> None:
    """
    :param method: by which the critic is fitted
    :param given: those of the critics' settings that were passed to the constructor, whatever their value
    """
    for other, defaults in CRITIC_SETTINGS.items():
        for name in (name for name in defaults if other != method and name in given):
            warnings.warn(
                f'{name}={given[name]!r} has no effect with critic="{method}". Set critic="{other}", or leave it out.',
                stacklevel=3,
            )


def critic_method(model: "TRPO") -> CriticMethod:
    """How the critic is fitted: the setting, or its default."""
    if model.critic is not None:
        return model.critic
    space = model.observation_space
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    images = [part for part in parts if isinstance(part, spaces.Box) and len(part.shape) >= 3]
    return "adam" if images else "trust_region"


def described(model: "TRPO") -> str:
    """Which ways were chosen for this policy, in a line."""
    networks = {"actor": model.actor.network, "critic": model.value_function.network}
    kernels = [f"{name} by {'autograd' if network is None else 'hand'}" for name, network in networks.items()]
    shared = count(model.actor.shared_parameters())
    line = f"Differentiating the {', the '.join(kernels)}; "
    line += f"collecting {'fast' if model._collects_fast() else 'by the loop of SB3'}; "
    line += f"fitting the critic {FITTED[critic_method(model)]}"
    return line + (f"; only the trust-region step trains the {shared} shared parameters" if shared else "")


def dimensions_of_the_kl(model: "TRPO") -> int:
    """How many dimensions the KL sums over. It grows with them, and so does its curvature."""
    summed_up = model.kl_reduction == "sum" and model.trust_region == "kl"
    return get_action_dim(model.action_space) if summed_up else 1


def damping(model: "TRPO") -> float:
    """λ as it is now."""
    base = DAMPING_PER_DIMENSION * dimensions_of_the_kl(model) if model.cg_damping is None else model.cg_damping
    return base * model._damping_factor


def target_kl(model: "TRPO") -> float:
    """δ as it is now."""
    if model.target_kl is not None:
        return schedule(model.target_kl)(model._current_progress_remaining)
    left = ahead(model) if model._target_kl_falls else 1.0
    return KL_PER_DIMENSION * dimensions_of_the_kl(model) * left


def ahead(model: "TRPO") -> float:
    """
    The share of this call of ``learn`` that lay ahead when the newest rollout began: 1 for the first of K, 1/K at last.

    SB3's progress ends with 0 and goes back to earlier calls. By it the only update of ``learn(n_steps)``, which many
    call in a loop, would always be the last one of a training.
    """
    rollout = model._ranks.count(model.n_steps * model.n_envs)
    updates = math.ceil((model._total_timesteps - model._timesteps_before) / rollout)
    before = (model.num_timesteps - model._timesteps_before) / rollout - 1
    return min(max(1 - before / updates, 0.0), 1.0) if updates > 0 else 1.0


def trust_region(model: "TRPO") -> TrustRegion:
    """The region of the update that starts now."""
    reduction = averaged if model.kl_reduction == "mean" else summed
    if model.trust_region == "euclidean":
        return EuclideanRegion(target_kl(model), reduction)
    return KLRegion(target_kl(model), reduction, damping(model), model.curvature_sampling_factor)


def default_gae_lambda(action_space: spaces.Space[Any]) -> float:
    """λ of the advantages where nobody says: the more dimensions draw noise at once, the less of it can be borne."""
    several = math.prod(action_space.shape or ()) > 1
    return GAE_LAMBDA_OF_SEVERAL_DIMENSIONS if several else CRITIC_GAE_LAMBDA


def targets(model: "TRPO") -> float | None:
    """λ of the critic's targets; None for those that the rollout buffer has."""
    return model.critic_gae_lambda if has_sb3s_advantages(model.rollout_buffer) else None


def discounts(model: "TRPO") -> Discounts:
    """γ and both λ."""
    critics = model.gae_lambda if model.critic_gae_lambda is None else model.critic_gae_lambda
    return Discounts(model.gamma, model.gae_lambda, critics)


def direction(model: "TRPO") -> Direction:
    """How the gradient is turned."""
    preconditioned = model.cg_preconditioner == "kfac" and model.trust_region == "kl"
    kind = KfacNaturalGradient if preconditioned else NaturalGradient
    return kind(model.cg_max_steps, model.cg_tolerance)


def search(model: "TRPO") -> Search:
    """How far the step goes along it."""
    if model.line_search_max_iter == 0:
        return Unsearched()
    return Backtracking(model.line_search_shrinking_factor, model.line_search_max_iter)


def adapted(factor: float, status: StepStatus) -> float:
    """
    How many times ``cg_damping`` the next update is damped. The idea is Levenberg's and Marquardt's: where the
    quadratic model failed, trust it less; where it held, return to what was asked for.

    :param factor: of the last update, in [1, 1024]
    :param status: how it ended
    """
    if status in (StepStatus.LINE_SEARCH_FAILED, StepStatus.BAD_CURVATURE):
        return min(2 * factor, MAX_DAMPING_FACTOR)
    return max(factor / 2, 1.0) if status is StepStatus.ACCEPTED else factor
