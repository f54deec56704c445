"""What a policy with memory is asked with: sequences, and the states in which they begin."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor, nn

from sb3_trpo_ext.common.distributions import family_of, family_of_latent, plain_distribution
from sb3_trpo_ext.common.inputs import Inputs, one_in
from sb3_trpo_ext.common.network import Network, PlainNetwork, has_nothing_to_train, modules_of, trained_layers
from sb3_trpo_ext.common.normalization import features_of
from sb3_trpo_ext.kernels.chain import forward
from sb3_trpo_ext.kernels.families import Family
from sb3_trpo_ext.kernels.layers import Layer, does_only_its_kinds
from sb3_trpo_ext.kernels.linearize import Linearization
from sb3_trpo_ext.kernels.recurrent import CELLS, Packed, RecurrentLinearization, State, packed, run_layers
from sb3_trpo_ext.trpo.masked import MaskedHeads, MaskedInputs
from sb3_trpo_ext.trpo.masks import MaskSource
from sb3_trpo_ext.trpo.recurrent_policies import MODULES, MemoryStates, RecurrentMlpPolicy, pieces, weights_of
from sb3_trpo_ext.trust_region.heads import Layout


@dataclass(frozen=True)
class Sequences(MaskedInputs):
    """
    n states that make up S sequences, one after the other.

    :param lengths: of the sequences, ≥ 1, on the CPU, shape (S,)
    :param states: of the memories where each begins, held fixed
    """

    lengths: Tensor
    states: MemoryStates
    stands_alone: ClassVar[bool] = False

    @cached_property
    def layout(self) -> Packed:
        """How the sequences are packed."""
        return packed(self.lengths, self._first.device)

    def one_in(self, k: int) -> Tensor:
        """Of one sequence in k all rows: a sequence without its beginning would have other states."""
        rows = self._rows_of_each()
        return torch.cat([rows[i] for i in one_in(k, len(rows))]).to(self._first.device)

    def rows(self, rows: Tensor) -> "Sequences":
        """
        Some whole sequences.

        :param rows: as :meth:`one_in` and :meth:`minibatches` give them
        """
        ids = torch.repeat_interleave(torch.arange(len(self.lengths)), self.lengths)[rows.cpu()]
        chosen, lengths = torch.unique_consecutive(ids, return_counts=True)
        assert torch.equal(lengths, self.lengths[chosen]), "only whole sequences"
        index = chosen.to(self._first.device)
        states = MemoryStates(*(tuple(part[:, index] for part in side) for side in self.states))
        return replace(super().rows(rows), lengths=lengths, states=states)

    def followed_by(self, other: "Sequences") -> "Sequences":
        """As :meth:`sb3_trpo_ext.common.inputs.Inputs.followed_by`."""
        sides = zip(self.states, other.states, strict=True)
        states = MemoryStates(*(tuple(torch.cat(pair, dim=1) for pair in zip(*side, strict=True)) for side in sides))
        lengths = torch.cat([self.lengths, other.lengths])
        return replace(super().followed_by(other), lengths=lengths, states=states)

    def minibatches(self, batch_size: int) -> Iterator[Tensor]:
        """
        The rows of all sequences in a new order, drawn from numpy's global generator.

        :param batch_size: states in each minibatch, more or less: whole sequences, at least one, as many as bring it
            nearest
        """
        batch: list[Tensor] = []
        taken = 0
        each = self._rows_of_each()
        for i in np.random.permutation(len(each)):
            if batch and taken + len(each[i]) / 2 > batch_size:
                yield torch.cat(batch).to(self._first.device)
                batch, taken = [], 0
            batch.append(each[i])
            taken += len(each[i])
        yield torch.cat(batch).to(self._first.device)

    def _rows_of_each(self) -> tuple[Tensor, ...]:
        return torch.split(torch.arange(len(self)), self.lengths.tolist())


class Recollection:
    """The states of a policy's memories in all environments: as they are now, and as the rollout began."""

    now: MemoryStates | None = None
    first: MemoryStates

    @property
    def present(self) -> MemoryStates:
        """As they are now, in the midst of a rollout."""
        assert self.now is not None
        return self.now

    def forget(self) -> None:
        """Other episodes are going to begin."""
        self.now = None

    def begin(self, policy: RecurrentMlpPolicy, n_envs: int) -> None:
        """
        A rollout begins.

        :param policy: whose memories they are
        :param n_envs: number of environments
        """
        zeros = policy.first_states(n_envs)
        if self.now is None or self.now.pi[0].shape != zeros.pi[0].shape or len(self.now.pi) != len(zeros.pi):
            self.now = zeros
        self.first = self.now

    def of_pieces(self, starts: Tensor) -> tuple[Tensor, MemoryStates]:
        """
        How the rollout falls into pieces of episodes.

        :param starts: whether an episode began with a step, boolean, on the CPU, shape (E, T)
        :return: lengths of the pieces, one environment after the other, and the states in which they begin: zeros, or
            those in which the rollout began
        """
        lengths, pi = pieces(starts, self.first.pi)
        return lengths, MemoryStates(pi, pieces(starts, self.first.vf)[1])


class RecurrentHeads(MaskedHeads):
    """
    :param policy: with memory
    :param source: of masks
    :param memory: the states of its memories during rollouts
    """

    policy: RecurrentMlpPolicy

    def __init__(self, policy: RecurrentMlpPolicy, source: MaskSource, memory: Recollection):
        super().__init__(policy, source)
        self._memory = memory

    def blank(self) -> Sequences:
        """As :meth:`sb3_trpo_ext.trust_region.heads.Heads.blank`: one sequence."""
        return self._sequences(super().blank(), torch.tensor([2]), self.policy.first_states(1))

    def present(self, observations: Any) -> Sequences:
        """As :meth:`sb3_trpo_ext.trust_region.heads.Heads.present`: sequences of one step."""
        inputs = super().present(observations)
        states = self._memory.now or self.policy.first_states(len(inputs))
        return self._sequences(inputs, torch.ones(len(inputs), dtype=torch.int64), states)

    def recorded(self, buffer: RolloutBuffer, layout: Layout) -> Sequences:
        """As :meth:`sb3_trpo_ext.trust_region.heads.Heads.recorded`: all of the rollout."""
        lengths, states = self._memory.of_pieces(torch.as_tensor(buffer.episode_starts.T.astype(bool)))
        return self._sequences(super().recorded(buffer, layout), lengths, states)

    def family(self, inputs: Inputs) -> Family:
        """As :meth:`sb3_trpo_ext.trust_region.heads.Heads.family`."""
        assert isinstance(inputs, Sequences)
        policy = self.policy
        latent, _ = policy.actor_latent(inputs.observations, inputs.states.pi, inputs.layout)
        family = family_of_latent(policy, latent) or family_of(policy._get_action_dist_from_latent(latent))
        return self._masked(family, inputs)

    def values(self, inputs: Inputs) -> Tensor:
        """As :meth:`sb3_trpo_ext.trust_region.heads.Heads.values`."""
        assert isinstance(inputs, Sequences)
        latent, _ = self.policy.critic_latent(inputs.observations, inputs.states.vf, inputs.layout)
        values: Tensor = self.policy.value_net(latent)
        return values

    def actor_network(self) -> Network | None:
        """As :meth:`sb3_trpo_ext.trust_region.heads.Heads.actor_network`."""
        policy = self.policy
        hidden = modules_of(policy, "policy_net")
        if hidden is None or plain_distribution(policy) is None or not _has_own(policy, "actor_latent"):
            return None
        if not (_has_own(policy, "remember") and has_nothing_to_train(policy.pi_features_extractor)):
            return None
        return _network(policy, "pi", policy.actor_memory, [*hidden, policy.action_net])

    def critic_network(self, trains_extractor: bool) -> Network | None:
        """As :meth:`sb3_trpo_ext.trust_region.heads.Heads.critic_network`."""
        policy = self.policy
        hidden = modules_of(policy, "value_net")
        if hidden is None or policy.shared_lstm or not _has_own(policy, "critic_latent"):
            return None
        if not (_has_own(policy, "remember") and has_nothing_to_train(policy.vf_features_extractor)):
            return None
        if policy.critic_memory is None:
            assert policy.critic_layer is not None
            layers = trained_layers([policy.critic_layer, *hidden, policy.value_net])
            return None if layers is None else PlainNetwork(layers, policy, policy.vf_features_extractor, False)
        return _network(policy, "vf", policy.critic_memory, [*hidden, policy.value_net])

    @staticmethod
    def _sequences(inputs: MaskedInputs, lengths: Tensor, states: MemoryStates) -> Sequences:
        return Sequences(inputs.observations, inputs.masks, lengths, states)


@dataclass(frozen=True)
class RecurrentNetwork:
    """
    A memory and the chain behind it, differentiated by hand.

    :param layers: of the chain
    :param policy: whose memory it is
    :param memory: of the actor or of the critic
    :param side: "pi" or "vf"
    """

    layers: list[Layer]
    policy: RecurrentMlpPolicy
    memory: nn.LSTM | nn.GRU
    side: str

    @property
    def parameters(self) -> list[Tensor]:
        """As :attr:`sb3_trpo_ext.common.network.Network.parameters`."""
        return [*self.memory.parameters(), *(parameter for layer in self.layers for parameter in layer.parameters)]

    @torch.no_grad()
    def forward(self, inputs: Inputs) -> Tensor:
        """As :meth:`sb3_trpo_ext.common.network.Network.forward`."""
        assert isinstance(inputs, Sequences)
        x, states = self._packed(inputs)
        cell, layout = CELLS[self.policy.recurrent], inputs.layout
        outputs, _ = run_layers(cell, weights_of(self.memory), x, states, layout.sizes)
        return forward(self.layers, outputs)[layout.inverse]

    def linearize(self, inputs: Inputs) -> Linearization:
        """As :meth:`sb3_trpo_ext.common.network.Network.linearize`."""
        assert isinstance(inputs, Sequences)
        x, states = self._packed(inputs)
        cell = CELLS[self.policy.recurrent]
        return RecurrentLinearization(cell, weights_of(self.memory), self.layers, x, states, inputs.layout)

    @torch.no_grad()
    def _packed(self, inputs: Sequences) -> tuple[Tensor, list[State]]:
        policy, is_actor = self.policy, self.side == "pi"
        extractor = policy.pi_features_extractor if is_actor else policy.vf_features_extractor
        dtype = self.layers[0].weight.dtype
        features = features_of(policy, inputs.observations, extractor).to(dtype)
        side = inputs.states.pi if is_actor else inputs.states.vf
        places = inputs.layout.sequences
        states = [tuple(part[i][places].to(dtype) for part in side) for i in range(self.memory.num_layers)]
        return features[inputs.layout.rows], states


def _network(
    policy: RecurrentMlpPolicy, side: str, memory: nn.LSTM | nn.GRU, chain: Sequence[nn.Module]
) -> RecurrentNetwork | None:
    layers = trained_layers(chain)
    is_plain = type(memory) is MODULES[policy.recurrent] and does_only_its_kinds(memory)
    if layers is None or not is_plain or not all(parameter.requires_grad for parameter in memory.parameters()):
        return None
    return RecurrentNetwork(layers, policy, memory, side)


def _has_own(policy: RecurrentMlpPolicy, method: str) -> bool:
    """Whether a policy has left one of the methods here as it is."""
    return getattr(type(policy), method) is getattr(RecurrentMlpPolicy, method) and method not in vars(policy)
