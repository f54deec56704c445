"""Sums over direct connections, with threads in the place of processes."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sb3_trpo_ext.common.links import TOGETHER, Links, listening

SIZES = [1, 100, TOGETHER // 4 + 1, 2 * TOGETHER]


def linked(n):
    """Links of n ranks."""
    listeners = [listening() for _ in range(n)]
    addresses = [one.getsockname()[:2] for one in listeners]
    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(lambda rank: Links(rank, n, listeners[rank], addresses), range(n)))


def on_all(links, tensors, combine):
    with ThreadPoolExecutor(len(links)) as pool:
        return list(pool.map(lambda pair: pair[0].reduced(pair[1], combine), zip(links, tensors, strict=True)))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8])
def test_sums_and_maxima_of_all_ranks(n):
    links = linked(n)
    for size in SIZES:
        tensors = [torch.randn(size, dtype=torch.float64) for _ in range(n)]
        sums = on_all(links, tensors, torch.add)
        assert torch.allclose(sums[0], sum(tensors), rtol=1e-14, atol=1e-14)
        assert all(torch.equal(one, sums[0]) for one in sums)
        largest = on_all(links, tensors, torch.maximum)
        assert all(torch.equal(one, torch.stack(tensors).amax(0)) for one in largest)


@pytest.mark.parametrize("n", [3, 4])
def test_float32_has_the_same_bits_everywhere(n):
    sums = on_all(linked(n), [1e4 * torch.randn(1000) for _ in range(n)], torch.add)
    assert all(one.numpy().tobytes() == sums[0].numpy().tobytes() for one in sums)


def test_scalars_integers_and_views():
    links = linked(2)
    assert [int(one) for one in on_all(links, [torch.tensor(2), torch.tensor(3)], torch.add)] == [5, 5]
    columns = [torch.arange(6.0).view(3, 2)[:, 0], torch.ones(3)]
    assert all(one.tolist() == [1.0, 3.0, 5.0] for one in on_all(links, columns, torch.add))


def test_what_was_given_stays_as_it_was():
    tensors = [torch.ones(3), torch.ones(3)]
    on_all(linked(2), tensors, torch.add)
    assert all(one.tolist() == [1.0, 1.0, 1.0] for one in tensors)


def test_a_rank_that_ends_is_an_error_of_whoever_waits_for_it():
    one, other = linked(2)
    errors = []

    def waits():
        try:
            one.reduced(torch.ones(3), torch.add)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=waits)
    thread.start()
    for link in other._links.values():
        link.close()
    thread.join(timeout=10)
    assert errors and "rank 1" in errors[0].lower()
