"""A list of tensors seen as one flat vector, and the only place where parameters are written."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def count(tensors: Sequence[Tensor]) -> int:
    """The length of the vector that tensors make."""
    return sum(tensor.numel() for tensor in tensors)


def are_the_same(one: Iterable[Tensor], other: Iterable[Tensor]) -> bool:
    """Whether two lists hold the same tensors, not only equal ones, in the same order."""
    return list(map(id, one)) == list(map(id, other))


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """
    Concatenate tensors of any shapes into a new vector.

    :param tensors: p numbers in all; none for an empty vector
    :return: shape (p,), detached, sharing no memory with ``tensors``
    """
    if not tensors:
        return torch.zeros(0)
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """
    Cut a vector into views that have the shapes of ``like``: the inverse of :func:`flatten`.

    :param vector: shape (p,)
    :param like: tensors with p numbers in all; only their shapes are read
    :return: views into ``vector``
    """
    pieces = vector.split_with_sizes([tensor.numel() for tensor in like]) if like else ()
    # A piece has one dimension already, and a view costs as much as a small product.
    return tuple(
        piece if tensor.ndim == 1 else piece.view(tensor.shape) for piece, tensor in zip(pieces, like, strict=True)
    )


@contextmanager
def put_back_on_error(parameters: Sequence[Tensor], vector: Tensor) -> Iterator[None]:
    """
    If this context is left by an exception, Ctrl-C among them, the parameters are what they were before it.

    :param parameters: p numbers in all
    :param vector: what they are now, shape (p,)
    """
    try:
        yield
    except BaseException:
        assign(parameters, vector)
        raise


@torch.no_grad()
def assign(parameters: Sequence[Tensor], vector: Tensor) -> None:
    """
    Write a vector into parameters, in place and bit for bit.

    :param parameters: p numbers in all
    :param vector: shape (p,)
    """
    for parameter, value in zip(parameters, unflatten(vector, parameters), strict=True):
        parameter.copy_(value)
