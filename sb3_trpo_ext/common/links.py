"""
Direct connections between ranks, for small sums on the CPU.

Gloo hands each message from thread to thread. Where all cores compute, as they do here, those threads wait for a core:
on two busy cores a sum of a hundred numbers takes 1 to 2 ms, and an update has about a hundred of them. Over a
connection that the waiting thread itself reads from it is 0.05 ms.
"""

import os
import socket
import struct
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

TOGETHER = 2**15  # bytes that the system surely takes before anybody reads
PATIENCE = 60.0  # seconds in which all have to connect
Address: TypeAlias = tuple[str, int]


class Links:
    """
    To those ranks that this one exchanges tensors with when it sums by recursive doubling.

    :param rank: of this process
    :param world_size: how many there are
    :param listener: of :func:`listening`; it is closed
    :param addresses: of the listeners of all ranks
    :raises OSError: when ranks can not reach one another; others may have succeeded
    """

    def __init__(self, rank: int, world_size: int, listener: socket.socket, addresses: list[Address]):
        self._rank = rank
        self._n_pairing = 1 << (world_size.bit_length() - 1)
        partners = [rank ^ (1 << i) for i in range(self._n_pairing.bit_length() - 1)] if rank < self._n_pairing else []
        self._twin = next(
            (one for one in (rank + self._n_pairing, rank - self._n_pairing) if 0 <= one < world_size), None
        )
        wanted = [*partners, *([] if self._twin is None else [self._twin])]
        with listener:
            listener.settimeout(PATIENCE)
            self._links = {other: _connect(addresses[other], rank) for other in wanted if other < rank}
            for _ in range(len(wanted) - len(self._links)):
                link, _ = listener.accept()
                link.settimeout(None)
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._links[struct.unpack("!q", _received(link, 8))[0]] = link

    def reduced(self, tensor: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """
        In each round a rank and its partner exchange what they have and combine it (recursive doubling; Thakur,
        Rabenseifner and Gropp 2005, "Optimization of collective communication operations in MPICH"). Both combine the
        same two tensors, so all end with the same bits. Those beyond the largest power of two hand over their part
        first, and get the result.

        :param tensor: on the CPU, of the same shape on all ranks
        :param combine: two tensors, in any order
        :return: of all ranks' tensors
        :raises RuntimeError: when another rank has closed its connection
        """
        twin, partners = self._twin, range(self._n_pairing.bit_length() - 1)
        if self._rank >= self._n_pairing:
            assert twin is not None
            self._send(tensor, twin)
            return self._receive(tensor, twin)
        if twin is not None:
            tensor = combine(tensor, self._receive(tensor, twin))
        for i in partners:
            tensor = combine(tensor, self._exchange(tensor, self._rank ^ (1 << i)))
        if twin is not None:
            self._send(tensor, twin)
        return tensor

    def _exchange(self, tensor: Tensor, partner: int) -> Tensor:
        if tensor.nbytes > TOGETHER and self._rank > partner:  # or both could wait for the other to read
            other = self._receive(tensor, partner)
            self._send(tensor, partner)
            return other
        self._send(tensor, partner)
        return self._receive(tensor, partner)

    def _send(self, tensor: Tensor, rank: int) -> None:
        try:
            self._links[rank].sendall(tensor.detach().contiguous().numpy().data.cast("B"))
        except OSError as error:
            raise RuntimeError(f"Rank {rank} takes no more messages: {error}") from error

    def _receive(self, like: Tensor, rank: int) -> Tensor:
        received = torch.empty(like.shape, dtype=like.dtype)
        _receive_into(self._links[rank], received.numpy().data.cast("B"), rank)
        return received


def listening() -> socket.socket:
    """
    A socket that other ranks can connect to.

    :raises OSError: when this machine has no way to the first one
    """
    return socket.create_server((_own_address(), 0), backlog=socket.SOMAXCONN)


def _own_address() -> str:
    """Where the other ranks reach this machine: the address from which it reaches the first."""
    first = os.environ.get("MASTER_ADDR", "127.0.0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:  # nothing is sent
        one.connect((first, int(os.environ.get("MASTER_PORT", "1"))))
        return str(one.getsockname()[0])


def _connect(address: Address, rank: int) -> socket.socket:
    link = socket.create_connection(address, timeout=PATIENCE)
    link.settimeout(None)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.sendall(struct.pack("!q", rank))
    return link


def _received(link: socket.socket, n: int) -> bytes:
    data = bytearray(n)
    _receive_into(link, memoryview(data), None)
    return bytes(data)


def _receive_into(link: socket.socket, view: memoryview, rank: int | None) -> None:
    try:
        while len(view):
            n = link.recv_into(view)
            if not n:
                raise ConnectionError("it was closed")
            view = view[n:]
    except OSError as error:
        raise RuntimeError(f"The connection to rank {rank} has ended: {error}") from error
