"""
The policies that ``MaskableTRPO("MlpPolicy", …)``, ``"CnnPolicy"`` and ``"MultiInputPolicy"`` stand for.

They are TRPO's, and can be asked with masks. Asked without, by code that knows of none, they find them themselves
(:func:`sb3_trpo_ext.trpo.masks.of_question`).
"""

from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from sb3_trpo_ext.common.distributions import family_of
from sb3_trpo_ext.common.network import stands_for
from sb3_trpo_ext.kernels.masking import masked
from sb3_trpo_ext.trpo import masks
from sb3_trpo_ext.trpo.policies import MlpPolicy


class MaskableMlpPolicy(MlpPolicy):
    """
    :class:`~sb3_trpo_ext.trpo.policies.MlpPolicy` with action masks, for Discrete, MultiDiscrete and MultiBinary
    actions. Arguments as there.

    A mask has a number for each choice, 1 or True where it is allowed: n for Discrete(n), those of all choices one
    after the other for MultiDiscrete, two for each bit of MultiBinary, first for 0, then for 1.
    """

    has_memory: ClassVar[bool] = False
    needs_masks = True
    """Whether :meth:`predict` looks for masks when it is given none. An algorithm sets it to what it trained with."""

    @stands_for(ActorCriticPolicy.get_distribution)
    def get_distribution(self, obs: PyTorchObs, action_masks: Any = None) -> Distribution:
        """
        :param obs: n observations
        :param action_masks: of the n states; None allows everything
        """
        distribution = super().get_distribution(obs)
        return distribution if action_masks is None else self._masked(distribution, action_masks)

    @stands_for(ActorCriticPolicy.forward)
    def forward(
        self, obs: PyTorchObs, deterministic: bool = False, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        :param obs: n observations
        :param deterministic: the most probable actions instead of random ones
        :param action_masks: of the n states; None allows everything
        :return: actions, values and log-probabilities
        """
        distribution = self.get_distribution(obs, action_masks)
        actions = distribution.get_actions(deterministic=deterministic)
        log_prob = distribution.log_prob(actions)
        shape: Any = self.action_space.shape
        return actions.reshape((-1, *shape)), self.predict_values(obs), log_prob

    @stands_for(ActorCriticPolicy.evaluate_actions)
    def evaluate_actions(
        self, obs: PyTorchObs, actions: Tensor, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """
        :param obs: n observations
        :param actions: taken there
        :param action_masks: of the n states; None allows everything
        :return: values, log-probabilities and entropies
        """
        distribution = self.get_distribution(obs, action_masks)
        return self.predict_values(obs), distribution.log_prob(actions), distribution.entropy()

    def predict(
        self,
        observation: np.ndarray[Any, Any] | dict[str, np.ndarray[Any, Any]],
        state: tuple[np.ndarray[Any, Any], ...] | None = None,
        episode_start: np.ndarray[Any, Any] | None = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[np.ndarray[Any, Any], tuple[np.ndarray[Any, Any], ...] | None]:
        """
        As SB3's, with masks.

        :param observation: one, or n of them
        :param state: handed back
        :param episode_start: of no meaning here
        :param deterministic: the most probable actions instead of random ones
        :param action_masks: which actions are allowed; None looks for them in the observation, and in the environment
            of whoever is calling (:func:`sb3_trpo_ext.trpo.masks.of_question`)
        :return: actions, and the state
        :raises ValueError: when no masks are found, or one allows nothing
        """
        self.set_training_mode(False)
        obs, is_vectorized = self.obs_to_tensor(observation)
        rows = masks.of_question(self, observation, count_of(obs), action_masks, self.needs_masks)
        with torch.no_grad():
            chosen = self.get_distribution(obs, rows).get_actions(deterministic=deterministic)
        shape: Any = self.action_space.shape
        actions = chosen.cpu().numpy().reshape((-1, *shape))
        return actions if is_vectorized else actions.squeeze(axis=0), state

    def _masked(self, distribution: Distribution, action_masks: Any) -> Distribution:
        family: Any = family_of(distribution)
        given = action_masks.cpu().numpy() if isinstance(action_masks, Tensor) else action_masks
        rows = masks.as_rows(given, self.action_space, len(family.logits))
        allowed = torch.as_tensor(rows, device=family.logits.device)
        return distribution.proba_distribution(action_logits=masked(family, allowed).logits)


class MaskableCnnPolicy(MaskableMlpPolicy):
    """As :class:`~sb3_trpo_ext.trpo.policies.CnnPolicy`, with action masks."""

    EXTRACTOR = NatureCNN
    SHARES_IT = False


class MaskableMultiInputPolicy(MaskableMlpPolicy):
    """As :class:`~sb3_trpo_ext.trpo.policies.MultiInputPolicy`, with action masks."""

    EXTRACTOR = CombinedExtractor
    SHARES_IT = False


def count_of(obs: PyTorchObs) -> int:
    """How many observations these are."""
    return len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
