"""ACER: the class that users construct, and what one iteration of it is."""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule, TensorDict
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_ext.acer import scale, settings
from sb3_trpo_ext.acer.batch import as_sequence_batch
from sb3_trpo_ext.acer.buffer import SequenceReplayBuffer, Sequences
from sb3_trpo_ext.acer.collection import (
    Collected,
    DictSequenceRolloutBuffer,
    SequenceBehaviour,
    SequenceRolloutBuffer,
    rollout_buffer_of,
    usable_normalizer,
)
from sb3_trpo_ext.acer.learner import Learner
from sb3_trpo_ext.acer.optimizer import optimizer_of, usable_state
from sb3_trpo_ext.acer.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, frozen_copy
from sb3_trpo_ext.acer.step import acer_step, average_kl
from sb3_trpo_ext.acer.updates import Update, Updates
from sb3_trpo_ext.common.algorithm import Algorithm
from sb3_trpo_ext.common.collection import step_through
from sb3_trpo_ext.common.diagnostics import Logged
from sb3_trpo_ext.common.files import PathOrFile
from sb3_trpo_ext.common.inputs import Observations
from sb3_trpo_ext.common.network import PlainNetwork, actor_network
from sb3_trpo_ext.common.ranks import Distributed, own_device
from sb3_trpo_ext.common.threads import torch_threads
from sb3_trpo_ext.kernels.vector import are_the_same

SelfACER = TypeVar("SelfACER", bound="ACER")


class ACER(Algorithm[Collected]):
    """
    Actor-Critic with Experience Replay for Stable-Baselines3, for Discrete, MultiDiscrete and Box actions.

    Paper: Wang et al. 2017, "Sample Efficient Actor-Critic with Experience Replay", arXiv:1611.01224; Retrace: Munos
    et al. 2016, arXiv:1606.02647. Written from the papers; the update is :func:`sb3_trpo_ext.acer.step.acer_step`.

    Each iteration takes ``n_steps`` steps in every environment, then one gradient step on them, then a
    Poisson-distributed number of gradient steps, each on one stored sequence of every environment.

    Differs from the paper:

    1. The statistics of a discrete policy, in which gradient and trust region are computed, are its logits, where the
       paper names the probabilities as an example: no step leaves the simplex. The trust region measures in the Fisher
       metric (``trust_region_metric``), so that it is the same for both, and in any unit of Box actions.
    2. Box actions are trained on-policy as well as from replay.
    3. Environments are stepped together, and one gradient is the mean over their sequences (the paper's workers are
       asynchronous).
    4. A fixed standard deviation takes no part in the trust region.
    5. The policy is in evaluation mode (dropout off, batch statistics fixed) in the rollout and in its updates, so that
       the importance weights compare the same two functions.
    6. A rollout with NaN or infinity is skipped and not stored; a gradient that is not finite is not applied. Both are
       counted and logged.
    7. Returns and advantages are measured in units of their own size (``normalize_returns``), so that nothing depends
       on the scale of the rewards, and δ is smaller.
    8. Adam in the place of RMSProp (``use_rms_prop``).
    9. MultiDiscrete actions, which the paper has not: their advantages add up over the dimensions
       (:func:`sb3_trpo_ext.acer.losses.summed`), and one sampled action makes up for what the limit c cuts off.

    The paper's own way: ``trust_region_metric="euclidean", trust_region_delta=1.0, normalize_returns=False,
    use_rms_prop=True``.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy", or a subclass of :mod:`sb3_trpo_ext.acer.policies`'
    :param env: environment, vectorised environment, or the id of a registered one
    :param learning_rate: ≥ 0: a number, a schedule (function of the progress remaining, from 1 to 0), or RL Zoo's
        ``"lin_0.0007"``
    :param n_steps: T, steps per environment and sequence. This and the other numbers of steps may be written as 1e5.
        Higher looks further ahead and updates less often.
    :param replay_ratio: mean of the Poisson-distributed number of replays per on-policy update. Higher learns more from
        each step, and takes more time; 0 is on-policy only, and stores nothing.
    :param replay_start: steps of all environments before the first replay
    :param buffer_size: steps kept for replay, of all environments
    :param gamma: discount, in [0, 1]
    :param q_coef: weight of the critic's loss, which matters where networks are shared or the gradient is clipped
    :param ent_coef: weight of the entropy, ≥ 0: a number, a schedule or ``"lin_0.01"``. Higher explores more. Its unit
        is that of δ.
    :param max_grad_norm: limit of the gradient's norm
    :param use_rms_prop: RMSProp (decay 0.99) as in the paper, whose average begins with the first gradient; False for
        Adam. ``policy_kwargs`` may name any other.
    :param rms_prop_eps: ε of RMSProp
    :param importance_clip: c ≥ 0, limit of the importance weights; None for 5 with Box actions and 10 with others;
        ``math.inf`` for none. Higher relies more on the returns and less on the critic.
    :param bias_correction: make up for what the limit cuts off; False leaves plain truncation
    :param trust_region: around the average policy; False for none
    :param trust_region_delta: δ ≥ 0, the growth of the KL to the average policy that a gradient step may ask for, in
        units of the advantages with ``normalize_returns``, else of the rewards. Lower is more cautious.
    :param trust_region_metric: "fisher" measures that growth along the natural gradient; "euclidean" along the gradient
        in φ, as the paper, where it depends on the unit of the actions
    :param normalize_returns: measure returns by their root mean square so far, and advantages by the root of their
        running mean square, so that the scale of the rewards changes nothing. The critic predicts returns divided by
        :attr:`return_scale`.
    :param average_policy_decay: α in [0, 1]. Higher makes the average policy slower.
    :param n_action_samples: actions over which the duelling critic averages (Box only)
    :param learn_std: learn the standard deviation of Box actions; False keeps exp(``log_std_init``), 0.3 unless
        ``policy_kwargs`` say otherwise
    :param stats_window_size: episodes over which the logged return is averaged
    :param tensorboard_log: folder for TensorBoard, None for no log
    :param policy_kwargs: passed to the policy
    :param verbose: 0 silent, 1 tables, 2 debug
    :param seed: of all random generators
    :param device: "auto", "cpu", "cuda", …
    :param num_threads: of torch; None for 1 with small networks, and the present setting with large
    :param distributed: train one policy in several processes (:mod:`sb3_trpo_ext.common.ranks`), which average their
        gradients and replay their own sequences: "auto" where torchrun has started them, or the script has called
        ``torch.distributed.init_process_group``; True to require it; False never to
    :param checkpoint_folder: write a checkpoint into it after each iteration, and begin ``learn`` with the newest that
        is there; None for none. It holds the stored sequences too.
    :param checkpoint_every: iterations between two checkpoints
    :param _init_setup_model: build networks and buffers now
    :raises ValueError: for a value out of range, naming argument, value and remedy
    """

    RULES = settings.RULES
    OWN_SETTING = "replay_ratio"
    KIND = "ACER"
    COUNTERS = (*Algorithm.COUNTERS, "_n_replays", "_return_squares", "_n_returns", "_advantage_square")
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: MlpPolicy
    average_policy: MlpPolicy
    rollout_buffer: SequenceRolloutBuffer | DictSequenceRolloutBuffer
    replay_buffer: SequenceReplayBuffer

    def __init__(
        self,
        policy: str | type[MlpPolicy],
        env: GymEnv | str,
        learning_rate: float | str | Schedule = 7e-4,
        n_steps: float = 20,
        replay_ratio: float = 4,
        replay_start: float = 1000,
        buffer_size: float = 50_000,
        gamma: float = 0.99,
        q_coef: float = 0.5,
        ent_coef: float | str | Schedule = 0.01,
        max_grad_norm: float = 10.0,
        use_rms_prop: bool = False,
        rms_prop_eps: float = 1e-5,
        importance_clip: float | None = None,
        bias_correction: bool = True,
        trust_region: bool = True,
        trust_region_delta: float = 0.1,
        trust_region_metric: Literal["fisher", "euclidean"] = "fisher",
        normalize_returns: bool = True,
        average_policy_decay: float = 0.99,
        n_action_samples: int = 5,
        learn_std: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        num_threads: int | None = None,
        distributed: Distributed = "auto",
        checkpoint_folder: str | None = None,
        checkpoint_every: int = 1,
        _init_setup_model: bool = True,
    ):
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,  # type: ignore[arg-type]  # a string is read in _setup_lr_schedule
            n_steps=n_steps,  # type: ignore[arg-type]  # made whole in _check, like the two below
            gamma=gamma,
            gae_lambda=1.0,  # not used: returns are Retrace's
            ent_coef=ent_coef,  # type: ignore[arg-type]  # a schedule is read in step_settings
            vf_coef=0.0,  # not used: see q_coef
            max_grad_norm=max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=own_device(device, distributed),
            _init_setup_model=False,
        )
        self.replay_ratio = replay_ratio
        self.replay_start: int = replay_start  # type: ignore[assignment]
        self.buffer_size: int = buffer_size  # type: ignore[assignment]
        self.q_coef = q_coef
        self.use_rms_prop = use_rms_prop
        self.rms_prop_eps = rms_prop_eps
        self.importance_clip = importance_clip
        self.bias_correction = bias_correction
        self.trust_region = trust_region
        self.trust_region_delta = trust_region_delta
        self.trust_region_metric = trust_region_metric
        self.normalize_returns = normalize_returns
        self.average_policy_decay = average_policy_decay
        self.n_action_samples = n_action_samples
        self.learn_std = learn_std
        self.num_threads = num_threads
        self.distributed = distributed
        self.checkpoint_folder = checkpoint_folder
        self.checkpoint_every = checkpoint_every
        self._n_replays = 0
        self._return_squares, self._n_returns, self._advantage_square = 0.0, 0, 1.0
        self._running_returns = np.zeros(0)
        self._parameters: list[torch.nn.Parameter] = []

        if _init_setup_model:
            self._set_up_new()

    def _check(self) -> None:
        settings.take_whole_numbers(self)
        settings.check_space_and_policy(self)
        settings.check_replay(self)

    def _build(self) -> None:
        self._vec_normalize = usable_normalizer(self.env)
        self.rollout_buffer = rollout_buffer_of(self)
        self.replay_buffer = SequenceReplayBuffer(
            self.buffer_size if self.replay_ratio > 0 else 0,
            self.n_steps,
            self.n_envs,
            self.observation_space,
            self.action_space,
            settings.n_statistics(self.action_space),
        )

    def _attach(self) -> None:
        parameters = list(self.policy.parameters())
        if not are_the_same(parameters, self._parameters) or self._averages_otherwise():
            self.policy.optimizer = optimizer_of(self)
            if isinstance(self.action_space, spaces.Box):
                self.policy.log_std.requires_grad_(self.learn_std)
            self.average_policy = frozen_copy(self.policy)
        self._parameters = parameters
        self._learner = Learner(self.policy, self.average_policy, lambda: self._ranks)
        self._network: PlainNetwork | None = actor_network(self.policy)

    def _averages_otherwise(self) -> bool:
        """Whether the average policy has statistics that the policy no longer has, or the other way round."""
        return len(list(self.average_policy.buffers())) != len(list(self.policy.buffers()))

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: torch.device | str = "auto"
    ) -> None:
        super().set_parameters(load_path_or_dict, exact_match, device)
        # Not all that is not averaged: the layers of a saved average keep the statistics they were saved with.
        if isinstance(self.action_space, spaces.Box) and not self.learn_std:
            self.average_policy.log_std.copy_(self.policy.log_std.detach())  # it would never follow

    def _usable(self, parameters: dict[str, Any]) -> dict[str, Any]:
        saved = parameters.get("policy.optimizer")
        if saved is None or "optimizer_class" in self.policy_kwargs:
            return parameters
        return parameters | {"policy.optimizer": usable_state(saved, self.policy.optimizer, self.use_rms_prop)}

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        Replace the environment, with the same spaces and number of environments.

        :param env: as in the constructor
        :param force_reset: start new episodes
        """
        super().set_env(env, force_reset)
        self._vec_normalize = usable_normalizer(self.env)

    def _excluded_save_params(self) -> list[str]:
        derived = ["average_policy", "replay_buffer", "_learner", "_network", "_vec_normalize", "_parameters"]
        derived += ["_running_returns"]
        return [*super()._excluded_save_params(), *derived]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer", "average_policy"], []

    def _collect(self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer) -> bool:
        self.policy.set_training_mode(False)
        behaviour = SequenceBehaviour(self, rollout_buffer, self._vec_normalize)
        if not step_through(self, behaviour, env, callback, rollout_buffer):
            return False
        self.rollout_buffer.collected = behaviour.collected(self._last_obs, self._last_episode_starts)
        callback.on_rollout_end()
        return True

    def _rollout(self) -> Collected:
        return self.rollout_buffer.collected

    def _improve(self, rollout: Collected) -> Iterable[Logged | Mapping[str, float]]:
        """One on-policy update on the sequences just collected, then Poisson(replay ratio) updates from replay."""
        self._learner.copy_what_is_not_averaged()
        if self.replay_ratio > 0:
            self.replay_buffer.add(rollout.original)
        self._measure_returns(rollout.seen)
        updates = [self._update(rollout.seen)]
        for _ in range(self._draw_number_of_replays()):
            updates.append(self._update(self.replay_buffer.sample(self._vec_normalize)))
            self._n_replays += 1
        units = {"train/return_scale": self.return_scale, "train/advantage_scale": self.advantage_scale}
        self._measure_advantages(updates)
        return Updates(updates, self._average_kl(rollout.seen)), {"train/ent_coef": settings.ent_coef(self), **units}

    @property
    def return_scale(self) -> float:
        """σ, the root mean square of the returns so far: the critic predicts returns divided by it."""
        return scale.root_mean_square(self._return_squares, self._n_returns) if self.normalize_returns else 1.0

    @property
    def advantage_scale(self) -> float:
        """Root of the running mean of the squared advantages, in units of :attr:`return_scale`."""
        return scale.root_mean_square(self._advantage_square, 1) if self.normalize_returns else 1.0

    def _measure_returns(self, sequences: Sequences) -> None:
        if len(self._running_returns) != sequences.rewards.shape[1]:
            self._running_returns = np.zeros(sequences.rewards.shape[1])
        returns, self._running_returns = scale.past_returns(
            sequences.rewards, sequences.dones, self._running_returns, self.gamma
        )
        own = float(np.square(returns).sum()), int(np.count_nonzero(returns))  # where no reward is, is no size
        for squares, n in self._ranks.gather(own):
            self._return_squares += squares
            self._n_returns += n

    def _measure_advantages(self, updates: list[Update]) -> None:
        squares = [update.advantage_square for update in updates if update.applied]
        if squares:
            latest = np.mean(self._ranks.gather(float(np.mean(squares))))
            old = scale.DECAY ** len(squares)
            self._advantage_square = float(old * self._advantage_square + (1 - old) * latest)

    def _start_anew(self) -> None:
        self._running_returns = np.zeros(0)

    def _kept_between_rollouts(self) -> dict[str, Any]:
        return {"running_returns": self._running_returns}

    def _take_back(self, kept: dict[str, Any]) -> None:
        self._running_returns = kept["running_returns"]

    @classmethod
    def _unsaid(cls, saved: dict[str, Any]) -> dict[str, Any]:
        # Files of versions that had no such scales: their critic and their δ are in units of the rewards and of φ.
        old = {"normalize_returns": False, "trust_region_metric": "euclidean"}
        return {name: value for name, value in old.items() if name not in saved}

    def _run_over(self, rollout: Collected) -> None:
        self.policy.evaluate(self._observations_of(rollout))

    def _observations_of(self, rollout: Collected) -> Observations:
        return obs_as_tensor(rollout.seen.states(), self.device)

    def _update(self, sequences: Sequences) -> Update:
        with torch_threads(self.num_threads, sequences.rewards.size, self._learner.n_parameters):
            update = acer_step(self._learner, as_sequence_batch(sequences, self.policy), settings.step_settings(self))
        if not update.applied:
            self._n_skipped_updates += 1
            warnings.warn(
                "Gradient skipped: it is not finite. The policy is unchanged. Rewards or observations may be too large "
                "for float32: scale them, or wrap the environment in VecNormalize. train/skipped_updates counts them.",
                stacklevel=4,
            )
        return update

    def _average_kl(self, sequences: Sequences) -> float | None:
        """How far from the average policy the policy is now, in the states just seen; None without a trust region."""
        if not self.trust_region:
            return None
        with torch_threads(self.num_threads, sequences.rewards.size, self._learner.n_parameters):
            return average_kl(self._learner, as_sequence_batch(sequences, self.policy))

    def _draw_number_of_replays(self) -> int:
        if self._ranks.count(len(self.replay_buffer)) < max(self.replay_start, 1):
            return 0
        return self._ranks.first(int(np.random.poisson(self.replay_ratio)))

    def _save_more(self, folder: Path) -> None:
        self.replay_buffer.save(folder / f"rank-{self._ranks.rank}-replay.npz")

    def _load_more(self, folder: Path) -> None:
        self.replay_buffer.load(folder / f"rank-{self._ranks.rank}-replay.npz")

    def _counts(self) -> dict[str, float]:
        replays = {"train/replay_size": len(self.replay_buffer), "train/n_replays": self._n_replays}
        return {**replays, **super()._counts()}

    def learn(
        self: SelfACER,
        total_timesteps: float,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str = "ACER",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfACER:
        """As :meth:`sb3_trpo_ext.common.algorithm.Algorithm.learn`."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def save_replay_buffer(self, path: PathOrFile) -> None:
        """
        Save the replay buffer as a NumPy archive. What a model's own file holds does not include it.

        :param path: of the file, whatever its ending (``.npz`` if it has none), or an open binary file. A file that was
            there before is replaced when the new one is whole.
        """
        self.replay_buffer.save(path)

    def load_replay_buffer(self, path: PathOrFile, truncate_last_traj: bool = True) -> None:
        """
        Replace the replay buffer's contents by saved ones. The file holds numbers only; nothing in it is executed.

        :param path: of the file, or an open binary file
        :param truncate_last_traj: not used, for the sake of RL Zoo: every stored sequence is whole
        :raises ValueError: when the file is damaged, or of other spaces or ``n_steps``. It may be of another number of
            environments: see :meth:`sb3_trpo_ext.acer.buffer.SequenceReplayBuffer.load`.
        """
        self.replay_buffer.load(path)
