"""TRPO: the class that users construct, and what one iteration of it is."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, TypeVar

import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_ext.common.algorithm import Algorithm
from sb3_trpo_ext.common.bad_data import acting_on_finite_observations
from sb3_trpo_ext.common.diagnostics import Logged, record
from sb3_trpo_ext.common.inputs import Observations
from sb3_trpo_ext.common.laps import Laps
from sb3_trpo_ext.common.ranks import Distributed, number_of_this_rank, own_device
from sb3_trpo_ext.common.settings import schedule
from sb3_trpo_ext.common.threads import torch_threads
from sb3_trpo_ext.common.watch import set_noise_layers_only
from sb3_trpo_ext.kernels.vector import count
from sb3_trpo_ext.trpo import contrib, settings
from sb3_trpo_ext.trpo.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_trpo_ext.trpo.reuse import EarlierRollouts
from sb3_trpo_ext.trpo.settings import CriticMethod, KLReduction, Preconditioner, Region
from sb3_trpo_ext.trust_region.actor import Actor
from sb3_trpo_ext.trust_region.batch import Batch
from sb3_trpo_ext.trust_region.collection import FastBehaviour, ValuingBehaviour, collect_fast
from sb3_trpo_ext.trust_region.critic_fit import CriticFit, fit_by_gradient_descent, fit_in_trust_region
from sb3_trpo_ext.trust_region.heads import Heads
from sb3_trpo_ext.trust_region.policy_step import StepStatus
from sb3_trpo_ext.trust_region.rollout import Rollout
from sb3_trpo_ext.trust_region.step import trust_region_step
from sb3_trpo_ext.trust_region.value_function import ValueFunction

STATISTICS_ROWS = 128  # states that layers with running statistics take in at a time, each a step of their average
SelfTRPO = TypeVar("SelfTRPO", bound="TRPO")


class TRPO(Algorithm[Rollout]):
    """
    Trust Region Policy Optimization for Stable-Baselines3.

    Paper: Schulman et al. 2015, "Trust Region Policy Optimization", arXiv:1502.05477; advantages: Schulman et al.
    2016, arXiv:1506.02438. Written from the papers; the update is
    :func:`sb3_trpo_ext.trust_region.step.trust_region_step`.

    Differs from the paper:

    1. The mean KL over the sampled states stands for the maximum over all states (as in the paper's experiments); the
       maximum over the batch is logged beside it.
    2. The Fisher matrix is damped by ``cg_damping`` · I.
    3. The advantages are GAE's, normalised over the rollout, instead of Monte-Carlo estimates of Q; an entropy bonus is
       an option.
    4. The critic is a network, fitted in a trust region of its own (Schulman et al. 2016) or by minibatch Adam.

    Differs from sb3-contrib's TRPO, whose files :meth:`load` opens too (they go on with the meaning that their settings
    had, ``kl_reduction="mean"`` and ``critic="adam"``):

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
    7. ``target_kl`` begins with 0.02 for each action dimension and falls towards 0, ``cg_damping`` is 0.1 for each,
       unless they are given; sb3-contrib's constant 0.01 and 0.1 are for each where it averages.
    8. The critic is fitted in a trust region unless observations hold images; sb3-contrib's way, which is
       ``critic="adam"``, takes many updates to reach returns far from 0. In its trust region it starts with the value
       0; it has a λ of its own.
    9. Observations of floats that nothing else normalises are normalised inside the policy.
    10. The noise of Box actions starts in proportion to their range.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy", or an actor-critic policy class
    :param env: environment, vectorised environment, or the id of a registered one
    :param learning_rate: of ``critic="adam"``, ≥ 0: a number, a schedule (function of the progress remaining, from 1 to
        0), or RL Zoo's ``"lin_0.001"``. Higher follows the returns of the last rollout more closely. The actor has
        none. None is 1e-3.
    :param n_steps: steps per environment and update. Higher means fewer, better estimated updates.
    :param batch_size: samples per gradient step of ``critic="adam"``. Higher is faster and smoother. None is 128.
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
        more closely. None is 10.
    :param gae_lambda: in [0, 1]. Higher means less bias and more variance of the advantages. None is 0.8 for actions of
        several dimensions, whose noise adds up, else 0.95, and 0.95 for what the critic learns; a number is for both
        unless ``critic_gae_lambda`` says otherwise.
    :param use_sde: generalized state-dependent exploration (Box only)
    :param sde_sample_freq: steps between new exploration noise for gSDE; −1 for once per rollout
    :param rollout_buffer_class: None for SB3's own
    :param rollout_buffer_kwargs: passed to the buffer
    :param normalize_advantage: to mean 0 and standard deviation 1, over the samples of an update
    :param target_kl: δ > 0 in nats, the size of the trust region: a number, a schedule or ``"lin_0.02"``. Higher learns
        faster until it becomes unstable. Where it is 0, as at the last update of a schedule to 0, only the critic is
        updated. None begins with 0.02 for each action dimension, or with 0.02 in all with ``kl_reduction="mean"`` or a
        Euclidean region, and falls linearly towards 0 over each call of ``learn``: the first update of a call has all
        of it, the last of K updates the K-th part.
    :param sub_sampling_factor: the policy's whole update (gradient, curvature and line search) uses one sample in k
        only, as sb3-contrib's, which shuffles them first
    :param stats_window_size: episodes over which the logged return is averaged
    :param tensorboard_log: folder for TensorBoard, None for no log
    :param policy_kwargs: passed to the policy; :class:`~sb3_trpo_ext.trpo.policies.MlpPolicy` has some of its own,
        among them ``normalize_observations``
    :param verbose: 0 silent, 1 tables, 2 debug
    :param seed: of all random generators
    :param device: "auto", "cpu", "cuda", …
    :param kl_reduction: "sum" over action dimensions, or "mean" as sb3-contrib
    :param curvature_sampling_factor: the Fisher matrix uses one state in k; the gradient and the line search use all.
        Higher is faster and noisier (Schulman et al. 2015, appendix C: 10). "auto" takes the largest k that leaves
        1 024 states, and without convolutions four for each input of the widest layer, up to 2 048; with memory, whose
        states hang together, 1.
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
        more closely, and its noise. None is 3.
    :param critic_max_kl: ε > 0, the size of the critic's trust region in each step. Higher follows the last rollout
        more closely. None is 0.1.
    :param critic_gae_lambda: λ of the critic's targets, in [0, 1]. Higher means less bias and more variance of what the
        critic learns, whatever the advantages have. None is ``gae_lambda`` where that is given, else 0.95. A rollout
        buffer that computes its returns itself keeps them.
    :param rollouts_per_update: M: an update learns from the newest rollout and from the M − 1 before it, corrected for
        the policy having changed (:mod:`sb3_trpo_ext.trpo.reuse`). Take ``n_steps`` M times smaller then, and the
        critic's steps or passes: M times as many updates, each as well estimated. The rollouts are not saved with the
        model.
    :param num_threads: of torch during an update; None for 1 with small networks, where more only get in one another's
        way, and the present setting with large ones. The setting is put back afterwards.
    :param fast: differentiate plain networks (dense layers and convolutions with simple activations) by hand, and
        compute values and log-probabilities in one batch at the end of the rollout, so that callbacks see them only in
        ``on_rollout_end``; False for autograd and SB3's loop. The same seed gives the same trajectory, and the same
        results to rounding.
    :param distributed: train one policy in several processes (:mod:`sb3_trpo_ext.common.ranks`): "auto" where torchrun
        has started them, or the script has called ``torch.distributed.init_process_group``; True to require it; False
        never to
    :param checkpoint_folder: write a checkpoint into it after each update, and begin ``learn`` with the newest that is
        there; None for none
    :param checkpoint_every: updates between two checkpoints
    :param _init_setup_model: build networks and buffers now
    :raises ValueError: for a value out of range, naming argument, value and remedy
    """

    COUNTERS = (*Algorithm.COUNTERS, "_damping_factor", "_n_line_search_failures")
    _target_kl_falls = True  # with target_kl=None; False in files of versions where it did not
    RULES = settings.RULES
    OWN_SETTING = "cg_max_steps"
    KIND = "TRPO"
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: ActorCriticPolicy
    actor: Actor
    value_function: ValueFunction

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | str | Schedule | None = None,
        n_steps: int = 2048,
        batch_size: int | None = None,
        gamma: float = 0.99,
        cg_max_steps: int = 15,
        cg_damping: float | None = None,
        line_search_shrinking_factor: float = 0.8,
        line_search_max_iter: int = 10,
        n_critic_updates: int | None = None,
        gae_lambda: float | None = None,
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
        kl_reduction: KLReduction = "sum",
        curvature_sampling_factor: int | Literal["auto"] = "auto",
        trust_region: Region = "kl",
        cg_tolerance: float = 1e-4,
        adaptive_damping: bool = False,
        ent_coef: float | str | Schedule = 0.0,
        cg_preconditioner: Preconditioner | None = None,
        critic: CriticMethod | None = None,
        n_critic_steps: int | None = None,
        critic_max_kl: float | None = None,
        critic_gae_lambda: float | None = None,
        rollouts_per_update: int = 1,
        num_threads: int | None = None,
        fast: bool = True,
        distributed: Distributed = "auto",
        checkpoint_folder: str | None = None,
        checkpoint_every: int = 1,
        _init_setup_model: bool = True,
    ):
        chosen = settings.chosen_for_the_critics(
            learning_rate=learning_rate,
            batch_size=batch_size,
            n_critic_updates=n_critic_updates,
            n_critic_steps=n_critic_steps,
            critic_max_kl=critic_max_kl,
        )
        settings.check_bounds(env, type(self).__name__)
        super().__init__(
            policy,
            env,
            learning_rate=chosen.values["learning_rate"],  # a string is read in _setup_lr_schedule
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=settings.CRITIC_GAE_LAMBDA if gae_lambda is None else gae_lambda,  # None is read below
            ent_coef=ent_coef,  # type: ignore[arg-type]  # read in _improve
            vf_coef=0.0,  # the critic has an objective of its own
            max_grad_norm=0.0,  # and the actor's step is bounded by the trust region
            use_sde=False,  # set below, where a wrong one is named
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=own_device(device, distributed),
            _init_setup_model=False,
        )
        self.use_sde = use_sde
        self.batch_size = chosen.values["batch_size"]
        self.cg_max_steps = cg_max_steps
        self.cg_damping = cg_damping
        self.cg_tolerance = cg_tolerance
        self.adaptive_damping = adaptive_damping
        self.line_search_shrinking_factor = line_search_shrinking_factor
        self.line_search_max_iter = line_search_max_iter
        self.n_critic_updates = chosen.values["n_critic_updates"]
        self.normalize_advantage = normalize_advantage
        self.target_kl = target_kl
        self.kl_reduction = kl_reduction
        self.trust_region = trust_region
        self.sub_sampling_factor = sub_sampling_factor
        self.curvature_sampling_factor = curvature_sampling_factor
        self.cg_preconditioner = cg_preconditioner
        self.critic = critic
        self.n_critic_steps = chosen.values["n_critic_steps"]
        self.critic_max_kl = chosen.values["critic_max_kl"]
        if gae_lambda is None and env is not None:
            self.gae_lambda = settings.default_gae_lambda(self.action_space)
        is_default = gae_lambda is None and critic_gae_lambda is None
        self.critic_gae_lambda = settings.CRITIC_GAE_LAMBDA if is_default else critic_gae_lambda
        self.rollouts_per_update = rollouts_per_update
        self.num_threads = num_threads
        self.fast = fast
        self.distributed = distributed
        self.checkpoint_folder = checkpoint_folder
        self.checkpoint_every = checkpoint_every
        self._damping_factor = 1.0
        self._n_line_search_failures = 0

        if _init_setup_model:
            self._set_up_new()
            settings.warn_of_the_other_critic(settings.critic_method(self), chosen.given)

    def _check_policy_class(self) -> None:
        settings.check_policy_class(self.policy_class, type(self).__name__)

    def _check(self) -> None:
        self._check_policy_class()
        settings.check_spaces(self)
        settings.check_sizes(self)

    def _heads(self) -> Heads:
        """How the policy is asked; a variant has its own."""
        return Heads(self.policy)

    def _build(self) -> None:
        for name in contrib.OLD_FAST:  # a file of an earlier version may have brought them
            vars(self).pop(name, None)
        self._earlier = EarlierRollouts()
        # Adam gets from values of size 1 to others sooner than from 0, where all but the last layer stand still.
        if isinstance(self.policy, MlpPolicy) and settings.critic_method(self) == "trust_region":
            self.policy.predict_0()

    def _attach(self) -> None:
        self.actor = Actor(self._heads(), self.fast)
        self.value_function = ValueFunction(self.actor, self.lr_schedule(1), self.fast)
        settings.check_preconditioner(self)

    def _start_anew(self) -> None:
        self._earlier.clear()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "actor", "value_function", "_earlier"]

    def _kept_between_rollouts(self) -> dict[str, Any]:
        return {"earlier": self._earlier}

    def _take_back(self, kept: dict[str, Any]) -> None:
        self._earlier = kept["earlier"]

    def _update_learning_rate(self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer) -> None:
        if settings.critic_method(self) == "adam":  # the only one to have a learning rate
            super()._update_learning_rate(optimizers)

    def _collects_fast(self) -> bool:
        return self.fast and self.actor.heads.can_collect_fast(self.rollout_buffer)

    def _collect(self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer) -> bool:
        rollout_buffer.gamma, rollout_buffer.gae_lambda = self.gamma, self.gae_lambda  # someone may have set them since
        if self._collects_fast():
            return collect_fast(self, self._behaviour(rollout_buffer), env, callback, rollout_buffer)
        with acting_on_finite_observations(self.policy):
            return OnPolicyAlgorithm.collect_rollouts(self, env, callback, rollout_buffer, self.n_steps)

    def _behaviour(self, rollout_buffer: RolloutBuffer) -> ValuingBehaviour:
        """How the policy acts during a rollout; a variant has its own."""
        return FastBehaviour(lambda: (self.actor, self.value_function), rollout_buffer, self.gamma, self.num_threads)

    def _rollout(self) -> Rollout:
        return Rollout.of(
            self.rollout_buffer, self.actor.heads, self._last_obs, self._last_episode_starts, settings.targets(self)
        )

    def _improve(self, rollout: Rollout) -> Iterable[Logged | Mapping[str, float]]:
        """One iteration of TRPO (Schulman et al. 2015, section 6) on the rollout just collected."""
        batch = replace(self._with_earlier_rollouts(rollout), ranks=self._ranks)
        samples = batch.one_in(self.sub_sampling_factor)
        if self.normalize_advantage:
            samples = samples.normalized()
        region, ent_coef = settings.trust_region(self), schedule(self.ent_coef)(self._current_progress_remaining)
        now = {
            "train/target_kl": region.target_kl,
            "train/cg_damping": region.cg_damping,
            "train/ent_coef": ent_coef,
        }
        with torch_threads(self.num_threads, samples.size, count(self.actor.parameters)):
            step = trust_region_step(
                self.actor, samples, region, settings.direction(self), settings.search(self), ent_coef
            )
        self._n_line_search_failures += step.status is StepStatus.LINE_SEARCH_FAILED
        if self.adaptive_damping:
            self._damping_factor = settings.adapted(self._damping_factor, step.status)
        return step, self._fit_critic(batch), now

    def _run_over(self, rollout: Rollout) -> None:
        for rows in rollout.inputs.minibatches(STATISTICS_ROWS):
            if len(rows) == 1 < rollout.size:  # too few for a statistic
                continue
            inputs = rollout.inputs.rows(rows)
            self.actor.heads.family(inputs)
            self.actor.heads.values(inputs)

    def _actor_learns(self) -> bool:
        return bool(self.actor.parameters)

    def _observations_of(self, rollout: Rollout) -> Observations:
        return rollout.inputs.observations

    def _with_earlier_rollouts(self, rollout: Rollout) -> Batch:
        """The samples of the newest rollout, and of as many before it as an update learns from."""
        if self.rollouts_per_update == 1:
            self._earlier.clear()
            return rollout.batch()
        laps = Laps()
        with torch_threads(self.num_threads, rollout.size * (1 + len(self._earlier)), count(self.actor.parameters)):
            batch = self._earlier.batch_with(
                rollout, self.actor, self.value_function, settings.discounts(self), self.rollouts_per_update - 1
            )
        laps.end("earlier_rollouts")
        record(self.logger, {f"time/{part}_seconds": seconds for part, seconds in laps.seconds.items()})
        return batch

    def _fit_critic(self, batch: Batch) -> CriticFit:
        critic, by_adam = self.value_function, settings.critic_method(self) == "adam"
        with torch_threads(self.num_threads, self.batch_size if by_adam else batch.size, count(critic.parameters)):
            if by_adam:
                set_noise_layers_only(self.policy)  # dropout helps Adam; a line search needs a function without noise
                return fit_by_gradient_descent(critic, batch, self.batch_size, self.n_critic_updates)
            return fit_in_trust_region(critic, batch, self.critic_max_kl, self.n_critic_steps, self.cg_max_steps)

    def _skip(self, bad: list[str]) -> None:
        super()._skip(bad)
        record(self.logger, {"train/update_status": StepStatus.SKIPPED.code})

    def _counts(self) -> dict[str, float]:
        return {"train/line_search_failures": self._n_line_search_failures, **super()._counts()}

    def learn(
        self: SelfTRPO,
        total_timesteps: float,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "TRPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfTRPO:
        """As :meth:`sb3_trpo_ext.common.algorithm.Algorithm.learn`; ``verbose`` says first which ways it takes."""
        if self.verbose >= 1 and number_of_this_rank(self.distributed) == 0:
            print(settings.described(self))
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    @classmethod
    def _unsaid(cls, saved: dict[str, Any]) -> dict[str, Any]:
        return contrib.unsaid(saved)

    def _usable(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return contrib.usable(parameters, self.policy, self.actor.critic_parameters())
