"""What a policy is asked with: observations, and whatever else its answer depends on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

Observations: TypeAlias = Tensor | dict[str, Tensor]
SelfInputs = TypeVar("SelfInputs", bound="Inputs")


def each(function: Callable[[Tensor], Tensor], observations: Observations) -> Observations:
    """Apply a function to every tensor."""
    if isinstance(observations, dict):
        return {key: function(value) for key, value in observations.items()}
    return function(observations)


def finite(observations: Observations) -> Observations:
    """With 0 in the place of NaN and infinity, and of what is infinity in the float32 that policies compute in."""
    return each(lambda tensor: torch.where(torch.isfinite(_single(tensor)), tensor, 0), observations)


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def one_in(k: int, n: int) -> Tensor:
    """
    One of each k numbers of 0 … n − 1, where among its k is drawn: with the same place always, states that come back
    with a period that shares a factor with k would be left out as a whole. The draws are the same in every call, and of
    no global generator.

    :return: ⌈n / k⌉ numbers, rising
    """
    first = torch.arange(0, n, k)
    place = torch.randint(k, first.shape, generator=torch.Generator().manual_seed(0))
    return (first + place).clamp(max=n - 1)


@dataclass(frozen=True)
class Inputs:
    """
    What a policy is asked with in n states. Whoever holds inputs never looks inside: a policy that asks for more than
    observations, such as masks or memory, has a subclass that adds it.

    :param observations: n of them, as the policy takes them: one tensor, or a dictionary of tensors
    """

    observations: Observations
    stands_alone: ClassVar[bool] = True
    """Whether a state can be left out, and the others stay what they are."""

    def __len__(self) -> int:
        return len(self._first)

    @property
    def _first(self) -> Tensor:
        return next(iter(self.observations.values())) if isinstance(self.observations, dict) else self.observations

    def one_in(self, k: int) -> Tensor:
        """Which rows are left when the states are thinned to one in k, k ≥ 1."""
        return one_in(k, len(self)).to(self._first.device)

    def rows(self: SelfInputs, rows: Tensor) -> SelfInputs:
        """
        The inputs of some states.

        :param rows: their indices
        """
        return replace(self, observations=each(lambda tensor: tensor.index_select(0, rows), self.observations))

    def followed_by(self: SelfInputs, other: SelfInputs) -> SelfInputs:
        """
        The inputs of both, these first.

        :param other: of the same kind
        """
        if isinstance(self.observations, dict):
            assert isinstance(other.observations, dict)
            others = other.observations
            joined: Observations = {key: torch.cat([own, others[key]]) for key, own in self.observations.items()}
        else:
            assert isinstance(other.observations, Tensor)
            joined = torch.cat([self.observations, other.observations])
        return replace(self, observations=joined)

    def minibatches(self, batch_size: int) -> Iterator[Tensor]:
        """
        The indices of all states in a new order, drawn from numpy's global generator as SB3 does, a minibatch at a
        time.

        :param batch_size: states in each but the last, which may have fewer
        """
        order = torch.from_numpy(np.random.permutation(len(self))).to(self._first.device)
        yield from torch.split(order, int(batch_size))

    def not_finite(self) -> list[str]:
        """The names of the parts that hold NaN, infinity or what float32 does not; empty when all is well."""
        if isinstance(self.observations, dict):
            parts = {f"observations[{key!r}]": value for key, value in self.observations.items()}
        else:
            parts = {"observations": self.observations}
        bad = {name: tensor for name, tensor in parts.items() if not bool(torch.isfinite(_single(tensor)).all())}
        return [
            f"{name} (beyond float32)" if bool(torch.isfinite(tensor).all()) else name for name, tensor in bad.items()
        ]
