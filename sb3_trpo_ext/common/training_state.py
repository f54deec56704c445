"""What a rank knows besides the model: into a checkpoint, and back."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_trpo_ext.common import checkpoint
from sb3_trpo_ext.common.bad_data import running_statistics, set_running_statistics
from sb3_trpo_ext.common.environment_state import environment_state, restore_environment
from sb3_trpo_ext.common.ranks import SEEDS_APART

if TYPE_CHECKING:
    from sb3_trpo_ext.common.algorithm import Algorithm

# Attributes of SB3's algorithms.
OF_EPISODES = ("ep_info_buffer", "ep_success_buffer", "_episode_num")
OF_OBSERVATIONS = ("_last_obs", "_last_original_obs", "_last_episode_starts")


def save_part(model: "Algorithm[Any]", folder: Path) -> None:
    """
    :param model: between two iterations
    :param folder: of one checkpoint
    """
    log: Any = getattr(model, "_logger", None)  # there is none before the first training
    state = {
        "kind": model.KIND,
        "n_envs": model.n_envs,
        "counters": _attributes(model, model.COUNTERS),
        "episodes": _attributes(model, OF_EPISODES),
        "statistics": running_statistics(model.env),
        "environment": None if model.env is None else environment_state(model.env),
        "observations": _attributes(model, OF_OBSERVATIONS),
        "kept": model._kept_between_rollouts(),
        "random": checkpoint.random_states(),
        "log": log and (dict(log.name_to_value), dict(log.name_to_count), dict(log.name_to_excluded)),
    }
    checkpoint.save_part(folder, model._ranks.rank, state)
    model._save_more(folder)


def take_up(model: "Algorithm[Any]", folder: Path) -> None:
    """
    :param model: constructed as the one that was saved, with its environment; its networks are those of the checkpoint
    :param folder: of one checkpoint; a rank that there was none of begins new episodes
    :raises ValueError: when it is damaged, or of another number of environments
    """
    assert model.env is not None
    rank = model._ranks.rank
    is_known = checkpoint.of_rank(folder, rank).exists()
    state = checkpoint.load_part(folder, rank if is_known else 0)
    if is_known and state["n_envs"] != model.n_envs:
        raise ValueError(
            f"{folder} is of {state['n_envs']} environments on rank {rank}, and this model has {model.n_envs}. Make "
            f"{state['n_envs']}, or load {folder / checkpoint.MODEL} as an ordinary model."
        )
    if state["kind"] != model.KIND:
        raise ValueError(f"{folder} is of {state['kind']}, and this model is {model.KIND}. Take another folder.")
    if len(running_statistics(model.env)) != len(state["statistics"]):
        raise ValueError(
            f"{folder} was written with {'a' if state['statistics'] else 'no'} VecNormalize of other parts than this "
            "model's environment has. Make the environment as it was."
        )
    for name, value in (state["counters"] | state["episodes"]).items():
        setattr(model, name, value)
    set_running_statistics(model.env, state["statistics"])
    if is_known:
        model._to_restore = {"random": state["random"], "log": state["log"]}
        model._load_more(folder)
    if is_known and state["environment"] is not None and restore_environment(model.env, state["environment"]):
        for name, value in state["observations"].items():
            setattr(model, name, value)
        model._take_back(state["kept"])
    else:
        warnings.warn(
            f"The environments' state is not in {folder}, or does not fit: they begin new episodes, and the training "
            "is not bit for bit the one that was interrupted.",
            stacklevel=4,
        )
        # Or the episodes of the beginning would come once more.
        generator = np.random.RandomState()
        generator.set_state(state["random"]["numpy"])
        model.env.seed((int(generator.randint(2**31)) + SEEDS_APART * rank) % 2**31)
        model._last_obs = None


def put_back_what_moved(model: "Algorithm[Any]") -> None:
    """What a new process has moved on since :func:`take_up`: generators and the log."""
    if model._to_restore is None:
        return
    checkpoint.set_random_states(model._to_restore["random"])
    log, (values, counts, excluded) = model.logger, model._to_restore["log"] or ({}, {}, {})
    log.name_to_value.update(values)
    log.name_to_count.update(counts)
    log.name_to_excluded.update(excluded)
    model._to_restore = None


def _attributes(model: "Algorithm[Any]", names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(model, name) for name in names}
