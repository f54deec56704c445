"""
A variant sketched in a few lines on the seams: a policy with memory.

It shows what the seams promise: nothing of a trust region has to know of it. Truth is dense algebra in float64.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.common.inputs import Inputs
from sb3_trpo_ext.kernels.fisher import Fisher
from sb3_trpo_ext.trust_region.actor import Actor
from sb3_trpo_ext.trust_region.batch import Batch
from sb3_trpo_ext.trust_region.direction import Backtracking, NaturalGradient
from sb3_trpo_ext.trust_region.heads import Heads
from sb3_trpo_ext.trust_region.policy_step import StepStatus
from sb3_trpo_ext.trust_region.region import KLRegion, summed
from sb3_trpo_ext.trust_region.step import trust_region_step
from tests.cases import dense, flat, gradient, hessian, make_policy


# ------------------------------------------------------------------------------------------------ memory
@dataclass(frozen=True)
class Sequences(Inputs):
    """
    :param lengths: of the sequences that the n states make up, one after the other
    :param states: of the memory where each begins, shape (sequences, h)
    """

    lengths: tuple[int, ...]
    states: Tensor

    def every(self, k):
        """Whole sequences are left."""
        steps = torch.split(torch.arange(len(self)), list(self.lengths))
        return torch.cat(steps[::k])

    def rows(self, rows):
        starts = (np.cumsum(self.lengths) - self.lengths).tolist()
        kept = [i for i, start in enumerate(starts) if start in rows.tolist()]
        lengths = tuple(self.lengths[i] for i in kept)
        return replace(super().rows(rows), lengths=lengths, states=self.states[kept])


class RecurrentHeads(Heads):
    """
    :param policy: that takes what the memory hands on for its observations
    :param memory: batch first
    """

    def __init__(self, policy, memory):
        super().__init__(policy)
        self.memory = policy.memory = memory

    def blank(self):
        return Sequences(torch.zeros(2, 5, dtype=torch.float64), (2,), torch.zeros(1, 3, dtype=torch.float64))

    def family(self, inputs):
        return super().family(self._remembered(inputs))

    def actor_network(self):
        return None

    def _remembered(self, inputs):
        """Padding is inside: only real steps go in and come out."""
        padded = nn.utils.rnn.pad_sequence(torch.split(inputs.observations, list(inputs.lengths)), batch_first=True)
        outputs, _ = self.memory(padded, inputs.states[None])
        return Inputs(torch.cat([row[:length] for row, length in zip(outputs, inputs.lengths, strict=True)]))


def recurrent_example():
    policy = make_policy("box", precise=True)
    torch.manual_seed(1)
    memory = nn.GRU(5, 3, batch_first=True).double()
    actor = Actor(RecurrentHeads(policy, memory))
    lengths = (4, 1, 3)
    inputs = Sequences(torch.randn(8, 5).double(), lengths, torch.randn(3, 3).double())
    return policy, memory, actor, inputs


def one_by_one(policy, memory, inputs):
    """Means step by step, from the cell's own equations."""
    W, U, b, c = memory.weight_ih_l0, memory.weight_hh_l0, memory.bias_ih_l0, memory.bias_hh_l0
    features = []
    for sequence, state in zip(torch.split(inputs.observations, list(inputs.lengths)), inputs.states, strict=True):
        for x in sequence:
            a, h = (W @ x + b).chunk(3), (U @ state + c).chunk(3)
            r, z = torch.sigmoid(a[0] + h[0]), torch.sigmoid(a[1] + h[1])
            state = (1 - z) * torch.tanh(a[2] + r * h[2]) + z * state
            features.append(state)
    return policy.get_distribution(torch.stack(features)).distribution.mean


def test_memory_is_part_of_the_actor_and_padding_is_not_seen():
    policy, memory, actor, inputs = recurrent_example()
    own = {id(parameter) for parameter in actor.parameters}
    assert own >= {id(parameter) for parameter in memory.parameters()}
    family, linearization = actor.linearize(inputs)
    reference = one_by_one(policy, memory, inputs)
    torch.testing.assert_close(family.mean, reference)
    cotangent = torch.randn_like(reference)
    found = linearization.vjp([cotangent, torch.zeros_like(family.std)])
    torch.testing.assert_close(found, gradient((reference * cotangent).sum(), actor.parameters))


def test_fisher_matrix_goes_through_whole_sequences_and_thinning_takes_whole_ones():
    policy, memory, actor, inputs = recurrent_example()
    batch = Batch(inputs, torch.randn(8, 3).double(), torch.randn(8).double(), torch.zeros(8), torch.zeros(8))
    thinned = batch.every(2)
    assert thinned.inputs.lengths == (4, 3) and thinned.size == 7
    assert torch.equal(thinned.actions, torch.cat([batch.actions[:4], batch.actions[5:]]))
    family, linearization = actor.linearize(thinned.inputs)
    size = sum(parameter.numel() for parameter in actor.parameters)
    found = dense(Fisher(linearization, family, 0.0, 1.0), size)
    means, std = one_by_one(policy, memory, thinned.inputs), policy.log_std.exp()
    kl = (std.detach() / std).square() + ((means.detach() - means) / std).square()
    kl = (0.5 * (kl - 1) + (std / std.detach()).log()).sum(dim=1).mean()
    # SB3 hands observations over as float32, here those that come out of the memory.
    torch.testing.assert_close(found, hessian(kl, actor.parameters), rtol=1e-4, atol=1e-7)


def test_a_recurrent_step_stays_within_the_region():
    policy, memory, actor, inputs = recurrent_example()
    with torch.no_grad():
        old = one_by_one(policy, memory, inputs)
        theta, std = flat(actor.parameters).clone(), policy.log_std.exp().clone()
        actions = old + std * torch.randn_like(old)
    batch = Batch(inputs, actions, torch.randn(8).double(), torch.zeros(8), torch.zeros(8))
    step = trust_region_step(
        actor, batch, KLRegion(0.01, summed, 0.1), NaturalGradient(50, 1e-10), Backtracking(0.8, 10)
    )
    with torch.no_grad():
        new, new_std = one_by_one(policy, memory, inputs), policy.log_std.exp()
        kl = 0.5 * ((std / new_std).square() + ((old - new) / new_std).square() - 1) + (new_std / std).log()
    assert step.status is StepStatus.ACCEPTED and not torch.equal(flat(actor.parameters), theta)
    assert step.kl_mean == pytest.approx(float(kl.sum(dim=1).mean()), rel=1e-8) and step.kl_mean <= 0.01


# ------------------------------------------------------------------------------- until they ship
def test_policies_with_memory_or_masks_are_refused_with_a_remedy():
    from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
    from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy

    with pytest.raises(ValueError, match=r"TRPO\(policy=...\) must be a policy without memory.*RecurrentTRPO"):
        TRPO(RecurrentActorCriticPolicy, "CartPole-v1", device="cpu")
    with pytest.raises(ValueError, match=r"TRPO\(policy=...\) must be a subclass .*action masks use MaskableTRPO"):
        TRPO(MaskableActorCriticPolicy, "CartPole-v1", device="cpu")
    with pytest.raises(ValueError, match="must be a subclass"):
        TRPO(ActorCriticPolicy.__base__, "CartPole-v1", device="cpu")
