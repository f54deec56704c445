"""Discounted sums over the steps that follow, which advantages, targets and Retrace all are."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", np.float32, np.float64)


def discounted_sums(terms: NDArray[Number], factors: NDArray[Number]) -> NDArray[Number]:
    """
    x with x_t = terms_t + factors_t · x_{t+1}, and x_{T−1} = terms_{T−1}, by doubling: after k rounds each x_t is the
    sum of the next 2^k terms, and its factor the product of theirs.

    :param terms: shape (T, E), T ≥ 1
    :param factors: of the steps that another follows, shape (T − 1, E)
    :return: shape (T, E)
    """
    sums, reach = terms.copy(), 1
    while reach < len(sums):
        sums[:-reach] += factors * sums[reach:]
        factors = factors[:-reach] * factors[reach:]
        reach *= 2
    return sums
