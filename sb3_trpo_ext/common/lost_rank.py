"""
What happens when one of several processes ends in the midst of training: the others say which one, and stop.

The operating system closes a process's connections at the moment when it ends, also when it is killed. So every rank
keeps a message from rank 0 outstanding, and rank 0 one from each. A message that can no longer come is a rank that is
gone; rank 0 passes on which.
"""

import _thread
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist

GOODBYE = 0  # training is over; k + 1 says that rank k is gone
GRACE = 10.0  # seconds in which the main thread may stop by itself
SAME_ERROR = 0.5  # seconds in which an error that all ranks have is raised on all


class LostRank(RuntimeError):
    """Another rank has ended, so that training can not go on."""


class Watch:
    """
    :param group: of all ranks, for nothing else
    :param rank: this one's number
    :param world_size: how many there are
    """

    def __init__(self, group: Any, rank: int, world_size: int):
        self._group, self._rank, self._world_size = group, rank, world_size
        self._peers = range(1, world_size) if rank == 0 else range(1)
        self._training = 0
        """How many have begun: of which a message tells."""
        self._lost: int | None = None
        self._known = threading.Event()
        self._stopped = threading.Event()
        self._stopping = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._sent: list[Any] = []  # without waiting: whoever has heard already does not listen

    @contextmanager
    def while_training(self) -> Iterator[None]:
        """
        :raises LostRank: when another rank ends before its own context does
        """
        self._training += 1
        self._lost = None
        self._known.clear()
        self._stopped.clear()
        self._in_main_thread = threading.current_thread() is threading.main_thread()
        self._threads = [threading.Thread(target=self._listen, args=(peer,), daemon=True) for peer in self._peers]
        for thread in self._threads:
            thread.start()
        try:
            yield
        except BaseException as error:
            with suppress(KeyboardInterrupt):  # one may be on its way from a listening thread
                with self._stopping:
                    self._stopped.set()
                time.sleep(0)
            self._tell(self._rank + 1 if self._lost is None else GOODBYE)
            for thread in self._threads:
                thread.join(timeout=1)
            if self._lost is None or not isinstance(error, KeyboardInterrupt):
                raise  # an error of this rank's own, which explains more
            raise LostRank(self.sentence) from None
        self._tell(GOODBYE)
        for thread in self._threads:
            thread.join()
        self._stopped.set()
        if self._lost is not None:
            raise LostRank(self.sentence)

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """
        Around a message to or from the others.

        :raises LostRank: when it fails because one of them is gone
        """
        try:
            yield
        except RuntimeError as error:
            if self._known.wait(GRACE / 2):
                raise LostRank(self.sentence) from error
            raise

    @property
    def is_listening(self) -> bool:
        """Whether some rank has not said how its training ended."""
        return any(thread.is_alive() for thread in self._threads)

    @property
    def sentence(self) -> str:
        """Which rank is gone, and what to do."""
        return (
            f"Rank {self._lost} of {self._world_size} has ended in the midst of training, so rank {self._rank} stops "
            f"too. Look at what rank {self._lost} printed last. With checkpoint_folder and torchrun's --max-restarts, "
            "training goes on from the newest checkpoint."
        )

    def _listen(self, peer: int) -> None:
        message = torch.zeros(2, dtype=torch.int64)
        try:
            while message[0] < self._training:  # a word of an earlier one may still be on its way
                dist.recv(message, src=peer, group=self._group)
            lost, patience = int(message[1]) - 1, SAME_ERROR
        except RuntimeError:
            lost, patience = peer, 0.0
        if lost >= 0 and self._lost is None:
            self._stop(lost, patience)

    def _stop(self, lost: int, patience: float) -> None:
        self._lost = lost
        self._known.set()
        if self._rank == 0:
            self._tell(lost + 1)
        self._stopped.wait(patience)
        with self._stopping:
            if self._stopped.is_set():
                return
            print(self.sentence, file=sys.stderr, flush=True)
            if self._in_main_thread:
                _thread.interrupt_main()  # as Ctrl-C does: it may be anywhere in an environment
        if not self._stopped.wait(GRACE):  # it is in C, waiting for somebody
            os._exit(1)

    def _tell(self, message: int) -> None:
        for peer in self._peers:
            if peer == message - 1:
                continue
            with suppress(RuntimeError):  # that one is gone
                self._sent.append(dist.isend(torch.tensor([self._training, message]), dst=peer, group=self._group))
