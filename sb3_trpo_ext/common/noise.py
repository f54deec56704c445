"""Standard normal noise of a rollout, from torch's global generator."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Shape: TypeAlias = tuple[int, ...]
Layout: TypeAlias = Callable[[int, Shape], Tensor]
TRIED = 32  # steps in a trial of a layout


class StandardNormal:
    """
    Gives the same numbers as torch's ``normal_`` at every step, drawn for many steps at once where that is so.

    :param steps: that are drawn at once, if torch allows it. Whoever else draws from torch's global generator before
        they are used up gets other numbers than without that, and has to be given 1.
    """

    def __init__(self, steps: int = 1):
        self._steps = steps
        self._shape: Shape = ()
        self._drawn: Iterator[NDArray[np.float32]] = iter(())

    def __call__(self, shape: Shape) -> NDArray[np.float32]:
        """
        :param shape: of the noise; what was drawn ahead for another shape is lost
        """
        noise = next(self._drawn, None) if shape == self._shape else None
        if noise is None:
            self._shape, self._drawn = shape, self._draw(shape)
            noise = next(self._drawn)
        return noise

    def _draw(self, shape: Shape) -> Iterator[NDArray[np.float32]]:
        layout = layout_of(shape) if self._steps > 1 else None
        if layout is None:
            yield torch.empty(shape).normal_().numpy()
        else:
            yield from layout(self._steps, shape).normal_().numpy()


def _dense(steps: int, shape: Shape) -> Tensor:
    return torch.empty(steps, *shape)


def _spread(steps: int, shape: Shape) -> Tensor:
    """With gaps in memory, which torch fills number by number, as it does small tensors."""
    return torch.empty(steps, *shape, 2)[..., 0]


@cache
def layout_of(shape: Shape) -> Layout | None:
    """
    How noise for many steps has to lie in memory for torch to draw the same as step by step, which depends on the size
    of a step. That is documented nowhere, so it is tried.

    :param shape: of one step's noise
    :return: None where torch draws other numbers in any case
    """
    return next((layout for layout in (_dense, _spread) if _draws_the_same(layout, shape)), None)


def _draws_the_same(layout: Layout, shape: Shape) -> bool:
    one, other = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    steps = torch.stack([torch.empty(shape).normal_(generator=one) for _ in range(TRIED)])
    at_once = layout(TRIED, shape).normal_(generator=other)
    return torch.equal(steps, at_once) and torch.equal(one.get_state(), other.get_state())
