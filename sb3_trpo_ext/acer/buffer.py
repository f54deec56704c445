"""Whole n-step sequences, and a replay buffer of them."""

import math
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common import buffers
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_ext.acer import replay_file
from sb3_trpo_ext.acer.images import BYTE, NUMBER, has_channels, join, regroup, split
from sb3_trpo_ext.acer.interruption import signals_wait
from sb3_trpo_ext.common.collection import Timeout
from sb3_trpo_ext.common.files import PathOrFile

Array: TypeAlias = NDArray[Any]
Arrays: TypeAlias = Array | dict[str, Array]
_NONE = np.empty(0, BYTE)  # the channels of an empty slot


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

    def states(self) -> Arrays:
        """The N = T · B states in which actions were taken, shape (N, …), or a dictionary of such."""

        def flat(array: Array) -> Array:
            return array[:-1].reshape(-1, *array.shape[2:])

        if isinstance(self.observations, dict):
            return {key: flat(array) for key, array in self.observations.items()}
        return flat(self.observations)

    def not_finite(self) -> list[str]:
        """
        The names of the parts that hold NaN or infinity, also if only as float32, in which policies compute; empty when
        all is well. Actions and statistics follow from the observations, so they are not named besides these.
        """
        bad = _bad(self._named_observations())
        followed = [] if bad else [("actions", self.actions), ("statistics", self.statistics)]
        return [*bad, *_bad([("rewards", self.rewards), *followed])]

    def _named_observations(self) -> list[tuple[str, Any]]:
        """The parts of all observations."""
        every: list[Any] = [self.observations, *(timeout.observation for timeout in self.timeouts)]
        if isinstance(self.observations, dict):
            return [(f"observations[{key!r}]", part) for parts in every for key, part in parts.items()]
        return [("observations", part) for part in every]

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


def _bad(named: Iterable[tuple[str, Any]]) -> list[str]:
    """The names of arrays that hold NaN or infinity, each once; those of too large numbers say so."""
    faults: dict[str, str] = {}
    for name, part in named:
        array = np.asarray(part)
        if not np.isfinite(array).all():
            faults.setdefault(name, "")
        elif array.dtype.kind == "f" and np.abs(array).max(initial=0) > np.finfo(np.float32).max:
            faults.setdefault(name, " (beyond float32)")
    return [name + fault for name, fault in faults.items()]


class _Layout(NamedTuple):
    shape: tuple[int, ...]
    dtype: Any

    @property
    def n_bytes(self) -> int:
        return int(math.prod(self.shape) * np.dtype(self.dtype).itemsize)


def _layout_of(space: spaces.Space[Any], rows: tuple[int, ...]) -> _Layout:
    """Of observations; of images the numbers of their channels, which each slot keeps for itself."""
    shape = space.shape or ()
    return _Layout((*rows, shape[0]), NUMBER) if has_channels(space) else _Layout((*rows, *shape), space.dtype)


class SequenceReplayBuffer:
    """
    The latest sequences of every environment, as they came: observations and rewards are not normalised, images are
    stored as uint8, and a frame that several stacks have is stored once (:mod:`sb3_trpo_ext.acer.images`).

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
        self._observation_space, self._action_space = observation_space, action_space
        self._is_dict = isinstance(observation_space, spaces.Dict)
        self._parts = replay_file.parts(observation_space)
        self._images = [key for key, space in self._parts.items() if has_channels(space)]
        rows = (self.capacity, n_envs, n_steps)
        # (slot, environment, step, …), so that a sequence lies together in memory.
        layouts: dict[str, _Layout] = {
            **{
                f"observations/{key}": _layout_of(space, (*rows[:2], n_steps + 1)) for key, space in self._parts.items()
            },
            "actions": _Layout((*rows, *(action_space.shape or ())), action_space.dtype),
            "rewards": _Layout(rows, np.float32),
            "statistics": _Layout((*rows, n_statistics), np.float32),
            "dones": _Layout(rows, np.bool_),
        }
        self._buffer_size = buffer_size
        _warn_if_large({name: layout.n_bytes for name, layout in layouts.items()}, buffer_size)
        self._arrays: dict[str, Array] = {name: np.zeros(*layout) for name, layout in layouts.items()}
        # By the keys of images, for each slot. Their number differs, so no array holds those of all slots.
        self._channels: dict[str, list[Array]] = {key: [_NONE] * self.capacity for key in self._images}
        self._timeouts: list[tuple[Timeout, ...]] = [()] * self.capacity

    @property
    def n_bytes(self) -> int:
        """
        Memory of a full buffer, without the few observations where time limits struck. Images that are still to come
        are taken to need as much as those that are stored.
        """
        return sum(self._sizes().values())

    def _sizes(self) -> dict[str, int]:
        sizes = {name: array.nbytes for name, array in self._arrays.items()}
        for key, channels in self._channels.items():
            stored = sum(of_slot.nbytes for of_slot in channels)
            sizes[f"observations/{key}"] += stored * self.capacity // max(self.n_stored, 1)
        return sizes

    def __len__(self) -> int:
        """Steps stored, of all environments together."""
        return self.n_stored * self.n_steps * self.n_envs

    def add(self, sequences: Sequences) -> None:
        """
        Store one sequence of every environment, in the place of the oldest when full.

        :param sequences: not normalised; of T steps and B environments
        """
        arrays, channels = self._split(sequences)
        with signals_wait():
            for name, array in arrays.items():
                self._arrays[name][self.position] = array.swapaxes(0, 1)
            for key, distinct in channels.items():
                self._channels[key][self.position] = distinct
            self._timeouts[self.position] = sequences.timeouts
            self.position = (self.position + 1) % self.capacity
            self.n_stored = min(self.n_stored + 1, self.capacity)
        if channels and self.n_stored == 1:  # only images can tell how much of them comes again
            _warn_if_large(self._sizes(), self._buffer_size)

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
        drawn = {name: array[slots, every] for name, array in self._arrays.items()}
        for key in self._images:
            name = f"observations/{key}"
            drawn[name] = join(drawn[name], [self._channels[key][slot] for slot in slots])
        parts = {name: array.swapaxes(0, 1) for name, array in drawn.items()}
        observations = {key: parts.pop(f"observations/{key}") for key in self._parts}
        timeouts = tuple(
            timeout for env, slot in enumerate(slots) for timeout in self._timeouts[slot] if timeout.env == env
        )
        return Sequences(observations if self._is_dict else observations[""], **parts, timeouts=timeouts)

    def save(self, path: PathOrFile) -> None:
        """
        Write what is stored as a NumPy archive (npz), which holds arrays only.

        :param path: of the file, which is replaced when the new one is whole; or an open binary file, which is written
            directly
        """
        arrays: dict[str, Any] = {name: array[: self.n_stored] for name, array in self._arrays.items()}
        for key, channels in self._channels.items():  # each slot's by itself: joined, they would be there twice
            names = replay_file.channel_names(key, self.n_stored)
            arrays.update(zip(names, channels[: self.n_stored], strict=True))
        located = [(slot, timeout) for slot, timeouts in enumerate(self._timeouts) for timeout in timeouts]
        for key, space in self._parts.items():
            final = [timeout.observation[key] if self._is_dict else timeout.observation for _, timeout in located]
            stacked = np.asarray(final, space.dtype).reshape(len(final), *(space.shape or ()))
            arrays[f"timeouts/{key}"] = stacked
        places = [(slot, timeout.step, timeout.env) for slot, timeout in located]
        arrays["timeouts_at"] = np.array(places, np.int64).reshape(-1, 3)
        arrays["position"] = np.array(self.position)
        replay_file.write(path, arrays)

    def load(self, path: PathOrFile) -> None:
        """
        Replace what is stored by what :meth:`save` wrote, also before it split images into channels. If that is more
        than fits, the latest is kept.

        A full buffer of the same size and number of environments is as it was. The number of environments may differ,
        because a sequence does not depend on it. The file's sequences are then dealt out anew, from the oldest to the
        latest and those of one time in the order of their environments. If their number is no multiple of that of the
        environments, the oldest are stored twice to make it one.

        :param path: of the file, or an open binary file
        :raises ValueError: when the file is no such archive, was written for other spaces or ``n_steps``, or holds what
            can not be: NaN or infinity, actions outside the space, and the like; what is stored is then as it was
        """
        saved = replay_file.with_split_images(replay_file.read(path), self._observation_space)
        self._check_fits(saved, path)
        replay_file.check(saved, self._observation_space, self._action_space, path)
        dealt = self._dealt(saved)
        # Ctrl-C from here on leaves an empty buffer, and never one whose parts do not belong together.
        self.n_stored = self.position = 0
        self._timeouts = [()] * self.capacity
        for name, array in self._arrays.items():
            array[: len(dealt)] = saved[name].reshape(-1, *saved[name].shape[2:])[dealt]
        for key in self._images:
            self._deal_channels(key, saved, dealt)
        self._timeouts[: len(dealt)] = self._dealt_timeouts(saved, dealt)
        self.n_stored = len(dealt)
        self.position = (int(saved["position"]) if self._fits_as_it_lies(saved) else self.n_stored) % self.capacity

    def _check_fits(self, saved: dict[str, Array], path: Any) -> None:
        """Refuse what was saved for other spaces or sequences."""
        n_slots = next(iter(saved["rewards"].shape), 0) if "rewards" in saved else 0
        channels = [name for key in self._images for name in replay_file.channel_names(key, n_slots)]
        names = [*self._arrays, *channels, "timeouts_at", "position", *(f"timeouts/{key}" for key in self._parts)]
        if wrong := set(names) ^ set(saved):
            raise ValueError(
                f"{path} was not saved by ACER with these spaces: it lacks or adds {', '.join(sorted(wrong)[:10])}."
            )
        for name, array in self._arrays.items():
            found = saved[name]
            if found.ndim != array.ndim or found.shape[2:] != array.shape[2:] or found.dtype != array.dtype:
                raise ValueError(
                    f"{path} holds {name} of shape {found.shape[2:]} (steps, …) and type {found.dtype}, but this model "
                    f"stores {array.shape[2:]}, {array.dtype}. Use the n_steps and the spaces that it was saved with."
                )

    def _deal_channels(self, key: str, saved: dict[str, Array], dealt: Array) -> None:
        """The channels of images of sequences dealt out so, the numbers of which are already there."""
        numbers, n_envs = self._arrays[f"observations/{key}"], saved["rewards"].shape[1]
        of_slot = [saved[name] for name in replay_file.channel_names(key, len(saved["rewards"]))]
        self._channels[key] = [_NONE] * self.capacity
        for slot, row in enumerate(dealt):
            channels = [of_slot[sequence // n_envs] for sequence in row]
            if n_envs == self.n_envs:  # all are of one slot in the file, too
                self._channels[key][slot] = channels[0]
            else:
                numbers[slot], self._channels[key][slot] = regroup(numbers[slot], channels)

    def _fits_as_it_lies(self, saved: dict[str, Array]) -> bool:
        """Whether each sequence can have the slot that it had, so that the same ones are drawn and replaced next."""
        return saved["rewards"].shape[:2] == (self.capacity, self.n_envs)

    def _dealt(self, saved: dict[str, Array]) -> Array:
        """Which of a file's sequences, numbered through, goes where: shape (slots, B)."""
        n, n_envs = saved["rewards"].shape[:2]
        if self._fits_as_it_lies(saved):
            return np.arange(n * n_envs).reshape(n, n_envs)
        order = (np.arange(n) + (int(saved["position"]) if n else 0)) % max(n, 1)  # oldest first
        sequences = (order[:, None] * n_envs + np.arange(n_envs)).reshape(-1)
        again = np.resize(sequences, -len(sequences) % self.n_envs)
        return np.concatenate([again, sequences]).reshape(-1, self.n_envs)[-self.capacity :]

    def _dealt_timeouts(self, saved: dict[str, Array], dealt: Array) -> list[tuple[Timeout, ...]]:
        """The time limits of sequences dealt out so, for each slot."""
        of_sequence: dict[int, list[tuple[int, Any]]] = {}
        for i, (slot, step, env) in enumerate(saved["timeouts_at"].tolist()):
            final = {key: saved[f"timeouts/{key}"][i] for key in self._parts}
            place = slot * saved["rewards"].shape[1] + env
            of_sequence.setdefault(place, []).append((step, final if self._is_dict else final[""]))
        return [
            tuple(
                Timeout(step, env, final)
                for env, sequence in enumerate(row)
                for step, final in of_sequence.get(sequence, ())
            )
            for row in dealt.tolist()
        ]

    def _split(self, sequences: Sequences) -> tuple[dict[str, Array], dict[str, Array]]:
        """Arrays by the names under which they are kept, and the distinct channels of images by their keys."""
        observations: Any = sequences.observations if self._is_dict else {"": sequences.observations}
        arrays = {name: getattr(sequences, name) for name in ("actions", "rewards", "statistics", "dones")}
        channels = {}
        for key in self._parts:
            array = observations[key]
            if key in self._images:
                array, channels[key] = split(array)
            arrays[f"observations/{key}"] = array
        return arrays, channels


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
