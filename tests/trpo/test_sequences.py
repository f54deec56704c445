"""What a policy with memory is asked with, and its networks by hand beside autograd, in float64."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_trpo_ext.common.network import PlainNetwork
from sb3_trpo_ext.kernels.fisher import Fisher
from sb3_trpo_ext.trpo.masks import MaskSource
from sb3_trpo_ext.trpo.recurrent_policies import MemoryStates, RecurrentMlpPolicy
from sb3_trpo_ext.trpo.sequences import Recollection, RecurrentHeads, RecurrentNetwork, Sequences
from sb3_trpo_ext.trust_region.actor import Actor
from sb3_trpo_ext.trust_region.batch import Batch
from sb3_trpo_ext.trust_region.direction import Backtracking, NaturalGradient
from sb3_trpo_ext.trust_region.policy_step import StepStatus
from sb3_trpo_ext.trust_region.region import KLRegion, summed
from sb3_trpo_ext.trust_region.step import trust_region_step
from sb3_trpo_ext.trust_region.value_function import ValueFunction
from tests.cases import ACTIONS, dense, gradient, hessian

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float64)
LENGTHS = (4, 1, 3, 4)
N = sum(LENGTHS)
KINDS = {
    "lstm": {"recurrent": "lstm"},
    "gru": {"recurrent": "gru"},
    "two layers": {"recurrent": "lstm", "n_lstm_layers": 2},
    "shared": {"recurrent": "lstm", "shared_lstm": True},
    "no memory of the critic": {"recurrent": "gru", "enable_critic_lstm": False},
}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_way = pytest.mark.parametrize("fast", [True, False], ids=["by hand", "autograd"])


def make(kind, action="box", **settings):
    """A policy in float64 and sequences that begin in states of their own."""
    torch.manual_seed(0)
    settings = {"net_arch": [5], "lstm_hidden_size": 4, "last_layer_gain": 1.0, **KINDS[kind], **settings}
    policy = RecurrentMlpPolicy(VECTOR, ACTIONS[action], lambda _: 1e-3, **settings).double()
    policy.set_training_mode(False)
    heads = RecurrentHeads(policy, MaskSource(policy.action_space), Recollection())
    zeros = policy.first_states(len(LENGTHS))
    states = MemoryStates(*(tuple(torch.randn_like(part) for part in side) for side in zeros))
    masks = torch.ones(N, 0, dtype=torch.bool)
    # SB3 hands observations over as float32, whatever they were.
    observations = torch.randn(N, 3).float().double()
    return policy, heads, Sequences(observations, masks, torch.tensor(LENGTHS), states)


def by_cells(policy, memory, inputs, side):
    """Outputs of the memory, one step at a time, by torch's cells."""
    outputs, start = [], 0
    for i, length in enumerate(LENGTHS):
        states = [tuple(part[layer, i] for part in side) for layer in range(memory.num_layers)]
        for t in range(start, start + length):
            x = inputs.observations[t]
            for layer, state in enumerate(states):
                states[layer] = cell(policy.recurrent, memory, layer, x, state)
                x = states[layer][0]
            outputs.append(x)
        start += length
    return torch.stack(outputs)


def cell(kind, memory, layer, x, state):
    """From the equations of torch's documentation."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    W, U, b, c = (getattr(memory, f"{name}_l{layer}") for name in names)
    h = state[0]
    if kind == "gru":
        a, u = (W @ x + b).chunk(3), (U @ h + c).chunk(3)
        r, z = torch.sigmoid(a[0] + u[0]), torch.sigmoid(a[1] + u[1])
        return ((1 - z) * torch.tanh(a[2] + r * u[2]) + z * h,)
    i, f, g, o = (W @ x + b + U @ h + c).chunk(4)
    new = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(new), new


def means(policy, inputs):
    outputs = by_cells(policy, policy.actor_memory, inputs, inputs.states.pi)
    return policy.action_net(policy.mlp_extractor.policy_net(outputs))


def values(policy, inputs):
    if policy.critic_layer is not None:
        outputs = policy.critic_layer(inputs.observations)
    elif policy.shared_lstm:
        outputs = by_cells(policy, policy.actor_memory, inputs, inputs.states.vf).detach()
    else:
        outputs = by_cells(policy, policy.critic_memory, inputs, inputs.states.vf)
    return policy.value_net(policy.mlp_extractor.value_net(outputs))


@each_kind
@each_way
def test_actor_and_critic_are_a_loop_of_cells_with_the_same_gradients(kind, fast):
    policy, heads, inputs = make(kind)
    actor = Actor(heads, fast)
    critic = ValueFunction(actor, 1e-3, fast)
    assert (actor.network is not None) == fast
    expected_critic = type(None) if not fast or policy.shared_lstm else RecurrentNetwork
    assert type(critic.network) is (PlainNetwork if fast and policy.critic_layer is not None else expected_critic)
    expected, expected_values = means(policy, inputs), values(policy, inputs)
    family, linearization = actor.linearize(inputs)
    torch.testing.assert_close(family.mean, expected.detach())
    torch.testing.assert_close(actor.family(inputs).mean, expected.detach())
    torch.testing.assert_close(critic.values(inputs), expected_values.detach())
    cotangent = torch.randn_like(expected)
    found = linearization.vjp([cotangent, torch.zeros_like(expected)])
    torch.testing.assert_close(found, gradient((expected * cotangent).sum(), actor.parameters))
    cotangent = torch.randn_like(expected_values)
    found = critic.linearize(inputs).vjp([cotangent])
    torch.testing.assert_close(found, gradient((expected_values * cotangent).sum(), critic.parameters))


@each_kind
@each_way
def test_the_memory_is_the_actors_and_a_shared_one_not_the_critics(kind, fast):
    policy, heads, _ = make(kind)
    actor = Actor(heads, fast)
    own, critics = ({id(p) for p in part} for part in (actor.parameters, ValueFunction(actor, 1e-3, fast).parameters))
    assert own >= {id(parameter) for parameter in policy.actor_memory.parameters()}
    assert not own & critics and len(own) + len(critics) == len(list(policy.parameters()))


@pytest.mark.parametrize("kind", ["lstm", "gru", "two layers"])
@each_way
def test_fisher_matrix_is_the_hessian_of_the_kl_through_whole_sequences(kind, fast):
    policy, heads, inputs = make(kind)
    actor = Actor(heads, fast)
    thinned = inputs.rows(inputs.one_in(2))
    assert thinned.lengths.tolist() == [4, 4]
    for some, steps in ((inputs, slice(None)), (thinned, thinned_steps())):
        family, linearization = actor.linearize(some)
        size = sum(parameter.numel() for parameter in actor.parameters)
        found = dense(Fisher(linearization, family, 0.0), size)
        mean, std = means(policy, inputs)[steps], policy.log_std.exp()
        kl = (std.detach() / std).square() + ((mean.detach() - mean) / std).square()
        kl = (0.5 * (kl - 1) + (std / std.detach()).log()).sum(dim=1).mean()
        torch.testing.assert_close(found, hessian(kl, actor.parameters), rtol=1e-8, atol=1e-10)


def thinned_steps():
    return torch.tensor([0, 1, 2, 3, 8, 9, 10, 11])


@pytest.mark.parametrize("action", ["discrete", "multi_discrete", "multi_binary"])
def test_discrete_actions_by_hand_and_by_autograd_agree(action):
    _, heads, inputs = make("gru", action)
    hand, auto = Actor(heads, True), Actor(heads, False)
    (one, by_hand), (other, by_autograd) = hand.linearize(inputs), auto.linearize(inputs)
    torch.testing.assert_close(one.statistics, other.statistics)
    tangent = torch.randn(sum(p.numel() for p in hand.parameters)).double()
    torch.testing.assert_close(by_hand.jvp(tangent), by_autograd.jvp(tangent))
    torch.testing.assert_close(by_hand.vjp(by_hand.jvp(tangent)), by_autograd.vjp(by_autograd.jvp(tangent)))


@each_kind
@each_way
def test_a_step_rises_within_the_region(kind, fast):
    policy, heads, inputs = make(kind)
    actor = Actor(heads, fast)
    old, std = means(policy, inputs).detach(), policy.log_std.exp().detach()
    actions = old + std * torch.randn_like(old)
    batch = Batch(inputs, actions, torch.randn(N).double(), torch.zeros(N), torch.zeros(N))
    step = trust_region_step(
        actor, batch, KLRegion(0.01, summed, 0.1), NaturalGradient(50, 1e-10), Backtracking(0.8, 10)
    )
    new, new_std = means(policy, inputs).detach(), policy.log_std.exp().detach()
    kl = 0.5 * ((std / new_std).square() + ((old - new) / new_std).square() - 1) + (new_std / std).log()
    assert step.status is StepStatus.ACCEPTED
    assert step.kl_mean == pytest.approx(float(kl.sum(dim=1).mean()), rel=1e-8) and step.kl_mean <= 0.01


# ------------------------------------------------------------------------------------------- sequences
def test_rows_are_whole_sequences_with_their_states():
    _, _, inputs = make("lstm")
    some = inputs.rows(torch.tensor([5, 6, 7, 4]))  # the third and then the second
    assert some.lengths.tolist() == [3, 1]
    assert torch.equal(some.observations, inputs.observations[[5, 6, 7, 4]])
    for part, whole in zip(some.states.pi + some.states.vf, inputs.states.pi + inputs.states.vf, strict=True):
        assert torch.equal(part, whole[:, [2, 1]])
    both = some.followed_by(inputs.rows(torch.arange(4)))
    assert both.lengths.tolist() == [3, 1, 4] and torch.equal(both.states.pi[0], inputs.states.pi[0][:, [2, 1, 0]])
    with pytest.raises(AssertionError, match="whole sequences"):
        inputs.rows(torch.tensor([5, 6]))


@pytest.mark.parametrize("batch_size", [1, 3, 5, 8, 100])
def test_minibatches_hold_every_sequence_once_and_count_steps(batch_size):
    _, _, inputs = make("lstm")
    np.random.seed(0)
    batches = list(inputs.minibatches(batch_size))
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(N))
    for rows in batches:
        assert len(rows) == len(inputs.rows(rows)) and (len(rows) <= batch_size + 2 or len(rows) in LENGTHS)
    assert len(batches) == {1: 4, 100: 1}.get(batch_size, len(batches))


def test_pieces_begin_where_episodes_do_and_at_the_rollouts_border():
    """Three environments, whose episodes differ in length."""
    policy, _, _ = make("lstm")
    memory = Recollection()
    memory.begin(policy, 3)
    for part in memory.first.pi:  # the critic's are the same tensors here
        part += torch.tensor([1.0, 2.0, 3.0])[None, :, None]
    starts = torch.tensor([[0, 0, 1, 0, 0], [1, 0, 0, 0, 1], [0, 0, 0, 0, 0]]).bool()
    lengths, states = memory.of_pieces(starts)
    assert lengths.tolist() == [2, 3, 4, 1, 5]
    for part in (*states.pi, *states.vf):
        assert part[0, :, 0].tolist() == [1, 0, 0, 0, 3]


def test_states_of_another_number_of_environments_are_forgotten():
    policy, _, _ = make("gru")
    memory = Recollection()
    memory.begin(policy, 2)
    memory.now.pi[0].add_(1)
    memory.begin(policy, 2)
    assert float(memory.first.pi[0].min()) == 1
    memory.begin(policy, 3)
    assert memory.first.pi[0].shape[1] == 3 and float(memory.first.pi[0].abs().max()) == 0


# ------------------------------------------------------------------------------------------- what is done by hand
class Own(RecurrentMlpPolicy):
    def remember(self, memory, features, states, layout):
        return super().remember(memory, features, states, layout)


@pytest.mark.parametrize("change", ["method", "hook", "frozen", "gsde"])
def test_what_is_more_than_its_kind_goes_through_autograd(change):
    torch.manual_seed(0)
    kind = Own if change == "method" else RecurrentMlpPolicy
    policy = kind(VECTOR, ACTIONS["box"], lambda _: 1e-3, use_sde=change == "gsde", lstm_hidden_size=4)
    if change == "hook":
        policy.actor_memory.register_forward_hook(lambda *_: None)
    if change == "frozen":
        policy.actor_memory.weight_hh_l0.requires_grad_(False)
    actor = Actor(RecurrentHeads(policy, MaskSource(policy.action_space), Recollection()))
    assert actor.network is None and isinstance(policy, ActorCriticPolicy) and isinstance(policy.actor_memory, nn.LSTM)
