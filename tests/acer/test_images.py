"""Images made of channels: what is split comes back bit for bit, and what is the same is kept once."""

import numpy as np
import pytest
from gymnasium import spaces

from sb3_trpo_ext.acer.images import has_channels, join, regroup, split


def frames(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 6, 5), dtype=np.uint8)


def stacks(n, n_stack=4, seed=0):
    """Of frames that come one after the other, shape (n, n_stack, 6, 5)."""
    every = frames(n + n_stack - 1, seed)
    return np.stack([every[i : i + n_stack] for i in range(n)])


def test_a_stack_is_the_numbers_of_its_frames():
    numbers, distinct = split(stacks(3))
    assert numbers.tolist() == [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]] and numbers.dtype == np.int32
    assert np.array_equal(distinct, frames(6)) and distinct.dtype == np.uint8


@pytest.mark.parametrize("n_stack", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("n_colours", [1, 3])
def test_every_frame_once_for_any_length_of_stack_and_number_of_colours(n_stack, n_colours):
    images = stacks(9, n_stack * n_colours)[::n_colours]
    numbers, distinct = split(images)
    assert len(distinct) == (len(images) - 1) * n_colours + n_stack * n_colours
    assert np.array_equal(join(numbers[None], [distinct])[0], images)


@pytest.mark.parametrize("before_the_first", ["zeros", "first", "noise"])
def test_an_episode_start_brings_what_is_new_in_it(before_the_first):
    images = stacks(8)
    new = frames(1, seed=9)[0]
    padding = {"zeros": np.zeros((3, 6, 5)), "first": [new] * 3, "noise": frames(3, seed=10)}[before_the_first]
    images[4] = [*padding, new]
    for i in range(5, 8):
        images[i, :-1] = images[i - 1, 1:]
    numbers, distinct = split(images)
    assert len(distinct) == 4 + 3 + {"zeros": 2, "first": 1, "noise": 4}[before_the_first] + 3
    assert np.array_equal(join(numbers[None], [distinct])[0], images)


def test_one_pixel_makes_another_channel():
    images = np.zeros((2, 1, 6, 5), np.uint8)
    images[1, 0, 5, 4] = 1
    numbers, distinct = split(images)
    assert numbers.tolist() == [[0], [1]] and np.array_equal(distinct[:, None], images)


def test_images_with_nothing_in_common_are_stored_whole():
    images = frames(24).reshape(2, 3, 4, 6, 5)
    numbers, distinct = split(images)
    assert numbers.shape == (2, 3, 4) and np.array_equal(distinct, frames(24))


def test_images_that_do_not_lie_together_in_memory():
    images = np.ascontiguousarray(np.moveaxis(stacks(5), 1, -1))
    numbers, distinct = split(np.moveaxis(images, -1, 1))
    assert len(distinct) == 8 and np.array_equal(join(numbers[None], [distinct])[0], stacks(5))


def test_join_takes_each_sequence_from_its_own_channels():
    parts = [split(stacks(5, seed=seed)) for seed in range(3)]
    joined = join(np.stack([numbers for numbers, _ in parts]), [distinct for _, distinct in parts])
    assert np.array_equal(joined, [stacks(5, seed=seed) for seed in range(3)])


def test_regrouped_sequences_are_the_same_and_keep_only_what_they_have():
    """The second of two sequences that were split together, and the first of two others."""
    images = [np.stack([stacks(5, seed=seed), stacks(5, seed=seed + 1)]) for seed in (0, 2)]
    (one, of_one), (other, of_other) = map(split, images)
    numbers, distinct = regroup(np.stack([one[1], other[0]]), [of_one, of_other])
    assert len(of_one) == 16 and len(distinct) == 16 and numbers.dtype == np.int32
    assert np.array_equal(join(numbers, [distinct] * 2), [images[0][1], images[1][0]])


@pytest.mark.parametrize(
    "space, expected",
    [
        (spaces.Box(0, 255, (4, 84, 84), np.uint8), True),
        (spaces.Box(0, 255, (12, 84, 90), np.uint8), True),
        (spaces.Box(0, 1, (1, 8, 8), np.uint8), True),
        (spaces.Box(0, 255, (84, 84, 4), np.uint8), False),
        (spaces.Box(0, 255, (84, 4, 84), np.uint8), False),
        (spaces.Box(0, 255, (4, 84, 84), np.float32), False),
        (spaces.Box(0, 255, (84, 84), np.uint8), False),
        (spaces.Box(0, 255, (2, 4, 84, 84), np.uint8), False),
        (spaces.MultiBinary((4, 8, 8)), False),
    ],
)
def test_which_spaces_have_channels(space, expected):
    assert has_channels(space) is expected
