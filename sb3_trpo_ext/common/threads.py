"""How many threads torch uses for the package's own work."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Below either, more threads cost more than they bring: multiplications per product with the network's matrices, and
# numbers in these. Two threads on 64-64 that share a core with other work take four times as long as one.
SMALL = 10**8
NARROW = 2**15


@contextmanager
def torch_threads(number: int | None, samples: int, parameters: int) -> Iterator[None]:
    """
    Set the number of threads for the time of this context, and put it back.

    :param number: of threads; None for 1 if the work is small, else what the caller has set, but no more than there are
        cores for this process
    :param samples: rows of a batch
    :param parameters: of the network that it goes through
    """
    before = torch.get_num_threads()
    is_small = parameters < NARROW or samples * parameters < SMALL
    chosen = number or (1 if is_small else min(before, cores()))
    if chosen == before:
        yield
        return
    torch.set_num_threads(chosen)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # on Linux: a cluster's job may have a part of the machine
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
