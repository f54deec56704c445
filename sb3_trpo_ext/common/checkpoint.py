"""
Checkpoints: all that training depends on, so that another process goes on as if the first had never ended.

A checkpoint is a folder: ``model.zip``, an ordinary saved model, and for each rank ``rank-0.pt`` and so on, what that
process knows besides: counters, random states, its environments. It gets its name when all of it is on the disk, so one
that has a name is whole.
"""

import os
import pickle
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sb3_trpo_ext.common.files import atomic_file
from sb3_trpo_ext.common.ranks import Ranks

KEPT = 3  # checkpoints; older ones are deleted
PREFIX, UNFINISHED = "checkpoint-", ".unfinished-"
NAME = rf"{PREFIX}\d{{12}}"
MODEL = "model.zip"


def newest(folder: str | Path) -> Path | None:
    """
    :param folder: of checkpoints; it need not exist
    :return: the newest that is whole; None if there is none
    """
    found = _all(Path(folder))
    return found[-1] if found else None


def _all(folder: Path) -> list[Path]:
    """The oldest first. What has another name, or no model in it, is somebody else's."""
    names = folder.glob(f"{PREFIX}*")
    return sorted(path for path in names if re.fullmatch(NAME, path.name) and (path / MODEL).is_file())


def _delete(checkpoint: Path) -> None:
    """Without its name first: what has one is whole at every moment."""
    nameless = checkpoint.with_name(f"{UNFINISHED}{checkpoint.name}-old")
    os.replace(checkpoint, nameless)
    shutil.rmtree(nameless)


def of_rank(checkpoint: Path, rank: int) -> Path:
    """Where a rank's own part is."""
    return checkpoint / f"rank-{rank}.pt"


def write(
    folder: str | Path,
    number: int,
    save_model: Callable[[Path], None],
    save_own_part: Callable[[Path], None],
    ranks: Ranks,
) -> Path:
    """
    Write a checkpoint, and delete all but the newest three. All ranks do so together, into one folder that they share.

    :param folder: of checkpoints, made if it is missing
    :param number: of updates so far, skipped ones among them
    :param save_model: to a path; called on rank 0
    :param save_own_part: into a folder, what this rank knows besides
    :param ranks: all of them
    :return: where it is
    """
    folder = Path(folder)
    name = f"{PREFIX}{number:012d}"
    unfinished, finished = folder / f"{UNFINISHED}{name}", folder / name
    if ranks.rank == 0:
        for left_behind in folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(left_behind)
        unfinished.mkdir(parents=True)
        save_model(unfinished / MODEL)
    ranks.first(None)  # the folder is there
    save_own_part(unfinished)
    ranks.gather(None)  # all parts are
    if ranks.rank == 0:
        if finished.exists():
            _delete(finished)
        os.replace(unfinished, finished)
        for old in _all(folder)[:-KEPT]:
            _delete(old)
    return finished


def save_part(folder: Path, rank: int, state: dict[str, Any]) -> None:
    """
    :param folder: of one checkpoint
    :param rank: whose part it is
    :param state: which can be pickled
    """
    with atomic_file(of_rank(folder, rank)) as file:
        pickle.dump(state, file)


def load_part(folder: Path, rank: int) -> dict[str, Any]:
    """
    Of your own checkpoints only: it is unpickled, which can run any code.

    :raises ValueError: when it is damaged
    """
    path = of_rank(folder, rank)
    try:
        with path.open("rb") as file:
            state: dict[str, Any] = pickle.load(file)
    except (pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}). Delete {folder}: the one before it is used then.") from error
    return state


def random_states() -> dict[str, Any]:
    """Of all generators that training draws from."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(), "cuda": cuda}


def set_random_states(states: dict[str, Any]) -> None:
    """
    :param states: of :func:`random_states`
    """
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
