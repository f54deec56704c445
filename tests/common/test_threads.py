"""Threads are set for our own work alone."""

import pytest
import torch

from sb3_trpo_ext.common.threads import SMALL, torch_threads


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("number", "samples", "expected"), [(None, 10, 1), (None, SMALL, 2), (1, SMALL, 1), (3, 10, 3), (2, 10, 2)]
)
def test_number_inside_and_after(number, samples, expected):
    with torch_threads(number, samples, parameters=1):
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 2


def test_put_back_after_an_error():
    with pytest.raises(KeyError), torch_threads(1, 1, 1):
        raise KeyError
    assert torch.get_num_threads() == 2
