"""Threads are set for our own work alone."""

import pytest
import torch

from sb3_trpo_ext.common import threads
from sb3_trpo_ext.common.threads import NARROW, SMALL, cores, torch_threads

LARGE = SMALL // NARROW + 1  # rows with which a network that is not narrow is no small work


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "cores", lambda: 4)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("number", "samples", "parameters", "expected"),
    [
        (None, 10, NARROW, 1),
        (None, LARGE, NARROW, 2),
        (None, 100 * LARGE, NARROW - 1, 1),
        (1, LARGE, NARROW, 1),
        (3, 10, 10, 3),
        (2, 10, 10, 2),
    ],
)
def test_number_inside_and_after(number, samples, parameters, expected):
    with torch_threads(number, samples, parameters):
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 2


def test_no_more_threads_than_cores_unless_somebody_asks_for_them(monkeypatch):
    torch.set_num_threads(8)
    with torch_threads(None, LARGE, NARROW):
        assert torch.get_num_threads() == 4
    with torch_threads(6, LARGE, NARROW):
        assert torch.get_num_threads() == 6
    assert torch.get_num_threads() == 8


def test_put_back_after_an_error():
    with pytest.raises(KeyError), torch_threads(1, 1, 1):
        raise KeyError
    assert torch.get_num_threads() == 2


def test_cores_are_those_of_this_process(monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: {3, 5, 6}, raising=False)
    assert cores() == 3
    monkeypatch.delattr(threads.os, "sched_getaffinity")
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 7)
    assert cores() == 7
