"""MaskableTRPO: TRPO where some actions are forbidden in some states."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from sb3_trpo_ext.common.inputs import Inputs
from sb3_trpo_ext.common.network import Network
from sb3_trpo_ext.common.sampler import Sampler, sampler_of
from sb3_trpo_ext.kernels.families import Family
from sb3_trpo_ext.kernels.masking import masked
from sb3_trpo_ext.trpo.masked_policies import MaskableCnnPolicy, MaskableMlpPolicy, MaskableMultiInputPolicy
from sb3_trpo_ext.trpo.masks import MASKABLE, MaskSource, width
from sb3_trpo_ext.trpo.trpo import TRPO
from sb3_trpo_ext.trust_region.heads import Heads, Layout

SelfMaskableTRPO = TypeVar("SelfMaskableTRPO", bound="MaskableTRPO")
SelfMaskedInputs = TypeVar("SelfMaskedInputs", bound="MaskedInputs")


@dataclass(frozen=True)
class MaskedInputs(Inputs):
    """
    :param masks: what is allowed in each state, boolean, shape (n, k); k = 0 for actions that have no masks
    """

    masks: Tensor

    def rows(self: SelfMaskedInputs, rows: Tensor) -> SelfMaskedInputs:
        """As :meth:`sb3_trpo_ext.common.inputs.Inputs.rows`."""
        return replace(super().rows(rows), masks=self.masks.index_select(0, rows))

    def followed_by(self: SelfMaskedInputs, other: SelfMaskedInputs) -> SelfMaskedInputs:
        """As :meth:`sb3_trpo_ext.common.inputs.Inputs.followed_by`."""
        return replace(super().followed_by(other), masks=torch.cat([self.masks, other.masks]))


class MaskedHeads(Heads):
    """
    :param policy: that can be asked with masks
    :param source: of the masks
    """

    def __init__(self, policy: ActorCriticPolicy, source: MaskSource):
        super().__init__(policy)
        self._source = source

    def blank(self) -> MaskedInputs:
        """As :meth:`sb3_trpo_ext.trust_region.heads.Heads.blank`; everything is allowed."""
        observations = super().blank().observations
        return self._with(observations, np.ones((2, width(self.policy.action_space)), dtype=bool))

    def present(self, observations: Any) -> MaskedInputs:
        """As :meth:`sb3_trpo_ext.trust_region.heads.Heads.present`."""
        return self._with(super().present(observations).observations, self._source.peek(observations))

    def recorded(self, buffer: RolloutBuffer, layout: Layout) -> MaskedInputs:
        """As :meth:`sb3_trpo_ext.trust_region.heads.Heads.recorded`."""
        masks: NDArray[Any] = self._source.rollout
        # The layouts of a buffer that somebody has drawn samples from are those of flat arrays.
        masks = buffer.swap_and_flatten(masks) if buffer.generator_ready else masks
        return self._with(super().recorded(buffer, layout).observations, layout(masks))

    def family(self, inputs: Inputs) -> Family:
        """As :meth:`sb3_trpo_ext.trust_region.heads.Heads.family`."""
        assert isinstance(inputs, MaskedInputs)
        return self._masked(super().family(inputs), inputs)

    def family_of_output(self, output: Tensor, inputs: Inputs) -> Family:
        """As :meth:`sb3_trpo_ext.trust_region.heads.Heads.family_of_output`."""
        assert isinstance(inputs, MaskedInputs)
        return self._masked(super().family_of_output(output, inputs), inputs)

    def evaluate(self, inputs: Inputs, actions: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`sb3_trpo_ext.trust_region.heads.Heads.evaluate`."""
        return self.values(inputs), self.family(inputs).log_prob(actions)

    def sampler(self, network: Network | None, n_envs: int, num_threads: int | None, steps: int = 1) -> Sampler:
        """As :meth:`sb3_trpo_ext.trust_region.heads.Heads.sampler`."""
        return sampler_of(self.policy, network, n_envs, num_threads, self._source.now, steps)

    @staticmethod
    def _masked(family: Family, inputs: MaskedInputs) -> Family:
        return masked(family, inputs.masks) if inputs.masks.shape[1] else family

    def _with(self, observations: Any, masks: NDArray[Any]) -> MaskedInputs:
        return MaskedInputs(observations, torch.as_tensor(masks, device=self.policy.device))


class MaskableTRPO(TRPO):
    """
    TRPO for environments where not every action is allowed in every state (Huang and Ontañón 2022, "A Closer Look at
    Invalid Action Masking in Policy Gradient Algorithms", arXiv:2006.14171).

    The policy is a softmax over the allowed choices alone. A mask belongs to its state: it is applied when the action
    is chosen, in the gradient, in every product with the Fisher matrix and at every trial of the line search. A
    forbidden action has probability, gradient, KL and entropy 0.

    The environment offers masks by a method ``action_masks()`` (its own, that of sb3-contrib's ``ActionMasker``, or the
    VecEnv's), by a part ``"action_mask"`` of Dict observations, or by ``infos["action_mask"]``; the first that is there
    is used, in the order: observations, VecEnv, environment, infos.

    Differs from :class:`~sb3_trpo_ext.trpo.trpo.TRPO`:

    1. Actions are Discrete, MultiDiscrete or MultiBinary.
    2. Rollouts are always collected by our own loop: ``fast=False`` is about differentiation alone.

    Differs from sb3-contrib's ``MaskablePPO``, besides the update:

    1. ``predict`` without masks does not allow everything: it finds them in the observation, or in the environment of
       whoever is calling, and raises an error where it can not.
    2. A MultiBinary policy has one logit for each bit, as without masks.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy", or a subclass of
        :class:`~sb3_trpo_ext.trpo.masked_policies.MaskableMlpPolicy`
    :param env: as TRPO's
    :param kwargs: all other arguments are TRPO's
    """

    KIND = "MaskableTRPO"
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MaskableMlpPolicy,
        "CnnPolicy": MaskableCnnPolicy,
        "MultiInputPolicy": MaskableMultiInputPolicy,
    }
    POLICY: ClassVar[type[MaskableMlpPolicy]] = MaskableMlpPolicy
    """What the policy class has to be a subclass of."""
    NEEDS_MASKS: ClassVar[bool] = True
    """Whether an environment without masks is refused."""
    _use_masking = True
    _trained_with_masks: bool | None = None
    """None before the first training."""

    def _check_policy_class(self) -> None:
        kind = self.policy_class
        if not issubclass(kind, self.POLICY) or kind.has_memory != self.POLICY.has_memory:
            raise ValueError(
                f"{type(self).__name__}(policy=...) must be a subclass of sb3_trpo_ext.trpo.{self.POLICY.__name__}, "
                f"got {kind.__name__}. TRPO has policies without masks and memory, RecurrentTRPO those with memory."
            )

    def _check(self) -> None:
        name = type(self).__name__
        if self.NEEDS_MASKS and not isinstance(self.action_space, MASKABLE):
            names = ", ".join(kind.__name__ for kind in MASKABLE)
            raise ValueError(f"{name}(env=...) must have actions of type {names}, got {self.action_space}.")
        buffer = self.rollout_buffer_class
        if buffer is not None and buffer.add not in (RolloutBuffer.add, DictRolloutBuffer.add):
            raise ValueError(
                f"{name}(rollout_buffer_class=...) must leave SB3's add() as it is, got {buffer.__name__}: its arrays "
                "are written to directly. It may have its own compute_returns_and_advantage."
            )
        super()._check()

    def _setup_model(self) -> None:
        self._masks = MaskSource(self.action_space)
        super()._setup_model()

    def _heads(self) -> Heads:
        return MaskedHeads(self.policy, self._masks)

    def _start_anew(self) -> None:
        super()._start_anew()
        self._masks.forget()

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        begun = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        assert self.env is not None
        if self._use_masking and isinstance(self.action_space, MASKABLE):
            self._masks.look_at(self.env, self.NEEDS_MASKS)
        else:
            self._masks.ignore(self.env)
        self._trained_with_masks = self._masks.is_used
        self._tell_policy()
        return begun

    def _tell_policy(self) -> None:
        """Asked without masks, it looks for them if it was trained with them."""
        if self._trained_with_masks is not None:
            self.policy.needs_masks = self._trained_with_masks  # type: ignore[assignment]

    def _attach(self) -> None:
        super()._attach()
        self._tell_policy()

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: NDArray[Any] | None = None) -> None:
        super()._update_info_buffer(infos, dones)
        assert self.env is not None and dones is not None
        self._masks.note(infos, dones, self.env)

    def _collects_fast(self) -> bool:
        return True  # SB3's own loop can not ask with masks

    def _collect(self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer) -> bool:
        self._masks.begin()
        return super()._collect(env, callback, rollout_buffer)

    def _kept_between_rollouts(self) -> dict[str, Any]:
        return {**super()._kept_between_rollouts(), "masks_told": self._masks.told}

    def _take_back(self, kept: dict[str, Any]) -> None:
        super()._take_back(kept)
        self._masks.told = kept["masks_told"]

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_masks", "_use_masking"]

    def learn(
        self: SelfMaskableTRPO,
        total_timesteps: float,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "MaskableTRPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        use_masking: bool = True,
    ) -> SelfMaskableTRPO:
        """
        Train. Arguments as :meth:`sb3_trpo_ext.trpo.trpo.TRPO.learn`.

        :param use_masking: False to allow every action
        :raises ValueError: when the environment offers no masks, or one that allows nothing
        """
        self._use_masking = use_masking
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def predict(
        self,
        observation: np.ndarray[Any, Any] | dict[str, np.ndarray[Any, Any]],
        state: tuple[np.ndarray[Any, Any], ...] | None = None,
        episode_start: np.ndarray[Any, Any] | None = None,
        deterministic: bool = False,
        action_masks: Sequence[Any] | NDArray[Any] | None = None,
    ) -> tuple[np.ndarray[Any, Any], tuple[np.ndarray[Any, Any], ...] | None]:
        """As :meth:`sb3_trpo_ext.trpo.masked_policies.MaskableMlpPolicy.predict`."""
        policy: Any = self.policy
        return policy.predict(observation, state, episode_start, deterministic, action_masks)  # type: ignore[no-any-return]
