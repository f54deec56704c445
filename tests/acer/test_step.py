"""One update: its gradient against the paper's pieces put together by hand, and what it reports."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.distributions import Normal

from sb3_trpo_ext.acer.batch import as_sequence_batch
from sb3_trpo_ext.acer.learner import Learner
from sb3_trpo_ext.acer.losses import discrete_policy_gradient, project
from sb3_trpo_ext.acer.step import acer_step
from sb3_trpo_ext.kernels.families import Categorical
from tests.acer.cases import BOX, DEFAULTS, DISCRETE, VECTOR, B, T, sequences_of

MULTI = spaces.MultiDiscrete([3, 2])
ACTIONS = {"discrete": DISCRETE, "multi_discrete": MULTI, "box": BOX}
SETTINGS = replace(DEFAULTS, importance_clip=5.0, fisher_metric=False)  # the paper's


# The first end is a time limit, the second a terminal state.
ENDS = {"within": ((1, 0), (2, 1)), "at the last step": ((T - 1, 0), (T - 1, 1))}
each_end = pytest.mark.parametrize("cuts", ENDS.values(), ids=ENDS.keys())


@pytest.fixture
def model(space_env, tiny):
    def make(action, **settings):
        model = tiny(space_env(VECTOR, ACTIONS[action]), replay_ratio=0, **settings).learn(120)
        model._learner.copy_what_is_not_averaged()
        with torch.no_grad():  # so that the average policy is elsewhere
            for parameter in model.policy.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        return model

    return make


def test_the_divergence_before_and_after_the_updates_of_an_iteration(space_env, tiny):
    """On the states just visited, with the average policy as it was and as it is then."""
    settings = {"policy_kwargs": {"normalize_observations": False}}  # or the policies would change after the updates
    model = tiny(space_env(VECTOR, ACTIONS["box"]), learning_rate=0.01, average_policy_decay=0.9, **settings)
    for _ in range(3):
        before = deepcopy((model.average_policy, model.policy))
        model.learn(6, reset_num_timesteps=False)
        newest = np.array([model.replay_buffer.n_stored - 1])
        states = torch.as_tensor(model.replay_buffer.get(newest).observations[:-1].reshape(-1, 3))
        for name, (average, policy) in (("before", before), ("after", (model.average_policy, model.policy))):
            expected = float(average.family(states).kl(policy.family(states)).mean().detach())
            logged = model.logger.name_to_value[f"train/average_policy_kl_{name}"]
            assert logged == pytest.approx(expected, rel=1e-4, abs=1e-9)


def one_step(model, action, cuts, importance_clip, learning_rate=1.0, **policy_kwargs):
    """A model that will step by minus the gradient, the rules of that step, its data, and the parameters before it."""
    policy_kwargs = {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {}, **policy_kwargs}
    made = model(action, policy_kwargs=policy_kwargs, learning_rate=learning_rate)
    rules = replace(SETTINGS, trust_region_delta=0.0, importance_clip=importance_clip, max_grad_norm=1e9)
    return made, rules, sequences_of(action, cuts=cuts), [p.detach().clone() for p in made.policy.parameters()]


@each_end
def test_the_discrete_update_is_the_papers_gradient_step_by_step(cuts, model):
    """Everything from the definition, one transition at a time, against one SGD step."""
    made, rules, sequences, before = one_step(model, "discrete", cuts, importance_clip=1.0)
    policy, average = made.policy, made.average_policy

    def at(observation):
        now = policy.evaluate(torch.as_tensor(observation)[None])
        return now.family, now.head[0], float(now.values.detach())

    loss = torch.zeros(())
    acted = 0
    for b in range(B):
        ahead = 0.0
        for t in reversed(range(T)):
            family, q, value = at(sequences.observations[t, b])
            action = int(sequences.actions[t, b])
            mu = torch.as_tensor(sequences.statistics[t, b]).softmax(0)
            pi = family.logits[0].softmax(0).detach()
            if sequences.dones[t, b]:
                cut = [each for each in sequences.timeouts if (each.step, each.env) == (t, b)]
                following = at(cut[0].observation)[2] if cut else 0.0
            elif t == T - 1:
                following = at(sequences.observations[T, b])[2]
            else:
                following = ahead
            target = float(sequences.rewards[t, b]) + rules.gamma * following
            rho = float(pi[action] / mu[action])
            ahead = min(1.0, rho) * (target - float(q[action].detach())) + value

            behaviour = Categorical(mu.log()[None])
            g = discrete_policy_gradient(
                Categorical(pi.log()[None]),
                behaviour,
                torch.tensor([action]),
                torch.tensor([rho]),
                torch.tensor([target]),
                q.detach()[None],
                1.0,
            )[0]
            g = g - rules.ent_coef * pi * (pi.log() - (pi * pi.log()).sum())
            k = pi - average.family(torch.as_tensor(sequences.observations[t, b])[None]).logits[0].softmax(0)
            z = project(g[None], k[None], 0.0)[0]
            acted += int(float(g @ k) > 0)
            loss = loss - (z * family.logits[0]).sum() + rules.q_coef * 0.5 * (target - q[action]) ** 2
    gradient = torch.autograd.grad(loss / (T * B), list(policy.parameters()))
    assert acted > 0
    update = acer_step(Learner(policy, average), as_sequence_batch(sequences, policy), rules)
    assert update.applied and update.projected_share == pytest.approx(acted / (T * B))
    for old, parameter, direction in zip(before, policy.parameters(), gradient, strict=True):
        torch.testing.assert_close(parameter.detach(), old - direction, rtol=1e-4, atol=1e-5)


@each_end
def test_the_multi_discrete_update_step_by_step(cuts, model):
    """From the definition, one transition and one dimension at a time, against one SGD step."""
    made, rules, sequences, before = one_step(model, "multi_discrete", cuts, importance_clip=3.0)
    policy, average = made.policy, made.average_policy
    states = torch.as_tensor(sequences.observations[:-1].reshape(-1, 3))
    torch.manual_seed(5)
    own = [block.softmax(1).multinomial(1)[:, 0] for block in policy.family(states).logits.split([3, 2], dim=1)]

    def at(observation):
        now = policy.evaluate(torch.as_tensor(observation)[None])
        return now.family.logits[0].split([3, 2]), now.head[0, 0], now.head[0, 1:].split([3, 2])

    def q_of(logits, value, advantages, action):
        terms = zip(logits, advantages, action, strict=True)
        return value + sum(a[i] - (pi.detach().softmax(0) * a).sum() for pi, a, i in terms)

    def log_prob(logits, action):
        return sum(block.log_softmax(0)[i] for block, i in zip(logits, action, strict=True))

    loss, corrected, projected = torch.zeros(()), 0, 0
    for b in range(B):
        ahead = 0.0
        for t in reversed(range(T)):
            logits, value, advantages = at(sequences.observations[t, b])
            mu = torch.as_tensor(sequences.statistics[t, b]).split([3, 2])
            action, drawn = sequences.actions[t, b].tolist(), [int(choice[t * B + b]) for choice in own]
            q, q_own = (q_of(logits, value, advantages, each) for each in (action, drawn))
            rho, rho_own = ((log_prob(logits, each) - log_prob(mu, each)).exp().item() for each in (action, drawn))
            if sequences.dones[t, b]:
                cut = [each for each in sequences.timeouts if (each.step, each.env) == (t, b)]
                following = at(cut[0].observation)[1].item() if cut else 0.0
            else:
                following = at(sequences.observations[T, b])[1].item() if t == T - 1 else ahead
            target = float(sequences.rewards[t, b]) + rules.gamma * following
            ahead = min(1.0, rho) * (target - q.item()) + value.item()

            left = max(0.0, 1 - 3.0 / rho_own)
            objective = min(3.0, rho) * (target - value.item()) * log_prob(logits, action)
            objective = objective + left * (q_own - value).item() * log_prob(logits, drawn)
            objective = objective - rules.ent_coef * sum((x.softmax(0) * x.log_softmax(0)).sum() for x in logits)
            there = average.family(torch.as_tensor(sequences.observations[t, b])[None]).logits[0].split([3, 2])
            kl = sum(
                (c.softmax(0) * (c.log_softmax(0) - x.log_softmax(0))).sum() for c, x in zip(there, logits, strict=True)
            )
            g, k = (torch.cat(torch.autograd.grad(each, logits, retain_graph=True)) for each in (objective, kl))
            z = g - (g @ k).clamp(min=0) / (k @ k) * k
            corrected, projected = corrected + (left > 0), projected + int(g @ k > 0)
            loss = loss - z @ torch.cat(logits) + rules.q_coef * 0.5 * (target - q) ** 2
    gradient = torch.autograd.grad(loss / (T * B), list(policy.parameters()))
    assert 0 < corrected < T * B and 0 < projected < T * B
    torch.manual_seed(5)
    update = acer_step(Learner(policy, average), as_sequence_batch(sequences, policy), rules)
    assert update.applied and update.projected_share == pytest.approx(projected / (T * B))
    for old, parameter, direction in zip(before, policy.parameters(), gradient, strict=True):
        torch.testing.assert_close(parameter.detach(), old - direction, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("action", ACTIONS)
def test_units(action, model):
    """Rewards, the policy's gradient and the logged targets in their own units."""
    made = model(action, ent_coef=0.0)
    rules = replace(SETTINGS, ent_coef=0.0, q_coef=0.0, trust_region_delta=None, importance_clip=float("inf"))
    batch, found = as_sequence_batch(sequences_of(action), made.policy), []
    for reward, unit, advantage in ((1.0, 1.0, 1.0), (4.0, 4.0, 1.0), (1.0, 1.0, 0.25)):
        settings = replace(rules, return_scale=unit, advantage_scale=advantage)
        torch.manual_seed(5)
        learner = Learner(deepcopy(made.policy), made.average_policy)
        found.append(acer_step(learner, batch._replace(rewards=reward * batch.rewards), settings))
    one, scaled, sharpened = found
    assert scaled.target_mean == pytest.approx(4 * one.target_mean)
    assert scaled.gradient_norm == pytest.approx(one.gradient_norm)
    assert scaled.advantage_square == pytest.approx(one.advantage_square)
    assert sharpened.gradient_norm == pytest.approx(4 * one.gradient_norm)


@each_end
def test_the_box_update_is_the_papers_gradient_step_by_step(cuts, model):
    """Algorithm 3 from the definition, one transition at a time, against one SGD step."""
    made, rules, sequences, before = one_step(model, "box", cuts, 2.0, learning_rate=0.0, log_std_init=0.0)
    made.policy.optimizer.param_groups[0]["lr"] = 1.0
    policy, average = made.policy, made.average_policy

    def at(observation):
        return float(policy.evaluate(torch.as_tensor(observation)[None]).values.detach())

    torch.manual_seed(5)
    noise = torch.randn(rules.n_action_samples + 1, T * B, 2)

    loss, corrected, projected = torch.zeros(()), 0, 0
    for b in range(B):
        ahead_ret = ahead_opc = 0.0
        for t in reversed(range(T)):
            state = torch.as_tensor(sequences.observations[t, b])[None]
            now = policy.evaluate(state)
            pi, value = Normal(now.family.mean[0], now.family.std[0]), now.head[0]
            mu = Normal(*torch.as_tensor(sequences.statistics[t, b]).split(2))
            action, drawn = torch.as_tensor(sequences.actions[t, b]), pi.mean + pi.stddev * noise[:, t * B + b]
            a = policy.advantages(now.latent, torch.stack([action, *drawn.detach()])[:, None])[:, 0]
            q, q_own = (value + a[i] - a[1:-1].mean() for i in (0, -1))
            if sequences.dones[t, b] or t == T - 1:
                cut = [each.observation for each in sequences.timeouts if (each.step, each.env) == (t, b)]
                reached = cut[0] if cut else sequences.observations[T, b]
                terminal = sequences.dones[t, b] and not cut
                ahead_ret = ahead_opc = 0.0 if terminal else at(reached)
            ret, opc = (float(sequences.rewards[t, b]) + rules.gamma * ahead for ahead in (ahead_ret, ahead_opc))
            rho = float((pi.log_prob(action) - mu.log_prob(action)).sum().exp().detach())
            ahead_ret = float((min(1.0, rho ** (1 / 2)) * (ret - q) + value).detach())
            ahead_opc = float((opc - q + value).detach())

            variance, own = pi.stddev**2, drawn[-1]
            rho_own = float((pi.log_prob(own) - mu.log_prob(own)).sum().exp().detach())
            correction = max(0.0, 1 - 2.0 / rho_own)
            g = min(2.0, rho) * (opc - value) * (action - pi.mean) / variance
            g = g + correction * (q_own - value) * (own - pi.mean) / variance
            k = (pi.mean - average.family(state).mean[0]) / variance
            z = (g - (g @ k).clamp(min=0) / (k @ k) * k).detach()
            corrected, projected = corrected + (correction > 0), projected + int(g @ k > 0)
            value_target = (min(1.0, rho) * (ret - q) + value).detach()
            critic = 0.5 * (ret - q) ** 2 + 0.5 * (value_target - value) ** 2
            loss = loss + rules.q_coef * critic - z @ pi.mean
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    gradient = torch.autograd.grad(loss / (T * B), trained)
    assert 0 < corrected < T * B and 0 < projected < T * B
    torch.manual_seed(5)
    update = acer_step(Learner(policy, average), as_sequence_batch(sequences, policy), rules)
    assert update.applied and update.projected_share == pytest.approx(projected / (T * B))
    directions = dict(zip(map(id, trained), gradient, strict=True))
    for old, parameter in zip(before, policy.parameters(), strict=True):
        expected = old - directions.get(id(parameter), torch.zeros(()))
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("action", ACTIONS)
def test_projection_lowers_the_growth_of_the_divergence(action, model):
    made = model(action)
    learner, batch = Learner(made.policy, made.average_policy), as_sequence_batch(sequences_of(action), made.policy)
    update = acer_step(learner, batch, replace(SETTINGS, trust_region_delta=0.01))
    assert update.projected_share > 0 and update.slope_after < update.slope_before
    assert update.slope_after <= 0.01 + 1e-5 and update.average_kl > 0


@pytest.mark.parametrize("action", ACTIONS)
def test_repeated_updates_fit_the_critic(action, model):
    made = model(action, learning_rate=1e-2, ent_coef=0.0)
    learner, batch = Learner(made.policy, made.average_policy), as_sequence_batch(sequences_of(action), made.policy)
    still = replace(SETTINGS, ent_coef=0.0, importance_clip=0.0, bias_correction=False)  # the policy stays
    updates = [acer_step(learner, batch, still) for _ in range(400)]
    assert np.mean([u.critic_loss for u in updates[-20:]]) < 0.3 * np.mean([u.critic_loss for u in updates[:20]])


def test_a_fixed_std_takes_no_part(model):
    made = model("box", learn_std=False)
    width = made.policy.log_std.detach().clone()
    learner, batch = Learner(made.policy, made.average_policy), as_sequence_batch(sequences_of("box"), made.policy)
    acer_step(learner, batch, SETTINGS)
    assert torch.equal(made.policy.log_std, width) and made.policy.log_std.grad is None
