"""The algorithm that users construct: its settings, its data, and what is saved."""

import io
import math
import pathlib
import time
import warnings
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule, TensorDict
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_ext.acer.buffer import SequenceReplayBuffer, Sequences
from sb3_trpo_ext.acer.collection import Collected, collect, usable_normalizer
from sb3_trpo_ext.acer.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, frozen_copy
from sb3_trpo_ext.acer.step import Learner, Settings, Update, Updates, acer_step, as_batch, average_kl
from sb3_trpo_ext.common.acting import acting
from sb3_trpo_ext.common.diagnostics import record
from sb3_trpo_ext.common.network import PlainNetwork, actor_network
from sb3_trpo_ext.common.rollout import NormalizationKeeper, warn_of_skipped_rollout
from sb3_trpo_ext.common.saving import saved_parameters, saved_settings
from sb3_trpo_ext.common.settings import Rule, check, none_or, number, one_of, schedule, schedule_of, whole
from sb3_trpo_ext.common.threads import torch_threads

SelfACER = TypeVar("SelfACER", bound="ACER")


def _is_limit(value: Any) -> bool:
    return value is None or value == math.inf or number(0)(value)


RULES = (
    Rule(
        "learning_rate",
        schedule_of(number(0)),
        "a number >= 0 or a schedule",
        'It may be a number, a function of the remaining progress, or a string such as "lin_0.001".',
    ),
    Rule("n_steps", whole(1), "a whole number >= 1", "It counts steps per environment and update."),
    Rule("replay_ratio", number(0), "a number >= 0", "It is the mean number of replays per update; 0 for none."),
    Rule("replay_start", whole(0), "a whole number >= 0", "It counts steps of all environments; 1000 is usual."),
    Rule("buffer_size", whole(1), "a whole number >= 1", "It counts steps of all environments; 50000 is usual."),
    Rule("gamma", number(0, 1), "between 0 and 1", "0.99 is usual."),
    Rule("q_coef", number(0), "a number >= 0", "0.5 is usual."),
    Rule("ent_coef", number(0), "a number >= 0", "0 means no entropy bonus."),
    Rule("max_grad_norm", number(0, open_low=True), "a number > 0", "10 is usual; a large number clips nothing."),
    Rule("rms_prop_eps", number(0, open_low=True), "a number > 0", "1e-5 is usual."),
    Rule("use_rms_prop", one_of(True, False), "True or False", "False is Adam."),
    Rule("importance_clip", _is_limit, "None or a number >= 0 (math.inf for no limit)", "None chooses."),
    Rule("bias_correction", one_of(True, False), "True or False", "True is the paper's."),
    Rule("trust_region", one_of(True, False), "True or False", "True is the paper's."),
    Rule("trust_region_delta", number(0), "a number >= 0", "1 is usual."),
    Rule("average_policy_decay", number(0, 1), "between 0 and 1", "0.99 is usual."),
    Rule("n_action_samples", whole(1), "a whole number >= 1", "5 is usual."),
    Rule("learn_std", one_of(True, False), "True or False", "False keeps the standard deviation of Box actions fixed."),
    Rule("stats_window_size", whole(1), "a whole number >= 1", "It counts episodes; 100 is usual."),
    Rule("num_threads", none_or(whole(1)), "None or a whole number >= 1", "None chooses."),
)


class ACER(OnPolicyAlgorithm):
    """
    Actor-Critic with Experience Replay for Stable-Baselines3, for Discrete and Box actions.

    Paper: Wang et al. 2017, "Sample Efficient Actor-Critic with Experience Replay", arXiv:1611.01224; Retrace: Munos
    et al. 2016, arXiv:1606.02647. Written from the papers; the update is :func:`sb3_trpo_ext.acer.step.acer_step`.

    Each iteration takes ``n_steps`` steps in every environment, then one gradient step on them, then a
    Poisson-distributed number of gradient steps, each on one stored sequence of every environment.

    Differs from the paper:

    1. The statistics of a discrete policy, in which gradient and trust region are computed, are its logits, where the
       paper names the probabilities as an example: no step leaves the simplex, and k = π − π_avg is bounded.
    2. Box actions are trained on-policy as well as from replay.
    3. Environments are stepped together, and one gradient is the mean over their sequences (the paper's workers are
       asynchronous).
    4. A fixed standard deviation takes no part in the trust region.
    5. The policy is in evaluation mode (dropout off, batch statistics fixed) in the rollout and in its updates, so that
       the importance weights compare the same two functions.
    6. A rollout with NaN or infinity is skipped and not stored; a gradient that is not finite is not applied. Both are
       counted and logged.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy", or a subclass of :mod:`sb3_trpo_ext.acer.policies`'
    :param env: environment, vectorised environment, or the id of a registered one
    :param learning_rate: ≥ 0: a number, a schedule (function of the progress remaining, from 1 to 0), or RL Zoo's
        ``"lin_0.0007"``
    :param n_steps: T, steps per environment and sequence. Higher looks further ahead and updates less often.
    :param replay_ratio: mean of the Poisson-distributed number of replays per on-policy update. Higher learns more from
        each step, and takes more time; 0 is on-policy only, and stores nothing.
    :param replay_start: steps of all environments before the first replay
    :param buffer_size: steps kept for replay, of all environments
    :param gamma: discount, in [0, 1]
    :param q_coef: weight of the critic's loss, which matters where networks are shared or the gradient is clipped
    :param ent_coef: weight of the entropy, ≥ 0. Higher explores more.
    :param max_grad_norm: limit of the gradient's norm
    :param use_rms_prop: RMSProp (decay 0.99) as in the paper; False for Adam. ``policy_kwargs`` may name any other.
    :param rms_prop_eps: ε of RMSProp
    :param importance_clip: c ≥ 0, limit of the importance weights; None for 10 with Discrete and 5 with Box actions;
        ``math.inf`` for none. Higher relies more on the returns and less on the critic.
    :param bias_correction: make up for what the limit cuts off; False leaves plain truncation
    :param trust_region: around the average policy; False for none
    :param trust_region_delta: δ ≥ 0, the growth of the KL to the average policy that a gradient step may ask for. Lower
        is more cautious. What is right scales with the rewards, and has to be tried.
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
    :param _init_setup_model: build networks and buffers now
    :raises ValueError: for a value out of range, naming argument, value and remedy
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: MlpPolicy
    average_policy: MlpPolicy
    replay_buffer: SequenceReplayBuffer

    def __init__(
        self,
        policy: str | type[MlpPolicy],
        env: GymEnv | str,
        learning_rate: float | str | Schedule = 7e-4,
        n_steps: int = 20,
        replay_ratio: float = 4,
        replay_start: int = 1000,
        buffer_size: int = 50_000,
        gamma: float = 0.99,
        q_coef: float = 0.5,
        ent_coef: float = 0.01,
        max_grad_norm: float = 10.0,
        use_rms_prop: bool = True,
        rms_prop_eps: float = 1e-5,
        importance_clip: float | None = None,
        bias_correction: bool = True,
        trust_region: bool = True,
        trust_region_delta: float = 1.0,
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
        _init_setup_model: bool = True,
    ):
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,  # type: ignore[arg-type]  # a string is read in _setup_lr_schedule
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=1.0,  # not used: returns are Retrace's
            ent_coef=ent_coef,
            vf_coef=0.0,  # not used: see q_coef
            max_grad_norm=max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        self.replay_ratio = replay_ratio
        self.replay_start = replay_start
        self.buffer_size = buffer_size
        self.q_coef = q_coef
        self.use_rms_prop = use_rms_prop
        self.rms_prop_eps = rms_prop_eps
        self.importance_clip = importance_clip
        self.bias_correction = bias_correction
        self.trust_region = trust_region
        self.trust_region_delta = trust_region_delta
        self.average_policy_decay = average_policy_decay
        self.n_action_samples = n_action_samples
        self.learn_std = learn_std
        self.num_threads = num_threads
        self._n_replays = 0
        self._n_skipped_updates = 0

        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        check(self, RULES)
        self._check_spaces_and_policy()
        super()._setup_model()
        if "optimizer_class" not in self.policy_kwargs:
            self.policy.optimizer = self._optimizer()
        if isinstance(self.action_space, spaces.Box):
            self.policy.log_std.requires_grad_(self.learn_std)
        self.policy.set_training_mode(False)
        self.average_policy = frozen_copy(self.policy)
        self._learner = Learner(self.policy, self.average_policy)
        self._network: PlainNetwork | None = actor_network(self.policy)
        self._normalizer = usable_normalizer(self._vec_normalize_env, self.observation_space)
        self.replay_buffer = SequenceReplayBuffer(
            self.buffer_size if self.replay_ratio > 0 else 0,
            self.n_steps,
            self.n_envs,
            self.observation_space,
            self.action_space,
            self._n_statistics(),
        )

    def _optimizer(self) -> torch.optim.Optimizer:
        """The one that the constructor's arguments ask for, in its form for many small tensors."""
        parameters, learning_rate = self.policy.parameters(), self.lr_schedule(1)
        given = self.policy_kwargs.get("optimizer_kwargs") or {}
        if self.use_rms_prop:
            settings = {"alpha": 0.99, "eps": self.rms_prop_eps, "foreach": True} | given
            return torch.optim.RMSprop(parameters, learning_rate, **settings)
        return torch.optim.Adam(parameters, learning_rate, **({"eps": 1e-5, "fused": True} | given))

    def _check_spaces_and_policy(self) -> None:
        space = self.action_space
        if not isinstance(space, (spaces.Discrete, spaces.Box)):
            raise ValueError(
                f"ACER(env=...) must have a Discrete or Box action space, got {space}. Its critic rates every action "
                "of a Discrete space; use TRPO for others."
            )
        if not (isinstance(self.policy_class, type) and issubclass(self.policy_class, MlpPolicy)):
            raise ValueError(
                f"ACER(policy=...) must be one of {', '.join(self.policy_aliases)} or a subclass of ACER's policies, "
                f"got {self.policy_class}. Its critic must rate actions, which SB3's does not."
            )
        if self.policy_kwargs.get("use_sde"):
            raise ValueError("ACER has no state-dependent exploration. Leave use_sde out of policy_kwargs.")

        rollout = self.n_steps * self.n_envs
        kept = max(1, self.buffer_size // rollout) * rollout
        if self.replay_ratio > 0 and self.replay_start > kept:
            raise ValueError(
                f"ACER(replay_start=...) must be at most what the replay buffer holds, got {self.replay_start}: replay "
                f"would never start. With buffer_size={self.buffer_size} that is {kept} steps, in whole rollouts of "
                f"n_steps × n_envs = {rollout}. Lower it, raise buffer_size, or set replay_ratio=0 for no replay."
            )

    def _n_statistics(self) -> int:
        space = self.action_space
        return int(space.n) if isinstance(space, spaces.Discrete) else 2 * math.prod(space.shape)  # type: ignore[arg-type]

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: torch.device | str = "auto"
    ) -> None:
        """
        As SB3's, but the state of RMSProp is not put into Adam, nor the reverse: the optimizer then starts afresh, with
        a warning.

        :param load_path_or_dict: file, or state dictionaries by name
        :param exact_match: whether everything must be there
        :param device: for what a file holds
        """
        parameters = saved_parameters(load_path_or_dict, device)
        saved = parameters.get("policy.optimizer")
        if saved is not None and "optimizer_class" not in self.policy_kwargs:
            parameters = parameters | {"policy.optimizer": self._usable(saved)}
        super().set_parameters(parameters, exact_match, device)
        if isinstance(self.action_space, spaces.Box) and not self.learn_std:
            self.average_policy.log_std.copy_(self.policy.log_std.detach())  # it would never follow

    def _usable(self, saved: dict[str, Any]) -> dict[str, Any]:
        """The saved state of the optimizer, with the present ε; nothing of it if it is another optimizer's."""
        if ("alpha" in saved["param_groups"][0]) != self.use_rms_prop:  # of the two, only RMSProp has an alpha
            warnings.warn(
                "The saved state is of another optimizer than use_rms_prop asks for: the optimizer starts afresh.",
                stacklevel=4,
            )
            return self.policy.optimizer.state_dict()
        if not self.use_rms_prop:
            return saved
        # What was saved would replace ε too, and ACER.load(path, rms_prop_eps=…) would have no effect.
        eps = self.policy.optimizer.defaults["eps"]
        return saved | {"param_groups": [group | {"eps": eps} for group in saved["param_groups"]]}

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        Replace the environment, with the same spaces and number of environments.

        :param env: as in the constructor
        :param force_reset: start new episodes
        """
        super().set_env(env, force_reset)
        self._normalizer = usable_normalizer(self._vec_normalize_env, self.observation_space)

    def _setup_lr_schedule(self) -> None:
        self.lr_schedule = schedule(self.learning_rate)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        # The last rollout may overshoot the total; a schedule must not be asked about a negative progress.
        super()._update_current_progress_remaining(min(num_timesteps, total_timesteps), total_timesteps)

    def _excluded_save_params(self) -> list[str]:
        derived = ["_learner", "_network", "_normalizer", "_normalization", "_collected"]
        return [*super()._excluded_save_params(), "average_policy", "replay_buffer", *derived]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer", "average_policy"], []

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """
        As SB3's, without values and log-probabilities, and robust against observations that are not finite. Arguments
        and result as there.
        """
        started = time.perf_counter()
        self._normalization = NormalizationKeeper(env)
        act = acting(self.policy, self._network, env.num_envs, self.num_threads)
        collected = collect(self, self.policy, act, env, callback, rollout_buffer, self._normalizer)
        if collected is None:
            return False
        self._collected: Collected = collected
        callback.on_rollout_end()
        record(self.logger, {"time/rollout_seconds": time.perf_counter() - started})
        return True

    def train(self) -> None:
        """One on-policy update on the sequences just collected, then Poisson(replay ratio) updates from replay."""
        self._update_learning_rate(self.policy.optimizer)
        if bad := self._collected.seen.not_finite() or self._collected.original.not_finite():
            self._skip_rollout(bad)
            return
        settings = self._settings()
        if self.replay_ratio > 0:
            self.replay_buffer.add(self._collected.original)
        updates = [self._update(self._collected.seen, settings)]
        for _ in range(self._draw_number_of_replays()):
            updates.append(self._update(self.replay_buffer.sample(self._normalizer), settings))
            self._n_replays += 1

        self._n_updates += 1
        record(self.logger, Updates(updates, self._average_kl()), self._counts())

    def _update(self, sequences: Sequences, settings: Settings) -> Update:
        with torch_threads(self.num_threads, sequences.rewards.size, self._learner.n_parameters):
            update = acer_step(self._learner, as_batch(sequences, self.policy), settings)
        if not update.applied:
            self._n_skipped_updates += 1
            warnings.warn(
                "Gradient skipped: it is not finite. The policy is unchanged. Rewards may be too large for float32: "
                "scale them, or wrap the environment in VecNormalize. train/skipped_updates counts them.",
                stacklevel=3,
            )
        return update

    def _average_kl(self) -> float | None:
        """How far from the average policy the policy is now, where it has just been; None without a trust region."""
        if not self.trust_region:
            return None
        sequences = self._collected.seen
        with torch_threads(self.num_threads, sequences.rewards.size, self._learner.n_parameters):
            return average_kl(self._learner, as_batch(sequences, self.policy))

    def _draw_number_of_replays(self) -> int:
        if len(self.replay_buffer) < max(self.replay_start, 1):
            return 0
        return int(np.random.poisson(self.replay_ratio))

    def _settings(self) -> Settings:
        """The settings as they are now; they may have changed since the last update."""
        clip = self.importance_clip
        if clip is None:
            clip = 10.0 if isinstance(self.action_space, spaces.Discrete) else 5.0
        return Settings(
            gamma=self.gamma,
            clip=float(clip),
            correct_bias=self.bias_correction,
            delta=self.trust_region_delta if self.trust_region else None,
            decay=self.average_policy_decay,
            ent_coef=self.ent_coef,
            q_coef=self.q_coef,
            max_grad_norm=self.max_grad_norm,
            n_action_samples=self.n_action_samples,
            learn_std=self.learn_std,
        )

    def _skip_rollout(self, bad: list[str]) -> None:
        self._n_skipped_updates += 1
        self._last_obs = self._normalization.forget_rollout(self._last_obs)
        warn_of_skipped_rollout(bad)
        record(self.logger, self._counts())

    def _counts(self) -> dict[str, float]:
        return {
            "train/replay_size": len(self.replay_buffer),
            "train/n_replays": self._n_replays,
            "train/skipped_updates": self._n_skipped_updates,
            "train/n_updates": self._n_updates,
        }

    def learn(
        self: SelfACER,
        total_timesteps: float,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str = "ACER",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfACER:
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
        return super().learn(
            int(total_timesteps), callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
        )

    @classmethod
    def load(cls: type[SelfACER], path: str | pathlib.Path | io.BufferedIOBase, *args: Any, **kwargs: Any) -> SelfACER:
        """
        Load a model; its replay buffer is empty until :meth:`load_replay_buffer`.

        :param path: of the zip file, or an open binary file
        :param args: as in SB3's ``BaseAlgorithm.load``
        :param kwargs: as there; names of constructor arguments replace what was saved
        :raises ValueError: when the file is damaged or holds something else
        """
        saved_settings(path, "ACER", own="replay_ratio")
        return super().load(path, *args, **kwargs)

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Save the replay buffer as a NumPy archive. What a model's own file holds does not include it.

        :param path: of the file, whatever its ending (``.npz`` if it has none), or an open binary file
        """
        self.replay_buffer.save(path)

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """
        Replace the replay buffer's contents by saved ones. The file holds numbers only; nothing in it is executed.

        :param path: of the file, or an open binary file
        :param truncate_last_traj: not used, for the sake of RL Zoo: every stored sequence is whole
        :raises ValueError: when the file is damaged, or of other spaces, ``n_steps`` or number of environments
        """
        self.replay_buffer.load(path)
