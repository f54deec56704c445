"""
The processes that train one policy together, each in environments of its own, and what they tell one another.

As in torch.distributed, a rank is the number of a process, 0 to K − 1. Every mean of an update is the sum over the
samples of all ranks, divided by their number. So each rank computes with the same numbers, and its parameters stay
equal bit for bit to those of the others.
"""

import atexit
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeAlias, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from sb3_trpo_ext.common.links import Links, listening
from sb3_trpo_ext.common.lost_rank import Watch
from sb3_trpo_ext.kernels.vector import flatten, unflatten

T = TypeVar("T")
Distributed: TypeAlias = Literal["auto"] | bool
LONGEST_WAIT = timedelta(days=30)  # for a slow rank; one that is gone is noticed at once
SMALL = 2**18  # bytes, up to which it is latency that a sum takes
SEEDS_APART = 1_000_003  # between the seeds of two ranks, more than any has environments


class Ranks:
    """This process alone."""

    rank = 0
    """Its number."""
    world_size = 1
    """How many there are: K."""

    def sum(self, tensor: Tensor) -> Tensor:
        """Over all ranks, of a tensor that has the same shape on each."""
        return tensor

    def count(self, number: int) -> int:
        """The sum over all ranks of a whole number."""
        return number

    def mean(self, per_sample: Tensor) -> Tensor:
        """
        Over the samples of all ranks.

        :param per_sample: shape (N_k, …) on rank k
        :return: a scalar
        """
        return per_sample.mean()

    def deviation(self, per_sample: Tensor) -> Tensor:
        """The standard deviation over the samples of all ranks, with N − 1 in the denominator; as :meth:`mean`."""
        return per_sample.std()

    def largest(self, per_sample: Tensor) -> Tensor:
        """The largest over the samples of all ranks, NaN if one is NaN; as :meth:`mean`."""
        return per_sample.max()

    def any(self, flag: bool) -> bool:
        """Whether it is true on some rank."""
        return flag

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order."""
        return [value]

    def first(self, value: T) -> T:
        """Rank 0's."""
        return value

    def check_equal(self, tensors: dict[str, Tensor]) -> None:
        """
        :param tensors: by name, which have to be the same on all ranks
        :raises RuntimeError: naming ranks and tensors, if they are not
        """

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While this context lasts, a rank that ends makes the others stop."""
        yield


ALONE = Ranks()


@dataclass
class Traffic:
    """
    What went through a process group so far.

    :param messages: sums, maxima, and words passed on
    :param bytes: of the numbers that were summed
    """

    messages: int = 0
    bytes: int = 0

    def count(self, n_bytes: int) -> None:
        """One message more."""
        self.messages += 1
        self.bytes += n_bytes


class ProcessGroup(Ranks):
    """
    This process and the others of torch.distributed's default group, which all do the same at the same time.

    On the CPU words and large tensors go through a group of gloo, small tensors through direct connections. Tensors on
    a GPU go through the default group.
    """

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self._host = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
        self._watch = Watch(dist.new_group(backend="gloo", timeout=LONGEST_WAIT), self.rank, self.world_size)
        self.traffic = Traffic()
        self._links = self._linked()

    def _linked(self) -> Links | None:
        """Direct connections, if all ranks can reach one another so; else small sums go through gloo too."""
        try:
            listener: Any = listening()
        except OSError:
            listener = None
        addresses = self.gather(listener and listener.getsockname()[:2])
        links = None
        if all(addresses):
            with suppress(OSError):
                links = Links(self.rank, self.world_size, listener, addresses)
        return links if all(self.gather(links is not None)) else None

    def sum(self, tensor: Tensor) -> Tensor:
        return self._reduced(tensor, dist.ReduceOp.SUM)

    def count(self, number: int) -> int:
        return int(self._reduced(torch.tensor(number), dist.ReduceOp.SUM))

    def mean(self, per_sample: Tensor) -> Tensor:
        total, count = self.sum(torch.stack([_double(per_sample).sum(), _number(per_sample)]))
        mean: Tensor = total / count
        return mean.to(per_sample.dtype)

    def deviation(self, per_sample: Tensor) -> Tensor:
        mean = self.mean(_double(per_sample))
        squares = (_double(per_sample) - mean).square().sum()
        total, count = self.sum(torch.stack([squares, _number(per_sample)]))
        variance: Tensor = total / (count - 1)
        return variance.sqrt().to(per_sample.dtype)

    def largest(self, per_sample: Tensor) -> Tensor:
        own = per_sample.max()
        # A maximum over ranks may pass over NaN.
        both = torch.stack([own.isnan().to(own.dtype), own.nan_to_num(0.0)])
        is_nan, largest = self._reduced(both, dist.ReduceOp.MAX)
        return torch.where(is_nan > 0, torch.nan, largest) if own.is_floating_point() else largest

    def any(self, flag: bool) -> bool:
        return bool(self._reduced(torch.tensor(int(flag)), dist.ReduceOp.MAX))

    def gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.world_size
        self.traffic.count(0)
        with self._watch.explaining():
            dist.all_gather_object(values, value, group=self._host)
        return values

    def first(self, value: T) -> T:
        values: list[Any] = [value]
        self.traffic.count(0)
        with self._watch.explaining():
            dist.broadcast_object_list(values, src=0, group=self._host)
        return values[0]  # type: ignore[no-any-return]

    def check_equal(self, tensors: dict[str, Tensor]) -> None:
        own = {name: checksum(tensor) for name, tensor in tensors.items()}
        of_all = torch.tensor(zlib.crc32(repr(sorted(own.items())).encode()))
        extremes = torch.stack([of_all, -of_all])
        largest, smallest = self._reduced(extremes, dist.ReduceOp.MAX)
        if largest == -smallest:
            return
        every = self.gather(own)
        for rank, other in enumerate(every):
            if different := sorted(name for name in {*every[0], *other} if every[0].get(name) != other.get(name)):
                raise RuntimeError(
                    f"Rank {rank} and rank 0 no longer have the same policy: they differ in {', '.join(different)}. "
                    "Something has written to the parameters of one of them alone, such as a callback: let it do so on "
                    "all ranks, or on none."
                )

    @contextmanager
    def watching(self) -> Iterator[None]:
        with self._watch.while_training():
            yield

    @property
    def is_listening(self) -> bool:
        """Whether it is not known yet how the last training ended elsewhere."""
        return self._watch.is_listening

    def _reduced(self, tensor: Tensor, operation: Any) -> Tensor:
        if not tensor.numel():
            return tensor
        on_cpu = tensor.device.type == "cpu"
        self.traffic.count(tensor.nbytes)
        with self._watch.explaining():
            if self._links is not None and on_cpu and tensor.nbytes <= SMALL:
                return self._links.reduced(tensor, torch.add if operation == dist.ReduceOp.SUM else torch.maximum)
            reduced = tensor.clone()
            dist.all_reduce(reduced, operation, group=self._host if on_cpu else None)
        return reduced


def average_gradients(parameters: Sequence[Tensor], loss: float, weight: int, ranks: Ranks) -> float:
    """
    Give the parameters on all ranks the mean of their gradients.

    :param parameters: with the gradients of this rank; one without any has had no say
    :param loss: whose gradients they are
    :param weight: of this rank in the mean, such as its number of samples, ≥ 0
    :param ranks: all of them, whose weights are not all 0
    :return: the mean of the losses
    """
    gradients = [torch.zeros_like(part) if part.grad is None else part.grad for part in parameters]
    own = torch.cat([flatten(gradients), gradients[0].new_tensor([loss, 1.0])])
    total = ranks.sum(own * weight)
    for parameter, part in zip(parameters, unflatten(total[:-2] / total[-1], parameters), strict=True):
        parameter.grad = part if parameter.grad is None else parameter.grad.copy_(part)
    return float(total[-2] / total[-1])


def checksum(tensor: Tensor) -> int:
    """Of the bits of a tensor."""
    return zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _double(tensor: Tensor) -> Tensor:
    return tensor if tensor.device.type == "mps" else tensor.double()


def _number(per_sample: Tensor) -> Tensor:
    return _double(per_sample.new_tensor(per_sample.numel()))


def number_of_this_rank(distributed: Distributed, name: str = "RANK") -> int:
    """
    Without asking the others, and 0 for a process by itself.

    :param distributed: the setting
    :param name: "RANK", or "LOCAL_RANK" for the number among those of this machine
    """
    if not is_wanted(distributed):
        return 0
    return dist.get_rank() if name not in os.environ else int(os.environ[name])


def is_wanted(distributed: Distributed) -> bool:
    """
    Whether this process is one of several.

    :param distributed: "auto" for what torchrun's variables say, or the script that called ``init_process_group``;
        True to require it, False never to
    :raises ValueError: for True where there is nothing to join
    """
    if distributed is False:
        return False
    begun = dist.is_available() and dist.is_initialized()
    started = dist.is_available() and {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys()
    if distributed is True and not (begun or started):
        raise ValueError(
            "distributed=True needs several processes, and this one was started by itself. Start it with "
            "torchrun --nproc-per-node=2 script.py, or leave distributed out."
        )
    return begun or started


_joined: list[ProcessGroup] = []  # one for all models of a process


def join(distributed: Distributed, device: torch.device) -> Ranks:
    """
    Find the other ranks; waits until all have come.

    :param distributed: as for :func:`is_wanted`
    :param device: of the policy
    """
    if not is_wanted(distributed):
        return ALONE
    if not dist.is_initialized():
        store, rank, world_size = next(rendezvous("env://"))
        # torchrun's store survives a restart, with the addresses of processes that are gone.
        life = PrefixStore(f"life {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        # For all models of the process, whatever the device of the first.
        has_nccl = torch.cuda.is_available() and dist.is_nccl_available()
        backend = "cpu:gloo,cuda:nccl" if has_nccl else "gloo"
        dist.init_process_group(backend, store=life, rank=rank, world_size=world_size)
        atexit.register(_leave)
    if dist.get_world_size() == 1 and device.type == "cpu":
        return ALONE
    if not _joined:
        _joined.append(ProcessGroup())
    return _joined[0]


def _leave() -> None:
    """At the end of the process. After an error a thread may still be waiting for another rank's last word."""
    if dist.is_initialized() and not any(group.is_listening for group in _joined):
        dist.destroy_process_group()


def own_device(device: torch.device | str, distributed: Distributed) -> torch.device | str:
    """
    "auto" and "cuda" as the GPU of this rank, where there are several of both.

    :param device: the setting
    :param distributed: the setting
    """
    if str(device) in ("auto", "cuda") and torch.cuda.is_available() and is_wanted(distributed):
        return torch.device("cuda", number_of_this_rank(distributed, "LOCAL_RANK") % torch.cuda.device_count())
    return device
