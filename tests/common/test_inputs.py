"""What a policy is asked with: rows, thinning, joining, minibatches, and what is not finite."""

import math

import numpy as np
import pytest
import torch

from sb3_trpo_ext.common.inputs import Inputs, each, finite, one_in


def vector(n=6):
    return Inputs(torch.arange(2.0 * n).reshape(n, 2))


def dictionary(n=6):
    return Inputs({"one": torch.arange(2.0 * n).reshape(n, 2), "two": -torch.arange(n)})


both = pytest.mark.parametrize("make", [vector, dictionary])


def parts(inputs):
    observations = inputs.observations
    return list(observations.values()) if isinstance(observations, dict) else [observations]


@both
def test_length_is_the_number_of_states(make):
    assert len(make(5)) == 5


@pytest.mark.parametrize("k", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("n", [1, 6, 10])
def test_one_in_k_is_one_of_each_k(k, n):
    rows = one_in(k, n).tolist()
    assert [row // k for row in rows] == list(range(math.ceil(n / k))) and max(rows) < n


def test_one_in_k_is_the_same_always_and_moves_no_other_random_number():
    torch.manual_seed(1)
    one = one_in(3, 50)
    drawn = torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(2), drawn)
    assert torch.equal(one_in(3, 50), one)


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("period", [2, 3, 4, 6, 8, 1000])
def test_one_in_k_meets_every_phase_of_what_comes_back(k, period):
    """Every k-th would meet one in k of the phases alone wherever k divides the period."""
    phases = torch.bincount(one_in(k, 24_000 * k) % period, minlength=period)
    expected = 24_000 / period
    assert float((phases - expected).abs().max()) < 5 * expected**0.5


@both
@pytest.mark.parametrize("k", [1, 2, 4, 100])
def test_thinned_to_one_in_k(make, k):
    inputs = make()
    for thinned, part in zip(parts(inputs.rows(inputs.one_in(k))), parts(inputs), strict=True):
        assert torch.equal(thinned, part[one_in(k, 6)])


@both
def test_rows_by_their_indices(make):
    inputs, rows = make(), torch.tensor([4, 0, 4])
    for chosen, part in zip(parts(inputs.rows(rows)), parts(inputs), strict=True):
        assert torch.equal(chosen, part[rows])


@both
def test_followed_by(make):
    one, other = make(2), make(3)
    for joined, first, second in zip(parts(one.followed_by(other)), parts(one), parts(other), strict=True):
        assert torch.equal(joined, torch.cat([first, second]))


@both
@pytest.mark.parametrize("size, sizes", [(2, [2, 2, 2]), (4, [4, 2]), (100, [6])])
def test_minibatches_hold_every_state_once_in_numpys_order(make, size, sizes):
    np.random.seed(3)
    rows = list(make().minibatches(size))
    np.random.seed(3)
    assert [len(one) for one in rows] == sizes
    assert torch.cat(rows).tolist() == np.random.permutation(6).tolist()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_named(bad):
    inputs, named = vector(), dictionary()
    assert inputs.not_finite() == named.not_finite() == []
    inputs.observations[-1, 0] = bad
    named.observations["one"][0, 1] = bad
    assert inputs.not_finite() == ["observations"]
    assert named.not_finite() == ["observations['one']"]


def test_images_are_finite():
    assert Inputs(torch.zeros(1, 3, 4, 4, dtype=torch.uint8)).not_finite() == []


def test_finite_puts_zeros_in_the_place_of_what_is_not():
    bad = torch.tensor([1.0, torch.nan, torch.inf, -torch.inf])
    assert finite(bad).tolist() == [1, 0, 0, 0]
    assert finite({"a": bad})["a"].tolist() == [1, 0, 0, 0]
    assert bad.isnan().any(), "the tensor itself stays"


def test_each_keeps_the_kind():
    assert torch.equal(each(torch.neg, torch.ones(2)), -torch.ones(2))
    assert torch.equal(each(torch.neg, {"a": torch.ones(2)})["a"], -torch.ones(2))
