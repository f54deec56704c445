"""Noticing that somebody changes a policy: writes to its parameters, and changes of what it is made of."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sb3_trpo_ext.kernels.layers import hooks_of

SMALL = 2**14  # numbers up to which a tensor is compared with what it was, byte by byte
KNOWN = (torch.float32, torch.float64, torch.int64)  # types that NumPy has as well


class Watch:
    """
    Notices writes to parameters and buffers, such as a callback's.

    Of every tensor torch counts the writes, but for those through ``tensor.data``. Small tensors, among them all biases
    and log standard deviations, are therefore compared with what they were.

    :param module: whose parameters and buffers are watched, from now on
    """

    def __init__(self, module: nn.Module):
        self._tensors = [*module.parameters(), *module.buffers()]
        self._before = self._copies()
        self._written = self._writes()
        small = (tensor.detach() for tensor in self._tensors if tensor.numel() <= SMALL)
        self._small = [tensor.numpy() for tensor in small if tensor.device.type == "cpu" and tensor.dtype in KNOWN]
        self._bytes = [array.tobytes() for array in self._small]

    def noticed(self) -> bool:
        """Whether anything was written since."""
        if self._writes() != self._written:
            return True
        return any(array.tobytes() != before for array, before in zip(self._small, self._bytes, strict=True))

    @contextmanager
    def undone(self) -> Iterator[None]:
        """All as it was, for the time of this context."""
        now = self._copies()
        self._put_back(self._before)
        try:
            yield
        finally:
            self._put_back(now)

    def _writes(self) -> list[int]:
        return [number for tensor in self._tensors for number in (tensor._version, tensor.data_ptr())]

    def _copies(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in self._tensors]

    @torch.no_grad()
    def _put_back(self, values: list[Tensor]) -> None:
        for tensor, value in zip(self._tensors, values, strict=True):
            tensor.copy_(value)


class Structure:
    """
    What a policy is made of: its modules, its parameters and which of them are trained, its buffers and its hooks.
    Equal for as long as none of these is exchanged, frozen, released, added or removed.

    :param policy: an SB3 policy
    """

    def __init__(self, policy: nn.Module):
        modules, parameters, buffers = list(policy.modules()), list(policy.parameters()), list(policy.buffers())
        self._kept: list[Any] = [*modules, *parameters, *buffers]  # or another object might be given the same id
        self._described = (
            [(id(module), type(module), *hooks_of(module)) for module in modules],
            [(id(parameter), parameter.requires_grad) for parameter in parameters],
            [id(buffer) for buffer in buffers],
            type(getattr(policy, "action_dist", None)),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and self._described == other._described

    __hash__ = None  # type: ignore[assignment]


def align_extractors(policy: nn.Module) -> None:
    """
    SB3 has two further names for a features extractor that actor and critic share. Whoever exchanges the extractor sets
    the first; the others follow here.

    :param policy: an SB3 policy
    """
    if getattr(policy, "share_features_extractor", False) and hasattr(policy, "pi_features_extractor"):
        policy.pi_features_extractor = policy.vf_features_extractor = policy.features_extractor


def set_noise_layers_only(policy: nn.Module) -> None:
    """
    Training mode for layers that draw noise, such as dropout, and evaluation mode for those with a state of their own,
    such as batch normalisation.

    :param policy: whose modules are set
    """
    for module in policy.modules():
        module.training = next(module.buffers(recurse=False), None) is None
