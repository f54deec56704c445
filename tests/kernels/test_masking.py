"""Masked families beside torch's distributions over the allowed choices alone, in float64."""

import pytest
import torch
from torch.distributions import Categorical as Choice
from torch.distributions import kl_divergence

from sb3_trpo_ext.kernels import families
from sb3_trpo_ext.kernels.masking import masked

SIZES = (2, 3, 4)
WIDTHS = {"categorical": 5, "multi_categorical": sum(SIZES), "bernoulli": 3}
N = 40


def family(kind, logits):
    if kind == "categorical":
        return families.Categorical(logits)
    return families.MultiCategorical(logits, SIZES) if kind == "multi_categorical" else families.Bernoulli(logits)


def blocks(kind, tensor):
    """What is chosen from by one choice, a column each; of a coin first 0, then 1."""
    if kind == "categorical":
        return [tensor]
    return list(tensor.split(SIZES if kind == "multi_categorical" else [2] * 3, dim=1))


def draw(kind):
    torch.manual_seed(0)
    logits = 2 * torch.randn(N, WIDTHS[kind], dtype=torch.float64)
    masks = torch.rand(N, WIDTHS[kind] * (2 if kind == "bernoulli" else 1)) < 0.5
    for block in blocks(kind, masks):  # views: at least one option each
        block[torch.arange(N), torch.randint(block.shape[1], (N,))] = True
    return logits, masks


def reference(kind, logits, masks):
    """Row by row, of each choice a torch distribution over what is allowed."""
    if kind == "bernoulli":
        logits = torch.stack([torch.zeros_like(logits), logits], dim=2).flatten(1)
    parts = list(zip(blocks(kind, logits), blocks(kind, masks), strict=True))
    return [[Choice(logits=part[i][mask[i]]) for part, mask in parts] for i in range(N)]


def an_action(kind, masks):
    """The last option that is allowed, of each choice: as the family takes it, and its place among the allowed ones."""
    actions, places = [], []
    for mask in blocks(kind, masks):
        last = mask.shape[1] - 1 - mask.flip(1).int().argmax(dim=1)
        actions.append(last)
        places.append(mask.sum(dim=1) - 1)
    stacked = torch.stack(actions, dim=1)
    return (stacked[:, 0] if kind == "categorical" else stacked), torch.stack(places, dim=1)


each_kind = pytest.mark.parametrize("kind", WIDTHS)


@each_kind
def test_a_masked_family_is_the_one_over_the_allowed_choices(kind):
    logits, masks = draw(kind)
    old, new = masked(family(kind, logits), masks), masked(family(kind, logits.flip(0)), masks)
    p, q = reference(kind, logits, masks), reference(kind, logits.flip(0), masks)
    action, places = an_action(kind, masks)
    log_prob = [sum(one.log_prob(place) for one, place in zip(p[i], places[i], strict=True)) for i in range(N)]
    kl = [sum(kl_divergence(a, b) for a, b in zip(p[i], q[i], strict=True)) for i in range(N)]
    entropy = [sum(one.entropy() for one in p[i]) for i in range(N)]
    torch.testing.assert_close(old.log_prob(action), torch.stack(log_prob))
    torch.testing.assert_close(old.kl(new), torch.stack(kl))
    torch.testing.assert_close(old.entropy(), torch.stack(entropy))


@each_kind
def test_the_metric_is_the_hessian_of_the_kl_and_0_at_forbidden_choices(kind):
    logits, masks = draw(kind)
    old = masked(family(kind, logits), masks)
    tangent = torch.randn_like(logits)

    def kl(moved):
        return old.kl(masked(family(kind, moved), masks)).sum()

    expected = torch.autograd.functional.hvp(kl, logits, tangent)[1]
    torch.testing.assert_close(old.metric([tangent])[0], expected)
    decided = ~masks[:, 0::2] | ~masks[:, 1::2] if kind == "bernoulli" else ~masks
    assert decided.any() and bool((old.metric([tangent])[0][decided] == 0).all())


@each_kind
def test_a_forbidden_choice_has_no_gradient_at_all(kind):
    logits, masks = draw(kind)
    action, _ = an_action(kind, masks)
    leaf = logits.clone().requires_grad_()
    old = masked(family(kind, logits), masks)
    new = masked(family(kind, leaf), masks)
    total = (new.log_prob(action) + old.kl(new) + new.entropy()).sum()
    (gradient,) = torch.autograd.grad(total, leaf)
    forbidden = ~masks[:, 0::2] | ~masks[:, 1::2] if kind == "bernoulli" else ~masks
    assert bool((gradient[forbidden] == 0).all()) and bool(torch.isfinite(gradient).all())


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_one_allowed_choice_everything_is_exactly_0(kind, dtype):
    logits, masks = draw(kind)
    logits = logits.to(dtype)
    for block in blocks(kind, masks):
        block[:] = False
        block[torch.arange(N), torch.randint(block.shape[1], (N,))] = True
    action, _ = an_action(kind, masks)
    old, new = masked(family(kind, logits), masks), masked(family(kind, -logits), masks)
    for zero in (old.log_prob(action), old.entropy(), old.kl(new), old.metric([torch.ones_like(logits)])[0]):
        assert bool((zero == 0).all())


def test_ten_thousand_choices_in_single_precision():
    torch.manual_seed(0)
    logits, masks = 30 * torch.randn(4, 10_000), torch.rand(4, 10_000) < 0.01
    old = masked(families.Categorical(logits), masks)
    new = masked(families.Categorical(logits + torch.randn_like(logits)), masks)
    assert bool((old.logits.softmax(dim=1)[~masks] == 0).all())
    exact_old, exact_new = (masked(families.Categorical(one.logits.double()), masks) for one in (old, new))
    torch.testing.assert_close(old.kl(new), exact_old.kl(exact_new).float(), rtol=1e-4, atol=1e-5)
    assert bool(torch.isfinite(old.metric([torch.ones_like(logits)])[0]).all())
