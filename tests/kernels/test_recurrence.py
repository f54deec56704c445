"""Sums by doubling against a loop."""

import numpy as np
import pytest

from sb3_trpo_ext.kernels.recurrence import discounted_sums


@pytest.mark.parametrize("T", [1, 2, 3, 8, 13, 100])
def test_discounted_sums_are_those_of_a_loop(T):
    rng = np.random.default_rng(T)
    terms, factors = rng.normal(size=(T, 3)), rng.normal(size=(T - 1, 3))
    factors[rng.random((T - 1, 3)) < 0.2] = 0
    expected = terms.copy()
    for t in reversed(range(T - 1)):
        expected[t] += factors[t] * expected[t + 1]
    before = terms.copy(), factors.copy()
    np.testing.assert_allclose(discounted_sums(terms, factors), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(terms, before[0])
    np.testing.assert_array_equal(factors, before[1])
