"""Whole n-step sequences, and a replay buffer of them."""

import io
import math
import os
import pathlib
import warnings
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common import buffers
from stable_baselines3.common.save_util import open_path
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_ext.common.collection import Timeout

Array: TypeAlias = NDArray[Any]
Arrays: TypeAlias = Array | dict[str, Array]


@dataclass(frozen=True)
class Sequences:
    """
    One sequence of T steps from each of B environments. A sequence may hold several episodes.

    :param observations: shape (T + 1, B, …), or a dictionary of such; the last row follows the last step
    :param actions: as the policy drew them, shape (T, B, …)
    :param rewards: shape (T, B)
    :param statistics: of the behaviour policy's distributions φ side by side, shape (T, B, m)
    :param dones: whether an episode ended with the step, shape (T, B)
    :param timeouts: those of the ends that were time limits
    """

    observations: Arrays
    actions: Array
    rewards: Array
    statistics: Array
    dones: Array
    timeouts: tuple[Timeout, ...] = ()

    def not_finite(self) -> list[str]:
        """The names of the parts that hold NaN or infinity; empty when all is well."""
        parts = {"actions": self.actions, "rewards": self.rewards, "statistics": self.statistics}
        observations = [self.observations, *(timeout.observation for timeout in self.timeouts)]
        for part in observations:
            named = part.items() if isinstance(part, dict) else [("", part)]
            for key, array in named:
                name = f"observations[{key!r}]" if key else "observations"
                parts[name] = parts[name] if name in parts and not np.isfinite(parts[name]).all() else array
        return [name for name, array in parts.items() if not np.isfinite(array).all()]

    def normalized(self, statistics: VecNormalize) -> "Sequences":
        """
        With observations and rewards as the wrapper would normalise them now.

        :param statistics: the environment's wrapper
        """
        return replace(
            self,
            observations=statistics.normalize_obs(self.observations),
            rewards=statistics.normalize_reward(self.rewards).astype(np.float32),
            timeouts=tuple(
                timeout._replace(observation=statistics.normalize_obs(timeout.observation)) for timeout in self.timeouts
            ),
        )


class _Layout(NamedTuple):
    shape: tuple[int, ...]
    dtype: Any

    @property
    def n_bytes(self) -> int:
        return int(math.prod(self.shape) * np.dtype(self.dtype).itemsize)


class SequenceReplayBuffer:
    """
    The latest sequences of every environment, as they came: observations and rewards are not normalised, images are
    stored as uint8.

    :param buffer_size: steps to keep, of all environments together; rounded down to whole sequences, at least one
    :param n_steps: T, of a sequence
    :param n_envs: B
    :param observation_space: of one environment
    :param action_space: of one environment
    :param n_statistics: m, how many numbers describe one action distribution
    """

    def __init__(
        self,
        buffer_size: int,
        n_steps: int,
        n_envs: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        n_statistics: int,
    ):
        self.capacity = max(1, buffer_size // (n_steps * n_envs))
        self.n_steps, self.n_envs = n_steps, n_envs
        self.position = 0  # slot to be written next
        self.n_stored = 0
        self._is_dict = isinstance(observation_space, spaces.Dict)
        self._keys = list(_parts(observation_space))
        rows = (self.capacity, n_envs, n_steps)
        # (slot, environment, step, …), so that a sequence lies together in memory.
        layouts: dict[str, _Layout] = {
            **{
                f"observations/{key}": _Layout((*rows[:2], n_steps + 1, *(space.shape or ())), space.dtype)
                for key, space in _parts(observation_space).items()
            },
            "actions": _Layout((*rows, *(action_space.shape or ())), action_space.dtype),
            "rewards": _Layout(rows, np.float32),
            "statistics": _Layout((*rows, n_statistics), np.float32),
            "dones": _Layout(rows, np.bool_),
        }
        _warn_if_large({name: layout.n_bytes for name, layout in layouts.items()}, buffer_size)
        self._arrays: dict[str, Array] = {name: np.zeros(*layout) for name, layout in layouts.items()}
        self._timeouts: list[tuple[Timeout, ...]] = [()] * self.capacity

    @property
    def n_bytes(self) -> int:
        """Memory of a full buffer, without the few observations where time limits struck."""
        return sum(array.nbytes for array in self._arrays.values())

    def __len__(self) -> int:
        """Steps stored, of all environments together."""
        return self.n_stored * self.n_steps * self.n_envs

    def add(self, sequences: Sequences) -> None:
        """
        Store one sequence of every environment, in the place of the oldest when full.

        :param sequences: not normalised; of T steps and B environments
        """
        for name, array in self._split(sequences).items():
            self._arrays[name][self.position] = array.swapaxes(0, 1)
        self._timeouts[self.position] = sequences.timeouts
        self.position = (self.position + 1) % self.capacity
        self.n_stored = min(self.n_stored + 1, self.capacity)

    def sample(self, env: VecNormalize | None = None) -> Sequences:
        """
        One stored sequence of every environment, each from a time of its own, drawn with NumPy's global generator.

        :param env: normalises what is drawn with its present statistics; None for none
        """
        assert self.n_stored > 0
        drawn = self.get(np.random.randint(self.n_stored, size=self.n_envs))
        return drawn if env is None else drawn.normalized(env)

    def get(self, slots: Array) -> Sequences:
        """
        :param slots: for each environment the number of a sequence, from 0 to ``n_stored`` − 1, shape (B,)
        """
        every = np.arange(self.n_envs)
        parts = {name: array[slots, every].swapaxes(0, 1) for name, array in self._arrays.items()}
        observations = {key: parts.pop(f"observations/{key}") for key in self._keys}
        timeouts = tuple(
            timeout for env, slot in enumerate(slots) for timeout in self._timeouts[slot] if timeout.env == env
        )
        return Sequences(observations if self._is_dict else observations[""], **parts, timeouts=timeouts)

    def save(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Write what is stored as a NumPy archive (npz), which holds arrays only.

        :param path: of the file, or an open binary file
        """
        arrays: dict[str, Any] = {name: array[: self.n_stored] for name, array in self._arrays.items()}
        located = [(slot, timeout) for slot, timeouts in enumerate(self._timeouts) for timeout in timeouts]
        for key in self._keys:
            layout = self._arrays[f"observations/{key}"]
            final = [timeout.observation[key] if self._is_dict else timeout.observation for _, timeout in located]
            stacked = np.asarray(final, layout.dtype).reshape(len(final), *layout.shape[3:])
            arrays[f"timeouts/{key}"] = stacked
        places = [(slot, timeout.step, timeout.env) for slot, timeout in located]
        arrays["timeouts_at"] = np.array(places, np.int64).reshape(-1, 3)
        arrays["position"] = np.array(self.position)
        file: Any = open_path(path, "w", suffix="npz")
        try:
            np.savez(file, **arrays)
        finally:
            if isinstance(path, (str, pathlib.Path)):
                file.close()

    def load(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Replace what is stored by what :meth:`save` wrote. If that is more than fits, the latest is kept.

        :param path: of the file, or an open binary file
        :raises ValueError: when the file is no such archive, was written for other spaces, ``n_steps`` or number of
            environments, or holds NaN or infinity; what is stored is then as it was
        """
        saved = _read(path)
        self._check_fits(saved, path)
        _check_whole(saved, path)
        n = len(saved["rewards"])
        order = (np.arange(n) + (int(saved["position"]) if n else 0)) % max(n, 1)  # oldest first
        order = order[-self.capacity :]
        for name, array in self._arrays.items():
            array[: len(order)] = saved[name][order]
        self._timeouts = [()] * self.capacity
        new_slot = {int(old): new for new, old in enumerate(order)}
        for i, (slot, step, env) in enumerate(saved["timeouts_at"].tolist()):
            if slot in new_slot:
                final = {key: saved[f"timeouts/{key}"][i] for key in self._keys}
                self._timeouts[new_slot[slot]] += (Timeout(step, env, final if self._is_dict else final[""]),)
        self.n_stored = len(order)
        self.position = self.n_stored % self.capacity

    def _check_fits(self, saved: dict[str, Array], path: Any) -> None:
        """Refuse what was saved for other spaces, sequences or environments."""
        expected = {*self._arrays, "timeouts_at", "position", *(f"timeouts/{key}" for key in self._keys)}
        if set(saved) != expected:
            raise ValueError(
                f"{path} was not saved by ACER with these spaces: it lacks or adds {expected ^ set(saved)}."
            )
        for name, array in self._arrays.items():
            if saved[name].shape[1:] != array.shape[1:] or saved[name].dtype != array.dtype:
                raise ValueError(
                    f"{path} holds {name} of shape {saved[name].shape[1:]} (environments, steps, …) and type "
                    f"{saved[name].dtype}, but this model stores {array.shape[1:]}, {array.dtype}. Use the n_steps, "
                    "the number of environments and the spaces that it was saved with."
                )

    def _split(self, sequences: Sequences) -> dict[str, Array]:
        """Arrays by the names under which they are kept."""
        observations: Any = sequences.observations if self._is_dict else {"": sequences.observations}
        return {
            **{f"observations/{key}": observations[key] for key in self._keys},
            **{name: getattr(sequences, name) for name in ("actions", "rewards", "statistics", "dones")},
        }


def _parts(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}


def _memory() -> int | None:
    """Bytes of memory that are free, as SB3 asks for them; without psutil all there is; None where nobody knows."""
    psutil = getattr(buffers, "psutil", None)
    if psutil is not None:
        return int(psutil.virtual_memory().available)
    try:
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return None


def _warn_if_large(sizes: dict[str, int], buffer_size: int) -> None:
    total, available = sum(sizes.values()), _memory()
    if available is None or total <= available:
        return
    largest = max(sizes, key=lambda name: sizes[name])
    warnings.warn(
        f"The replay buffer of {buffer_size} steps will need {total / 1e9:.1f} GB when it is full ("
        f"{sizes[largest] / 1e9:.1f} GB of it {largest.rstrip('/')}), but there are only {available / 1e9:.1f} GB of "
        f"memory. Lower buffer_size to {int(buffer_size * available / total * 0.8)} or less.",
        stacklevel=6,
    )


def _check_whole(saved: dict[str, Array], path: Any) -> None:
    """Refuse a file whose parts do not belong together, as another program might leave it."""
    n_sequences, n_envs, n_steps = saved["rewards"].shape
    places, position = saved["timeouts_at"], saved["position"]
    n_timeouts = places.size // 3
    faults = [
        f"{name} has {len(array)} sequences, rewards has {n_sequences}"
        for name, array in saved.items()
        if not name.startswith("timeouts") and name != "position" and len(array) != n_sequences
    ]
    faults += [
        f"{name} holds NaN or infinity"
        for name, array in saved.items()
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all()
    ]
    for name, array in saved.items():
        if name.startswith("timeouts/"):
            like = saved[name.replace("timeouts/", "observations/")]
            if array.shape != (n_timeouts, *like.shape[3:]) or array.dtype != like.dtype:
                faults.append(f"{name} has shape {array.shape} and type {array.dtype} for {n_timeouts} time limits")
    if places.shape[1:] != (3,) or places.dtype != np.int64:
        faults.append(f"timeouts_at has shape {places.shape} and type {places.dtype}, not (…, 3) and int64")
    elif not ((places >= 0) & (places < (n_sequences, n_steps, n_envs))).all():
        faults.append("timeouts_at names sequences, steps or environments that are not there")
    if position.shape != () or not np.issubdtype(position.dtype, np.integer) or not 0 <= position <= n_sequences:
        faults.append(f"position is {position}, not a whole number from 0 to {n_sequences}")
    if faults:
        raise ValueError(f"{path} is not a replay buffer saved by ACER, or is damaged: {'; '.join(faults)}.")


def _read(path: str | pathlib.Path | io.BufferedIOBase) -> dict[str, Array]:
    """The arrays of an npz file; nothing in it is executed."""
    file: Any = open_path(path, "r", suffix="npz")
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # what damaged files raise has no common base: ValueError, BadZipFile, zlib.error, …
        raise ValueError(f"{path} is not a replay buffer saved by ACER, or is damaged ({error}).") from error
    finally:
        if isinstance(path, (str, pathlib.Path)):
            file.close()
