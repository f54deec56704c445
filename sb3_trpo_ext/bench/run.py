"""
One training run in a process of its own, through RL Zoo's configuration: what ``rl_zoo3.train`` would train, or the
constructor with its defaults.

A process of its own, because importing RL Zoo changes gymnasium, and because a run that fails must not stop the others.
"""

import argparse
import inspect
import json
import math
import os
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import safe_mean, set_random_seed
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization, unwrap_vec_normalize

from sb3_trpo_ext.bench import games
from sb3_trpo_ext.bench.provenance import provenance
from sb3_trpo_ext.bench.results import Document, Run, write

if TYPE_CHECKING:
    from rl_zoo3.exp_manager import ExperimentManager

POINTS = 50  # of a learning curve
EPISODES = 20  # of the final evaluation
EVALUATION_SEED = 10_000  # added to the run's, so that it is evaluated on episodes it was not trained on


class Curve(BaseCallback):
    """
    Reads the mean return of the last training episodes about :data:`POINTS` times. Returns are those of SB3's Monitor,
    which is beneath any normalisation.

    :param run: that is trained
    :param progress: file that is rewritten at each point, for whoever shows it
    """

    def __init__(self, run: Run, progress: Path):
        super().__init__()
        self.run, self.progress = run, progress
        self.points: list[tuple[int, float, float, float]] = []
        self.next = self.interval = run.timesteps / POINTS
        self.started = self.processor_started = 0.0
        self.starter = os.getppid()  # SB3 has a parent of its own

    def _on_training_start(self) -> None:
        self.started, self.processor_started = time.perf_counter(), time.process_time()

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.next:
            self.next += self.interval
            self.read()
        return True

    def read(self) -> None:
        """
        Add a point, unless no episode has ended yet.

        :raises SystemExit: when the process that started this one is gone
        """
        if os.getppid() != self.starter:
            sys.exit("The benchmark that this run belongs to has ended")
        mean = float(safe_mean([episode["r"] for episode in self.model.ep_info_buffer or []]))
        if not math.isnan(mean):
            if self.points and self.points[-1][0] == self.num_timesteps:
                self.points.pop()  # read before the last step's episodes were counted
            wall, processor = time.perf_counter() - self.started, time.process_time() - self.processor_started
            self.points.append((self.num_timesteps, round(mean, 3), round(wall, 2), round(processor, 2)))
        write(self.progress, {"steps": self.num_timesteps, "return": None if math.isnan(mean) else mean})

    def finish(self) -> None:
        """
        Add the last point.

        :raises RuntimeError: when training ended early, or without a single episode
        """
        # RL Zoo takes an interruption for the end of training.
        if self.model.num_timesteps < self.run.timesteps:
            raise RuntimeError(f"Training ended at step {self.model.num_timesteps} of {self.run.timesteps}")
        self.read()
        if not self.points:
            raise RuntimeError(f"No episode ended within {self.run.timesteps} steps: give more --timesteps")


def train(run: Run, progress: Path) -> Document:
    """
    Train and evaluate.

    :param run: to train
    :param progress: file for the progress display
    :return: ready for JSON
    :raises RuntimeError: when training ended early, or without a single episode
    """
    origin = provenance(run.command())
    with tempfile.TemporaryDirectory() as folder:
        manager = experiment(run, Path(folder))
        setup = manager.setup_experiment()
        assert setup is not None  # only a hyperparameter search has none
        model, settings = setup
        curve = Curve(run, progress)
        manager.callbacks.append(curve)
        manager.learn(model)
        curve.finish()
        environment = manager.create_envs(1, eval_env=True, no_log=True)
        evaluation = evaluate(model, environment, run.seed + EVALUATION_SEED)
    steps, returns, wall, processor = zip(*curve.points, strict=True)
    return {
        "run": asdict(run),
        "curve": {"steps": steps, "returns": returns, "seconds": wall, "processor_seconds": processor},
        "evaluation": evaluation,
        "wall_seconds": wall[-1],
        "processor_seconds": processor[-1],
        "zoo_settings": json.loads(json.dumps(settings, default=str)),
        "all_settings": constructor_settings(model),
        **origin,
    }


def experiment(run: Run, folder: Path) -> "ExperimentManager":
    """
    RL Zoo's experiment, with one torch thread and the run's seed.

    :param run: to train
    :param folder: for what RL Zoo writes
    """
    # Importing it here, after the arguments were read: it takes seconds.
    import rl_zoo3.import_envs  # noqa: F401  # its environments without velocities
    from rl_zoo3.exp_manager import ExperimentManager

    from sb3_trpo_ext.zoo import register

    register()
    games.register(run.environment)
    torch.set_num_threads(1)
    set_random_seed(run.seed)
    return ExperimentManager(
        argparse.Namespace(), run.algo, run.environment, str(folder), n_timesteps=run.timesteps, eval_freq=-1,
        hyperparams=dict(run.params), seed=run.seed, log_interval=-2, verbose=1, device="cpu",
        config=no_settings(run, folder) if run.defaults else None,
    )  # fmt: skip


def no_settings(run: Run, folder: Path) -> str:
    """
    A file of settings for RL Zoo that leaves all to the constructor.

    :param run: whose environment it is for
    :param folder: to write it to
    :return: its path
    """
    path = folder / "defaults.yml"
    # What RL Zoo asks of every entry. JSON is YAML.
    settings = {run.environment: {"n_timesteps": run.timesteps, "policy": "MlpPolicy"}}
    path.write_text(json.dumps(settings), encoding="utf-8")
    return str(path)


def evaluate(model: BaseAlgorithm, environment: VecEnv, seed: int) -> list[float]:
    """
    Returns of :data:`EPISODES` episodes of the deterministic policy, with the normalisation as training left it.

    :param model: that was trained
    :param environment: one, as RL Zoo makes it for evaluation: statistics frozen, rewards as they are
    :param seed: of the first episode
    """
    trained = model.get_env()
    assert trained is not None
    if unwrap_vec_normalize(environment) is not None:
        sync_envs_normalization(trained, environment)
    environment.seed(seed)
    returns, _ = evaluate_policy(
        model, environment, n_eval_episodes=EPISODES, deterministic=True, return_episode_rewards=True
    )
    environment.close()
    return [round(float(one), 3) for one in np.asarray(returns)]


def constructor_settings(model: BaseAlgorithm) -> dict[str, Any]:
    """
    Every argument of the constructor as the model has it, defaults included.

    :param model: of any algorithm
    :return: ready for JSON
    """
    plain = (bool, int, float, str, type(None), dict, list, tuple)
    names = [name for name in inspect.signature(type(model).__init__).parameters if hasattr(model, name)]
    skipped = {"self", "env", "policy"}
    chosen = {name: getattr(model, name) for name in names if name not in skipped}
    found = {name: value if isinstance(value, plain) else str(value) for name, value in chosen.items()}
    settings: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return settings


def main(arguments: list[str]) -> None:
    """
    :param arguments: the run as JSON, the file for the result, the file for the progress
    """
    # Ended politely it removes its temporary folder.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit("Interrupted"))
    run, path, progress = Run(**json.loads(arguments[0])), Path(arguments[1]), Path(arguments[2])
    write(path, train(run, progress))


if __name__ == "__main__":
    main(sys.argv[1:])
