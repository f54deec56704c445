"""Several processes, as torchrun starts them, each with a program of tests/programs.py."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).parents[1]


class Answers(NamedTuple):
    """
    :param of_ranks: what each rank left; None for one that left nothing
    :param errors: what each wrote to its standard error
    :param folder: where files are
    """

    of_ranks: list[Any]
    errors: list[str]
    folder: Path


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def launch(program: str, n: int, folder: Path, timeout: float = 240) -> Answers:
    """Run a program of tests/programs.py on n ranks."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(n)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.programs", program, str(folder)],
            env={**os.environ, **address, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(n)
    ]
    try:
        errors = [process.communicate(timeout=timeout)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    files = [folder / f"rank-{rank}.pt" for rank in range(n)]
    answers = [torch.load(file, weights_only=False) if file.exists() else None for file in files]
    return Answers(answers, errors, folder)
