"""What is measured, as data: training problems, and policy updates on synthetic rollouts of many sizes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.envs import SimpleMultiObsEnv

# Observations and rewards that a synthetic environment draws in advance, so that a step costs next to nothing.
BANK = 64
NETWORKS = ((64, 64), (256, 256))
WIDER = (512, 512)
# sb3-contrib's defaults, said once more so that both sides get them whatever their own defaults are.
TRAINING = {
    "cg_max_steps": 15,
    "cg_damping": 0.1,
    "gae_lambda": 0.95,
    "gamma": 0.99,
    "learning_rate": 1e-3,
    "line_search_max_iter": 10,
    "line_search_shrinking_factor": 0.8,
    "n_critic_updates": 10,
    "normalize_advantage": True,
    "target_kl": 0.01,
}


class RandomEnv(gym.Env[Any, Any]):
    """
    Observations and rewards out of a hat, in episodes of 100 steps.

    :param observation_space: any
    :param action_space: any; actions are ignored
    """

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]):
        self.observation_space, self.action_space = observation_space, action_space
        self.observation_space.seed(0)
        self._observations = [self.observation_space.sample() for _ in range(BANK)]
        self._rewards = np.random.default_rng(0).standard_normal(BANK).tolist()
        self._now = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._now = 0
        return self._observations[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._now += 1
        i = self._now % BANK
        return self._observations[i], self._rewards[i], False, self._now >= 100, {}


@dataclass(frozen=True)
class Case:
    """
    A training problem: rollouts and updates, in turns.

    :param environment: its name
    :param make: builds one of them
    :param n_envs: how many run side by side
    :param net_arch: widths of the hidden layers
    :param samples: per update, of all environments together
    :param policy: name of the policy
    :param policy_kwargs: for it, besides ``net_arch``
    :param extra: of this package that installs what the environment needs
    """

    environment: str
    make: Callable[[], gym.Env[Any, Any]]
    n_envs: int = 1
    net_arch: tuple[int, ...] = (64, 64)
    samples: int = 2048
    policy: str = "MlpPolicy"
    policy_kwargs: dict[str, Any] = field(default_factory=dict)
    extra: str = "bench"

    @property
    def name(self) -> str:
        parts = (self.environment, f"{self.n_envs}env", _widths(self.net_arch), str(self.samples))
        return "/".join(filter(None, parts))

    @property
    def arguments(self) -> dict[str, Any]:
        """For the constructors of both sides."""
        policy_kwargs = {"net_arch": list(self.net_arch), **self.policy_kwargs}
        sizes = {"n_steps": self.samples // self.n_envs, "batch_size": min(128, self.samples)}
        return {**TRAINING, **sizes, "policy_kwargs": policy_kwargs}


@dataclass(frozen=True)
class UpdateCase:
    """
    Updates on a synthetic rollout with 17 observations and 6 continuous actions, as HalfCheetah has.

    :param samples: in the rollout
    :param net_arch: widths of the hidden layers
    :param critic: whether the critic's fit is measured too, or the policy update alone
    """

    samples: int
    net_arch: tuple[int, ...]
    critic: bool = False

    @property
    def name(self) -> str:
        return f"{'whole-update' if self.critic else 'update'}/{_widths(self.net_arch)}/{self.samples}"

    @property
    def arguments(self) -> dict[str, Any]:
        """For the constructors of both sides."""
        own = {"n_steps": self.samples, "policy_kwargs": {"net_arch": list(self.net_arch)}}
        if self.critic:  # ten passes of 16 minibatches each, which grow with the rollout, as one has them on a GPU
            return {**TRAINING, **own, "batch_size": self.samples // 16}
        return {**TRAINING, **own, "cg_max_steps": 10, "batch_size": self.samples, "n_critic_updates": 1}

    def make(self) -> gym.Env[Any, Any]:
        return RandomEnv(spaces.Box(-np.inf, np.inf, (17,)), spaces.Box(-1.0, 1.0, (6,)))


def _widths(net_arch: tuple[int, ...]) -> str:
    return "-".join(map(str, net_arch))


def _image() -> gym.Env[Any, Any]:
    return RandomEnv(spaces.Box(0, 255, (84, 84, 4), np.uint8), spaces.Discrete(6))


def _vectors() -> gym.Env[Any, Any]:
    parts: dict[str, spaces.Space[Any]] = {
        "position": spaces.Box(-1.0, 1.0, (8,)),
        "velocity": spaces.Box(-10.0, 10.0, (9,)),
    }
    return RandomEnv(spaces.Dict(parts), spaces.Box(-1.0, 1.0, (6,)))


GYMNASIUM = {"HalfCheetah-v5": "mujoco", "Hopper-v5": "mujoco", "CartPole-v1": "bench", "LunarLander-v3": "box2d"}
# Both sides the same, whatever their defaults: the critic has a features extractor of its own, or has not.
SEPARATE, SHARED = {"share_features_extractor": False}, {"share_features_extractor": True}


def gymnasium_case(environment: str, n_envs: int = 1, net_arch: tuple[int, ...] = (64, 64), **fields: Any) -> Case:
    """
    :param environment: one of ``GYMNASIUM``
    :param n_envs: as in :class:`Case`
    :param net_arch: as there
    :param fields: more of them
    """
    make = partial(gym.make, environment)
    return Case(environment, make, n_envs, net_arch, extra=GYMNASIUM[environment], **fields)


def image_case(samples: int = 512, n_envs: int = 4) -> Case:
    """
    :param samples: per update, of all environments together
    :param n_envs: as in :class:`Case`
    """
    return Case("image", _image, n_envs, (), samples, "CnnPolicy", SEPARATE)


CASES: list[Case | UpdateCase] = [
    *(gymnasium_case(name, n_envs, net) for name in GYMNASIUM for net in NETWORKS for n_envs in (1, 4, 16)),
    gymnasium_case("HalfCheetah-v5", 16, samples=16 * 2048),
    Case("dict", _vectors, 4, policy="MultiInputPolicy", policy_kwargs=SEPARATE),
    Case("dict-with-image", SimpleMultiObsEnv, 4, (64, 64), 512, "MultiInputPolicy", SEPARATE),
    image_case(),
    Case("image-shared", _image, 4, (), 512, "CnnPolicy", SHARED),
    *(UpdateCase(2**power, net) for net in NETWORKS for power in range(11, 17)),
]
QUICK: list[Case | UpdateCase] = [
    gymnasium_case("HalfCheetah-v5"),
    gymnasium_case("CartPole-v1"),
    UpdateCase(2048, (64, 64)),
    gymnasium_case("HalfCheetah-v5", 16),
    image_case(16),
]
# For a machine with a GPU.
GPU: list[Case | UpdateCase] = [
    *(UpdateCase(samples, net, critic=True) for net in (*NETWORKS, WIDER) for samples in (2048, 8192, 16384, 65536)),
    image_case(),
    image_case(2048),
    gymnasium_case("CartPole-v1", 16),
    gymnasium_case("CartPole-v1"),
]
# Those of them that are measured on the CPU beside it too: one where a GPU is sure to lose, and larger ones.
BESIDE_GPU = (
    "whole-update/64-64/2048",
    "whole-update/256-256/2048",
    "whole-update/256-256/16384",
    "image/4env/512",
)
# Too large for turns: for its memory alone.
LARGE = image_case(16 * 512, 16)
# Those whose peak memory is measured too.
MEMORY = ("HalfCheetah-v5/1env/64-64/2048", "update/256-256/16384", "image/4env/512")


def by_name(name: str) -> Case | UpdateCase:
    """
    :param name: of a case in any of the lists above
    """
    return next(case for case in (*CASES, *QUICK, *GPU, LARGE) if case.name == name)
