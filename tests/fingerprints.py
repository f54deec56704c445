"""
The same bits before and after a change of the code: short trainings of every kind, each boiled down to three hashes.

The first is of everything that a further update would depend on: parameters, buffers, optimizer, replay buffer, random
generators. The second is of the names that the last update logged, the third of each value logged, but for times.

    export OMP_NUM_THREADS=1 PYTHONPATH=…                                        # the checkout with the code
    python tests/fingerprints.py --out before.json && python tests/fingerprints.py --save files
    python tests/fingerprints.py --out after.json && python tests/fingerprints.py --load files      # with other code
    python tests/fingerprints.py --compare before.json after.json

Bits are the same on one kind of machine only, with the same versions of everything else and the same script.
"""

import argparse
import hashlib
import inspect
import io
import json
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import sb3_contrib
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, MlpExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecFrameStack, VecMonitor, VecNormalize
from torch import nn

import sb3_trpo_ext
from sb3_trpo_ext import ACER, TRPO

Settings = dict[str, Any]
ALGORITHMS: Settings = {"trpo": TRPO, "acer": ACER, "contrib": sb3_contrib.TRPO}
CRITICS, REUSE, SPEEDS = ("adam", "trust_region"), (1, 3), {True: "fast", False: "slow"}
SHORT: dict[str, Settings] = {
    "trpo": {"n_steps": 8, "batch_size": 4},
    "contrib": {"n_steps": 8, "batch_size": 4},
    "acer": {"n_steps": 6, "buffer_size": 60, "replay_start": 6, "replay_ratio": 3},
}
REACHED = {"learning_rate": 0.03, "trust_region_delta": 0.01, "importance_clip": 1.1}  # limits of ACER's
ACTIONS = {
    "box": spaces.Box(-1, 1, (2,)),
    "box_matrix": spaces.Box(-2, 1, (2, 2)),
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(3),
}
ACER_ACTIONS = ("box", "box_matrix", "discrete")
VECTOR, IMAGE = spaces.Box(-1, 1, (3,)), spaces.Box(0, 255, (36, 36, 1), np.uint8)
OBSERVATIONS = {
    "box": VECTOR,
    "box_matrix": spaces.Box(-1, 1, (2, 3)),
    "discrete": spaces.Discrete(4),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(3),
    "image": IMAGE,
    "dict": spaces.Dict(vector=VECTOR, picture=IMAGE, choice=spaces.Discrete(3)),
}
POLICIES = {"image": "CnnPolicy", "dict": "MultiInputPolicy"}
SMALL_EXTRACTORS = {"CnnPolicy": "features_dim", "MultiInputPolicy": "cnn_output_dim"}


class RandomEnv(gym.Env):
    """
    Random observations of any space; actions near 0 are best. Every other episode ends by a time limit.

    :param bad: number of the step since construction → what is wrong with it; step 0 is the first reset
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, bad: dict[int, str]):
        self.observation_space, self.action_space = deepcopy(observation_space), deepcopy(action_space)
        self.bad, self.now, self.episodes, self.total = bad, 0, 0, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.now, self.episodes = 0, self.episodes + 1
        return self._observe(), {}

    def step(self, action):
        self.now, self.total = self.now + 1, self.total + 1
        reward = 0.1 * self.now - float(np.square(np.asarray(action, dtype=float)).mean())
        reward = {"reward": float("nan"), "huge": 1e30}.get(self.bad.get(self.total), reward)
        over, limited = self.now >= 5, self.episodes % 2 == 0
        return self._observe(), reward, over and not limited, over and limited, {}

    def _observe(self):
        observation = self.observation_space.sample()
        if self.bad.get(self.total) == "observation":
            (observation["vector"] if isinstance(observation, dict) else observation)[0] = np.nan
        return observation


class Extractor(BaseFeaturesExtractor):
    """Batch normalization and dropout, and a parameter that nothing uses."""

    trained = True

    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=5)
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout())
        self.layers.requires_grad_(self.trained)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, observations):
        return self.layers(observations)


class Frozen(Extractor):
    trained = False


class Heads(MlpExtractor):
    """The layers of the actor are named as those of the critic, and the reverse."""

    def forward_actor(self, features):
        return self.value_net(features)

    def forward_critic(self, features):
        return self.policy_net(features)


class MisleadingNames(ActorCriticPolicy):
    def _build_mlp_extractor(self):
        self.mlp_extractor = Heads(self.features_dim, self.net_arch, self.activation_fn, self.device)


class FrozenLayers(ActorCriticPolicy):
    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        for network in (self.mlp_extractor.policy_net, self.mlp_extractor.value_net):
            network[0].requires_grad_(False)


class Squashed(ActorCriticPolicy):
    def _build(self, lr_schedule):
        self.action_dist = SquashedDiagGaussianDistribution(int(np.prod(self.action_space.shape)))
        super()._build(lr_schedule)


class OtherBuffer(RolloutBuffer):
    """Not SB3's own class."""


def networks(**policy_kwargs: Any) -> Settings:
    return {"policy_kwargs": policy_kwargs}


def extractor(shared: bool, kind: type[Extractor] = Extractor) -> Settings:
    return networks(features_extractor_class=kind, share_features_extractor=shared)


SDE = {"use_sde": True}
VARIANTS: dict[str, Settings] = {
    "gsde": SDE,
    "gsde_resampled": {**SDE, "sde_sample_freq": 3},
    "gsde_squashed": SDE | networks(squash_output=True),
    "gsde_squashed_resampled": {**SDE, "sde_sample_freq": 1, **networks(squash_output=True, full_std=False)},
    "gsde_one_std": SDE | networks(full_std=False),
    "gsde_expln": SDE | networks(use_expln=True),
    "gsde_misleading_names": {**SDE, "policy": MisleadingNames},
    "misleading_names": {"policy": MisleadingNames},
    "squashed_gaussian": {"policy": Squashed},
    "frozen_layers_discrete": {"policy": FrozenLayers, **networks(net_arch=[8, 8])},
    "separate_networks": networks(net_arch={"pi": [4], "vf": [6, 6]}),
    "linear_discrete": networks(net_arch=[]),
    "relu": networks(activation_fn=nn.ReLU, ortho_init=False, log_std_init=-1.0),
    "last_layer_gain": networks(last_layer_gain=1.0),
    "sgd": networks(optimizer_class=torch.optim.SGD, optimizer_kwargs={"momentum": 0.9}),
    "shared_extractor": extractor(True),
    "separate_extractors": extractor(False),
    "frozen_extractor": extractor(True, Frozen),
    "frozen_extractors_discrete": extractor(False, Frozen),
    "buffer": {"rollout_buffer_class": OtherBuffer},
    "natural_policy_gradient": {"line_search_max_iter": 0, "target_kl": 0.5},
    "failing_line_search": {"line_search_max_iter": 1, "target_kl": 5.0, "adaptive_damping": True},
    "euclidean_discrete": {"trust_region": "euclidean"},
    "mean_kl": {"kl_reduction": "mean", "target_kl": 0.1},
    "entropy_bonus_discrete": {"ent_coef": 0.01},
    "entropy_cost": {"ent_coef": -0.01},
    "thinned_curvature": {"curvature_sampling_factor": 3},
    "thinned_update": {"sub_sampling_factor": 3},
    "thinned_twice_discrete": {"sub_sampling_factor": 2, "curvature_sampling_factor": 2},
    "kfac": {"cg_preconditioner": "kfac"},
    "kfac_thinned_discrete": {"cg_preconditioner": "kfac", "curvature_sampling_factor": 2, "kl_reduction": "mean"},
    "two_threads": {"num_threads": 2},
    "raw_advantages": {"normalize_advantage": False},
    "far_critic": {"n_critic_updates": 3, "n_critic_steps": 5, "critic_max_kl": 1.0},
    "schedules": {"learning_rate": LinearSchedule(1e-2, 1e-3, 1.0), "target_kl": LinearSchedule(0.1, 0.01, 1.0)},
    "schedules_in_words": {"learning_rate": "lin_0.02", "target_kl": "lin_0.02_0.01", "ent_coef": "lin_0_-0.1"},
    "schedule_to_zero_discrete": {"target_kl": "lin_0.1"},
}
ACER_VARIANTS: dict[str, Settings] = {
    "all_limits": {},
    "learn_std": {"learn_std": True},
    "rms_prop": {"use_rms_prop": True},
    "no_trust_region": {"trust_region": False},
    "narrow_trust_region": {"trust_region_delta": 0.0},
    "no_bias_correction": {"bias_correction": False},
    "default_clip": {"importance_clip": None},
    "no_clip": {"importance_clip": float("inf")},
    "clip_at_zero": {"importance_clip": 0},
    "no_entropy": {"ent_coef": 0.0},
    "clipped_gradient": {"max_grad_norm": 1e-3},
    "fast_average": {"average_policy_decay": 0.5, "learning_rate": "lin_0.01"},
    "one_action_sample": {"n_action_samples": 1},
    "no_replay": {"replay_ratio": 0},
    "shared_extractor": extractor(True),
    "separate_extractors": extractor(False),
    "separate_networks": networks(net_arch={"pi": [4], "vf": [6, 5]}, activation_fn=nn.ReLU, ortho_init=False),
    "linear": networks(net_arch=[]),
    "sgd": networks(optimizer_class=torch.optim.SGD, optimizer_kwargs={"momentum": 0.5}),
}
WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "normalize": VecNormalize,
    "normalize_reward": partial(VecNormalize, norm_obs=False),
    "normalize_observations": partial(VecNormalize, norm_reward=False),
    "frame_stack": partial(VecFrameStack, n_stack=2),
    "stacked_normalized": lambda env: VecFrameStack(VecNormalize(env), 2),
    "normalized_stacked": lambda env: VecNormalize(VecFrameStack(env, 2)),
    "check_nan": partial(VecCheckNan, raise_exception=True),
    "monitor": lambda env: VecMonitor(VecNormalize(env)),
}


def random_env(observation: str, action: str, n: int = 1, wrap: Any = None, bad: dict[int, str] | None = None) -> Any:
    env = DummyVecEnv([lambda: Monitor(RandomEnv(OBSERVATIONS[observation], ACTIONS[action], bad or {}))] * n)
    return env if wrap is None else wrap(env)


@dataclass(frozen=True)
class Cell:
    """One training. Its name begins with the algorithm's; ``fast`` is None for the default."""

    name: str
    env: Callable[[], Any]
    settings: Settings
    fast: bool | None = None
    small: bool = True

    def make(self) -> Any:
        algorithm, settings = self.name.split("/")[0], dict(self.settings)
        policy = settings.pop("policy", "MlpPolicy")
        if self.small:
            own: Settings = {"net_arch": [8]}
            if policy in SMALL_EXTRACTORS:
                own["features_extractor_kwargs"] = {SMALL_EXTRACTORS[policy]: 8}
            settings = SHORT[algorithm] | settings | networks(**own | settings.get("policy_kwargs", {}))
        if self.fast is not None:
            known = inspect.signature(ALGORITHMS[algorithm]).parameters
            names = {"fast", "fast_kernels", "fast_collection"} & known.keys()
            settings |= dict.fromkeys(names, self.fast)
        return ALGORITHMS[algorithm](policy, self.env(), seed=0, device="cpu", **settings)


def cell(name: str, *env: Any, **settings: Any) -> Cell:
    """Of a random environment, given by the arguments of :func:`random_env`."""
    return Cell(name, partial(random_env, *env), {"policy": POLICIES.get(env[0], "MlpPolicy")} | settings)


def trpo_kinds() -> Iterator[Cell]:
    """Before they are multiplied by critics, uses of a rollout, and speeds."""
    for observation, action in product(OBSERVATIONS, ACTIONS):
        yield cell(f"trpo/{observation}/{action}", observation, action)
    for (name, settings), n in product(VARIANTS.items(), (1, 2)):
        yield cell(f"trpo/{name}/envs={n}", "box", "discrete" if "discrete" in name else "box", n, **settings)
    for observation in POLICIES:
        yield cell(f"trpo/{observation}/shared", observation, "box", 2, **networks(share_features_extractor=True))
    for name, wrap in WRAPPERS.items():
        yield cell(f"trpo/{name}", "box", "box", 3, wrap)


def acer_kinds() -> Iterator[Cell]:
    for observation, action, n in product(OBSERVATIONS, ACER_ACTIONS, (1, 2)):
        yield cell(f"acer/{observation}/{action}/envs={n}", observation, action, n)
    for (name, settings), action, n in product(ACER_VARIANTS.items(), ACER_ACTIONS, (1, 2)):
        yield cell(f"acer/{name}/{action}/envs={n}", "box", action, n, **REACHED | settings)
    for (name, wrap), action in product(WRAPPERS.items(), ACER_ACTIONS):
        yield cell(f"acer/{name}/{action}", "box", action, 3, wrap)


def bad_kinds(algorithm: str) -> Iterator[Cell]:
    """Some rollouts are skipped, or the critic's fit is undone."""
    whens = {"late": {11: "reward", 26: "observation"}, "first": {0: "observation"}, "huge": {11: "huge"}}
    for (when, bad), normalized, n in product(whens.items(), (True, False), (1, 2)):
        end = f"{when}/{'normalized' if normalized else 'raw'}/envs={n}"
        yield cell(f"{algorithm}/bad/{end}", "box", "box", n, VecNormalize if normalized else None, bad)
    wrap = partial(VecNormalize, norm_obs_keys=["vector"])
    yield cell(f"{algorithm}/bad/dict", "dict", "discrete", 1, wrap, whens["late"])


def gym_kinds(algorithm: str, **settings: Any) -> Iterator[Cell]:
    """The defaults of everything else."""
    for name, limits in (("CartPole-v1", {}), ("Pendulum-v1", {}), ("Pendulum-v1", {"max_episode_steps": 50})):
        end = "/".join([name, *limits])
        yield Cell(f"{algorithm}/gym/{end}", partial(gym.make, name, **limits), settings, small=False)


def all_cells() -> Iterator[Cell]:
    for kind in chain(trpo_kinds(), bad_kinds("trpo"), gym_kinds("trpo", n_steps=256)):
        uses = REUSE if kind.small and kind.name.split("/")[1] not in list(OBSERVATIONS)[1:-1] else (1,)
        for critic, m, fast in product(CRITICS if kind.small else (None,), uses, SPEEDS):
            if fast or "kfac" not in kind.name:
                name = f"{kind.name}/{critic or 'default'}/reuse={m}/{SPEEDS[fast]}"
                settings = kind.settings | {"critic": critic, "rollouts_per_update": m}
                yield replace(kind, name=name, settings=settings, fast=fast)
    yield from chain(acer_kinds(), bad_kinds("acer"), gym_kinds("acer", replay_start=20))


def saved_cells() -> Iterator[Cell]:
    """Those whose files are kept, of sb3-contrib too; with settings that every version has."""
    for kind in chain(trpo_kinds(), acer_kinds()):
        if "envs=1" not in kind.name:
            yield kind
    for observation, action in (*product(("box",), ACTIONS), ("discrete", "box"), ("image", "box"), ("dict", "box")):
        yield cell(f"trpo/adam/{observation}/{action}", observation, action, critic="adam")
        yield cell(f"contrib/{observation}/{action}", observation, action)
    yield cell("contrib/gsde", "box", "box", **SDE)


class Recorder(KVWriter):
    """Keeps every table that is logged."""

    def __init__(self):
        self.tables = []

    def write(self, key_values, key_excluded, step=0):
        self.tables.append(dict(key_values))


def flat(value: Any) -> Iterator[bytes]:
    """Any nesting of arrays, numbers and text as bytes, equal only when every bit is."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        array = np.asarray(value)
        yield from (f"{array.dtype}{array.shape}".encode(), array.tobytes())
    elif isinstance(value, RunningMeanStd):
        yield from flat(vars(value))
    elif isinstance(value, dict):
        yield from flat([part for key in sorted(value, key=str) for part in (str(key), value[key])])
    elif isinstance(value, (list, tuple)):
        yield from chain([str(len(value)).encode()], *map(flat, value))
    else:
        yield repr(value).encode()


def digest(value: Any) -> str:
    return hashlib.sha256(b"|".join(flat(value))).hexdigest()[:16]


def state(model: Any) -> Settings:
    """Everything that a further update would depend on."""
    normalizer, optimizer = model.get_vec_normalize_env(), model.policy.optimizer.state_dict()
    parts = {
        "policy": model.policy.state_dict(),
        "optimizer": optimizer["state"],
        "optimizer's settings": optimizer["param_groups"],
        "observations": model._last_obs,
        "normalizer": [getattr(normalizer, name, None) for name in ("obs_rms", "ret_rms", "returns")],
        "generators": [torch.get_rng_state(), np.random.get_state(), random.getstate()],
    }
    if isinstance(model, ACER):
        model.save_replay_buffer(file := io.BytesIO())
        file.seek(0)
        parts |= {"average": model.average_policy.state_dict(), "replay": dict(np.load(file))}
    return parts


def trained(model: Any, *updates: int) -> Settings:
    """Train, with a call of ``learn`` for each number of updates, and hash what came of it."""
    recorder = Recorder()
    model.set_logger(Logger(None, [recorder]))
    for count in updates:
        model.learn(count * model.n_steps * model.n_envs, log_interval=1, reset_num_timesteps=model.num_timesteps == 0)
    model.dump_logs(0)
    logged: dict[str, list[Any]] = {}
    for table in recorder.tables:
        for key, value in table.items():
            logged.setdefault(key, []).append(value if isinstance(value, str) else float(value))
    values = {key: digest(series) for key, series in sorted(logged.items()) if not key.startswith("time/")}
    parameters = {part: digest(value) for part, value in state(model).items()}
    return {"parameters": parameters, "names": digest(sorted(recorder.tables[-1])), "values": values}


def save(one: Cell, stem: str) -> None:
    model = one.make()
    model.learn(3 * model.n_steps * model.n_envs)
    model.save(f"{stem}.zip")
    if isinstance(model, ACER):
        model.save_replay_buffer(f"{stem}.npz")


def resumed(one: Cell, stem: str) -> Settings:
    """What a saved model predicts, and what becomes of it in two more updates."""
    kind = ACER if one.name.startswith("acer") else TRPO
    model = kind.load(f"{stem}.zip", env=one.env(), device="cpu")
    if kind is ACER:
        model.load_replay_buffer(f"{stem}.npz")
    space = deepcopy(model.observation_space)
    space.seed(0)
    found: Settings = {"loaded": digest(model.get_parameters()), "predictions": []}
    for deterministic in (True, False):
        model.set_random_seed(1)
        if model.use_sde:
            model.policy.reset_noise()  # which SB3 does not save
        actions = [model.predict(space.sample(), deterministic=deterministic)[0].tolist() for _ in range(3)]
        found["predictions"].append(actions)
    return found | trained(model, 2)


def outcome(one: Cell, save_to: Path | None, load_from: Path | None) -> Settings:
    """Of a training, or of a saved model; what was raised counts as one."""
    stem = str((load_from or Path()) / one.name.replace("/", "-"))
    try:
        if save_to:
            save(one, stem)
        return resumed(one, stem) if load_from else trained(one.make(), 3, 2)
    except Exception as error:
        print(f"{one.name}: {error!r}")
        return {"error": repr(error)}


def differences(one: Settings, other: Settings) -> dict[str, str]:
    """The parts of two outcomes that differ → more about it; of what was logged only what both have."""
    found = {}
    for part in {**one, **other}:
        mine, theirs = one.get(part), other.get(part)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            if keys := [key for key in mine if mine[key] != theirs.get(key, mine[key])]:
                found[part] = f"{part} ({', '.join(keys)})"
        elif mine != theirs:
            found[part] = part
    return found


def compare(before: Settings, after: Settings) -> int:
    """Print what differs. Exit status 1 if that is more than what is logged."""
    parts = {name: differences(before.get(name, {}), after.get(name, {})) for name in sorted({*before, *after})}
    for name, found in parts.items():
        if found:
            missing = "" if name in before and name in after else " (missing)"
            print(f"{name}{missing}: {', '.join(found.values())}")
    print(f"{sum(not found for found in parts.values())} of {len(parts)} cells are equal.")
    return int(any({*found} - {"names", "values"} for found in parts.values()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--out", type=Path, help="train every cell and write the hashes to this file")
    mode.add_argument("--compare", type=Path, nargs=2, help="two such files; exit status 1 unless parameters are equal")
    mode.add_argument("--save", type=Path, help="write models, replay buffers and what becomes of them to this folder")
    mode.add_argument("--load", type=Path, help="load them, train on and compare; exit status as for --compare")
    parser.add_argument("--only", default="", help="the cells with this in their names")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if arguments.compare:
        return compare(*(json.loads(path.read_text()) for path in arguments.compare))

    print(f"The code is that of {Path(sb3_trpo_ext.__file__).parent}.")
    started, folder = time.perf_counter(), arguments.save or arguments.load
    (folder or arguments.out.parent).mkdir(parents=True, exist_ok=True)
    cells = [one for one in (saved_cells() if folder else all_cells()) if arguments.only in one.name]
    found = {one.name: outcome(one, arguments.save, folder) for one in cells}
    assert len(found) == len(cells), "two cells have the same name"
    print(f"{len(found)} cells took {time.perf_counter() - started:.0f} seconds.")
    file = arguments.out or folder / "expected.json"
    if arguments.load:
        expected = json.loads(file.read_text())
        return compare({name: parts for name, parts in expected.items() if arguments.only in name}, found)
    file.write_text(json.dumps(found, indent=1))
    return int(any("error" in parts for parts in found.values()))


if __name__ == "__main__":
    sys.exit(main())
