"""
The units in which ACER learns: running scales of the returns and of the advantages.

Nothing else of the update depends on the scale of the rewards once they are measured in these.
"""

import numpy as np

from sb3_trpo_ext.acer.buffer import Array

DECAY = 0.99
"""Of the running mean of the squared advantages, per gradient step."""


def past_returns(rewards: Array, dones: Array, before: Array, gamma: float) -> tuple[Array, Array]:
    """
    Discounted sums of the rewards so far, R_t = r_t + γ R_{t−1}, from 0 at an episode's start. Their size is that of
    the returns, and they are known at once.

    :param rewards: r, shape (T, B)
    :param dones: whether an episode ended with the step, shape (T, B)
    :param before: R of the step before, 0 at an episode's start, shape (B,)
    :param gamma: γ, in [0, 1]
    :return: R of shape (T, B), and what is ``before`` next
    """
    returns, running = np.empty(rewards.shape), before
    for t, reward in enumerate(rewards):
        returns[t] = reward + gamma * running
        running = np.where(dones[t], 0.0, returns[t])
    return returns, running


def root_mean_square(squares: float, n: int) -> float:
    """
    :param squares: sum of the squares
    :param n: of how many numbers
    :return: > 0; 1 as long as there is nothing but 0
    """
    return float(np.sqrt(squares / n)) if squares > 0 else 1.0
