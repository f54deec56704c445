"""What an algorithm does together with the other ranks besides its update: begin alike, count alike, stop alike."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EventCallback,
    ProgressBarCallback,
)
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.save_util import recursive_getattr
from torch import Tensor, nn

from sb3_trpo_ext.common.bad_data import running_statistics, set_running_statistics
from sb3_trpo_ext.common.diagnostics import record
from sb3_trpo_ext.common.normalization import normalizer_of
from sb3_trpo_ext.common.ranks import ALONE

if TYPE_CHECKING:
    from sb3_trpo_ext.common.algorithm import Algorithm

# Settings that may differ.
OF_EACH_RANK = {"self", "policy", "env", "n_steps", "seed", "device", "verbose", "tensorboard_log", "policy_kwargs"}
# They write files or evaluate, which rank 0 does for all.
OF_RANK_0 = (EvalCallback, CheckpointCallback, ProgressBarCallback)


class Told(NamedTuple):
    """
    What a rank says after its rollout.

    :param complete: whether it is full; False where a callback ended training
    :param steps: that it took, in all of its environments
    :param seconds: that it took
    :param episodes: that ended, as Monitor counts them
    :param successes: of those that say so
    """

    complete: bool
    steps: int
    seconds: float
    episodes: list[dict[str, Any]]
    successes: list[bool]


@contextmanager
def silent_unless_first(model: "Algorithm[Any]") -> Iterator[None]:
    """Around what makes the logger: rank 0 alone prints and writes."""
    shown = model.verbose, model.tensorboard_log
    if model._ranks.rank > 0:
        model.verbose, model.tensorboard_log = 0, None
    yield
    model.verbose, model.tensorboard_log = shown
    if model._ranks.rank > 0:
        model._logger = Logger(None, [])


def check_same_settings(model: "Algorithm[Any]") -> None:
    """
    Ranks that were told to do different things would wait for one another for ever.

    :raises ValueError: on all ranks, naming a setting that is not the same on all
    """
    if model._ranks is ALONE:
        return
    names = [*inspect.signature(type(model).__init__).parameters, *(rule.argument for rule in model.RULES)]
    values = {name: getattr(model, name, None) for name in names if name not in OF_EACH_RANK}
    every = model._ranks.gather({name: repr(value) for name, value in values.items() if not callable(value)})
    for name in every[0]:
        if len({told.get(name) for told in every}) > 1:
            listed = ", ".join(f"{told.get(name)} on rank {rank}" for rank, told in enumerate(every))
            raise ValueError(f"{name} must be the same on all ranks, got {listed}.")


def draw_apart(model: "Algorithm[Any]") -> None:
    """
    Without a seed, ranks whose script has seeded the generators alike would all see the same. Those but rank 0 are
    seeded anew, by what rank 0 draws.
    """
    if model._ranks is ALONE or model.seed is not None:
        return
    drawn = model._ranks.first(int(np.random.randint(2**31)))
    if model._ranks.rank > 0:
        model.set_random_seed(drawn)


def follow_first_rank(model: "Algorithm[Any]") -> None:
    """
    Begin with what rank 0 has: parameters, optimizers, counters, statistics.

    :raises ValueError: when the ranks have policies of different shapes
    """
    if model._ranks is ALONE:
        return
    own = _parts(model)
    first = model._ranks.first({name: part.state_dict() for name, part in own.items()})
    for name, part in own.items():
        if isinstance(part, nn.Module) and _shapes(part.state_dict()) != _shapes(first[name]):
            raise ValueError(
                f"Rank {model._ranks.rank} and rank 0 have a {name} of different shapes. Construct or load the model "
                "on all ranks alike, with the same policy_kwargs and spaces."
            )
        part.load_state_dict(first[name])
    for name, value in model._ranks.first({name: getattr(model, name) for name in model.COUNTERS}).items():
        setattr(model, name, value)
    set_running_statistics(model.env, model._ranks.first(running_statistics(model.env)))


class Before(NamedTuple):
    """
    What was known when the rollout began.

    :param steps: of all ranks
    :param episodes: the last ones of all ranks
    :param successes: likewise
    """

    steps: int
    episodes: list[Any]
    successes: list[Any]


def after_rollout(model: "Algorithm[Any]", told: Told, before: Before) -> bool:
    """
    Count what all ranks have done.

    :param told: by this rank
    :param before: the same on all
    :return: whether all go on: a callback that ends training on one rank ends it on all
    """
    everyone = model._ranks.gather(told)
    model.num_timesteps = before.steps + sum(one.steps for one in everyone)
    assert model.ep_info_buffer is not None and model.ep_success_buffer is not None
    model.ep_info_buffer.clear()
    model.ep_info_buffer.extend([*before.episodes, *_in_turns([one.episodes for one in everyone])])
    model.ep_success_buffer.clear()
    model.ep_success_buffer.extend([*before.successes, *_in_turns([one.successes for one in everyone])])
    slowest = max(one.seconds for one in everyone)
    for rank, one in enumerate(everyone):
        record(model.logger, {f"ranks/rank_{rank}_wait_seconds": slowest - one.seconds})
    return all(one.complete for one in everyone)


def check_equal(model: "Algorithm[Any]") -> None:
    """
    :raises RuntimeError: when the ranks' networks are no longer the same, bit for bit
    """
    if model._ranks is ALONE:
        return
    modules = {name: part for name, part in _parts(model).items() if isinstance(part, nn.Module)}
    model._ranks.check_equal(
        {f"{name}.{key}": value for name, part in modules.items() for key, value in part.state_dict().items()}
    )


def share_layers_with_a_state(model: "Algorithm[Any]") -> None:
    """Running statistics of layers, such as batch normalisation's: those of rank 0's rollout."""
    if model._ranks is ALONE:
        return
    normalizer = normalizer_of(model.policy)
    own = [] if normalizer is None else list(map(id, normalizer.buffers()))
    buffers = [buffer for buffer in model.policy.buffers() if id(buffer) not in own]
    for buffer, value in zip(buffers, model._ranks.first([buffer.cpu() for buffer in buffers]), strict=True):
        buffer.copy_(value)


def for_this_rank(callback: BaseCallback) -> BaseCallback | None:
    """
    A callback, without what rank 0 does for all: writing, evaluating, showing progress.

    :param callback: as the user gave it
    :return: None if nothing is left
    """
    if isinstance(callback, OF_RANK_0):
        return None
    if isinstance(callback, CallbackList):
        kept = [one for one in map(for_this_rank, callback.callbacks) if one is not None]
        return CallbackList(kept)
    if isinstance(callback, EventCallback) and callback.callback is not None:
        callback.callback = for_this_rank(callback.callback)
    return callback


def _in_turns(lists: list[list[Any]]) -> list[Any]:
    """One of each, then the next of each: where only the last are kept, all ranks have their share."""
    nothing = object()
    return [one for turn in zip_longest(*lists, fillvalue=nothing) for one in turn if one is not nothing]


def _parts(model: "Algorithm[Any]") -> dict[str, Any]:
    """Networks and optimizers, by the names under which they are saved."""
    return {name: recursive_getattr(model, name) for name in model._get_torch_save_params()[0]}


def _shapes(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {name: tensor.shape for name, tensor in tensors.items()}
