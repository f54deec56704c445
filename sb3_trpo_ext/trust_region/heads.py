"""The one place where a trust region calls SB3's policies."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium.vector.utils import create_empty_array
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor

from sb3_trpo_ext.common.distributions import family_actions, family_of, family_of_latent, plain_distribution
from sb3_trpo_ext.common.inputs import Inputs, each
from sb3_trpo_ext.common.network import Network, actor_network, critic_network, has_sb3s
from sb3_trpo_ext.common.normalization import features_of
from sb3_trpo_ext.common.sampler import Sampler, sampler_of
from sb3_trpo_ext.kernels.families import Family
from sb3_trpo_ext.kernels.layers import does_only_its_kinds

Layout = Callable[[NDArray[Any]], NDArray[Any]]
"""Any of a rollout buffer's arrays, shape (T, E, …) → the rows that are wanted, shape (n, …)."""


# SB3's methods that a policy acts and is evaluated by. Where one is overridden, only SB3's own loop is sure to call it.
ACTING = ("get_distribution", "_get_action_dist_from_latent", "extract_features")
EVALUATING = ("forward", "evaluate_actions", "predict_values")


class Heads:
    """
    The two heads of an SB3 actor-critic policy: distributions over actions, and values.

    A policy that is asked with more than observations (masks, memory) has a subclass of this and a kind of
    :class:`~sb3_trpo_ext.common.inputs.Inputs` of its own. Nothing else of a trust region looks at either.

    :param policy: an SB3 actor-critic policy without memory
    """

    def __init__(self, policy: ActorCriticPolicy):
        self.policy = policy

    def blank(self) -> Inputs:
        """Two states of nothing but zeros, to trace the graph with; two, as some layers refuse a batch of one."""
        blank: Any = create_empty_array(self.policy.observation_space, n=2, fn=np.zeros)
        return Inputs(self.policy.obs_to_tensor(blank)[0])

    def present(self, observations: Any) -> Inputs:
        """
        The states that the environments are in now.

        :param observations: as they come from the VecEnv
        """
        # A copy, as some environments write into their last observation.
        return Inputs(each(torch.clone, obs_as_tensor(observations, self.policy.device)))

    def single(self, observation: Any) -> Inputs:
        """
        One state that no action followed, as at a time limit.

        :param observation: of one environment, without a dimension for several
        """
        return Inputs(self.policy.obs_to_tensor(observation)[0])

    def recorded(self, buffer: RolloutBuffer, layout: Layout) -> Inputs:
        """
        The states of a rollout.

        :param buffer: that holds it
        :param layout: any of the buffer's arrays → the rows that are wanted, in their order
        """
        stored: Any = buffer.observations
        rows: Any = {key: layout(part) for key, part in stored.items()} if isinstance(stored, dict) else layout(stored)
        return Inputs(obs_as_tensor(rows, self.policy.device))

    def actions(self, actions: Tensor) -> Tensor:
        """
        Actions in the space in which :class:`~sb3_trpo_ext.kernels.families.Family` measures them.

        :param actions: as stored in the rollout buffer, shape (n, d)
        :return: shape (n,) for one discrete choice, else (n, d)
        """
        return family_actions(self.policy, actions)

    def family(self, inputs: Inputs) -> Family:
        """
        The distributions in n states, with their graph.

        :raises ValueError: where a policy of a kind of its own asks torch's distributions, and they find a parameter
            that is not finite
        """
        policy = self.policy
        if all(has_sb3s(policy, method) for method in ACTING):
            features = features_of(policy, inputs.observations, policy.pi_features_extractor)
            family = family_of_latent(policy, policy.mlp_extractor.forward_actor(features))
            if family is not None:
                return family
        return family_of(policy.get_distribution(inputs.observations))

    def values(self, inputs: Inputs) -> Tensor:
        """V of n states, with its graph, shape (n, 1)."""
        return self.policy.predict_values(inputs.observations)

    def evaluate(self, inputs: Inputs, actions: Tensor) -> tuple[Tensor, Tensor]:
        """
        What SB3's own loop stores besides the trajectory.

        :param inputs: of n states, finite
        :param actions: taken there, as SB3's ``evaluate_actions`` takes them
        :return: V and log π(a|s), each with n numbers
        """
        values, log_prob, _ = self.policy.evaluate_actions(inputs.observations, actions)
        return values, log_prob

    def actor_network(self) -> Network | None:
        """The network from inputs to distribution parameters, where it is differentiated by hand."""
        return actor_network(self.policy)

    def critic_network(self, trains_extractor: bool) -> Network | None:
        """
        The network from inputs to values, where it is differentiated by hand.

        :param trains_extractor: whether the features extractor is the critic's own
        """
        return critic_network(self.policy, trains_extractor)

    def family_of_output(self, output: Tensor, inputs: Inputs) -> Family:
        """
        The distributions, given the output of :meth:`actor_network`.

        :param output: of its last layer, shape (n, k)
        :param inputs: of the same n states
        """
        plain = plain_distribution(self.policy)
        assert plain is not None  # or there would be no plain network
        return plain.family(self.policy, output)

    def sampler(self, network: Network | None, n_envs: int, num_threads: int | None, steps: int = 1) -> Sampler:
        """
        Chooses actions during a rollout, exactly as the policy would. Valid until the parameters change.

        :param network: as :meth:`actor_network`
        :param n_envs: rows of observations
        :param num_threads: of torch; None chooses
        :param steps: for which it may draw random numbers at once
        """
        return sampler_of(self.policy, network, n_envs, num_threads, steps=steps)

    def can_collect_fast(self, buffer: RolloutBuffer) -> bool:
        """
        Whether :func:`~sb3_trpo_ext.trust_region.collection.collect_fast` may be used: it gives what SB3's own loop
        gives, or SB3's loop cannot ask this policy. With ``fast=False`` SB3's loop is used all the same; a variant that
        it does not serve has to refuse that in its ``_check``.

        :param buffer: False if it is not SB3's own
        """
        is_sb3s = all(has_sb3s(self.policy, method) for method in (*ACTING, *EVALUATING))
        return is_sb3s and does_only_its_kinds(self.policy) and type(buffer) in (RolloutBuffer, DictRolloutBuffer)
