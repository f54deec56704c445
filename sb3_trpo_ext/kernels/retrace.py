"""Returns of one trajectory corrected for having been collected by another policy: Retrace and Q^opc."""

import numpy as np
import torch
from torch import Tensor

from sb3_trpo_ext.kernels.recurrence import discounted_sums


@torch.no_grad()
def retrace(
    rewards: Tensor, q_values: Tensor, values: Tensor, traces: Tensor, ends: Tensor, bootstraps: Tensor, gamma: float
) -> Tensor:
    """
    Retrace (Munos et al. 2016, arXiv:1606.02647), backwards in time:

        Q^ret(x_t, a_t) = r_t + γ [ρ̄_{t+1} (Q^ret(x_{t+1}, a_{t+1}) − Q(x_{t+1}, a_{t+1})) + V(x_{t+1})],

    and where the trajectory ends with step t, r_t + γ times what the state after it is worth.

    :param rewards: r, shape (T, B): T steps of B sequences. A sequence may hold several episodes.
    :param q_values: Q(x_t, a_t), shape (T, B)
    :param values: V(x_t), shape (T, B)
    :param traces: ρ̄_t ≥ 0, shape (T, B): importance weights truncated at 1, or 1 everywhere for Q^opc
    :param ends: whether step t is the last of its episode or of the sequence, boolean, shape (T, B). The last row
        counts as true.
    :param bootstraps: value of the state after step t, read where ``ends``: 0 for a terminal state, V of the state
        where a time limit or the sequence cut the episode. Shape (T, B).
    :param gamma: discount γ, in [0, 1]
    :return: Q^ret(x_t, a_t), shape (T, B)
    """
    # In NumPy, where a few numbers take a fraction of torch's time, and of a GPU's: T steps would be 2 T kernels.
    on_host = (part.detach().cpu().numpy() for part in (rewards, q_values, values, traces, ends[:-1], bootstraps))
    r, q, v, rho, end, after = on_host
    constants = r + gamma * np.concatenate([np.where(end, after[:-1], v[1:] - rho[1:] * q[1:]), after[-1:]])
    targets = discounted_sums(constants, np.where(end, 0, gamma * rho[1:]))
    return torch.as_tensor(targets, device=rewards.device)


def uncorrected(
    rewards: Tensor, q_values: Tensor, values: Tensor, ends: Tensor, bootstraps: Tensor, gamma: float
) -> Tensor:
    """
    Q^opc, "off-policy corrected" (Harutyunyan et al. 2016, arXiv:1602.04951): :func:`retrace` with every trace 1.

    :param rewards: shape (T, B)
    :param q_values: Q(x_t, a_t), shape (T, B)
    :param values: V(x_t), shape (T, B)
    :param ends: as for :func:`retrace`
    :param bootstraps: as for :func:`retrace`
    :param gamma: discount
    :return: Q^opc(x_t, a_t), shape (T, B)
    """
    return retrace(rewards, q_values, values, torch.ones_like(q_values), ends, bootstraps, gamma)
