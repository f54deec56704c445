"""
Two variants, each sketched in a few lines on the seams: a policy with action masks, and one with memory.

They show what the seams promise: nothing of a trust region has to know of either. Truth is dense algebra in float64.
"""

from dataclasses import dataclass, replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.common.inputs import Inputs, chosen
from sb3_trpo_ext.kernels.fisher import Fisher
from sb3_trpo_ext.trust_region.actor import Actor
from sb3_trpo_ext.trust_region.batch import Batch
from sb3_trpo_ext.trust_region.direction import Backtracking, NaturalGradient
from sb3_trpo_ext.trust_region.heads import Heads
from sb3_trpo_ext.trust_region.policy_step import StepStatus
from sb3_trpo_ext.trust_region.region import KLRegion, summed
from sb3_trpo_ext.trust_region.step import trust_region_step
from tests.cases import dense, flat, gradient, hessian, make_policy

CHOICES = 4


# ------------------------------------------------------------------------------------------------ masks
@dataclass(frozen=True)
class MaskedInputs(Inputs):
    """
    :param masks: which choices there are, boolean, shape (n, k)
    """

    masks: Tensor

    def rows(self, rows):
        return replace(super().rows(rows), masks=chosen(self.masks, rows))

    def followed_by(self, other):
        return replace(super().followed_by(other), masks=torch.cat([self.masks, other.masks]))


class MaskedHeads(Heads):
    """
    :param policy: with Discrete actions
    :param masks_now: the masks of the states that the environments are in, shape (n_envs, k)
    """

    def __init__(self, policy, masks_now=None):
        super().__init__(policy)
        self.masks_now = masks_now

    def blank(self):
        observations = super().blank().observations
        return MaskedInputs(observations, torch.ones(2, CHOICES, dtype=torch.bool))

    def present(self, observations):
        return MaskedInputs(super().present(observations).observations, torch.as_tensor(self.masks_now()))

    def recorded(self, buffer, layout):
        return MaskedInputs(super().recorded(buffer, layout).observations, torch.as_tensor(layout(buffer.masks)))

    def family(self, inputs):
        return self._masked(super().family(inputs), inputs)

    def family_of_output(self, output, inputs):
        return self._masked(super().family_of_output(output, inputs), inputs)

    def evaluate(self, inputs, actions):
        return self.values(inputs), self.family(inputs).log_prob(actions)

    def sampler(self, network, n_envs, num_threads):
        def sample(observations):
            return (
                torch.distributions.Categorical(logits=self.family(self.present(observations)).logits).sample().numpy()
            )

        return torch.no_grad()(sample)

    def can_collect_fast(self, buffer):
        return True

    def _masked(self, family, inputs):
        return family.with_statistics([family.logits.masked_fill(~inputs.masks, -1e8)])


class MaskedBuffer(RolloutBuffer):
    """SB3's, with the masks of all states."""

    def reset(self):
        super().reset()
        self.masks = np.ones((self.buffer_size, self.n_envs, CHOICES), bool)


class MaskedTRPO(TRPO):
    """TRPO for environments with a method ``action_masks``."""

    def _heads(self):
        return MaskedHeads(self.policy, self._masks_now)

    def _masks_now(self):
        masks = np.stack(self.env.env_method("action_masks"))
        if not self.rollout_buffer.full:
            self.rollout_buffer.masks[self.num_timesteps // self.n_envs % self.n_steps] = masks
        return masks


class Doors(gym.Env):
    """The door whose number is observed is open, and the one after it; the others are never to be tried."""

    observation_space, action_space = spaces.Discrete(CHOICES), spaces.Discrete(CHOICES)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.door = 8, int(self.np_random.integers(CHOICES))
        return self.door, {}

    def action_masks(self):
        return np.isin(np.arange(CHOICES), [self.door, (self.door + 1) % CHOICES])

    def step(self, action):
        assert self.action_masks()[action], "a closed door"
        reward = float(action == self.door)
        self.left, self.door = self.left - 1, int(self.np_random.integers(CHOICES))
        return self.door, reward, self.left == 0, False, {}


def masked_example(fast):
    policy = make_policy("discrete", precise=True)
    masks = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 1, 1]], dtype=torch.bool)
    actor = Actor(MaskedHeads(policy), fast)
    assert (actor.network is not None) == fast
    return policy, actor, MaskedInputs(torch.randn(5, 3), masks)


def masked_log_probs(policy, inputs):
    logits = policy.get_distribution(inputs.observations).distribution.logits
    return torch.where(inputs.masks, logits, -torch.inf).log_softmax(dim=1)


@pytest.mark.parametrize("fast", [True, False], ids=["by hand", "autograd"])
def test_fisher_matrix_with_masks_is_the_hessian_of_the_kl(fast):
    policy, actor, inputs = masked_example(fast)
    family, linearization = actor.linearize(inputs)
    size = sum(parameter.numel() for parameter in actor.parameters)
    found = dense(Fisher(linearization, family, 0.0, 1.0), size)
    old = masked_log_probs(policy, inputs).detach()
    new = masked_log_probs(policy, inputs)
    allowed = [(old[i][m].exp() * (old[i][m] - new[i][m])).sum() for i, m in enumerate(inputs.masks)]
    torch.testing.assert_close(found, hessian(torch.stack(allowed).mean(), actor.parameters), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("fast", [True, False], ids=["by hand", "autograd"])
def test_a_masked_step_rises_and_forbidden_choices_stay_without_a_say(fast):
    policy, actor, inputs = masked_example(fast)
    old = masked_log_probs(policy, inputs).detach()
    actions = torch.tensor([[3.0], [0.0], [2.0], [1.0], [2.0]], dtype=torch.float64)
    advantages = torch.tensor([1.0, 5.0, -1.0, 0.5, -0.5], dtype=torch.float64)
    batch = Batch(inputs, actions, advantages, torch.zeros(5), torch.zeros(5))
    step = trust_region_step(
        actor, batch, KLRegion(0.01, summed, 0.1), NaturalGradient(50, 1e-10), Backtracking(0.8, 10)
    )
    new = masked_log_probs(policy, inputs).detach()
    kl = torch.where(inputs.masks, old.exp() * (old - new), 0).sum(dim=1)
    assert step.status is StepStatus.ACCEPTED and kl[1] == 0  # one choice: nothing to learn, nothing to measure
    assert step.kl_mean == pytest.approx(float(kl.mean()), rel=1e-9) and step.kl_mean <= 0.01
    ratio = (new - old).gather(1, actions.long()).squeeze(1).exp()
    assert step.objective_after == pytest.approx(float((ratio * advantages).mean()), rel=1e-9)
    assert bool((actor.family(inputs).logits.softmax(dim=1)[~inputs.masks] == 0).all())


def test_masked_trpo_learns_which_open_door_pays():
    settings = {"n_steps": 128, "seed": 0, "device": "cpu", "rollout_buffer_class": MaskedBuffer}
    model = MaskedTRPO("MlpPolicy", DummyVecEnv([Doors] * 2), target_kl=0.1, **settings)
    model.learn(15 * 256)
    assert model.logger.name_to_value["train/update_status"] == StepStatus.ACCEPTED.code
    rewards = model.rollout_buffer.rewards
    assert rewards.mean() > 0.95  # 0.5 by chance


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

    with pytest.raises(ValueError, match=r"TRPO\(policy=...\) must be a policy without memory.*VecFrameStack"):
        TRPO(RecurrentActorCriticPolicy, "CartPole-v1", device="cpu")
    with pytest.raises(ValueError, match=r"TRPO\(policy=...\) must be a subclass .*action masks are not supported"):
        TRPO(MaskableActorCriticPolicy, "CartPole-v1", device="cpu")
    with pytest.raises(ValueError, match="must be a subclass"):
        TRPO(ActorCriticPolicy.__base__, "CartPole-v1", device="cpu")
