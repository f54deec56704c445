"""How many threads torch uses for the package's own work."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Below this many multiplications per product with the network's matrices, more threads cost more than they bring; on
# cores that are shared with other work, many times more.
SMALL = 10**8


@contextmanager
def torch_threads(number: int | None, samples: int, parameters: int) -> Iterator[None]:
    """
    Set the number of threads for the time of this context, and put it back.

    :param number: of threads; None for 1 if the work is small, else what the caller has set
    :param samples: rows of a batch
    :param parameters: of the network that it goes through
    """
    before = torch.get_num_threads()
    chosen = number or (1 if samples * parameters < SMALL else before)
    if chosen == before:
        yield
        return
    torch.set_num_threads(chosen)
    try:
        yield
    finally:
        torch.set_num_threads(before)
