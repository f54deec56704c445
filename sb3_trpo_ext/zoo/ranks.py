"""RL Zoo's training on several ranks: what each is told on its command line."""

import argparse
import atexit
import os
import shutil
import sys
import tempfile

import numpy as np
import torch

from sb3_trpo_ext.common.ranks import join

FREQUENCIES = {"--eval-freq": 25_000, "--save-freq": -1}  # in steps, with RL Zoo's defaults


def prepare(arguments: list[str]) -> list[str]:
    """
    RL Zoo divides frequencies by the number of environments that it knows of, draws a seed where none is given, writes
    into the next free folder and prints. On several ranks there are more environments, one seed, and one that writes
    and prints.

    :param arguments: of ``train``, the same on all ranks
    :return: those of this rank; as they are for a process by itself
    """
    ranks = join("auto", torch.device("cpu"))
    if ranks.world_size == 1:
        return arguments
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--seed", type=int, default=-1)
    for name, default in FREQUENCIES.items():
        parser.add_argument(name, type=int, default=default)
    given, others = parser.parse_known_args(arguments)
    seed = given.seed if given.seed >= 0 else ranks.first(int(np.random.randint(2**31)))
    told = [*others, "--seed", str(seed)]
    for name in FREQUENCIES:
        frequency = getattr(given, name.strip("-").replace("-", "_"))
        told += [name, str(max(frequency // ranks.world_size, 1) if frequency > 0 else frequency)]
    if ranks.rank == 0:
        return told
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    sys.stdout = open(os.devnull, "w")
    return [*(argument for argument in told if argument != "--track"), "--log-folder", folder, "--verbose", "0"]
