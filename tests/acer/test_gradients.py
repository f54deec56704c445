"""The derivatives of distributions in closed form, against autograd."""

import pytest
import torch
from torch.nn.functional import one_hot

from sb3_trpo_ext.acer.gradients import entropy_gradient, inverse_metric, kl_gradient, score, weighted_score
from sb3_trpo_ext.kernels.families import Bernoulli
from tests.cases import DIM, KINDS

each_kind = pytest.mark.parametrize("name", ["gaussian", "categorical", "multi_categorical"])


def drawn(name):
    """Two families of 3 rows, the second one live: its statistics are leaves of autograd."""
    kind = KINDS[name]
    leaves = [part.requires_grad_() for part in kind.draw(3)]
    return kind.family(*kind.draw(3)), kind.family(*leaves)


def by_autograd(value, family):
    return torch.autograd.grad(value.sum(), family.statistics, materialize_grads=True)


def detached(family):
    return family.with_statistics([part.detach() for part in family.statistics])


@each_kind
def test_the_kl_gradient_is_that_of_autograd(name):
    old, live = drawn(name)
    torch.testing.assert_close(kl_gradient(detached(live), old), by_autograd(old.kl(live), live))


@each_kind
def test_the_entropy_gradient_is_that_of_autograd(name):
    _, live = drawn(name)
    torch.testing.assert_close(entropy_gradient(detached(live)), by_autograd(live.entropy(), live))


def test_the_score_is_the_gradient_of_the_log_likelihood():
    _, live = drawn("gaussian")
    actions = torch.randn(3, DIM, dtype=torch.float64)
    torch.testing.assert_close(score(detached(live), actions), by_autograd(live.log_prob(actions), live))


def test_the_score_of_one_action_has_one_weight():
    _, live = drawn("categorical")
    actions = torch.tensor([0, 2, 3])
    found = weighted_score(detached(live), one_hot(actions, 4).double())
    torch.testing.assert_close(found, by_autograd(live.log_prob(actions), live))


def test_the_weighted_score_is_the_weighted_sum_of_scores():
    _, live = drawn("categorical")
    weights = torch.randn(3, 4, dtype=torch.float64)
    expected = by_autograd(weights * live.logits.log_softmax(dim=1), live)
    torch.testing.assert_close(weighted_score(detached(live), weights), expected)


@each_kind
def test_the_inverse_metric_is_that_of_the_fisher_information(name):
    """Between gradients, against the dense pseudo-inverse of the family's own metric."""
    family, other = drawn(name)
    family, other = detached(family), detached(other)
    u, v = kl_gradient(family, other), entropy_gradient(family)
    found = sum((d * a * b).sum(dim=1) for d, a, b in zip(inverse_metric(family), u, v, strict=True))
    sizes = [part.shape[1] for part in family.statistics]
    columns = [
        family.metric([part.expand(3, -1) for part in row.split(sizes)]) for row in torch.eye(sum(sizes)).double()
    ]
    dense = torch.stack([torch.cat(column, dim=1) for column in columns], dim=2)
    u, v = (torch.cat(each, dim=1) for each in (u, v))
    expected = torch.einsum("ni,nij,nj->n", u, torch.linalg.pinv(dense), v)
    torch.testing.assert_close(found, expected)


@each_kind
def test_the_kl_gradient_points_away_from_the_average_policy(name):
    """The sign of k: a small step along +k must raise the divergence."""
    kind = KINDS[name]
    new, old = kind.family(*kind.draw(3)), kind.family(*kind.draw(3))
    moved = new.with_statistics([p + 1e-4 * k for p, k in zip(new.statistics, kl_gradient(new, old), strict=True)])
    assert (old.kl(moved) > old.kl(new)).all()


def test_other_families_are_named():
    coins = Bernoulli(torch.zeros(2, 3))
    with pytest.raises(TypeError, match="KL divergence is not known for a Bernoulli"):
        kl_gradient(coins, coins)
    with pytest.raises(TypeError, match="entropy is not known for a Bernoulli"):
        entropy_gradient(coins)
