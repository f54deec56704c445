"""Files of replay buffers: NumPy archives (npz), which hold arrays only; nothing in them is executed."""

import zipfile
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sb3_trpo_ext.acer.images import BYTE, NUMBER, has_channels, split
from sb3_trpo_ext.common.files import PathOrFile, atomic_file, readable

Array = NDArray[Any]


def write(path: PathOrFile, arrays: dict[str, Array]) -> None:
    """
    :param path: of the file, which is as it was before or whole at every moment (see
        :func:`sb3_trpo_ext.common.files.atomic_file`); or an open binary file, which is written directly
    :param arrays: by name
    """
    with atomic_file(path, suffix="npz") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes any name for that of an option


def read(path: PathOrFile) -> dict[str, Array]:
    """
    :param path: of the file, or an open binary file
    :return: arrays by name
    :raises ValueError: when the file is no such archive, or damaged
    """
    with readable(path, suffix="npz") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except Exception as error:  # what damaged files raise has no common base: ValueError, BadZipFile, zlib.error, …
            raise ValueError(
                f"{path} is not a replay buffer saved by ACER, or is damaged ({_what_is_wrong(file, error)})."
            ) from error


def _what_is_wrong(file: Any, error: Exception) -> str:
    """Archives begin with PK and end with a table of contents, by which one can tell that the end is missing."""
    file.seek(0)
    start = file.read(2)
    if not start:
        return "it is empty"
    if start == b"PK" and not zipfile.is_zipfile(file):
        return "it was cut short: the end of the archive is missing"
    return str(error)


def check(
    saved: dict[str, Array], observation_space: spaces.Space[Any], action_space: spaces.Space[Any], path: Any
) -> None:
    """
    Refuse a file whose parts do not belong together, or hold what ACER can not have stored.

    :param saved: arrays by name, of the right names, types and shapes, but for channels of images, and the numbers of
        sequences, environments and time limits
    :param observation_space: of one environment
    :param action_space: of one environment
    :param path: for the message
    :raises ValueError: naming all faulty parts
    """
    faults = _faults_of_shapes(saved, observation_space)
    if not faults:
        faults = [
            *_faults_of_images(saved, observation_space),
            *_faults_of_numbers(saved, observation_space, action_space),
            *_faults_of_timeouts(saved),
        ]
    if faults:
        raise ValueError(f"{path} is not a replay buffer saved by ACER, or is damaged: {'; '.join(faults)}.")


def parts(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    """The parts of a dictionary of observations by their keys; others have one, called ""."""
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}


def channel_names(key: str, n_slots: int) -> list[str]:
    """Under which the channels of images are stored, for each slot of a buffer."""
    return [f"channels/{key}/{slot}" for slot in range(n_slots)]


def with_split_images(saved: dict[str, Array], space: spaces.Space[Any]) -> dict[str, Array]:
    """
    What a file holds, with images split into channels, which files of earlier versions have whole.

    :param saved: arrays by name, of a file that may be damaged
    :param space: of one environment's observations
    """
    arrays = dict(saved)
    for key, part in parts(space).items():
        whole = saved.get(f"observations/{key}")
        if not has_channels(part) or whole is None or whole.dtype != BYTE or whole.shape[3:] != part.shape:
            continue
        numbers = arrays[f"observations/{key}"] = np.empty(whole.shape[:-2], NUMBER)
        for slot, name in enumerate(channel_names(key, len(whole))):
            numbers[slot], arrays[name] = split(whole[slot])
    return arrays


def _faults_of_shapes(saved: dict[str, Array], observation_space: spaces.Space[Any]) -> list[str]:
    n_sequences, n_envs = saved["rewards"].shape[:2]
    places, position = saved["timeouts_at"], saved["position"]
    n_timeouts = places.size // 3
    faults = [
        f"{name} has {array.shape[0]} sequences of {array.shape[1]} environments, rewards has {n_sequences} of {n_envs}"
        for name, array in saved.items()
        if not name.startswith(("timeouts", "channels/", "position")) and array.shape[:2] != (n_sequences, n_envs)
    ]
    for key, space in parts(observation_space).items():
        array = saved[f"timeouts/{key}"]
        if array.shape != (n_timeouts, *(space.shape or ())) or array.dtype != space.dtype:
            faults.append(f"timeouts/{key} has shape {array.shape} and type {array.dtype} for {n_timeouts} time limits")
    if places.shape[1:] != (3,) or places.dtype != np.int64:
        faults.append(f"timeouts_at has shape {places.shape} and type {places.dtype}, not (…, 3) and int64")
    if position.shape != () or not np.issubdtype(position.dtype, np.integer) or not 0 <= position <= n_sequences:
        faults.append(f"position is {position}, not a whole number from 0 to {n_sequences}")
    return faults


def _faults_of_images(saved: dict[str, Array], observation_space: spaces.Space[Any]) -> list[str]:
    faults = []
    for key, space in parts(observation_space).items():
        if not has_channels(space):
            continue
        numbers = saved[f"observations/{key}"]
        for of_slot, name in zip(numbers, channel_names(key, len(numbers)), strict=True):
            channels, shape = saved[name], (space.shape or ())[1:]
            if channels.shape[1:] != shape or channels.dtype != BYTE:
                faults.append(
                    f"{name} has shape {channels.shape} and type {channels.dtype}, not (…, {shape}) and uint8"
                )
            elif not _between(of_slot, 0, len(channels) - 1):
                faults.append(f"observations/{key} has numbers of channels that are not in {name}")
    return faults[:3]  # a slot that is wrong seldom comes alone


def _faults_of_numbers(
    saved: dict[str, Array], observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> list[str]:
    faults = [
        f"{name} holds NaN or infinity"
        for name, array in saved.items()
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all()
    ]
    for key, space in parts(observation_space).items():
        for name in (f"observations/{key}", f"timeouts/{key}"):
            if (limits := _limits(space)) and not _between(saved[name], *limits):
                faults.append(f"{name} holds numbers outside {space}")
    if isinstance(action_space, spaces.Discrete) and not _between(saved["actions"], 0, action_space.n - 1):
        faults.append(f"actions holds numbers that are not from 0 to {action_space.n - 1}")
    if isinstance(action_space, spaces.MultiDiscrete) and not _between(saved["actions"], 0, action_space.nvec - 1):
        faults.append(f"actions holds numbers outside {action_space}")
    if isinstance(action_space, spaces.Box):
        deviations = saved["statistics"][..., saved["statistics"].shape[-1] // 2 :]
        if not (deviations > 0).all():
            faults.append("statistics holds standard deviations that are not above 0")
    return faults


def _between(array: Array, low: Any, high: Any) -> bool:
    return bool(((array >= low) & (array <= high)).all())


def _limits(space: spaces.Space[Any]) -> tuple[Any, Any] | None:
    """
    The lowest and the highest number of a space of whole numbers. None for Box, whose observations may lie elsewhere
    before they are normalised.
    """
    if isinstance(space, spaces.Discrete):
        return space.start, space.start + space.n - 1
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return (0, 1) if isinstance(space, spaces.MultiBinary) else None


def _faults_of_timeouts(saved: dict[str, Array]) -> list[str]:
    places, dones = saved["timeouts_at"], saved["dones"]
    n_sequences, n_envs, n_steps = dones.shape
    if not ((places >= 0) & (places < (n_sequences, n_steps, n_envs))).all():
        return ["timeouts_at names sequences, steps or environments that are not there"]
    sequence, step, env = places.T
    if not dones[sequence, env, step].all():
        return ["timeouts_at names steps at which no episode ended"]
    return ["timeouts_at names a step twice"] if len(np.unique(places, axis=0)) < len(places) else []
