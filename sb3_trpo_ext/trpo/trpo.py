"""The algorithm that users construct: its settings, its data, and what is saved."""

import inspect
import io
import math
import pathlib
import time
import warnings
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_ext.common.actor import Actor
from sb3_trpo_ext.common.batch import Batch, full_batch
from sb3_trpo_ext.common.critic import Critic, CriticFit, fit_by_gradient_descent, fit_in_trust_region
from sb3_trpo_ext.common.diagnostics import record
from sb3_trpo_ext.common.observations import each
from sb3_trpo_ext.common.rollout import (
    NormalizationKeeper,
    acting_on_finite_observations,
    can_collect_fast,
    collect_fast,
    warn_of_skipped_rollout,
)
from sb3_trpo_ext.common.saving import saved_parameters, saved_settings
from sb3_trpo_ext.common.settings import Rule, check, none_or, number, one_of, schedule, schedule_of, whole
from sb3_trpo_ext.common.threads import torch_threads
from sb3_trpo_ext.kernels.layers import Dense
from sb3_trpo_ext.kernels.vector import count
from sb3_trpo_ext.trpo.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_trpo_ext.trpo.reuse import EarlierRollouts, Rollout
from sb3_trpo_ext.trpo.step import StepStatus, TrustRegion, trust_region_step

KL_PER_DIMENSION = 0.02  # nats, of target_kl=None
DAMPING_PER_DIMENSION = 0.1  # of cg_damping=None
FITTED = {"trust_region": "in a trust region", "adam": "by minibatches"}
CRITIC_SETTINGS = {
    "trust_region": ("n_critic_steps", "critic_max_kl"),
    "adam": ("learning_rate", "batch_size", "n_critic_updates"),
}
MAX_DAMPING_FACTOR = 1024.0  # of adaptive_damping: ten failures in a row

SelfTRPO = TypeVar("SelfTRPO", bound="TRPO")

ACTION_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


_SCHEDULE = 'It may be a number, a function of the remaining progress, or "lin_0.02" (to 0), "lin_0.02_0.01".'
RULES = (
    Rule("learning_rate", schedule_of(number(0)), "a number >= 0 or a schedule", _SCHEDULE),
    Rule(
        "target_kl",
        none_or(schedule_of(number(0, open_low=True))),
        "a number > 0, a schedule or None",
        f"{_SCHEDULE} None is 0.02 per dimension.",
    ),
    Rule("n_steps", whole(1), "a whole number >= 1", "It counts steps per environment and update."),
    Rule("batch_size", whole(1), "a whole number >= 1", "It is the critic's minibatch; 128 is usual."),
    Rule("gamma", number(0, 1), "between 0 and 1", "0.99 is usual."),
    Rule("gae_lambda", number(0, 1), "between 0 and 1", "0.95 is usual."),
    Rule("cg_max_steps", whole(1), "a whole number >= 1", "10 to 25 are usual."),
    Rule("cg_damping", none_or(number(0)), "a number >= 0 or None", "None is 0.1 per dimension."),
    Rule("adaptive_damping", one_of(True, False), "True or False", "False keeps cg_damping as it is."),
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
    Rule("use_sde", one_of(True, False), "True or False", "False draws independent noise at each step."),
    Rule("normalize_advantage", one_of(True, False), "True or False", "True is usual."),
    Rule("fast_kernels", one_of(True, False), "True or False", "True is faster."),
    Rule("fast_collection", one_of(True, False), "True or False", "True is faster."),
    Rule("sub_sampling_factor", whole(1), "a whole number >= 1", "1 uses all samples."),
    Rule("curvature_sampling_factor", whole(1), "a whole number >= 1", "1 uses all states."),
    Rule("kl_reduction", one_of("sum", "mean"), '"sum" or "mean"', '"sum" is the paper\'s, "mean" sb3-contrib\'s.'),
    Rule("cg_preconditioner", one_of(None, "kfac"), 'None or "kfac"', "None is the plain conjugate gradient."),
    Rule(
        "critic",
        one_of(None, "trust_region", "adam"),
        'None, "trust_region" or "adam"',
        'None is "trust_region" but for images; "adam" is sb3-contrib\'s.',
    ),
    Rule("n_critic_steps", whole(1), "a whole number >= 1", "3 is usual; many fit the noise of a rollout."),
    Rule("critic_max_kl", number(0, open_low=True), "a number > 0", "0.1 is usual."),
    Rule("rollouts_per_update", whole(1), "a whole number >= 1", "1 learns from the newest rollout alone."),
    Rule("num_threads", none_or(whole(1, 1024)), "None or a whole number from 1 to 1024", "None chooses."),
    Rule("trust_region", one_of("kl", "euclidean"), '"kl" or "euclidean"', '"kl" is TRPO.'),
)


class TRPO(OnPolicyAlgorithm):
    """
    Trust Region Policy Optimization for Stable-Baselines3.

    Paper: Schulman et al. 2015, "Trust Region Policy Optimization", arXiv:1502.05477; advantages: Schulman et al.
    2016, arXiv:1506.02438. Written from the papers; the update is :func:`sb3_trpo_ext.trpo.step.trust_region_step`.

    Differs from the paper:

    1. The mean KL over the sampled states stands for the maximum over all states (as in the paper's experiments); the
       maximum over the batch is logged beside it.
    2. The Fisher matrix is damped by ``cg_damping`` · I.
    3. The advantages are GAE's, normalised over the rollout, instead of Monte-Carlo estimates of Q; an entropy bonus is
       an option.
    4. The critic is a network, fitted in a trust region of its own (Schulman et al. 2016) or by minibatch Adam.

    Differs from sb3-contrib's TRPO:

    1. The KL is KL(old ‖ new), summed over action dimensions. sb3-contrib averages it over the dimensions of Box and
       MultiBinary actions, so its ``target_kl`` and ``cg_damping`` correspond to d times as much here;
       ``kl_reduction="mean"`` gives its meaning.
    2. The actor's parameters are found from the autograd graph, not from their names, and ``policy.optimizer`` holds
       the critic's parameters only.
    3. The conjugate gradient starts from zero and stops on a relative residual.
    4. Images and dictionaries have separate features extractors by default.
    5. A rollout with NaN or infinity is skipped, counted and logged.
    6. The policy is in evaluation mode (dropout off, batch statistics fixed) during its update, as in the rollout; the
       critic too, in its trust region.
    7. ``target_kl`` is 0.02 and ``cg_damping`` 0.1 for each action dimension unless they are given; sb3-contrib's 0.01
       and 0.1 are for each where it averages.
    8. The critic is fitted in a trust region unless observations hold images; sb3-contrib's way, which is
       ``critic="adam"``, takes many updates to reach returns far from 0.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy", or an actor-critic policy class
    :param env: environment, vectorised environment, or the id of a registered one
    :param learning_rate: of ``critic="adam"``, ≥ 0: a number, a schedule (function of the progress remaining, from 1 to
        0), or RL Zoo's ``"lin_0.001"``. Higher follows the returns of the last rollout more closely. The actor has
        none.
    :param n_steps: steps per environment and update. Higher means fewer, better estimated updates.
    :param batch_size: samples per gradient step of ``critic="adam"``. Higher is faster and smoother.
    :param gamma: discount, in [0, 1]
    :param cg_max_steps: limit of conjugate gradient steps, the critic's too. Higher gives a direction nearer to the
        natural gradient.
    :param cg_damping: λ ≥ 0, added to the Fisher matrix. Higher turns the direction towards the plain gradient and
        shortens the step. None is 0.1 for each action dimension, and 0.1 in all with ``kl_reduction="mean"`` or a
        Euclidean region.
    :param line_search_shrinking_factor: in (0, 1). Higher searches more finely.
    :param line_search_max_iter: trials of the line search; 0 takes the full step (natural policy gradient), whose KL
        may exceed ``target_kl``
    :param n_critic_updates: passes of ``critic="adam"`` over the samples of an update. Higher follows the last rollout
        more closely.
    :param gae_lambda: in [0, 1]. Higher means less bias and more variance of the advantages.
    :param use_sde: generalized state-dependent exploration (Box only)
    :param sde_sample_freq: steps between new exploration noise for gSDE; −1 for once per rollout
    :param rollout_buffer_class: None for SB3's own
    :param rollout_buffer_kwargs: passed to the buffer
    :param normalize_advantage: to mean 0 and standard deviation 1, over the samples of an update
    :param target_kl: δ > 0 in nats, the size of the trust region: a number, a schedule or ``"lin_0.02"``. Higher learns
        faster until it becomes unstable. Where it is 0, as at the last update of a schedule to 0, only the critic is
        updated. None is 0.02 for each action dimension, and 0.02 in all with
        ``kl_reduction="mean"`` or a Euclidean region.
    :param sub_sampling_factor: the policy's whole update (gradient, curvature and line search) uses every k-th sample
        only, as sb3-contrib's, which shuffles them first
    :param stats_window_size: episodes over which the logged return is averaged
    :param tensorboard_log: folder for TensorBoard, None for no log
    :param policy_kwargs: passed to the policy
    :param verbose: 0 silent, 1 tables, 2 debug
    :param seed: of all random generators
    :param device: "auto", "cpu", "cuda", …
    :param kl_reduction: "sum" over action dimensions, or "mean" as sb3-contrib
    :param curvature_sampling_factor: the Fisher matrix uses every k-th state; the gradient, the line search and the
        critic use all. Higher is faster and noisier (Schulman et al. 2015, appendix C: 10).
    :param trust_region: "kl", or "euclidean" for a step of length √(2 · target_kl) along the plain gradient
    :param cg_tolerance: relative residual at which the conjugate gradient stops
    :param adaptive_damping: double the damping after an update that failed (line search or curvature), up to 1024 times
        ``cg_damping``, and halve it again after each that succeeded; False keeps it
    :param ent_coef: weight of the mean entropy in the objective: a number, a schedule or ``"lin_0_-0.01"``. Higher
        explores more; below 0 the noise is taken away as training goes on, which returns with noise gain from.
    :param cg_preconditioner: None, or "kfac" (Kronecker-factored; policies of dense layers), which on Gaussian policies
        takes the conjugate gradient to the same residual in fewer steps
    :param critic: "trust_region" for Gauss-Newton steps on the whole rollout, which need no learning rate and reach
        returns far from 0 soon, or "adam" for minibatch gradient descent with the policy's optimizer, which is faster
        with large networks. None is "trust_region", but "adam" where observations hold an image (a Box of three
        dimensions or more).
    :param n_critic_steps: Gauss-Newton steps per update of ``critic="trust_region"``. Higher follows the last rollout
        more closely, and its noise.
    :param critic_max_kl: ε > 0, the size of the critic's trust region in each step. Higher follows the last rollout
        more closely.
    :param rollouts_per_update: M: an update learns from the newest rollout and from the M − 1 before it, corrected for
        the policy having changed (:mod:`sb3_trpo_ext.trpo.reuse`). Take ``n_steps`` M times smaller then, and the
        critic's steps or passes: M times as many updates, each as well estimated. The rollouts are not saved with the
        model.
    :param num_threads: of torch during an update; None for 1 with small networks, where more only get in one another's
        way, and the present setting with large ones. The setting is put back afterwards.
    :param fast_kernels: differentiate plain networks (dense layers and convolutions with simple activations) by hand;
        False for autograd always. The results are the same to rounding.
    :param fast_collection: compute values and log-probabilities in one batch at the end of the rollout, so that
        callbacks see them only in ``on_rollout_end``; False for SB3's loop. The same seed gives the same trajectory.
    :param _init_setup_model: build networks and buffers now
    :raises ValueError: for a value out of range, naming argument, value and remedy
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: ActorCriticPolicy
    actor: Actor
    _critic: Critic

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | str | Schedule = 1e-3,
        n_steps: int = 2048,
        batch_size: int = 128,
        gamma: float = 0.99,
        cg_max_steps: int = 15,
        cg_damping: float | None = None,
        line_search_shrinking_factor: float = 0.8,
        line_search_max_iter: int = 10,
        n_critic_updates: int = 10,
        gae_lambda: float = 0.95,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = True,
        target_kl: float | str | Schedule | None = None,
        sub_sampling_factor: int = 1,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        kl_reduction: str = "sum",
        curvature_sampling_factor: int = 1,
        trust_region: str = "kl",
        cg_tolerance: float = 1e-4,
        adaptive_damping: bool = False,
        ent_coef: float | str | Schedule = 0.0,
        cg_preconditioner: str | None = None,
        critic: str | None = None,
        n_critic_steps: int = 3,
        critic_max_kl: float = 0.1,
        rollouts_per_update: int = 1,
        num_threads: int | None = None,
        fast_kernels: bool = True,
        fast_collection: bool = True,
        _init_setup_model: bool = True,
    ):
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,  # type: ignore[arg-type]  # a string is read in _setup_lr_schedule
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,  # type: ignore[arg-type]  # read in _trust_region
            vf_coef=0.0,  # the critic has an objective of its own
            max_grad_norm=0.0,  # and the actor's step is bounded by the trust region
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        self.batch_size = batch_size
        self.cg_max_steps = cg_max_steps
        self.cg_damping = cg_damping
        self.cg_tolerance = cg_tolerance
        self.adaptive_damping = adaptive_damping
        self.line_search_shrinking_factor = line_search_shrinking_factor
        self.line_search_max_iter = line_search_max_iter
        self.n_critic_updates = n_critic_updates
        self.normalize_advantage = normalize_advantage
        self.target_kl = target_kl
        self.kl_reduction = kl_reduction
        self.trust_region = trust_region
        self.sub_sampling_factor = sub_sampling_factor
        self.curvature_sampling_factor = curvature_sampling_factor
        self.cg_preconditioner = cg_preconditioner
        self.critic = critic
        self.n_critic_steps = n_critic_steps
        self.critic_max_kl = critic_max_kl
        self.rollouts_per_update = rollouts_per_update
        self.num_threads = num_threads
        self.fast_kernels = fast_kernels
        self.fast_collection = fast_collection
        self._damping_factor = 1.0
        self._n_line_search_failures = 0
        self._n_skipped_updates = 0

        if _init_setup_model:
            self._setup_model()
            self._warn_of_settings_of_the_other_critic()

    def _setup_model(self) -> None:
        check(self, RULES)
        self._check_sizes()
        super()._setup_model()
        self.policy.set_training_mode(False)  # tracing must not move batch statistics or draw random numbers
        self.actor = Actor(self.policy, self.fast_kernels)
        self._critic = Critic(self.policy, self.actor, self.lr_schedule(1), self.fast_kernels)
        self.policy.set_training_mode(True)
        self._earlier = EarlierRollouts()
        if self.cg_preconditioner == "kfac" and not self._has_dense_actor():
            raise ValueError(
                'TRPO(cg_preconditioner="kfac") needs an actor of dense layers alone and fast_kernels=True, got a '
                f"{self.policy_class.__name__}. Set it to None."
            )

    def _describe(self) -> str:
        """Which ways were chosen for this policy, in a line."""
        networks = {"actor": self.actor.network, "critic": self._critic.network}
        kernels = [f"{name} by {'autograd' if network is None else 'hand'}" for name, network in networks.items()]
        fast = self.fast_collection and can_collect_fast(self.policy, self.rollout_buffer)
        shared = count(self.actor.shared_parameters())
        line = f"Differentiating the {', the '.join(kernels)}; collecting {'fast' if fast else 'by the loop of SB3'}"
        line += f"; fitting the critic {FITTED[self._critic_method()]}"
        return line + (f"; only the trust-region step trains the {shared} shared parameters" if shared else "")

    def _has_dense_actor(self) -> bool:
        network = self.actor.network
        return network is not None and all(type(layer) is Dense for layer in network.layers)

    def _check_sizes(self) -> None:
        if not isinstance(self.action_space, ACTION_SPACES):
            names = ", ".join(space.__name__ for space in ACTION_SPACES)
            raise ValueError(f"TRPO(env=...) must have an action space of type {names}, got {self.action_space}.")
        if self.adaptive_damping and self.cg_damping == 0:
            raise ValueError(
                "TRPO(adaptive_damping=True) must have a cg_damping above 0, got 0, which doubling leaves at 0. Leave "
                "cg_damping out."
            )
        samples = self.n_steps * self.n_envs
        if self.normalize_advantage and samples <= self.sub_sampling_factor:
            raise ValueError(
                "TRPO(n_steps=...) must give more than one sample per update for advantages to be normalised, got "
                f"n_steps={self.n_steps}, {self.n_envs} environment(s) and sub_sampling_factor="
                f"{self.sub_sampling_factor}. Raise n_steps or set normalize_advantage=False."
            )
        samples *= self.rollouts_per_update
        if self._critic_method() == "adam" and samples > self.batch_size and samples % self.batch_size:
            warnings.warn(
                f"batch_size={self.batch_size} does not divide n_steps * n_envs * rollouts_per_update = {samples}: "
                f"the last minibatch of the critic's every pass has {samples % self.batch_size} samples. Choose a "
                f"factor of {samples}.",
                stacklevel=4,
            )

    def _warn_of_settings_of_the_other_critic(self) -> None:
        method, defaults = self._critic_method(), inspect.signature(TRPO).parameters
        for other, name in ((other, name) for other, names in CRITIC_SETTINGS.items() for name in names):
            if other != method and (value := getattr(self, name)) != defaults[name].default:
                warnings.warn(
                    f'{name}={value!r} has no effect with critic="{method}". Set critic="{other}", or leave it out.',
                    stacklevel=3,
                )

    def _setup_lr_schedule(self) -> None:
        self.lr_schedule = schedule(self.learning_rate)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        # The last rollout may overshoot the total; a schedule must not be asked about a negative progress.
        super()._update_current_progress_remaining(min(num_timesteps, total_timesteps), total_timesteps)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "actor", "_critic", "_earlier", "_normalization"]

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """As SB3's, and robust against observations that are not finite. Arguments and result as there."""
        started = time.perf_counter()
        self._normalization = NormalizationKeeper(env)
        if self.fast_collection and can_collect_fast(self.policy, rollout_buffer):
            complete = collect_fast(self, self.actor, env, callback, rollout_buffer, self.num_threads)
        else:
            with acting_on_finite_observations(self.policy):
                complete = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        record(self.logger, {"time/rollout_seconds": time.perf_counter() - started})
        return complete

    def train(self) -> None:
        """One iteration of TRPO (Schulman et al. 2015, section 6) on the rollout just collected."""
        self._update_learning_rate(self.policy.optimizer)
        batch = full_batch(self.rollout_buffer)
        if bad := batch.not_finite():
            self._skip_update(bad)
            return

        self.policy.set_training_mode(False)
        if self.rollouts_per_update > 1:
            batch = self._with_earlier_rollouts(batch)
        else:
            self._earlier.clear()
        samples = batch.every(self.sub_sampling_factor)
        if self.normalize_advantage:
            samples = samples.normalized()
        region = self._trust_region()
        with torch_threads(self.num_threads, len(samples.advantages), count(self.actor.parameters)):
            step = trust_region_step(self.actor, samples, region)
        self._n_line_search_failures += step.status is StepStatus.LINE_SEARCH_FAILED
        if self.adaptive_damping:
            self._damping_factor = adapted(self._damping_factor, step.status)

        fit = self._fit_critic(batch)

        self._n_updates += 1
        now = {
            "train/target_kl": region.max_kl,
            "train/cg_damping": region.damping,
            "train/ent_coef": region.ent_coef,
        }
        record(self.logger, step, fit, now, self._counts())

    def _with_earlier_rollouts(self, newest: Batch) -> Batch:
        """The newest rollout and those before it, and remember the newest for the next updates."""
        started = time.perf_counter()
        rows = len(newest.advantages) * (1 + len(self._earlier))
        with torch_threads(self.num_threads, rows, count(self.actor.parameters)):
            batch = self._joined(newest)
        record(self.logger, {"time/earlier_rollouts_seconds": time.perf_counter() - started})
        return batch

    def _joined(self, newest: Batch) -> Batch:
        """As :meth:`_with_earlier_rollouts`, which sets threads and takes the time."""
        buffer = self.rollout_buffer
        with torch.no_grad():
            log_prob = self.actor.family(newest.observations).log_prob(self.actor.family_actions(newest.actions))
        assert self._last_obs is not None and self._last_episode_starts is not None
        ends = np.concatenate([buffer.episode_starts[1:], [self._last_episode_starts]]).astype(bool)
        rollout = Rollout(
            newest.observations,
            newest.actions,
            log_prob,
            buffer.to_torch(buffer.rewards),
            torch.as_tensor(ends, device=self.device),
            each(torch.clone, obs_as_tensor(self._last_obs, self.device)),  # some environments write into theirs
        )
        batch = replace(newest, old_log_prob=log_prob)
        if self._earlier:
            earlier = self._earlier.corrected(self.actor, self._critic, self.gamma, self.gae_lambda)
            batch = batch.followed_by(earlier)
        self._earlier.add(rollout, self.rollouts_per_update - 1)
        return batch

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps or self._last_obs is None:
            self._earlier.clear()  # another training, or another environment
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)

    def _fit_critic(self, batch: Batch) -> CriticFit:
        in_trust_region = self._critic_method() == "trust_region"
        rows = len(batch.returns) if in_trust_region else self.batch_size
        with torch_threads(self.num_threads, rows, count(self._critic.parameters)):
            if in_trust_region:
                return fit_in_trust_region(
                    self._critic, batch, self.critic_max_kl, self.n_critic_steps, self.cg_max_steps
                )
            self.policy.set_training_mode(True)  # Adam does not mind noise; a line search must not see any
            return fit_by_gradient_descent(self._critic, batch, self.batch_size, self.n_critic_updates)

    def _critic_method(self) -> str:
        """How the critic is fitted: the setting, or its default."""
        if self.critic is not None:
            return self.critic
        space = self.observation_space
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
        images = [part for part in parts if isinstance(part, spaces.Box) and len(part.shape) >= 3]
        return "adam" if images else "trust_region"

    def _trust_region(self) -> TrustRegion:
        """The settings as they are now; they may have changed since the last update."""
        dimensions = self._dimensions_of_the_kl()
        target_kl = KL_PER_DIMENSION * dimensions if self.target_kl is None else self.target_kl
        damping = DAMPING_PER_DIMENSION * dimensions if self.cg_damping is None else self.cg_damping
        return TrustRegion(
            max_kl=schedule(target_kl)(self._current_progress_remaining),
            geometry=self.trust_region,
            kl_reduction=self.kl_reduction,
            ent_coef=schedule(self.ent_coef)(self._current_progress_remaining),
            damping=damping * self._damping_factor,
            cg_max_steps=self.cg_max_steps,
            cg_tolerance=self.cg_tolerance,
            preconditioner=self.cg_preconditioner,
            curvature_every=self.curvature_sampling_factor,
            shrink=self.line_search_shrinking_factor,
            max_trials=self.line_search_max_iter,
        )

    def _dimensions_of_the_kl(self) -> int:
        """How many dimensions the KL sums over. It grows with them, and so does its curvature."""
        summed = self.kl_reduction == "sum" and self.trust_region == "kl"
        return get_action_dim(self.action_space) if summed else 1

    def _skip_update(self, bad: list[str]) -> None:
        self._n_skipped_updates += 1
        self._last_obs = self._normalization.forget_rollout(self._last_obs)
        warn_of_skipped_rollout(bad)
        record(self.logger, {"train/update_status": "skipped"}, self._counts())

    def _counts(self) -> dict[str, float]:
        return {
            "train/line_search_failures": self._n_line_search_failures,
            "train/skipped_updates": self._n_skipped_updates,
            "train/n_updates": self._n_updates,
        }

    def learn(
        self: SelfTRPO,
        total_timesteps: float,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "TRPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfTRPO:
        """
        Train.

        :param total_timesteps: environment steps in all; 1e6 is understood
        :param callback: as in SB3
        :param log_interval: updates between two tables
        :param tb_log_name: name of the run in TensorBoard
        :param reset_num_timesteps: False to go on counting from an earlier call
        :param progress_bar: show one (needs tqdm and rich)
        :return: itself
        """
        if self.verbose >= 1:
            print(self._describe())
        return super().learn(
            int(total_timesteps), callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
        )

    @classmethod
    def load(cls: type[SelfTRPO], path: str | pathlib.Path | io.BufferedIOBase, *args: Any, **kwargs: Any) -> SelfTRPO:
        """
        Load a model that was saved by this class or by sb3-contrib's TRPO.

        One of sb3-contrib's goes on training with ``kl_reduction="mean"``, the meaning that its ``target_kl`` had, and
        with ``critic="adam"``.

        :param path: of the zip file, or an open binary file
        :param args: as in SB3's ``BaseAlgorithm.load``
        :param kwargs: as there; names of constructor arguments replace what was saved
        :raises ValueError: when the file is damaged or holds something else
        """
        if "kl_reduction" not in saved_settings(path, "TRPO", own="cg_max_steps"):
            kwargs = {"kl_reduction": "mean", "critic": "adam", **kwargs}
        return super().load(path, *args, **kwargs)

    def set_parameters(
        self,
        load_path_or_dict: str | dict[str, Any],
        exact_match: bool = True,
        device: torch.device | str = "auto",
    ) -> None:
        """
        As SB3's; an optimizer state that covers the whole policy, as sb3-contrib saves it, is cut to the critic's part.

        :param load_path_or_dict: path of a zip file, or a dictionary as ``get_parameters`` returns it
        :param exact_match: require all parameters
        :param device: to load to
        """
        parameters = saved_parameters(load_path_or_dict, device)
        optimizer = parameters.get("policy.optimizer")
        everything = list(self.policy.parameters())
        if optimizer is not None and len(optimizer["param_groups"][0]["params"]) == len(everything):
            critic = {id(parameter) for parameter in self.actor.critic_parameters()}
            kept = [index for index, parameter in enumerate(everything) if id(parameter) in critic]
            ours = self.policy.optimizer.param_groups[0]
            parameters = {**parameters, "policy.optimizer": _select(optimizer, kept, fused=ours.get("fused"))}
        super().set_parameters(parameters, exact_match, device)


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


def _select(optimizer_state: dict[str, Any], kept: list[int], **settings: Any) -> dict[str, Any]:
    """An optimizer's state dict for some of its parameters, given by their positions, with some settings replaced."""
    state = optimizer_state["state"]
    return {
        "state": {new: state[old] for new, old in enumerate(kept) if old in state},
        "param_groups": [{**optimizer_state["param_groups"][0], **settings, "params": list(range(len(kept)))}],
    }
