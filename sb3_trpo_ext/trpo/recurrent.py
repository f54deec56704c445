"""RecurrentTRPO: TRPO whose policy remembers what it saw."""

from typing import Any, ClassVar, TypeVar

import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor

from sb3_trpo_ext.common.collection import Timeout
from sb3_trpo_ext.common.inputs import Inputs, finite
from sb3_trpo_ext.common.sampler import Sampler
from sb3_trpo_ext.trpo.masked import MaskableTRPO
from sb3_trpo_ext.trpo.recurrent_policies import RecurrentCnnPolicy, RecurrentMlpPolicy, RecurrentMultiInputPolicy
from sb3_trpo_ext.trpo.sequences import Recollection, RecurrentHeads
from sb3_trpo_ext.trust_region.collection import ValuingBehaviour
from sb3_trpo_ext.trust_region.heads import Heads

SelfRecurrentTRPO = TypeVar("SelfRecurrentTRPO", bound="RecurrentTRPO")


class RecurrentTRPO(MaskableTRPO):
    """
    TRPO with an LSTM or a GRU, for environments whose observations do not say all, with action masks where the
    environment offers them.

    A policy with memory is π(a_t | s_1 … s_t) through a state h_t = f(s_t, h_{t−1}), 0 where an episode begins. An
    update learns from the whole pieces of episodes that a rollout holds, each with the state in which the acting policy
    began it, held fixed: back-propagation ends at the rollout's borders. Gradients and Fisher products go through all
    of a piece (:mod:`sb3_trpo_ext.kernels.recurrent`).

    Differs from :class:`~sb3_trpo_ext.trpo.trpo.TRPO`:

    1. ``sub_sampling_factor`` and ``curvature_sampling_factor`` thin pieces of episodes, not states; minibatches of
       ``critic="adam"`` are of whole pieces, and ``batch_size`` counts their steps.
    2. ``rollouts_per_update`` is 1: the states of earlier rollouts are those of earlier policies.
    3. Rollouts are always collected by our own loop: ``fast=False`` is about differentiation alone.

    Differs from sb3-contrib's ``RecurrentPPO``, besides the update:

    1. Pieces of episodes are not cut into minibatches, and nothing is padded.
    2. The value of an episode's last state at a time limit is that with the memory of that moment.
    3. Where masks are offered, they are used.

    :param policy: "MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy", or a subclass of
        :class:`~sb3_trpo_ext.trpo.recurrent_policies.RecurrentMlpPolicy`; ``policy_kwargs=dict(recurrent="gru")`` makes
        each a GRU
    :param env: as TRPO's
    :param kwargs: all other arguments are TRPO's
    """

    KIND = "RecurrentTRPO"
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpLstmPolicy": RecurrentMlpPolicy,
        "CnnLstmPolicy": RecurrentCnnPolicy,
        "MultiInputLstmPolicy": RecurrentMultiInputPolicy,
    }
    POLICY = RecurrentMlpPolicy
    NEEDS_MASKS = False
    policy: RecurrentMlpPolicy

    def _check(self) -> None:
        super()._check()
        kind: Any = self.policy_class
        extractor = self.policy_kwargs.get("features_extractor_class", kind.EXTRACTOR)
        if isinstance(self.observation_space, spaces.Dict) and extractor in (FlattenExtractor, NatureCNN):
            raise ValueError(
                f'RecurrentTRPO(policy=...) must be "MultiInputLstmPolicy" for Dict observations, got '
                f"{self.policy_class.__name__}."
            )
        if self.rollouts_per_update != 1:
            raise ValueError(
                f"RecurrentTRPO(rollouts_per_update=...) must be 1, got {self.rollouts_per_update}: the states of "
                "earlier rollouts are those of earlier policies. Raise n_steps instead."
            )

    def _setup_model(self) -> None:
        self._memory = Recollection()
        super()._setup_model()

    def _heads(self) -> Heads:
        return RecurrentHeads(self.policy, self._masks, self._memory)

    def _start_anew(self) -> None:
        super()._start_anew()
        self._memory.forget()

    def _behaviour(self, rollout_buffer: RolloutBuffer) -> ValuingBehaviour:
        return RememberingBehaviour(self, rollout_buffer)

    def _kept_between_rollouts(self) -> dict[str, Any]:
        return {**super()._kept_between_rollouts(), "memory": self._memory.now}

    def _take_back(self, kept: dict[str, Any]) -> None:
        super()._take_back(kept)
        self._memory.now = kept["memory"]

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_memory"]

    def learn(
        self: SelfRecurrentTRPO,
        total_timesteps: float,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "RecurrentTRPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        use_masking: bool = True,
    ) -> SelfRecurrentTRPO:
        """
        Train. Arguments as :meth:`sb3_trpo_ext.trpo.trpo.TRPO.learn`.

        :param use_masking: False to allow every action; True for the masks that the environment offers, if it does
        :raises ValueError: when a mask allows nothing
        """
        return super().learn(
            total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar, use_masking
        )


class RememberingBehaviour:
    """
    Acts with a memory, and knows at each step what the state is worth, since the critic has to see each in its turn.

    :param model: whose policy acts
    :param buffer: to write values and log-probabilities into
    """

    def __init__(self, model: RecurrentTRPO, buffer: RolloutBuffer):
        self._model, self._buffer = model, buffer
        self._steps = 0
        self._values_at_timeouts: list[tuple[int, int, float]] = []

    def sampler(self, steps: int) -> Sampler:
        """As :meth:`sb3_trpo_ext.common.collection.Behaviour.sampler`."""
        if self._steps == 0:  # a callback may exchange the policy when the rollout starts
            self._model._memory.begin(self._model.policy, self._buffer.n_envs)
        return self._act

    @torch.no_grad()
    def _act(self, observations: Any) -> NDArray[Any]:
        model, memory = self._model, self._model._memory
        masks: Any = model._masks.now(observations)
        masks = masks if masks.size else None
        obs = finite(obs_as_tensor(observations, model.device))
        starts = torch.as_tensor(model._last_episode_starts)
        actions, values, log_probs, memory.now = model.policy(obs, memory.now, starts, action_masks=masks)
        self._buffer.values[self._steps] = values.flatten().cpu().numpy()
        self._buffer.log_probs[self._steps] = log_probs.cpu().numpy()
        self._steps += 1
        return actions.cpu().numpy()  # type: ignore[no-any-return]

    @torch.no_grad()
    def note_timeout(self, timeout: Timeout) -> None:
        """As :meth:`sb3_trpo_ext.common.collection.Behaviour.note_timeout`: with the memory of this moment."""
        policy = self._model.policy
        observation = policy.obs_to_tensor(timeout.observation)[0]
        state = tuple(part[:, timeout.env : timeout.env + 1] for part in self._model._memory.present.vf)
        is_bad = Inputs(observation).not_finite()
        value = float("nan") if is_bad else float(policy.predict_values(observation, state, torch.zeros(1)))
        self._values_at_timeouts.append((timeout.step, timeout.env, value))

    def evaluate(self, steps: slice) -> None:
        """As :meth:`sb3_trpo_ext.common.collection.Behaviour.evaluate`; what is left are the time limits."""
        for step, env, value in self._values_at_timeouts:
            self._buffer.rewards[step, env] += self._model.gamma * value
        self._values_at_timeouts.clear()

    @torch.no_grad()
    def last_values(self, observations: Any, episode_starts: NDArray[Any]) -> Tensor:
        """As :meth:`sb3_trpo_ext.trust_region.collection.ValuingBehaviour.last_values`."""
        model = self._model
        obs = obs_as_tensor(observations, model.device)
        return model.policy.predict_values(obs, model._memory.present.vf, torch.as_tensor(episode_starts))
