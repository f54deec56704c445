"""
What each rank does in the tests, in a process of its own: ``python -m tests.programs NAME FOLDER``.

A program's answer is left in the folder as ``rank-0.pt`` and so on.
"""

import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch.distributed as dist
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback, EveryNTimesteps
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_trpo_ext import ACER, TRPO, MaskableTRPO, RecurrentTRPO
from sb3_trpo_ext.common import algorithm, checkpoint
from sb3_trpo_ext.common.bad_data import GoodStatistics, running_statistics
from sb3_trpo_ext.common.normalization import RunningMoments
from sb3_trpo_ext.common.ranks import ProcessGroup, Ranks, join
from sb3_trpo_ext.kernels.vector import flatten
from sb3_trpo_ext.trust_region.batch import Batch
from sb3_trpo_ext.trust_region.critic_fit import fit_by_gradient_descent, fit_in_trust_region
from sb3_trpo_ext.trust_region.direction import Backtracking, KfacNaturalGradient, NaturalGradient
from sb3_trpo_ext.trust_region.region import KLRegion, summed
from sb3_trpo_ext.trust_region.step import trust_region_step
from sb3_trpo_ext.trust_region.value_function import ValueFunction
from tests.cases import SMALL, make_actor, make_batch, make_policy
from tests.conftest import SpaceEnv
from tests.trpo.masked_cases import vec_env

N = 40
CUTS = {1: (0, 40), 2: (0, 13, 40), 3: (0, 7, 20, 40)}  # how N samples are spread over the ranks
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
VECTOR = spaces.Box(-1, 1, (3,))


def ranks() -> Ranks:
    return join("auto", torch.device("cpu"))


def part_of(batch: Batch, ranks: Ranks) -> Batch:
    """The samples of this rank."""
    cuts = CUTS[ranks.world_size]
    rows = torch.arange(cuts[ranks.rank], cuts[ranks.rank + 1])
    parts = (batch.actions, batch.advantages, batch.returns, batch.values)
    return Batch(batch.inputs.rows(rows), *(part[rows] for part in parts), ranks=ranks)


# ------------------------------------------------------------------------------------ one update, on batches by hand
def numbers(ranks: Ranks) -> dict[str, Any]:
    x = torch.arange(5.0) + 10 * ranks.rank
    x = x[: 5 - 2 * ranks.rank]  # unequal numbers of samples
    bad = torch.tensor([float("nan") if ranks.rank == 1 else 1.0, 2.0])
    return {
        "mean": ranks.mean(x),
        "deviation": ranks.deviation(x),
        "largest": ranks.largest(-x),
        "largest of nan": ranks.largest(bad),
        "largest of integers": ranks.largest(torch.tensor([ranks.rank])),
        "any": (ranks.any(ranks.rank == 1), ranks.any(False)),
        "count": ranks.count(ranks.rank + 1),
        "gather": ranks.gather(f"rank {ranks.rank}"),
        "first": ranks.first(ranks.rank),
        "sum": ranks.sum(torch.ones(3)),
        "sum of nothing": ranks.sum(torch.zeros(0)),
    }


def step(
    name: str,
    ranks: Ranks,
    kfac: bool = False,
    ent_coef: float = 0.0,
    precise: bool = True,
    order: int | None = None,
) -> dict[str, Any]:
    """A policy update of all N samples, in another order if it has a number."""
    policy = make_policy(name, precise=precise)
    batch = make_batch(policy, N)
    if order is not None:
        rows = torch.randperm(N, generator=torch.Generator().manual_seed(order))
        parts = (batch.actions, batch.advantages, batch.returns, batch.values)
        batch = Batch(batch.inputs.rows(rows), *(part[rows] for part in parts))
    batch = part_of(batch, ranks).normalized()
    actor = make_actor(policy)
    torch.manual_seed(0)
    direction = (KfacNaturalGradient if kfac else NaturalGradient)(500 if kfac else 8, 1e-11)
    result = trust_region_step(
        actor, batch, KLRegion(0.01, summed, 0.1), direction, Backtracking(0.8, 10), ent_coef=ent_coef
    )
    numbers = ("objective_after", "kl_mean", "kl_max", "kl_predicted", "gradient_norm", "entropy", "cg_steps")
    return {"theta": flatten(actor.parameters), **{name: getattr(result, name) for name in numbers}}


def critic(method: str, ranks: Ranks) -> dict[str, Any]:
    """A fit of the critic to all N samples."""
    policy = make_policy("box", precise=True)
    batch = part_of(make_batch(policy, N), ranks)
    value_function = ValueFunction(make_actor(policy), 1e-2, True)
    if method == "adam":
        fit = fit_by_gradient_descent(value_function, batch, N, 3)  # all samples at once, so that no order matters
    else:
        fit = fit_in_trust_region(value_function, batch, 0.1, 3, 15)
    return {"w": flatten(value_function.parameters), "loss": fit.value_loss, "explained": fit.explained_variance}


def minibatches(ranks: Ranks) -> dict[str, Any]:
    """The critic by Adam in minibatches, of which the ranks have different numbers."""
    policy = make_policy("box", precise=True)
    batch = part_of(make_batch(policy, N), ranks)
    value_function = ValueFunction(make_actor(policy), 1e-2, True)
    fit = fit_by_gradient_descent(value_function, batch, 7, 2)
    return {"w": flatten(value_function.parameters), "steps": fit.steps}


def statistics(ranks: Ranks) -> dict[str, Any]:
    """Of observations, inside the policy and in a VecNormalize, over three rollouts."""
    rows = torch.as_tensor(np.random.default_rng(0).normal(3.0, 2.0, (3, N, 2)))
    cuts = CUTS[ranks.world_size]
    moments = RunningMoments((2,))
    env = VecNormalize(DummyVecEnv([lambda: SpaceEnv(spaces.Box(-1, 1, (2,)), VECTOR)]))
    env.obs_rms = RunningMeanStd(shape=(2,))
    for rollout in rows:
        own = rollout[cuts[ranks.rank] : cuts[ranks.rank + 1]]
        moments.take_in(own, ranks)
        good = GoodStatistics()
        good.remember(env)
        for row in own.numpy():
            env.obs_rms.update(row[None])
        good.share(ranks)
    return {
        "moments": dict(moments.state_dict()),
        "VecNormalize": torch.tensor(np.stack([env.obs_rms.mean, env.obs_rms.var])),
        "count": env.obs_rms.count,
    }


# ------------------------------------------------------------------------------------ whole trainings
class WithBatchNorm(FlattenExtractor):
    """Observations as they come, with running statistics of the layer's own."""

    def __init__(self, observation_space: spaces.Box):
        super().__init__(observation_space)
        self.norm = torch.nn.BatchNorm1d(self.features_dim)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.norm(super().forward(observations))


BOX, DISCRETE = spaces.Box(-1, 1, (2,)), spaces.Discrete(3)
SMALL_MEMORY = {"lstm_hidden_size": 4, "net_arch": [4]}
# Algorithm, policy, observations, actions, settings.
MODELS: dict[str, tuple[Any, str, Any, Any, dict[str, Any]]] = {
    "box": (TRPO, "MlpPolicy", VECTOR, BOX, {}),
    "adam": (TRPO, "MlpPolicy", VECTOR, BOX, {"critic": "adam", "batch_size": 16}),
    "kfac": (TRPO, "MlpPolicy", VECTOR, BOX, {"cg_preconditioner": "kfac"}),
    "earlier rollouts": (TRPO, "MlpPolicy", VECTOR, BOX, {"rollouts_per_update": 2}),
    "thinned": (TRPO, "MlpPolicy", VECTOR, BOX, {"sub_sampling_factor": 2, "curvature_sampling_factor": 2}),
    "discrete": (TRPO, "MlpPolicy", VECTOR, DISCRETE, {}),
    "VecNormalize": (TRPO, "MlpPolicy", VECTOR, BOX, {}),
    "by SB3's loop": (TRPO, "MlpPolicy", VECTOR, BOX, {"fast": False}),
    "image": (TRPO, "CnnPolicy", IMAGE, DISCRETE, {"n_critic_updates": 1}),
    "batch norm": (TRPO, "MlpPolicy", VECTOR, BOX, {"policy_kwargs": {"features_extractor_class": WithBatchNorm}}),
    "masked": (MaskableTRPO, "MlpPolicy", None, "discrete", {}),
    "recurrent": (RecurrentTRPO, "MlpLstmPolicy", VECTOR, DISCRETE, {"policy_kwargs": SMALL_MEMORY}),
    "recurrent, adam": (
        *(RecurrentTRPO, "MlpLstmPolicy", VECTOR, BOX),
        {"policy_kwargs": SMALL_MEMORY, "critic": "adam", "batch_size": 10},
    ),
    "acer": (ACER, "MlpPolicy", VECTOR, DISCRETE, {"replay_start": 40}),
    "acer, box": (ACER, "MlpPolicy", VECTOR, BOX, {"replay_start": 40}),
}


LONG = ("box", "discrete", "image", "masked", "recurrent")  # 50 updates


def environments(kind: str, n: int, **settings: Any) -> VecEnv:
    _, _, observations, actions, _ = MODELS[kind]
    if kind == "masked":
        return vec_env("method", actions, n)
    env = DummyVecEnv([lambda: Monitor(SpaceEnv(observations, actions, length=7, **settings)) for _ in range(n)])
    return VecNormalize(env) if kind == "VecNormalize" else env


def model_of(kind: str, n_envs: int, **changes: Any) -> Any:
    """A small model in environments of this rank's own."""
    algorithm, policy, _, _, settings = MODELS[kind]
    env = changes.pop("env", None) or environments(kind, n_envs)
    small = {"policy_kwargs": SMALL.get(policy, {})}
    return algorithm(policy, env, **{"n_steps": 16, "seed": 3, "device": "cpu", **small, **settings, **changes})


def trained(kind: str, ranks: Ranks) -> dict[str, Any]:
    """After some updates, of unequal numbers of samples."""
    n_envs, updates = ranks.rank + 1, 50 if kind in LONG else 5
    quick = {} if kind.startswith("acer") else {"cg_max_steps": 3, "n_critic_steps": 1}
    model = model_of(kind, n_envs, **quick)
    steps = model.n_steps * ranks.count(n_envs)
    model.learn(updates * steps)
    return {
        "policy": dict(model.policy.state_dict()),
        "optimizer": model.policy.optimizer.state_dict(),
        "timesteps": (model.num_timesteps, updates * steps),
        "updates": model._n_updates,
        "statistics": [(one.mean, one.var, one.count) for one in running_statistics(model.env)],
        "first observation": model._last_obs,
        "episodes": len(model.ep_info_buffer),
    }


class StopAt(BaseCallback):
    """Ends training at its n-th step."""

    def __init__(self, n: int):
        super().__init__()
        self.n = n

    def _on_step(self) -> bool:
        return self.n_calls < self.n


def stopped(ranks: Ranks) -> dict[str, Any]:
    """A callback of rank 1 ends training in the midst of its third rollout."""
    model = model_of("box", 1)
    model.learn(16 * 100, callback=StopAt(40) if ranks.rank == 1 else None)
    return {"updates": model._n_updates}


def written(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """What is written with the usual callbacks, by each rank into a folder of its own."""
    own = folder / f"written-{ranks.rank}"
    evaluation = EvalCallback(Monitor(SpaceEnv(VECTOR, BOX)), eval_freq=16, log_path=str(own), verbose=0)
    saving = EveryNTimesteps(64, CheckpointCallback(1, str(own / "saved")))
    model = model_of("box", 1, tensorboard_log=str(own), verbose=1)
    model.learn(16 * 8 * ranks.world_size, callback=[evaluation, saving])
    model.save(own / "model")
    return {"files": sorted(str(path.relative_to(own)) for path in own.rglob("*") if path.is_file())}


def bad_data(ranks: Ranks) -> dict[str, Any]:
    """The third rollout of rank 1 holds a NaN."""
    spoilt = {"bad": {40: ("reward", float("nan"))}} if ranks.rank == 1 else {}
    model = model_of("VecNormalize", 1, env=VecNormalize(environments("box", 1, **spoilt)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(16 * 6 * ranks.world_size, log_interval=1000)  # so that the log is not emptied
    return {
        "skipped": model._n_skipped_updates,
        "updates": model._n_updates,
        "warnings": [str(warning.message) for warning in caught if "skipped" in str(warning.message)],
        "statistics": torch.tensor(model.env.obs_rms.mean),
        "log": dict(model.logger.name_to_value),
    }


def together(folder: Path) -> dict[str, Any]:
    """One update, and statistics."""
    all_ranks = ranks()
    policies = ("box", "discrete", "multi_discrete", "multi_binary", "gsde")
    return {
        "numbers": numbers(all_ranks),
        **{f"step {name}": step(name, all_ranks) for name in policies},
        "step in float32": step("box", all_ranks, precise=False),
        "step with kfac": step("discrete", all_ranks, kfac=True),
        "step with entropy": step("box", all_ranks, ent_coef=0.01),
        "critic trust_region": critic("trust_region", all_ranks),
        "critic adam": critic("adam", all_ranks),
        "minibatches": minibatches(all_ranks),
        "statistics": statistics(all_ranks),
    }


def trainings(folder: Path) -> dict[str, Any]:
    """Whole trainings, in one process group."""
    all_ranks = ranks()
    answers = {f"trained {kind}": trained(kind, all_ranks) for kind in MODELS}
    return answers | {
        "stopped": stopped(all_ranks),
        "written": written(folder, all_ranks),
        "bad": bad_data(all_ranks),
    }


def in_a_group_of_one(device: str, backend: str) -> list[torch.Tensor]:
    """A small training in a process group of one rank, which sends everything through it all the same."""
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    group = ProcessGroup()
    algorithm.join = lambda *_: group  # type: ignore[assignment]
    model = model_of("box", 2, device=device, cg_max_steps=5).learn(16 * 2)
    assert group.traffic.messages > 20
    return [parameter.detach().cpu() for parameter in model.policy.parameters()]


# ------------------------------------------------------------------------------------ what goes wrong
class WriteOnce(BaseCallback):
    """Changes a parameter, as no callback of one rank alone may."""

    def _on_rollout_end(self) -> None:
        with torch.no_grad():
            self.model.policy.action_net.bias += 1.0

    def _on_step(self) -> bool:
        return True


def different(folder: Path) -> str:
    """A callback on rank 1 alone writes to the policy."""
    all_ranks = ranks()
    try:
        model_of("box", 1).learn(1000, callback=WriteOnce() if all_ranks.rank == 1 else None)
    except RuntimeError as error:
        return str(error)
    return "nothing"


def unlike(folder: Path) -> str:
    """The ranks have constructed different policies."""
    try:
        model_of("box", 1, policy_kwargs={"net_arch": [4 + 4 * ranks().rank]}).learn(1000)
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def other_settings(folder: Path) -> str:
    """Rank 1 was told to do more."""
    try:
        model_of("box", 1, n_critic_steps=3 + ranks().rank).learn(1000)
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def die() -> None:
    """As when the system runs out of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


class DieAt(BaseCallback):
    """Killed at its n-th step."""

    def __init__(self, n: int):
        super().__init__()
        self.n = n

    def _on_step(self) -> bool:
        if self.n_calls == self.n:
            die()
        return True


class Slow(gym.Wrapper):
    """Whoever waits in a step can not be waiting for the other ranks."""

    def step(self, action: Any) -> Any:
        time.sleep(0.05)
        return self.env.step(action)


def killed(where: str, folder: Path) -> dict[str, Any]:
    """Rank 1 is killed; rank 0 tells what it saw, and after how many seconds."""
    all_ranks = ranks()
    dies = all_ranks.rank == 1
    settings: dict[str, Any] = {"checkpoint_folder": str(folder / "checkpoints")}
    callback = None
    if where == "rollout" and dies:
        callback = DieAt(40)
    elif where == "rollout":  # which is still in its own rollout then
        settings["env"] = DummyVecEnv([lambda: Slow(SpaceEnv(VECTOR, BOX))])
    elif where == "update" and dies:
        calls = iter(range(100))  # of the direction, by conjugate gradients
        solve = NaturalGradient.__call__
        NaturalGradient.__call__ = lambda *a: die() if next(calls) == 2 else solve(*a)  # type: ignore
    elif where == "saving" and dies:
        save = checkpoint.save_part
        checkpoint.save_part = lambda *a: die() if len(list((folder / "checkpoints").glob("c*"))) == 2 else save(*a)
    started = time.time()
    try:
        model_of("box", 1, **settings).learn(10_000, callback=callback)
    except RuntimeError as error:
        return {"error": f"{type(error).__name__}: {error}", "at": time.time(), "started": started}
    return {"error": "nothing"}


def resumable(folder: Path) -> dict[str, Any]:
    """Pendulum in two environments on each rank; rank 1 dies in its first life, in the midst of the seventh rollout."""
    rank, first_life = ranks().rank, os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    dies = first_life and rank == 1 and os.environ.get("DIES") == "1"
    model = TRPO(
        "MlpPolicy",
        make_vec_env("Pendulum-v1", 2, seed=5),
        n_steps=32,
        seed=7,
        device="cpu",
        policy_kwargs=SMALL["MlpPolicy"],
        checkpoint_folder=str(folder / "checkpoints"),
    )
    returns = Returns()
    model.learn(32 * 4 * 10, callback=[returns, DieAt(6 * 32 + 5)] if dies else returns)
    return {"policy": dict(model.policy.state_dict()), "returns": returns.of_updates, "updates": model._n_updates}


class Returns(BaseCallback):
    """The mean return at each update, by the number of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.of_updates: dict[int, float] = {}

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        episodes = self.model.ep_info_buffer
        self.of_updates[self.model.num_timesteps] = sum(one["r"] for one in episodes)


PROGRAMS: dict[str, Any] = {
    "together": together,
    "trainings": trainings,
    "group of one, cpu": lambda folder: in_a_group_of_one("cpu", "gloo"),
    "group of one, cuda": lambda folder: in_a_group_of_one("cuda", "cpu:gloo,cuda:nccl"),
    "different": different,
    "unlike": unlike,
    "other settings": other_settings,
    "killed in rollout": lambda folder: killed("rollout", folder),
    "killed in update": lambda folder: killed("update", folder),
    "killed in saving": lambda folder: killed("saving", folder),
    "resumable": resumable,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    random.seed(0)
    name, out = sys.argv[1], Path(sys.argv[2])
    answer = PROGRAMS[name](out)
    torch.save(answer, out / f"rank-{os.environ['RANK']}.pt")
