"""Batches of observations: one tensor, or a dictionary of tensors."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Observations: TypeAlias = Tensor | dict[str, Tensor]


def each(function: Callable[[Tensor], Tensor], observations: Observations) -> Observations:
    """Apply a function to every tensor."""
    if isinstance(observations, dict):
        return {key: function(value) for key, value in observations.items()}
    return function(observations)


def every(observations: Observations, k: int) -> Observations:
    """Every k-th observation, k ≥ 1."""
    return each(lambda tensor: tensor[::k], observations)


def joined(batches: Sequence[Observations]) -> Observations:
    """Several batches of the same kind, at least one, as a single one."""
    if isinstance(batches[0], dict):
        return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}  # type: ignore[index]
    return torch.cat(list(batches))  # type: ignore[arg-type]


def finite(observations: Observations) -> Observations:
    """With 0 in the place of NaN and infinity."""
    return each(lambda tensor: torch.nan_to_num(tensor, nan=0.0, posinf=0.0, neginf=0.0), observations)
