"""What the algorithms of this package have in common: one iteration, from the environments to the log."""

import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_trpo_ext.common import checkpoint, data_parallel, training_state
from sb3_trpo_ext.common.bad_data import GoodStatistics, is_finite, warn_of_skipped_rollout
from sb3_trpo_ext.common.diagnostics import Logged, record
from sb3_trpo_ext.common.files import PathOrFile, atomic_file
from sb3_trpo_ext.common.in_process_vec_env import InProcessVecEnv
from sb3_trpo_ext.common.inputs import Observations
from sb3_trpo_ext.common.normalization import OPTION, NormalizingPolicy, normalizer_of
from sb3_trpo_ext.common.normalization_rules import (
    check_not_normalized_twice,
    check_option_of_another_policy,
    check_statistics_fit,
    default_of,
    goes_through_features,
    lacks_statistics,
    warn_of_own_ways,
    warn_of_weights_from_elsewhere,
    weights_differ,
)
from sb3_trpo_ext.common.ranks import ALONE, SEEDS_APART, Distributed, Ranks, join, number_of_this_rank
from sb3_trpo_ext.common.saving import saved_parameters, saved_settings
from sb3_trpo_ext.common.settings import Rule, check, check_names, check_policy_kwargs, schedule
from sb3_trpo_ext.common.watch import Structure, align_extractors

SelfAlgorithm = TypeVar("SelfAlgorithm", bound="Algorithm[Any]")


class Checkable(Protocol):
    """Data of a rollout."""

    def not_finite(self) -> list[str]:
        """The names of the parts that hold NaN or infinity; empty when all is well."""
        ...


RolloutT = TypeVar("RolloutT", bound=Checkable)


class Algorithm(OnPolicyAlgorithm, Generic[RolloutT]):
    """
    One iteration is ``collect_rollouts`` and ``train``, called in turns by SB3's ``learn``:

        environments → :meth:`_collect` → rollout buffer → :meth:`_rollout` → :meth:`_improve` → log

    An algorithm says what these three do, which values its settings may have (:attr:`RULES`), and of which parts it
    consists (:meth:`_build`, :meth:`_attach`). This class skips rollouts with bad data, evaluates schedules and
    measures times.
    """

    RULES: ClassVar[tuple[Rule, ...]]
    """Which values each argument of the constructor may have."""
    OWN_SETTING: ClassVar[str]
    """One that this algorithm and its variants alone have, by which their files are known."""
    KIND: ClassVar[str] = ""
    """Which of the variants, if there are several."""
    COUNTERS: ClassVar[tuple[str, ...]] = (
        *("num_timesteps", "_timesteps_before", "_calls"),
        *("_n_updates", "_n_skipped_updates"),
    )
    """What is the same on all ranks, besides networks and settings."""
    distributed: Distributed = "auto"
    checkpoint_folder: str | None = None
    checkpoint_every: int = 1
    _ranks: Ranks = ALONE
    _calls = 0
    """Of ``learn``."""
    _interrupted_call = 0
    """The one of this script in which the checkpoint was written that it began with."""
    _goes_on = False
    """Whether the next call is the one in which the checkpoint was written."""
    _to_restore: dict[str, Any] | None = None
    """Random states and pending log of a checkpoint, for when the next rollout begins."""
    _n_skipped_updates: int = 0
    _timesteps_before: int = 0
    """Environment steps before the present call of ``learn``."""
    _first_parameters: dict[str, torch.Tensor] | None = None
    """Of a new model until it learns."""
    _normalized_by_default: bool | list[str] = False
    """The policy's ``normalize_observations`` where ``policy_kwargs`` does not say."""

    @abstractmethod
    def _build(self) -> None:
        """Make what follows from the settings alone and is not saved; called once, after :meth:`_attach`."""

    @abstractmethod
    def _attach(self) -> None:
        """
        Make what follows from the policy and is not saved; the policy is in evaluation mode. Called first, and again
        whenever the policy is another or was changed: a module exchanged, a parameter frozen, a hook added.
        """

    @abstractmethod
    def _collect(self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer) -> bool:
        """Fill the buffer; False if the callback ended training."""

    @abstractmethod
    def _rollout(self) -> RolloutT:
        """What the buffer holds, for :meth:`_improve`."""

    @abstractmethod
    def _improve(self, rollout: RolloutT) -> Iterable[Logged | Mapping[str, float]]:
        """Learn from a rollout of finite numbers; what there is to log."""

    @abstractmethod
    def _run_over(self, rollout: RolloutT) -> None:
        """Run actor and critic once over a rollout's states, so that layers with a state can update it."""

    @abstractmethod
    def _observations_of(self, rollout: RolloutT) -> Observations:
        """Those of all its states, as they came from the environments."""

    # What else an algorithm may say.
    def _check_policy_class(self) -> None:
        """Look at the policy class alone."""

    def _check(self) -> None:
        """Look at settings, spaces and policy class together, before anything is built."""

    def _start_anew(self) -> None:
        """Forget what was kept of earlier rollouts: another training begins, or another environment."""

    def _kept_between_rollouts(self) -> dict[str, Any]:
        """What a checkpoint holds besides networks, counters and environments; it can be pickled."""
        return {}

    def _save_more(self, folder: Path) -> None:
        """What else it holds, in files of its own."""

    def _take_back(self, kept: dict[str, Any]) -> None:
        """
        :param kept: of :meth:`_kept_between_rollouts`
        """

    def _load_more(self, folder: Path) -> None:
        """The reverse of :meth:`_save_more`."""

    @classmethod
    def _unsaid(cls, saved: dict[str, Any]) -> dict[str, Any]:
        """Settings that a file leaves out, because whoever saved it had no such argument."""
        return {}

    def _usable(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Change saved state dictionaries, given by name, so that they fit this model."""
        return parameters

    def _set_up_new(self) -> None:
        """What a constructor ends with. A loaded model has the answer in its file, and normalises nothing if not."""
        self._timesteps_before = 0
        self._check_policy_class()
        if issubclass(self.policy_class, NormalizingPolicy) and self.policy_kwargs.get(OPTION) is None:
            if goes_through_features(self.policy_class, list(self.policy_aliases.values())):
                self._normalized_by_default = default_of(self.observation_space, self.env)
            else:
                warn_of_own_ways(self.policy_class)
        self._setup_model()
        self._first_parameters = {name: value.detach().clone() for name, value in self.policy.named_parameters()}

    def _setup_model(self) -> None:
        if isinstance(self.policy_class, str):  # as it stands in our files
            self.policy_class = self._get_policy_from_name(self.policy_class)
        self.saved_by = self.KIND
        check(self, self.RULES)
        self._check()
        given = self.policy_kwargs
        if self.policy_class in self.policy_aliases.values():  # whose arguments are all known
            check_policy_kwargs(type(self).__name__, self.policy_class, given)
        if not issubclass(self.policy_class, NormalizingPolicy):
            check_option_of_another_policy(self.policy_class, given.get(OPTION))
            self.policy_kwargs = {name: value for name, value in given.items() if name != OPTION}
        elif self._normalized_by_default and given.get(OPTION) is None:
            self.policy_kwargs = given | {OPTION: self._normalized_by_default}
        super()._setup_model()
        self.policy_kwargs = given
        self._good_statistics = GoodStatistics()
        self._structure: Structure | None = None
        self._follow_policy()
        self._build()

    def _follow_policy(self) -> None:
        """Rebuild what depends on the policy if it was changed since: users exchange it, freeze layers, add hooks."""
        align_extractors(self.policy)
        structure = Structure(self.policy)
        if structure == self._structure:
            return
        check_not_normalized_twice(self.policy, self.env)
        training = self.policy.training
        # Looking at the policy must not move batch statistics or draw random numbers.
        self.policy.set_training_mode(False)
        self._attach()
        self.policy.set_training_mode(training)
        self._structure = Structure(self.policy)  # again, as _attach may freeze parameters
        own = [] if (normalizer := normalizer_of(self.policy)) is None else list(normalizer.buffers())
        self._has_layers_with_a_state = len(list(self.policy.buffers())) > len(own)

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        if policy_name not in self.policy_aliases:
            names = ", ".join(f'"{name}"' for name in self.policy_aliases)
            raise ValueError(f"{type(self).__name__}(policy=...) must be {names} or a class, got {policy_name!r}.")
        return super()._get_policy_from_name(policy_name)

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """
        As SB3's, but that an environment by itself is stepped by :class:`InProcessVecEnv`, which is faster.

        :raises ValueError: for several environments that are no ``VecEnv``
        """
        if (
            isinstance(env, (VectorEnv, list, tuple))
            or isinstance(env, type)
            or (callable(env) and not hasattr(env, "step"))
        ):
            raise ValueError(
                f"env=... must be an id, an environment or a VecEnv, got {env!r}. sb3_trpo_ext.envs.as_vec_env makes a "
                "VecEnv of gymnasium's vector environments, of EnvPool's, and of functions that make one each."
            )
        wrapped = OnPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)
        if isinstance(env, VecEnv):
            return wrapped
        # Monitor and the order of an image's channels stay SB3's matter: it wraps ours again.
        (monitored,) = cast(DummyVecEnv, wrapped.unwrapped).envs
        return OnPolicyAlgorithm._wrap_env(InProcessVecEnv([lambda: monitored]))

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        :param seed: of all generators and of the environments of rank 0; each rank's are others
        """
        apart = SEEDS_APART * number_of_this_rank(self.distributed)
        super().set_random_seed(None if seed is None else (seed + apart) % 2**32)

    def _setup_lr_schedule(self) -> None:
        self.lr_schedule = schedule(self.learning_rate)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        # The last rollout may overshoot the total; a schedule must not be asked about a negative progress.
        super()._update_current_progress_remaining(min(num_timesteps, total_timesteps), total_timesteps)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if self.env is None:
            raise ValueError(
                f"{type(self).__name__}.learn() needs an environment, and this model has none. Give it one: "
                "load(path, env=env) or set_env(env)."
            )
        check(self, self.RULES)
        if self.n_steps != self.rollout_buffer.buffer_size:
            raise ValueError(
                f"n_steps was set to {self.n_steps}, but the rollout buffer is for {self.rollout_buffer.buffer_size}. "
                f"Save the model and load(path, env=env, n_steps={self.n_steps})."
            )
        check_not_normalized_twice(self.policy, self.env)
        self._ranks = join(self.distributed, self.device)
        data_parallel.check_same_settings(self)
        is_first = self._calls == 0
        left = self._left_of_this_call(total_timesteps, reset_num_timesteps)
        if left is not None:
            total_timesteps, reset_num_timesteps = left, False
        if is_first and left is None:
            data_parallel.draw_apart(self)
        if reset_num_timesteps or self._last_obs is None:
            self._start_anew()
        self._keep_what_was_learnt_elsewhere()
        self._first_parameters = None
        with data_parallel.silent_unless_first(self):
            begun = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        if left is None:
            self._timesteps_before = self.num_timesteps
        data_parallel.follow_first_rank(self)
        return begun

    def _left_of_this_call(self, total_timesteps: int, reset_num_timesteps: bool) -> int | None:
        """
        How many steps are left of a call of ``learn`` that an earlier process began; None of a new one.

        With ``checkpoint_folder`` the same script runs again: its calls are counted, and those before the one in which
        the checkpoint was written are over. After ``resume_from`` it is the next call, unless that goes on counting.
        """
        folder = self.checkpoint_folder
        if folder is not None and self._calls == 0 and self.resume_from(folder):
            self._calls, self._interrupted_call, self._goes_on = 0, self._calls, False
        self._calls += 1
        goes_on = self._calls == self._interrupted_call or (self._goes_on and reset_num_timesteps)
        self._goes_on = False
        if self._calls < self._interrupted_call:
            return 0
        return max(0, self._timesteps_before + total_timesteps - self.num_timesteps) if goes_on else None

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        if self._ranks.rank == 0:
            return super()._init_callback(callback, progress_bar)
        if isinstance(callback, list):
            callback = CallbackList(callback)
        if isinstance(callback, BaseCallback):
            callback = data_parallel.for_this_rank(callback)
        return super()._init_callback(callback, progress_bar=False)

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "_good_statistics",
            "_structure",
            "_has_layers_with_a_state",
            "_first_parameters",
            "_ranks",
            "checkpoint_folder",
            "_calls",
            "_interrupted_call",
            "_goes_on",
            "_to_restore",
            "_finished",
        ]

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        Replace the environment, with the same spaces and number of environments.

        :param env: as in the constructor
        :param force_reset: start new episodes
        :raises ValueError: when it normalises observations that the policy normalises too
        """
        check_not_normalized_twice(self.policy, env)
        super().set_env(env, force_reset)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """As SB3's, and robust against observations that are not finite. Arguments and result as there."""
        started = time.perf_counter()
        training_state.put_back_what_moved(self)
        self._follow_policy()
        self._good_statistics.remember(env)
        before = None
        if self._ranks is not ALONE:
            episodes, successes = list(self.ep_info_buffer or ()), list(self.ep_success_buffer or ())
            before = data_parallel.Before(self.num_timesteps, episodes, successes)
            self._finished: tuple[list[Any], list[Any]] = [], []
        complete = self._collect(env, callback, rollout_buffer)
        seconds = time.perf_counter() - started
        record(self.logger, {"time/rollout_seconds": seconds})
        if before is None:
            return complete
        told = data_parallel.Told(complete, n_rollout_steps * env.num_envs, seconds, *self._finished)
        return data_parallel.after_rollout(self, told, before)

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: Any = None) -> None:
        super()._update_info_buffer(infos, dones)
        if self._ranks is not ALONE:
            episodes, successes = self._finished
            episodes += [info["episode"] for info in infos if info.get("episode") is not None]
            ended = [info for info, done in zip(infos, dones, strict=True) if done]
            successes += [info["is_success"] for info in ended if info.get("is_success") is not None]

    def train(self) -> None:
        """Learn from the rollout just collected, or skip it if it holds bad data."""
        check(self, self.RULES)  # a callback may have written to a setting
        self._follow_policy()
        self._update_learning_rate(self.policy.optimizer)
        rollout = self._rollout()
        if self._ranks.any(bool(bad := rollout.not_finite())):
            self._skip(self._with_ranks(bad))
        else:
            self.policy.set_training_mode(False)
            results = self._improve(rollout)
            self._move_statistics(rollout)
            self._n_updates += 1
            record(self.logger, *results, self._counts())
        data_parallel.check_equal(self)
        done = self._n_updates + self._n_skipped_updates
        if self.checkpoint_folder is not None and done % self.checkpoint_every == 0:
            self.save_checkpoint(self.checkpoint_folder)

    def _with_ranks(self, bad: list[str]) -> list[str]:
        """The parts of all ranks' rollouts that are not finite."""
        if self._ranks is ALONE:
            return bad
        of_all = self._ranks.gather(bad)
        record(self.logger, {"ranks/first_rank_with_bad_data": next(k for k, names in enumerate(of_all) if names)})
        return [f"{name} of rank {rank}" for rank, names in enumerate(of_all) for name in names]

    def _normalize_nothing(self) -> None:
        """Leave observations as they come from now on."""
        self._normalized_by_default = False
        for name in self._get_torch_save_params()[0]:
            if isinstance(part := vars(self).get(name), NormalizingPolicy):
                part.normalizer = part.normalize_observations = None

    def _move_statistics(self, rollout: RolloutT) -> None:
        """
        Statistics of the observations, and layers with a state of their own, such as batch or spectral normalisation,
        take the rollout in. They do it here and nowhere else: between a rollout and the end of the update on it the
        policy is one and the same function.
        """
        if self._has_layers_with_a_state:
            self.policy.set_training_mode(True)
            with torch.no_grad():
                self._run_over(rollout)
                data_parallel.share_layers_with_a_state(self)
            self.policy.set_training_mode(False)
        normalizer = normalizer_of(self.policy)
        if normalizer is not None and normalizer.moves and self._actor_learns():
            normalizer.take_in(self._observations_of(rollout), self._ranks)
        self._good_statistics.share(self._ranks)

    def _actor_learns(self) -> bool:
        """Whether anything of the actor is trained; if not, what it does may not change."""
        return any(parameter.requires_grad for parameter in self.policy.parameters())

    def _keep_what_was_learnt_elsewhere(self) -> None:
        """
        Weights that were written before there are statistics, by behaviour cloning or from another model, belong to
        observations as they come. The first statistics would make another function of them.
        """
        first, normalizer = self._first_parameters, normalizer_of(self.policy)
        if normalizer is None or first is None or not self._normalized_by_default or normalizer.knows_anything():
            return
        if weights_differ(self.policy, first):
            warn_of_weights_from_elsewhere()
            self._normalize_nothing()

    def _skip(self, bad: list[str]) -> None:
        self._n_skipped_updates += 1
        self._last_obs = self._good_statistics.restore(self._last_obs)
        if self._ranks.rank == 0:
            warn_of_skipped_rollout(bad, is_finite(self.policy))
        record(self.logger, self._counts())

    def _counts(self) -> dict[str, float]:
        """What is counted from the beginning of training."""
        return {"train/skipped_updates": self._n_skipped_updates, "train/n_updates": self._n_updates}

    def learn(
        self: SelfAlgorithm,
        total_timesteps: float,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfAlgorithm:
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
        with join(self.distributed, self.device).watching():
            return super().learn(
                int(total_timesteps), callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
            )

    def save(
        self,
        path: PathOrFile,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        As SB3's, but that a file of this name is at every moment whole: as it was before, or as it is now. Of several
        ranks, only rank 0 writes it.

        :param path: of the zip file, or an open binary file
        :param exclude: names of attributes that are left out besides the usual ones
        :param include: names of attributes that are not left out
        """
        if self._ranks.rank > 0:
            return
        self._follow_policy()
        self._keep_what_was_learnt_elsewhere()
        policy_class = self.policy_class
        # By its name where it has one, so that the file holds no class of ours, which only a pickle could.
        names = (name for name, kind in self.policy_aliases.items() if kind is policy_class)
        self.policy_class = next(names, policy_class)  # type: ignore[assignment]
        try:
            with atomic_file(path, suffix="zip") as file:
                super().save(file, exclude, include)
        finally:
            self.policy_class = policy_class

    @classmethod
    def load(
        cls: type[SelfAlgorithm], path: PathOrFile, env: GymEnv | str | None = None, *args: Any, **kwargs: Any
    ) -> SelfAlgorithm:
        """
        Load a model. As with SB3's, only files that you trust: what is in them besides numbers is unpickled, which can
        run any code.

        :param path: of the zip file, or an open binary file
        :param env: to go on in, or the id of a registered one; None for none
        :param args: as in SB3's ``BaseAlgorithm.load``
        :param kwargs: as there; names of constructor arguments replace what was saved
        :raises ValueError: when the file is damaged or holds something else, or there is no such argument
        """
        saved = saved_settings(path, cls.__name__, own=cls.OWN_SETTING, kind=cls.KIND)
        check_names(cls, OnPolicyAlgorithm.load, kwargs)
        given = maybe_make_env(env, verbose=0) if isinstance(env, str) else env
        return super().load(path, given, *args, **{**cls._unsaid(saved), **kwargs})

    def set_parameters(
        self, load_path_or_dict: str | dict[str, Any], exact_match: bool = True, device: torch.device | str = "auto"
    ) -> None:
        """
        As SB3's. Of an optimizer's saved state is taken what fits. Where the parameters are those of a policy that did
        not normalise observations, this one no longer does either, unless ``policy_kwargs`` asks for it.

        :param load_path_or_dict: path of a zip file, or a dictionary as ``get_parameters`` returns it
        :param exact_match: require all parameters
        :param device: to load to
        """
        parameters = saved_parameters(load_path_or_dict, device)
        given = parameters.get("policy", {})
        if self._normalized_by_default and lacks_statistics(self.policy, given):
            self._normalize_nothing()
        check_statistics_fit(self.policy, given)
        super().set_parameters(self._usable(parameters), exact_match, device)

    def save_checkpoint(self, folder: str) -> None:
        """
        Write all that the rest of training depends on, after an update or between two calls of ``learn``. The newest
        three checkpoints are kept. Ranks do so together, into one folder that all of them see.

        :param folder: of checkpoints, made if it is missing
        """
        self._ranks = join(self.distributed, self.device)
        number = self._n_updates + self._n_skipped_updates
        checkpoint.write(folder, number, self.save, lambda path: training_state.save_part(self, path), self._ranks)

    def resume_from(self, folder: str) -> bool:
        """
        Go on from the newest checkpoint: the next call of ``learn``, with the arguments of the one that was
        interrupted, does the rest of it, and what that would have done, bit for bit.

        Environments go on in the midst of their episodes where their state could be saved: those in this process, in a
        ``DummyVecEnv`` or ours, that can be pickled, such as gymnasium's classic control and MuJoCo. Others begin new
        episodes.
        Callbacks begin anew.

        :param folder: of checkpoints, only your own: what is in them is unpickled, which can run any code
        :return: whether there was one
        :raises ValueError: when it is damaged, or of another number of environments
        """
        self._ranks = join(self.distributed, self.device)
        found = self._ranks.first(checkpoint.newest(folder))
        if found is None:
            return False
        if self.env is None:
            raise ValueError(
                "resume_from() needs an environment, and this model has none. Give it one by set_env(env)."
            )
        try:
            self.set_parameters(str(found / checkpoint.MODEL), device=self.device)
        except RuntimeError as error:
            raise ValueError(
                f"{found} is of another policy: {error}. Construct the model as it was, or delete it."
            ) from error
        training_state.take_up(self, found)
        self._first_parameters = None
        self._goes_on = True
        if self.verbose >= 1 and self._ranks.rank == 0:
            print(f"Going on from {found}.")
        return True
