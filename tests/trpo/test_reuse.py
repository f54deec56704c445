"""Learning from earlier rollouts once more: their correction against the definition, and what is kept when."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.common.inputs import Inputs, one_in
from sb3_trpo_ext.kernels.line_search import LineSearchResult
from sb3_trpo_ext.trpo import trpo
from sb3_trpo_ext.trpo.reuse import Discounts, EarlierRollouts
from sb3_trpo_ext.trust_region import direction
from sb3_trpo_ext.trust_region.critic_fit import fit_by_gradient_descent
from sb3_trpo_ext.trust_region.direction import Backtracking, NaturalGradient
from sb3_trpo_ext.trust_region.policy_step import StepStatus
from sb3_trpo_ext.trust_region.region import KLRegion, summed
from sb3_trpo_ext.trust_region.rollout import Rollout
from sb3_trpo_ext.trust_region.step import Surrogate, trust_region_step
from tests.cases import flat, gradient, make_actor, make_batch, make_policy, reference_kl, torch_reference

GAMMA, LAMBDA = 0.9, 0.8
VECTOR = spaces.Box(-1, 1, (3,))
BOX = spaces.Box(-1, 1, (2,))


def nothing_accepted(evaluate, start, *settings):
    return LineSearchResult(False, 0.0, None, 0)


def make_rollout(model, T, E, seed, likelier):
    """Random states, actions, rewards and ends, and other log-probabilities of the policy that acted."""
    generator = torch.Generator().manual_seed(seed)
    observations = torch.randn(T * E, 3, generator=generator)
    actions = torch.randn(T * E, 2, generator=generator)
    with torch.no_grad():
        now = model.policy.evaluate_actions(observations, actions)[1]
    log_prob = now - likelier * torch.randn(T * E, generator=generator)
    rewards, ends = torch.randn(T, E, generator=generator), torch.rand(T, E, generator=generator) < 0.3
    last, nothing = Inputs(torch.randn(E, 3, generator=generator)), torch.zeros(T * E)
    return Rollout(Inputs(observations), actions, nothing, nothing, nothing, rewards, ends, last), log_prob


def corrected(model, earlier, critics=LAMBDA):
    """All earlier samples, as the model's policy and critic see them now."""
    log_prob = [
        model.actor.family(one.rollout.inputs).log_prob(model.actor.family_actions(one.rollout.actions))
        for one in earlier._kept
    ]
    return earlier.corrected(torch.cat(log_prob), model.value_function, Discounts(GAMMA, LAMBDA, critics))


def by_definition(model, rollout, behaviour_log_prob, gae_lambda=LAMBDA):
    """Advantages and targets from sums over paths: V-trace with traces λ min(1, ρ)."""
    T, E = rollout.rewards.shape
    with torch.no_grad():
        values, log_prob, _ = model.policy.evaluate_actions(rollout.inputs.observations, rollout.actions)
        last = model.policy.predict_values(rollout.last_inputs.observations).flatten()
    ratios = (log_prob - behaviour_log_prob).exp()
    advantages, targets = [], []
    for e in range(E):
        v = [float(values[e * T + t]) for t in range(T)] + [float(last[e])]
        w = [min(1.0, float(ratios[e * T + t])) for t in range(T)]
        for t in range(T):
            total, trace = 0.0, 1.0
            for s in range(t, T):
                if s > t:
                    trace *= GAMMA * gae_lambda * w[s]
                end = bool(rollout.ends[s, e])
                total += trace * (float(rollout.rewards[s, e]) + (0.0 if end else GAMMA * v[s + 1]) - v[s])
                if end:
                    break
            advantages.append(total)
            targets.append(v[t] + w[t] * total)
    return torch.tensor(advantages), torch.tensor(targets)


@pytest.mark.parametrize("likelier", [0.0, 1.0], ids=["on_policy", "off_policy"])
def test_correction_equals_the_definition(likelier, space_env, tiny):
    model = tiny(space_env(VECTOR, BOX))
    earlier = EarlierRollouts()
    rollouts = [make_rollout(model, 6, 3, seed, likelier) for seed in range(3)]
    for one, log_prob in rollouts:
        earlier.add(one, log_prob, 2)
    batch = corrected(model, earlier)
    expected = [by_definition(model, *one) for one in rollouts[1:]]  # the oldest is forgotten
    torch.testing.assert_close(batch.advantages, torch.cat([one[0] for one in expected]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(batch.returns, torch.cat([one[1] for one in expected]), rtol=1e-4, atol=1e-5)
    assert torch.equal(batch.behaviour_log_prob, torch.cat([log_prob for _, log_prob in rollouts[1:]]))
    assert torch.equal(batch.inputs.observations, torch.cat([one.inputs.observations for one, _ in rollouts[1:]]))


def test_the_critic_may_have_a_lambda_of_its_own(space_env, tiny):
    model = tiny(space_env(VECTOR, BOX))
    earlier = EarlierRollouts()
    rollout, log_prob = make_rollout(model, 6, 3, 0, 1.0)
    earlier.add(rollout, log_prob, 1)
    batch = corrected(model, earlier, critics=1.0)
    advantages, returns = by_definition(model, rollout, log_prob)[0], by_definition(model, rollout, log_prob, 1.0)[1]
    torch.testing.assert_close(batch.advantages, advantages, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(batch.returns, returns, rtol=1e-4, atol=1e-5)


def watched(monkeypatch, model, steps):
    """Train, and return the samples of each update, advantages not normalised."""
    seen = []

    def watch(actor, batch, *rest):
        seen.append(batch)
        return trust_region_step(actor, batch, *rest)

    monkeypatch.setattr(trpo, "trust_region_step", watch)
    model.learn(steps)
    return seen


@pytest.mark.parametrize("environment", ["CartPole-v1", "Pendulum-v1"])
def test_while_nothing_changes_earlier_samples_are_what_they_were(environment, monkeypatch):
    """Same policy and critic: V-trace is GAE, as SB3's buffer computed it when the rollout was the newest."""
    monkeypatch.setattr(direction, "backtrack", nothing_accepted)
    # CartPole's episodes end anywhere, every second one of Pendulum's rollouts ends with its episodes, at 200 steps.
    settings = {
        "n_steps": 100,
        "critic": "adam",
        "learning_rate": 0.0,
        "normalize_advantage": False,
        "policy_kwargs": {"normalize_observations": False},  # or the policy would change
        "seed": 0,
        "device": "cpu",
    }
    model = TRPO("MlpPolicy", make_vec_env(environment, 3, seed=0), batch_size=100, rollouts_per_update=3, **settings)
    batches = watched(monkeypatch, model, 5 * 300)
    assert [len(batch.advantages) for batch in batches] == [300, 600, 900, 900, 900]
    assert environment != "Pendulum-v1" or any(bool(one.ends[-1].all()) for one in model._earlier._kept)
    newest = [slice_of(batch, 0, 300) for batch in batches]
    for i in (2, 3, 4):
        for position, origin in ((1, i - 2), (2, i - 1)):  # the oldest first
            again = slice_of(batches[i], position * 300, (position + 1) * 300)
            for part in ("advantages", "returns", "values", "behaviour_log_prob"):
                expected, found = getattr(newest[origin], part), getattr(again, part)
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
            assert torch.equal(again.inputs.observations, newest[origin].inputs.observations)
            assert torch.equal(again.actions, newest[origin].actions)


def slice_of(batch, start, end):
    parts = ("actions", "advantages", "returns", "values", "behaviour_log_prob")
    inputs = batch.inputs.rows(torch.arange(start, end))
    return replace(batch, inputs=inputs, **{part: getattr(batch, part)[start:end] for part in parts})


def test_critic_and_actor_learn_from_the_same_samples(space_env, tiny, monkeypatch):
    fitted = []

    def watch(critic, batch, *rest):
        fitted.append(batch)
        return fit_by_gradient_descent(critic, batch, *rest)

    monkeypatch.setattr(trpo, "fit_by_gradient_descent", watch)
    model = tiny(space_env(VECTOR, BOX), rollouts_per_update=3, normalize_advantage=False, critic="adam")
    for batch, of_critic in zip(watched(monkeypatch, model, 64), fitted, strict=True):
        assert batch is of_critic


def test_one_sample_in_k_keeps_who_acted(space_env, tiny):
    model = tiny(space_env(VECTOR, BOX))
    earlier = EarlierRollouts()
    earlier.add(*make_rollout(model, 6, 3, 0, 1.0), 1)
    batch = corrected(model, earlier)
    thinned, rows = batch.one_in(4), one_in(4, batch.size)
    assert torch.equal(thinned.inputs.observations, batch.inputs.observations[rows])
    for part in ("actions", "advantages", "returns", "values", "behaviour_log_prob"):
        assert torch.equal(getattr(thinned, part), getattr(batch, part)[rows])


def test_first_update_is_that_of_trpo_without_reuse(space_env, tiny, bits):
    results = [
        bits(tiny(space_env(VECTOR, BOX), rollouts_per_update=count).learn(16).get_parameters()) for count in (1, 3)
    ]
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["box", "discrete"])
def test_surrogate_divides_by_who_acted_and_the_region_is_around_the_present_policy(name):
    policy = make_policy(name, precise=True)
    batch = make_batch(policy, 40, seed=1)
    actor = make_actor(policy)
    old = actor.family(batch.inputs)
    actions = actor.family_actions(batch.actions)
    present = old.log_prob(actions)
    behaviour = present + 0.3 * torch.randn_like(present)
    weighted = (present - behaviour).exp() * batch.advantages  # importance weights times advantages

    batch = replace(batch, behaviour_log_prob=behaviour)
    surrogate = Surrogate(batch, old, actions, 0.0)
    torch.testing.assert_close(surrogate(old), weighted.mean())
    found = actor.linearize(batch.inputs).linearization.vjp(surrogate.gradient())
    log_prob = policy.get_distribution(batch.inputs.observations).log_prob(actions)
    torch.testing.assert_close(found, gradient((log_prob * weighted).mean(), actor.parameters))

    before = torch_reference(policy, batch.inputs.observations)
    theta = flat(actor.parameters).detach().clone()
    region, search = KLRegion(0.01, summed, 0.1), Backtracking(0.8, 10)
    taken = trust_region_step(actor, batch, region, NaturalGradient(15, 1e-4), search)
    assert taken.status is StepStatus.ACCEPTED and not torch.equal(flat(actor.parameters), theta)
    ratio = (present - behaviour).exp()
    share = float(ratio.sum() ** 2 / (40 * (ratio**2).sum()))
    assert taken.effective_sample_share == pytest.approx(share) and 0.5 < share < 0.99
    kl = reference_kl(before, torch_reference(policy, batch.inputs.observations)).mean().detach()
    assert taken.kl_mean == pytest.approx(float(kl), rel=1e-6) and taken.kl_mean <= 0.01


def test_earlier_rollouts_are_forgotten_when_training_starts_anew(space_env, tiny, tmp_path):
    model = tiny(space_env(VECTOR, BOX), rollouts_per_update=4).learn(48)
    assert len(model._earlier) == 3
    model.learn(16, reset_num_timesteps=False)
    assert len(model._earlier) == 3
    model.save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", env=model.get_env())
    assert len(loaded._earlier) == 0 and loaded.rollouts_per_update == 4
    loaded.learn(32, reset_num_timesteps=False)
    assert len(loaded._earlier) == 2
    model.learn(16)
    assert len(model._earlier) == 1
    model.set_env(space_env(VECTOR, BOX, scale=100.0))
    model.learn(16, reset_num_timesteps=False)
    assert len(model._earlier) == 1, "another environment may have other rewards"


def test_the_actor_is_asked_once_for_correction_and_step(space_env, tiny, monkeypatch):
    model = tiny(space_env(VECTOR, BOX), rollouts_per_update=3).learn(32)
    asked, linearize = [], model.actor.linearize

    def watch(inputs):
        asked.append(len(inputs))
        return linearize(inputs)

    monkeypatch.setattr(model.actor, "linearize", watch)
    model.learn(16, reset_num_timesteps=False)
    trials = int(model.logger.name_to_value["train/line_search_trials"])
    assert asked == [48] and trials >= 1


def test_number_of_rollouts_may_change(space_env, tiny):
    model = tiny(space_env(VECTOR, BOX)).learn(32)
    assert len(model._earlier) == 0
    for count, kept in ((4, 2), (2, 1), (1, 0)):
        model.rollouts_per_update = count
        model.learn(32, reset_num_timesteps=False)
        assert len(model._earlier) == kept


def test_nothing_of_a_rollout_is_the_environments_own_memory(bits):
    environment = VecFrameStack(make_vec_env("CartPole-v1", 2, seed=0), 2)
    model = TRPO("MlpPolicy", environment, n_steps=16, rollouts_per_update=3, seed=0, device="cpu")
    model.learn(32)
    before = bits(model._earlier._kept[-1].last_inputs.observations)
    environment.reset()
    assert bits(model._earlier._kept[-1].last_inputs.observations) == before


def test_earlier_rollouts_are_read_with_the_threads_of_an_update(space_env, tiny, monkeypatch):
    seen = []

    def watch(*arguments):
        seen.append(torch.get_num_threads())
        return correct(*arguments)

    correct = EarlierRollouts.corrected
    monkeypatch.setattr(EarlierRollouts, "corrected", watch)
    torch.set_num_threads(2)
    try:
        model = tiny(space_env(VECTOR, BOX), rollouts_per_update=2).learn(48)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert seen == [1, 1]
    assert model.logger.name_to_value["time/earlier_rollouts_seconds"] > 0


@pytest.mark.parametrize(
    ("settings", "rest"),
    [
        ({"n_steps": 192, "batch_size": 128, "rollouts_per_update": 2}, None),
        ({"n_steps": 100, "batch_size": 128, "rollouts_per_update": 4}, 16),
        ({"n_steps": 100, "batch_size": 128}, None),
        ({"n_steps": 200, "batch_size": 128}, 72),
    ],
)
def test_warning_about_the_last_minibatch_counts_all_rollouts(settings, rest, space_env, tiny, recwarn):
    tiny(space_env(VECTOR, BOX), critic="adam", **settings)
    warned = [str(one.message) for one in recwarn if "does not divide" in str(one.message)]
    assert [f"has {rest} samples" in text for text in warned] == ([] if rest is None else [True])


def test_spoilt_rollout_is_not_kept(space_env, tiny):
    environment = space_env(VECTOR, BOX, bad={20: ("reward", np.nan)})
    model = tiny(environment, rollouts_per_update=4)
    with pytest.warns(UserWarning, match="skipped"):
        model.learn(64)
    assert model._n_skipped_updates == 1 and len(model._earlier) == 3
    batch = corrected(model, model._earlier)
    for part in (batch.inputs.observations, batch.actions, batch.advantages, batch.returns, batch.behaviour_log_prob):
        assert bool(part.isfinite().all())


def test_no_earlier_rollout_is_an_error(space_env, tiny):
    model = tiny(space_env(VECTOR, BOX))
    with pytest.raises(ValueError, match="no earlier rollout"):
        model._earlier.corrected(torch.zeros(0), model.value_function, Discounts(GAMMA, LAMBDA, LAMBDA))
