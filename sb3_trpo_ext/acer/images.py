"""
Images as their channels, each distinct channel once. In stacked frames a channel is a frame, or one colour of it, and
all but the newest frame are in the image before, too.

Which channels are the same is found by comparing all their bytes. So nothing depends on who stacks the frames, how
many, and what stands before an episode's first one; images that have no channel in common are simply stored whole.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Array = NDArray[Any]
BYTE, NUMBER = np.dtype(np.uint8), np.dtype(np.int32)  # types of a channel's pixels, and of its number


def has_channels(space: spaces.Space[Any]) -> bool:
    """
    :param space: of observations
    :return: whether they are images of bytes, of shape (c, height, width), which is how Stable-Baselines3 gives images
        to a policy: it transposes those that have their channels last
    """
    if not isinstance(space, spaces.Box) or space.dtype != BYTE or len(space.shape) != 3:
        return False
    return space.shape[0] == min(space.shape)


def split(images: Array) -> tuple[Array, Array]:
    """
    :param images: at least one, shape (…, c, height, width)
    :return: the numbers of each one's channels, shape (…, c); the distinct channels, shape (n, height, width)
    """
    shape = images.shape[-2:]
    found: dict[bytes, int] = {}
    channels = np.asarray(images, BYTE).reshape(-1, *shape)
    numbers = [found.setdefault(channel.tobytes(), len(found)) for channel in channels]
    distinct = np.frombuffer(b"".join(found), BYTE).reshape(-1, *shape)
    return np.array(numbers, NUMBER).reshape(images.shape[:-2]), distinct


def join(numbers: Array, distinct: Sequence[Array]) -> Array:
    """
    The images that were split.

    :param numbers: of the channels of B sequences, shape (B, …, c)
    :param distinct: for each sequence the channels that its numbers mean, shape (n, height, width)
    :return: shape (B, …, c, height, width)
    """
    images = np.empty((*numbers.shape, *distinct[0].shape[1:]), BYTE)
    for one, channels, out in zip(numbers, distinct, images, strict=True):
        np.take(channels, one, axis=0, out=out, mode="clip")  # in another mode NumPy copies twice
    return images


def regroup(numbers: Array, distinct: Sequence[Array]) -> tuple[Array, Array]:
    """
    Sequences that were not split together, as if they had been.

    :param numbers: of the channels of B sequences, shape (B, …, c)
    :param distinct: for each sequence the channels that its numbers mean, which may be more than it has
    :return: new numbers, shape (B, …, c), and the channels that all of them mean, shape (n, height, width)
    """
    renumbered, kept, n_kept = np.empty_like(numbers), [], 0
    for one, channels, out in zip(numbers, distinct, renumbered, strict=True):
        used, places = np.unique(one, return_inverse=True)
        out[...] = n_kept + places.reshape(one.shape)
        kept.append(channels[used])
        n_kept += len(used)
    return renumbered, np.concatenate(kept)
