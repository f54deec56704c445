"""Each family against torch.distributions, sampling, exact expectations and automatic differentiation."""

import pytest
import torch

from sb3_trpo_ext.kernels.families import Gaussian
from tests.cases import (
    DIM,
    KINDS,
    SIZES,
    dense,
    flat,
    hessian,
    outcomes,
    reference_entropy,
    reference_kl,
    reference_log_prob,
    reference_sample,
)

EXACT = {"rtol": 1e-10, "atol": 1e-12}

each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


class Metric:
    """A family's metric at its only row, as an operator on flat vectors."""

    def __init__(self, family):
        self.family = family

    def __matmul__(self, vector):
        sizes = [tensor.shape[1] for tensor in self.family.statistics]
        return flat(self.family.metric([piece[None] for piece in vector.split(sizes)]))


@each_kind
@pytest.mark.parametrize("n", [1, 7])
def test_agrees_with_torch_distributions(kind, n):
    old, new = kind.draw(n), kind.draw(n)
    family, reference = kind.family(*old), kind.reference(*old)
    actions = reference_sample(reference)
    assert family.log_prob(actions).shape == family.entropy().shape == family.kl(kind.family(*new)).shape == (n,)
    torch.testing.assert_close(family.log_prob(actions), reference_log_prob(reference, actions), **EXACT)
    torch.testing.assert_close(family.entropy(), reference_entropy(reference), **EXACT)
    torch.testing.assert_close(family.kl(kind.family(*new)), reference_kl(reference, kind.reference(*new)), **EXACT)


@each_kind
def test_kl_is_the_expected_log_ratio_under_the_old_distribution(kind):
    n = 200_000
    old = [tensor.expand(n, -1) for tensor in kind.draw(1)]
    new = [0.5 * tensor for tensor in old]
    actions = reference_sample(kind.reference(*old))
    log_ratio = kind.family(*old).log_prob(actions) - kind.family(*new).log_prob(actions)
    exact = kind.family(*old).kl(kind.family(*new))[0]
    assert abs(log_ratio.mean() - exact) < 4 * log_ratio.std() / n**0.5
    backwards = kind.family(*new).kl(kind.family(*old))[0]
    assert abs(log_ratio.mean() - backwards) > 10 * log_ratio.std() / n**0.5, "the example must tell the two apart"


@each_kind
def test_metric_is_the_hessian_of_kl(kind):
    statistics = kind.draw(5)
    leaves = [tensor.clone().requires_grad_() for tensor in statistics]
    total = reference_kl(kind.reference(*statistics), kind.reference(*leaves)).sum()
    tangent = [torch.randn_like(tensor) for tensor in statistics]
    product = flat(kind.family(*statistics).metric(tangent))
    torch.testing.assert_close(product, hessian(total, leaves) @ flat(tangent), **EXACT)


@each_kind
def test_metric_is_the_expected_outer_product_of_the_score(kind):
    statistics = kind.draw(1)
    actions, weights = outcomes(kind.reference(*statistics))
    torch.testing.assert_close(weights.sum(), torch.ones((), dtype=torch.float64))
    leaves = [tensor.expand(len(actions), -1).clone().requires_grad_() for tensor in statistics]
    grads = torch.autograd.grad(kind.family(*leaves).log_prob(actions).sum(), leaves)
    scores = torch.cat(grads, dim=1)
    fisher = scores.T @ (weights[:, None] * scores)
    torch.testing.assert_close(dense(Metric(kind.family(*statistics)), scores.shape[1]), fisher, **EXACT)


@each_kind
def test_sampled_scores_have_the_metric_as_their_covariance(kind):
    n = 200_000
    statistics = kind.draw(1)
    scores = torch.cat(kind.family(*[tensor.expand(n, -1) for tensor in statistics]).sample_score(), dim=1)
    products = scores[:, :, None] * scores[:, None, :]
    M = dense(Metric(kind.family(*statistics)), scores.shape[1])
    for samples, mean in ((scores, torch.zeros_like(scores[0])), (products, M)):
        assert bool(((samples.mean(dim=0) - mean).abs() <= 5 * samples.std(dim=0) / n**0.5 + 1e-12).all())


@each_kind
def test_with_statistics_changes_nothing_else(kind):
    family, other = kind.family(*kind.draw(3)), kind.draw(3)
    rebuilt = family.with_statistics(other)
    assert type(rebuilt) is type(family)
    assert all(a is b for a, b in zip(rebuilt.statistics, other, strict=True))
    torch.testing.assert_close(rebuilt.entropy(), reference_entropy(kind.reference(*other)), **EXACT)
    assert getattr(rebuilt, "sizes", SIZES) == SIZES


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kl_to_itself_is_exactly_zero(kind, dtype):
    statistics = [tensor.to(dtype) for tensor in kind.draw(100)]
    kl = kind.family(*statistics).kl(kind.family(*[tensor.clone() for tensor in statistics]))
    assert kl.dtype == dtype
    assert torch.equal(kl, torch.zeros(100, dtype=dtype))


@pytest.mark.parametrize(
    "name, dimensions", [("gaussian", DIM), ("categorical", 1), ("multi_categorical", 1), ("bernoulli", DIM)]
)
def test_dimensions_over_which_a_mean_kl_is_averaged(name, dimensions):
    assert KINDS[name].family(*KINDS[name].draw(2)).averaged_dimensions == dimensions


@pytest.mark.parametrize("name", ["categorical", "multi_categorical", "bernoulli"])
@pytest.mark.parametrize("size", [50.0, 1e3, 1e6])
def test_nearly_certain_choices_stay_finite(name, size):
    kind = KINDS[name]
    old, new = ([size * tensor.float() for tensor in kind.draw(20)] for _ in range(2))
    leaves = [tensor.requires_grad_() for tensor in old]
    family = kind.family(*leaves)
    actions = reference_sample(kind.reference(*new))
    kl = family.kl(kind.family(*new))
    assert bool((kl >= 0).all())
    assert float(family.entropy().detach().min()) >= 0
    values = (family.log_prob(actions), family.entropy(), kl)
    derivatives = [torch.autograd.grad(value.sum(), leaves, retain_graph=True)[0] for value in values]
    for tensor in (*values, *derivatives, *family.metric([torch.ones_like(tensor) for tensor in old])):
        assert bool(torch.isfinite(tensor).all())


@pytest.mark.parametrize("log_std", [-20.0, 20.0])
def test_extreme_widths_stay_finite(log_std):
    mean = torch.randn(5, DIM)
    std = torch.full_like(mean, log_std).exp()
    family = Gaussian(mean, std)
    values = (family.log_prob(mean + std), family.entropy(), family.kl(Gaussian(mean + std, 2 * std)))
    for tensor in (*values, *family.metric([torch.ones_like(mean), torch.ones_like(mean)])):
        assert bool(torch.isfinite(tensor).all())
    # The divergence does not depend on the unit in which actions are measured.
    unit = Gaussian(torch.zeros_like(mean), torch.ones_like(mean))
    same = unit.kl(Gaussian(torch.ones_like(mean), 2 * torch.ones_like(mean)))
    torch.testing.assert_close(Gaussian(0 * mean, std).kl(Gaussian(std, 2 * std)), same)


def test_impossible_parameters_give_nan_and_no_exception():
    """A candidate of the line search may be broken; it must be seen to be, not hidden."""
    for kind in KINDS.values():
        old = kind.draw(4)
        new = [torch.full_like(tensor, torch.nan) for tensor in old]
        assert bool(torch.isnan(kind.family(*old).kl(kind.family(*new))).all())
