"""The samples of an update: what is thinned, joined and averaged."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sb3_trpo_ext.common.inputs import Inputs, one_in
from sb3_trpo_ext.trust_region.batch import Batch


def batch_of(advantages, **parts):
    advantages = torch.tensor(advantages)
    n = len(advantages)
    usual = {"inputs": Inputs(torch.zeros(n, 2)), "actions": torch.zeros(n, 1)}
    vectors = {"returns": torch.zeros(n), "values": torch.zeros(n)}
    return Batch(**(usual | vectors | {"advantages": advantages} | parts))


def numbered(n, shift=0.0):
    """Sample i carries the number i + shift wherever it can."""
    i = torch.arange(n) + shift
    return Batch(Inputs(i[:, None]), i[:, None] + 100, i + 200, i + 300, i + 400, i + 500)


PARTS = ("actions", "advantages", "returns", "values", "behaviour_log_prob")


@pytest.mark.parametrize("k", [1, 2, 3, 100])
def test_one_in_k_keeps_the_parts_together(k):
    batch = numbered(10)
    thinned = batch.one_in(k)
    assert thinned.size == len(range(0, 10, k))
    rows = one_in(k, 10)
    assert torch.equal(thinned.inputs.observations, batch.inputs.observations[rows])
    for part in PARTS:
        assert torch.equal(getattr(thinned, part), getattr(batch, part)[rows])


@pytest.mark.parametrize(("states", "k"), [(1, 10), (3, 3), (5, 2), (6, 1), (10, 1), (11, 1)])
def test_thinned_for_a_curvature_to_a_number_of_states_or_a_few_more(states, k):
    batch = numbered(10)
    thinned = batch.thinned_for([], states)
    assert thinned.size == len(range(0, 10, k)) >= min(states, 10)
    assert torch.equal(thinned.inputs.observations, batch.inputs.observations[one_in(k, 10)])
    assert (thinned is batch) == (k == 1)


@pytest.mark.parametrize(
    ("shapes", "size"),
    [
        ([(64, 3), (64,), (2, 64), (2,)], 256),
        ([(64, 348), (64,), (64, 64), (64,)], 2048),  # 1 392 at least, which one in three would not be
        ([(64, 200), (64,)], 820),
        ([(64, 8), (64,), (1, 8), (1,)], 128),
        ([(64, 5000), (64,)], 2048),  # of which more are there
        ([(5,)], 128),
        ([(32, 4, 8, 8), (32,), (512, 3136), (512,)], 128),  # convolutions
    ],
)
def test_a_curvature_of_wide_layers_has_more_states(shapes, size):
    parameters = [torch.zeros(shape) for shape in shapes]
    assert numbered(4096).thinned_for(parameters, 128).size == size


def test_a_thinned_curvature_knows_every_phase_of_what_comes_back():
    """With every second state it would know two of four players, joints or seasons that take turns."""
    turns = replace(numbered(2048), inputs=Inputs(torch.eye(4).repeat(512, 1)))
    shares = turns.thinned_for([], 1024).inputs.observations.mean(dim=0)
    torch.testing.assert_close(shares, torch.full((4,), 0.25), rtol=0, atol=0.05)


def test_states_that_hang_together_are_not_thinned():
    class Together(Inputs):
        stands_alone = False

    batch = replace(numbered(10), inputs=Together(numbered(10).inputs.observations))
    assert batch.thinned_for([], 2) is batch


def test_who_acted_may_be_unknown_to_a_thinned_batch():
    assert replace(numbered(4), behaviour_log_prob=None).one_in(2).behaviour_log_prob is None


def test_followed_by():
    one, other = numbered(3), numbered(2, shift=1000.0)
    both = one.followed_by(other)
    assert both.size == 5
    assert torch.equal(both.inputs.observations, torch.cat([one.inputs.observations, other.inputs.observations]))
    for part in PARTS:
        assert torch.equal(getattr(both, part), torch.cat([getattr(one, part), getattr(other, part)]))


def test_reductions_are_over_the_samples():
    batch, numbers = numbered(4), torch.tensor([1.0, 2.0, 3.0, 10.0])
    assert float(batch.mean(numbers)) == 4.0
    assert float(batch.mean(torch.stack([numbers, -numbers], dim=1))) == 0.0
    assert float(batch.largest(numbers)) == 10.0
    assert float(batch.deviation(numbers)) == pytest.approx(np.std([1, 2, 3, 10], ddof=1))


@pytest.mark.parametrize("scale, shift", [(1.0, 0.0), (1e-3, 0.0), (1e4, -1e4), (1e30, 0.0), (1e-30, 0.0)])
def test_normalized(scale, shift):
    advantages = (shift + scale * torch.randn(1000, dtype=torch.float64)).tolist()
    batch = batch_of(advantages)
    result = batch.normalized()
    expected = (np.array(advantages) - np.mean(advantages)) / np.std(advantages, ddof=1)
    np.testing.assert_allclose(result.advantages.numpy(), expected, rtol=1e-3, atol=1e-3)
    assert result.inputs is batch.inputs and result.returns is batch.returns
    assert batch.advantages.tolist() == torch.tensor(advantages).tolist(), "the batch itself stays"


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1 / 3, 1e6, 1e-30, 123456.789])
@pytest.mark.parametrize("n", [2, 7, 2048])
def test_equal_advantages_become_exactly_zero(value, n):
    assert batch_of([value] * n).normalized().advantages.tolist() == [0.0] * n


def test_rounding_noise_is_not_blown_up():
    value = np.float32(0.1)
    noisy = [float(value), float(np.nextafter(value, np.float32(1)))] * 50
    assert batch_of(noisy).normalized().advantages.tolist() == [0.0] * 100


def test_single_outlier():
    result = batch_of([0.0] * 99 + [1e6]).normalized().advantages
    assert float(result.std()) == pytest.approx(1, rel=1e-5)
    assert float(result.mean()) == pytest.approx(0, abs=1e-5)
    assert float(result[-1]) == pytest.approx(9.9, rel=1e-3)
    assert torch.equal(result[:-1], result[:1].expand(99))
