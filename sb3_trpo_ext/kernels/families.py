"""
The families of action distributions, each as nothing but its parameter tensors.

A family knows its log-likelihood, its entropy, its KL divergence and its Fisher metric in its own parameters φ.
How φ depends on a network's weights is the business of :mod:`sb3_trpo_ext.kernels.linearize`.

Batches have n rows, one per state. Every per-state quantity is summed over the action dimensions, in nats.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

SelfFamily = TypeVar("SelfFamily", bound="Family")


class Family(ABC):
    """A batch of n action distributions of one kind."""

    @property
    @abstractmethod
    def statistics(self) -> tuple[Tensor, ...]:
        """The parameters φ of the n distributions: a tuple of tensors whose first dimension is n."""

    @abstractmethod
    def with_statistics(self: SelfFamily, statistics: Sequence[Tensor]) -> SelfFamily:
        """
        The same kind of family with other parameters.

        :param statistics: tensors like those of :attr:`statistics`
        """

    @property
    @abstractmethod
    def averaged_dimensions(self) -> int:
        """
        Over how many independent action dimensions a KL "averaged over dimensions" is averaged: d for the families
        that treat every action dimension alike, 1 for those that are one joint choice.
        """

    @abstractmethod
    def log_prob(self, actions: Tensor) -> Tensor:
        """
        :param actions: shape (n,) for one discrete choice, else (n, d)
        :return: log-likelihood of each row, shape (n,)
        """

    @abstractmethod
    def entropy(self) -> Tensor:
        """:return: Shannon's (or differential) entropy of each row, shape (n,)"""

    @abstractmethod
    def kl(self: SelfFamily, new: SelfFamily) -> Tensor:
        """
        KL(self ‖ new) of each row, shape (n,).

        :param new: a family of the same kind and shape
        """

    @abstractmethod
    def sample_score(self) -> tuple[Tensor, ...]:
        """
        ∇_φ log p(a) for one action a per row, drawn from the family with torch's global generator. Its covariance is
        the Fisher information M.

        :return: shaped like :attr:`statistics`
        """

    @abstractmethod
    def metric(self, tangent: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """
        M t, where M is the Fisher information of the family in φ: the Hessian of KL(self ‖ ·) at self.

        :param tangent: one direction per row, shaped like :attr:`statistics`
        :return: shaped like :attr:`statistics`
        """


@dataclass(frozen=True, eq=False)
class Gaussian(Family):
    """
    Independent normal distributions.

    :param mean: μ, shape (n, d)
    :param std: σ > 0, shape (n, d)
    """

    mean: Tensor
    std: Tensor

    @property
    def statistics(self) -> tuple[Tensor, ...]:
        return self.mean, self.std

    def with_statistics(self, statistics: Sequence[Tensor]) -> "Gaussian":
        return Gaussian(*statistics)

    @property
    def averaged_dimensions(self) -> int:
        return self.mean.shape[1]

    def log_prob(self, actions: Tensor) -> Tensor:
        z = (actions - self.mean) / self.std
        return -(0.5 * z * z + self.std.log()).sum(dim=1) - 0.5 * math.log(2 * math.pi) * self.mean.shape[1]

    def entropy(self) -> Tensor:
        return self.std.log().sum(dim=1) + 0.5 * math.log(2 * math.pi * math.e) * self.mean.shape[1]

    def kl(self, new: "Gaussian") -> Tensor:
        ratio = self.std / new.std
        shift = (self.mean - new.mean) / new.std
        return (0.5 * (ratio * ratio + shift * shift - 1) - ratio.log()).sum(dim=1)

    def sample_score(self) -> tuple[Tensor, ...]:
        z = torch.randn_like(self.mean)
        return z / self.std, (z * z - 1) / self.std

    def metric(self, tangent: Sequence[Tensor]) -> tuple[Tensor, ...]:
        precision = self.std.pow(-2)
        return precision * tangent[0], 2 * precision * tangent[1]


@dataclass(frozen=True, eq=False)
class Categorical(Family):
    """
    One choice out of k.

    :param logits: unnormalised log-probabilities, shape (n, k)
    """

    logits: Tensor

    @property
    def p(self) -> Tensor:
        """The probabilities, shape (n, k)."""
        return self.logits.softmax(dim=1) if self.logits.requires_grad else self._constant_p

    @property
    def log_p(self) -> Tensor:
        """Their logarithms, shape (n, k)."""
        return self.logits.log_softmax(dim=1) if self.logits.requires_grad else self._constant_log_p

    # Asked for many times in one update. With a graph each answer has its own.
    @cached_property
    def _constant_p(self) -> Tensor:
        return self.logits.softmax(dim=1)

    @cached_property
    def _constant_log_p(self) -> Tensor:
        return self.logits.log_softmax(dim=1)

    @property
    def statistics(self) -> tuple[Tensor, ...]:
        return (self.logits,)

    def with_statistics(self, statistics: Sequence[Tensor]) -> "Categorical":
        return Categorical(*statistics)

    @property
    def averaged_dimensions(self) -> int:
        return 1

    def log_prob(self, actions: Tensor) -> Tensor:
        return self.log_p.gather(1, actions.long().view(-1, 1)).squeeze(1)

    def entropy(self) -> Tensor:
        log_p = self.log_p
        return -(log_p.exp() * log_p).sum(dim=1)

    def kl(self, new: "Categorical") -> Tensor:
        log_p = self.log_p
        return (log_p.exp() * (log_p - new.log_p)).sum(dim=1)

    def sample_score(self) -> tuple[Tensor, ...]:
        p = self.p
        chosen = torch.zeros_like(p).scatter_(1, p.multinomial(1), 1.0)
        return (chosen - p,)

    def metric(self, tangent: Sequence[Tensor]) -> tuple[Tensor, ...]:
        p = self.p
        weighted = p * tangent[0]
        return (weighted - p * weighted.sum(dim=1, keepdim=True),)


@dataclass(frozen=True, eq=False)
class MultiCategorical(Family):
    """
    d independent choices, the j-th out of ``sizes[j]``.

    :param logits: the choices' logits side by side, shape (n, sum(sizes))
    :param sizes: number of options of each choice
    """

    logits: Tensor
    sizes: tuple[int, ...]

    @property
    def choices(self) -> list[Categorical]:
        """The d families, one per choice."""
        return [Categorical(block) for block in torch.split(self.logits, list(self.sizes), dim=1)]

    @property
    def statistics(self) -> tuple[Tensor, ...]:
        return (self.logits,)

    def with_statistics(self, statistics: Sequence[Tensor]) -> "MultiCategorical":
        return MultiCategorical(statistics[0], self.sizes)

    @property
    def averaged_dimensions(self) -> int:
        return 1

    def log_prob(self, actions: Tensor) -> Tensor:
        return _total([choice.log_prob(action) for choice, action in zip(self.choices, actions.unbind(1), strict=True)])

    def entropy(self) -> Tensor:
        return _total([choice.entropy() for choice in self.choices])

    def kl(self, new: "MultiCategorical") -> Tensor:
        return _total([old.kl(choice) for old, choice in zip(self.choices, new.choices, strict=True)])

    def sample_score(self) -> tuple[Tensor, ...]:
        return (torch.cat([choice.sample_score()[0] for choice in self.choices], dim=1),)

    def metric(self, tangent: Sequence[Tensor]) -> tuple[Tensor, ...]:
        blocks = zip(self.choices, torch.split(tangent[0], list(self.sizes), dim=1), strict=True)
        return (torch.cat([choice.metric((block,))[0] for choice, block in blocks], dim=1),)


@dataclass(frozen=True, eq=False)
class Bernoulli(Family):
    """
    d independent coins.

    :param logits: log-odds of 1, shape (n, d)
    """

    logits: Tensor

    @property
    def statistics(self) -> tuple[Tensor, ...]:
        return (self.logits,)

    def with_statistics(self, statistics: Sequence[Tensor]) -> "Bernoulli":
        return Bernoulli(*statistics)

    @property
    def averaged_dimensions(self) -> int:
        return self.logits.shape[1]

    def log_prob(self, actions: Tensor) -> Tensor:
        return (actions * logsigmoid(self.logits) + (1 - actions) * logsigmoid(-self.logits)).sum(dim=1)

    def entropy(self) -> Tensor:
        return -self._cross(logsigmoid(self.logits), logsigmoid(-self.logits))

    def kl(self, new: "Bernoulli") -> Tensor:
        return self._cross(
            logsigmoid(self.logits) - logsigmoid(new.logits), logsigmoid(-self.logits) - logsigmoid(-new.logits)
        )

    def sample_score(self) -> tuple[Tensor, ...]:
        p = self.logits.sigmoid()
        return (p.bernoulli() - p,)

    def metric(self, tangent: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (self.logits.sigmoid() * (-self.logits).sigmoid() * tangent[0],)

    def _cross(self, if_one: Tensor, if_zero: Tensor) -> Tensor:
        """Expectation of a function of the coins that is given by its two values; inputs (n, d), output (n,)."""
        return (self.logits.sigmoid() * if_one + (-self.logits).sigmoid() * if_zero).sum(dim=1)


def _total(per_choice: list[Tensor]) -> Tensor:
    """Sum a list of tensors of shape (n,)."""
    return torch.stack(per_choice).sum(dim=0)
