"""
The state of environments as bytes, so that an episode goes on where it was, in another process.

Whoever steps a copy of the environment sees what the original would have shown. All attributes are taken, of every
wrapper and of the environment inside, so nothing needs to be known about the environment. Where that can not be, such
as with files or handles of C in them, or in processes of their own, there is no state.
"""

import io
import pickle
from typing import Any

import gymnasium as gym
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from sb3_trpo_ext.common.in_process_vec_env import InProcessVecEnv


def environment_state(env: VecEnv) -> bytes | None:
    """
    :param env: as it is between two steps
    :return: for :func:`restore_environment`; None where there is none
    """
    layers = _layers(env)
    if layers is None:
        return None
    file = io.BytesIO()
    try:
        _Pickler(file, layers).dump([_state_of(layer) for layer in layers])
    except Exception:  # whatever an attribute's own way of being pickled may raise
        return None
    return pickle.dumps(([type(layer).__qualname__ for layer in layers], file.getvalue()))


def restore_environment(env: VecEnv, state: bytes) -> bool:
    """
    :param env: made as the one was whose state it is
    :param state: of :func:`environment_state`; only your own: it is unpickled, which can run any code
    :return: whether it was made so, of the same wrappers; if not, nothing is changed
    """
    layers = _layers(env)
    names, of_layers = pickle.loads(state)
    if layers is None or [type(layer).__qualname__ for layer in layers] != names:
        return False
    for layer, attributes in zip(layers, _Unpickler(io.BytesIO(of_layers), layers).load(), strict=True):
        vars(layer).update(attributes)
    return True


def _state_of(layer: Any) -> dict[str, Any]:
    """Its attributes, without the methods of its class that SB3's wrappers keep among them."""
    return {name: value for name, value in vars(layer).items() if name != "class_attributes"}


def _layers(env: VecEnv) -> list[Any] | None:
    """All wrappers and environments, from the outside in; None where they are in other processes."""
    layers: list[Any] = [env]
    while isinstance(layers[-1], VecEnvWrapper):
        layers.append(layers[-1].venv)
    if type(layers[-1]) not in (DummyVecEnv, InProcessVecEnv):
        return None
    for inner in layers[-1].envs:
        layers.append(inner)
        while isinstance(layers[-1], gym.Wrapper):
            layers.append(layers[-1].env)
    return layers


class _Pickler(pickle.Pickler):
    """Layers, and the open files of monitors, stay what they are where the state is put back."""

    def __init__(self, file: Any, layers: list[Any]):
        super().__init__(file)
        self._names: dict[int, tuple[int, str]] = {id(layer): (i, "") for i, layer in enumerate(layers)}
        for i, layer in enumerate(layers):
            for name, value in vars(layer).items():
                if isinstance(value, ResultsWriter):
                    self._names[id(value)] = (i, name)

    def persistent_id(self, thing: Any) -> tuple[int, str] | None:
        return self._names.get(id(thing))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, layers: list[Any]):
        super().__init__(file)
        self._here = layers

    def persistent_load(self, name: Any) -> Any:
        i, attribute = name
        return vars(self._here[i])[attribute] if attribute else self._here[i]
