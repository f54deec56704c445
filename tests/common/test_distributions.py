"""SB3's distributions as families: the same numbers as torch's, and the same samples from the same seed."""

import numpy as np
import pytest
import torch
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_trpo_ext.common.distributions import family_actions, family_of, plain_distribution
from tests.cases import (
    ACTIONS,
    OBSERVATION,
    POLICIES,
    identical,
    make_batch,
    make_policy,
    reference_entropy,
    reference_kl,
    reference_log_prob,
    reference_sample,
    snapshot,
    torch_reference,
)

PLAIN = [name for name in POLICIES if not name.startswith("gsde")]

each_policy = pytest.mark.parametrize("name", POLICIES)
each_plain = pytest.mark.parametrize("name", PLAIN)


def last_layers_output(policy, observations):
    features = policy.extract_features(observations, policy.pi_features_extractor)
    return policy.action_net(policy.mlp_extractor.forward_actor(features))


@each_policy
def test_likelihood_entropy_and_divergence_are_torchs(name):
    policy = make_policy(name, precise=True)
    one, other = torch.randn(7, OBSERVATION), torch.randn(7, OBSERVATION)
    reference, new_reference = torch_reference(policy, one), torch_reference(policy, other)
    family, new = (family_of(policy.get_distribution(observations)) for observations in (one, other))
    actions = reference_sample(reference)
    torch.testing.assert_close(family.log_prob(actions), reference_log_prob(reference, actions))
    torch.testing.assert_close(family.entropy(), reference_entropy(reference))
    torch.testing.assert_close(family.kl(new), reference_kl(reference, new_reference))


@each_policy
def test_a_family_has_the_graph_and_is_a_snapshot(name):
    policy = make_policy(name)
    family = family_of(policy.get_distribution(torch.randn(5, OBSERVATION)))
    before = snapshot(family.statistics)
    assert all(tensor.requires_grad for tensor in family.statistics)
    policy.get_distribution(torch.randn(5, OBSERVATION))  # which overwrites the object that the policy keeps
    assert identical(family.statistics, before)


def test_unknown_distribution_is_refused_with_its_name_and_the_known_ones():
    class Unknown:
        distribution = None

    with pytest.raises(
        ValueError, match=r"is a Unknown, .*Gaussian \(gSDE too\), Categorical, MultiCat.* or Bernoulli"
    ):
        family_of(Unknown())


@each_policy
def test_likelihood_ratios_are_those_of_sb3(name):
    """For the squashed Gaussian too, whose tanh drops out of the ratio."""
    policy = make_policy(name, precise=True)
    batch = make_batch(policy, 20)
    raw = batch.actions.long().flatten() if name == "discrete" else batch.actions

    def log_probs():
        with torch.no_grad():
            distribution = policy.get_distribution(batch.inputs.observations)
            family = family_of(distribution)
            return family.log_prob(family_actions(policy, batch.actions)), distribution.log_prob(raw)

    old, old_sb3 = log_probs()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    new, new_sb3 = log_probs()
    assert (new - old).abs().max() > 0.01, "the example must not be trivial"
    torch.testing.assert_close(new - old, new_sb3 - old_sb3, rtol=1e-6, atol=1e-8)
    if name != "gsde_squashed":
        torch.testing.assert_close(new, new_sb3)


@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_squashed_actions_on_the_border_stay_finite(value):
    assert bool(family_actions(make_policy("gsde_squashed"), torch.full((2, 3), value)).isfinite().all())


def test_actions_as_families_measure_them():
    """A choice is a whole number without a column of its own; a squashed action is what it was before the tanh."""
    chosen = family_actions(make_policy("discrete"), torch.tensor([[2.0], [0.0], [3.0]]))
    assert (chosen.tolist(), chosen.dtype) == ([2, 0, 3], torch.int64)
    before = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(family_actions(make_policy("gsde_squashed"), before.tanh()), before)
    for name in ("box", "multi_discrete", "multi_binary", "gsde"):
        assert family_actions(make_policy(name), before) is before


@each_plain
def test_the_last_layers_output_is_enough_for_a_plain_one(name):
    policy = make_policy(name, precise=True)
    one, other = torch.randn(5, OBSERVATION), torch.randn(5, OBSERVATION)
    plain = plain_distribution(policy)
    family, new = (plain.family(policy, last_layers_output(policy, observations)) for observations in (one, other))
    reference, new_reference = torch_reference(policy, one), torch_reference(policy, other)
    torch.testing.assert_close(family.entropy(), reference_entropy(reference))
    torch.testing.assert_close(family.kl(new), reference_kl(reference, new_reference))


class Squashed(ActorCriticPolicy):
    def _build(self, lr_schedule):
        self.action_dist = SquashedDiagGaussianDistribution(3)
        super()._build(lr_schedule)


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in PLAIN])
def test_noise_that_depends_on_the_state_is_not_plain(name):
    assert plain_distribution(make_policy(name)) is None


def test_a_squashed_gaussian_is_not_plain():
    policy = make_policy("box")
    squashed = Squashed(policy.observation_space, ACTIONS["box"], lambda _: 1e-3)
    assert plain_distribution(squashed) is None


@each_plain
@pytest.mark.parametrize("n", [1, 6])
def test_samples_are_those_of_sb3_from_the_same_seed(name, n):
    policy, observations = make_policy(name), torch.randn(n, OBSERVATION)
    sample = plain_distribution(policy).sampler(policy, 1)
    with torch.no_grad():
        output = last_layers_output(policy, observations).numpy()
        for seed in range(5):
            torch.manual_seed(seed)
            theirs = policy.get_distribution(observations).get_actions().numpy()
            torch.manual_seed(seed)
            np.testing.assert_allclose(sample(output), theirs, rtol=1e-6, atol=1e-6)


@each_plain
def test_samples_are_distributed_as_the_policy_says(name):
    """Means over so many draws as to have three digits; of the width too, for a Gaussian."""
    policy, n = make_policy(name), 200_000
    observation = torch.randn(1, OBSERVATION)
    with torch.no_grad():
        reference = torch_reference(policy, observation)
        output = last_layers_output(policy, observation).expand(n, -1).numpy()
    drawn = torch.from_numpy(plain_distribution(policy).sampler(policy, 1)(output)).reshape(n, -1)
    if name == "box":
        mean, std = reference[0].base_dist.loc[0], reference[0].base_dist.scale[0]
        torch.testing.assert_close(drawn.mean(dim=0), mean, rtol=0, atol=0.01)
        torch.testing.assert_close(drawn.std(dim=0), std, rtol=0.01, atol=0)
    elif name == "multi_binary":
        torch.testing.assert_close(drawn.mean(dim=0), reference[0].base_dist.probs[0], rtol=0, atol=0.005)
    else:
        for choice, part in zip(drawn.T, reference, strict=True):
            shares = torch.bincount(choice, minlength=part.logits.shape[1]) / n
            torch.testing.assert_close(shares, part.probs[0], rtol=0, atol=0.005)


def test_a_gaussian_sampler_keeps_the_shape_of_the_actions_and_any_number_of_rows():
    policy = make_policy("box")
    sample = plain_distribution(policy).sampler(policy, 1)
    assert [sample(np.zeros((n, 3), np.float32)).shape for n in (2, 5, 1)] == [(2, 3), (5, 3), (1, 3)]
