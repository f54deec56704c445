"""Noise that is drawn ahead is the same as noise that is drawn step by step."""

import numpy as np
import pytest
import torch

from sb3_trpo_ext.common.noise import StandardNormal, layout_of

SHAPES = [(1, 1), (1, 6), (3, 5), (1, 16), (1, 17), (16, 6), (5, 7)]


def by_steps(shape, steps):
    return np.stack([torch.empty(shape).normal_().numpy() for _ in range(steps)])


@pytest.mark.parametrize("ahead", [1, 7, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_and_what_is_drawn_next_are_those_of_single_steps(shape, ahead):
    torch.manual_seed(3)
    torch.empty(1).normal_()  # torch keeps every second number for the next call
    expected, next_one = by_steps(shape, 64), torch.rand(1)
    torch.manual_seed(3)
    torch.empty(1).normal_()
    noise = StandardNormal(ahead)
    drawn = np.stack([noise(shape) for _ in range(64)])
    np.testing.assert_array_equal(drawn, expected)
    if 64 % ahead == 0:
        assert torch.equal(torch.rand(1), next_one)


def test_single_actions_are_drawn_ahead():
    """And so are those of many environments, where a step's noise fills torch's blocks of 16."""
    assert all(layout_of(shape) is not None for shape in [(1, 1), (1, 6), (1, 15), (16, 3)])
    assert layout_of((1, 17)) is None


def test_with_one_step_nothing_is_drawn_ahead():
    torch.manual_seed(0)
    noise = StandardNormal()
    noise((1, 6))
    between = torch.rand(1)
    torch.manual_seed(0)
    torch.empty(1, 6).normal_()
    assert torch.equal(between, torch.rand(1))


def test_another_shape_begins_anew():
    noise = StandardNormal(10)
    assert [noise(shape).shape for shape in [(1, 2), (4, 2), (1, 2)]] == [(1, 2), (4, 2), (1, 2)]
    assert not np.array_equal(noise((1, 2)), noise((1, 2)))
