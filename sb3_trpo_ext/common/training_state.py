"""What a rank knows besides the model: into a checkpoint, and back."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_trpo_ext.common import checkpoint
from sb3_trpo_ext.common.bad_data import running_statistics
from sb3_trpo_ext.common.environment_state import environment_state, restore_environment

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
    log = model.logger
    state = {
        "n_envs": model.n_envs,
        "counters": _attributes(model, model.COUNTERS),
        "episodes": _attributes(model, OF_EPISODES),
        "statistics": [(one.mean, one.var, one.count) for one in running_statistics(model.env)],
        "environment": None if model.env is None else environment_state(model.env),
        "observations": _attributes(model, OF_OBSERVATIONS),
        "kept": model._kept_between_rollouts(),
        "random": checkpoint.random_states(),
        "log": (dict(log.name_to_value), dict(log.name_to_count), dict(log.name_to_excluded)),
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
    for name, value in (state["counters"] | state["episodes"]).items():
        setattr(model, name, value)
    for own, saved in zip(running_statistics(model.env), state["statistics"], strict=True):
        own.mean, own.var, own.count = saved
    if is_known:
        model._to_restore = {"random": state["random"], "log": state["log"]}
        model._load_more(folder)
    if is_known and state["environment"] is not None:
        restore_environment(model.env, state["environment"])
        for name, value in state["observations"].items():
            setattr(model, name, value)
        model._take_back(state["kept"])
    else:
        # Or the episodes of the beginning would come once more.
        model.env.seed(int(np.random.randint(2**31)))
        model._last_obs = None


def put_back_what_moved(model: "Algorithm[Any]") -> None:
    """What a new process has moved on since :func:`take_up`: generators and the log."""
    if model._to_restore is None:
        return
    checkpoint.set_random_states(model._to_restore["random"])
    log, (values, counts, excluded) = model.logger, model._to_restore["log"]
    log.name_to_value.update(values)
    log.name_to_count.update(counts)
    log.name_to_excluded.update(excluded)
    model._to_restore = None


def _attributes(model: "Algorithm[Any]", names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(model, name) for name in names}
