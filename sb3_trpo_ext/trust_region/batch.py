"""The samples of an update as flat tensors, and every mean that an update takes of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sb3_trpo_ext.common.inputs import Inputs
from sb3_trpo_ext.common.ranks import ALONE, Ranks
from sb3_trpo_ext.kernels.linearize import Linearization
from sb3_trpo_ext.trust_region.actor import LinearizedPolicy

# A spread of the advantages below this share of the largest is rounding noise of float32, not information.
ROUNDING = 1e-6
# A curvature is made of so many states at least for each input of the widest layer: the second moments of k inputs
# are known from several times k states alone. With thousands of inputs that would be too dear.
STATES_PER_INPUT = 4
MOST_STATES = 2048


@dataclass(frozen=True)
class Batch:
    """
    The samples of this process, n of N. Where they come from one rollout they are in the buffer's order: one
    environment after the other, each in time order.

    Everything that an update knows about all N samples together goes through :attr:`size`, :meth:`mean`,
    :meth:`deviation`, :meth:`largest` and :meth:`linearization`, so that an update is the same whether the samples are
    spread over several processes or not.

    :param inputs: what the policy is asked with in the n states
    :param actions: as stored, shape (n, d)
    :param advantages: shape (n,)
    :param returns: targets of the critic, shape (n,)
    :param values: predicted by the present critic, shape (n,)
    :param behaviour_log_prob: log μ(a|s) of the behaviour policy μ, shape (n,); None when that is the present policy
    :param linearized: the present policy in the n states, where that is computed already; thinning drops it
    :param ranks: the processes that the samples are spread over
    """

    inputs: Inputs
    actions: Tensor
    advantages: Tensor
    returns: Tensor
    values: Tensor
    behaviour_log_prob: Tensor | None = None
    linearized: LinearizedPolicy | None = None
    ranks: Ranks = ALONE

    @cached_property
    def size(self) -> int:
        """N."""
        return self.ranks.count(len(self.returns))

    def mean(self, per_sample: Tensor) -> Tensor:
        """
        The mean over the samples.

        :param per_sample: of this process's, shape (n, …)
        :return: a scalar
        """
        return self.ranks.mean(per_sample)

    def deviation(self, per_sample: Tensor) -> Tensor:
        """The standard deviation over the samples, with N − 1 in the denominator; arguments as :meth:`mean`."""
        return self.ranks.deviation(per_sample)

    def largest(self, per_sample: Tensor) -> Tensor:
        """The largest over the samples; arguments as :meth:`mean`."""
        return self.ranks.largest(per_sample)

    def linearization(self, local: Linearization) -> Linearization:
        """
        One whose products Jᵀc are sums over all N samples.

        :param local: of a map at the n states of this process
        """
        return local if self.ranks is ALONE else SummedOverRanks(local, self.ranks)

    def one_in(self, k: int) -> "Batch":
        """The samples whose states are left when the states are thinned to one in k, k ≥ 1: of each process's own."""
        if k == 1:
            return self
        rows = self.inputs.one_in(k)
        actions, advantages, returns, values = (
            part.index_select(0, rows) for part in (self.actions, self.advantages, self.returns, self.values)
        )
        log_prob = None if self.behaviour_log_prob is None else self.behaviour_log_prob.index_select(0, rows)
        return Batch(self.inputs.rows(rows), actions, advantages, returns, values, log_prob, ranks=self.ranks)

    def thinned_for(self, parameters: Sequence[Tensor], states: int) -> "Batch":
        """
        The samples whose states are left when they are thinned as far as they may be for a curvature, whose mean needs
        fewer than a gradient's: to one in k, and to no fewer than a given number, nor than ``STATES_PER_INPUT`` for
        each input of the widest dense layer, up to ``MOST_STATES``. All where states hang together.

        With convolutions the number is as given: there a state has many patches, and more states would cost most.

        :param parameters: of the map whose curvature it is
        :param states: of all N, ≥ 1
        """
        if not self.inputs.stands_alone:
            return self
        if all(parameter.ndim <= 2 for parameter in parameters):
            widest = max((parameter.shape[1] for parameter in parameters if parameter.ndim == 2), default=0)
            states = max(states, min(STATES_PER_INPUT * widest, MOST_STATES))
        return self.one_in(max(1, self.size // states))

    def followed_by(self, other: "Batch") -> "Batch":
        """
        The samples of both.

        :param other: with ``behaviour_log_prob``, as this one
        """
        assert self.behaviour_log_prob is not None and other.behaviour_log_prob is not None
        return Batch(
            self.inputs.followed_by(other.inputs),
            torch.cat([self.actions, other.actions]),
            torch.cat([self.advantages, other.advantages]),
            torch.cat([self.returns, other.returns]),
            torch.cat([self.values, other.values]),
            torch.cat([self.behaviour_log_prob, other.behaviour_log_prob]),
        )

    def normalized(self) -> "Batch":
        """
        With advantages of mean 0 and standard deviation 1.

        Advantages that are all equal say nothing about the actions: they become exactly 0, where dividing by their
        spread would blow rounding noise up into a direction.
        """
        if self.size < 2:  # thinned to a single one
            return replace(self, advantages=torch.zeros_like(self.advantages))
        tiny = torch.finfo(self.advantages.dtype).tiny
        # So that no square overflows.
        relative = self.advantages / self.largest(self.advantages.abs()).clamp(min=tiny)
        centred = relative - self.mean(relative)
        deviation = self.deviation(centred)
        if deviation <= ROUNDING:
            return replace(self, advantages=torch.zeros_like(centred))
        return replace(self, advantages=centred / deviation)


class SummedOverRanks:
    """
    A linearization at states that are spread over several processes.

    :param local: at the states of this process
    :param ranks: all of them
    """

    def __init__(self, local: Linearization, ranks: Ranks):
        self.local, self.ranks = local, ranks
        self.value = local.value

    def jvp(self, tangent: Tensor) -> tuple[Tensor, ...]:
        """J v at the states of this process: v is the same on all."""
        return self.local.jvp(tangent)

    def vjp(self, cotangent: Sequence[Tensor]) -> Tensor:
        """Σ Jᵀ c over all states."""
        return self.ranks.sum(self.local.vjp(cotangent))
