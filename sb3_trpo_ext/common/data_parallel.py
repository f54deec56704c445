"""What an algorithm does together with the other ranks besides its update: begin alike, count alike, stop alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

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

from sb3_trpo_ext.common.bad_data import running_statistics
from sb3_trpo_ext.common.diagnostics import record
from sb3_trpo_ext.common.normalization import normalizer_of
from sb3_trpo_ext.common.ranks import ALONE

if TYPE_CHECKING:
    from sb3_trpo_ext.common.algorithm import Algorithm

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
    statistics = running_statistics(model.env)
    for own_ones, (mean, var, count) in zip(
        statistics, model._ranks.first([(one.mean, one.var, one.count) for one in statistics]), strict=True
    ):
        own_ones.mean, own_ones.var, own_ones.count = mean, var, count


def after_rollout(model: "Algorithm[Any]", told: Told, steps_before: int) -> bool:
    """
    Count what all ranks have done.

    :param told: by this rank
    :param steps_before: ``num_timesteps`` when the rollout began
    :return: whether all go on: a callback that ends training on one rank ends it on all
    """
    everyone = model._ranks.gather(told)
    model.num_timesteps = steps_before + sum(one.steps for one in everyone)
    assert model.ep_info_buffer is not None and model.ep_success_buffer is not None
    slowest = max(one.seconds for one in everyone)
    for rank, one in enumerate(everyone):
        if rank != model._ranks.rank:
            model.ep_info_buffer.extend(one.episodes)
            model.ep_success_buffer.extend(one.successes)
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


def _parts(model: "Algorithm[Any]") -> dict[str, Any]:
    """Networks and optimizers, by the names under which they are saved."""
    return {name: recursive_getattr(model, name) for name in model._get_torch_save_params()[0]}


def _shapes(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {name: tensor.shape for name, tensor in tensors.items()}
