"""
How well and how fast ACER learns::

    python examples/acer_learning.py CartPole-v1 --timesteps 300000 --n-envs 8 --seeds 0 1 2 3 4
    python examples/acer_learning.py CartPole-v1 --timesteps 100000 --n-envs 8 --set trust_region=False

For each seed it prints the mean return of the last 100 training episodes, and of 100 episodes without exploration in
environments of other seeds. With ``--results FILE`` each seed is also written to the file as it ends, one JSON object
per line, and what is in the file already is not trained again.
"""

import argparse
import ast
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_ext import ACER

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("env")
parser.add_argument("--timesteps", type=int, required=True)
parser.add_argument("--n-envs", type=int, default=1)
parser.add_argument("--seeds", type=int, nargs="+", default=[0])
parser.add_argument("--normalize", action="store_true", help="observations and rewards, with VecNormalize")
parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="arguments of ACER")
parser.add_argument("--results", type=Path, metavar="FILE")


def literal(setting: str) -> tuple[str, Any]:
    """
    :param setting: NAME=VALUE
    :return: the name, and the value as Python reads it, or as text if it is no literal, such as lin_7e-4
    """
    name, _, value = setting.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def train(arguments: argparse.Namespace, seed: int) -> dict[str, float]:
    """
    One seed.

    :param arguments: the command line's
    :param seed: of environments and networks
    :return: "training" and "evaluation", mean returns; "spread", standard deviation of the 100 evaluation episodes;
        "seconds" of training
    """
    settings = dict(literal(each) for each in arguments.set)
    env = make_vec_env(arguments.env, arguments.n_envs, seed=seed)
    test = make_vec_env(arguments.env, 10, seed=1000 + seed)
    if arguments.normalize:
        env = VecNormalize(env, gamma=settings.get("gamma", 0.99))
        test = VecNormalize(test, training=False, norm_reward=False)
    model = ACER("MlpPolicy", env, seed=seed, device="cpu", **settings)
    started = time.perf_counter()
    model.learn(arguments.timesteps)
    seconds = time.perf_counter() - started
    if arguments.normalize:
        test.obs_rms = env.obs_rms
    returns, _ = evaluate_policy(model, test, n_eval_episodes=100, return_episode_rewards=True)
    return {
        "training": float(np.mean([episode["r"] for episode in model.ep_info_buffer])),
        "evaluation": float(np.mean(returns)),
        "spread": float(np.std(returns)),
        "seconds": seconds,
    }


def main() -> None:
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    file: Path | None = arguments.results
    lines = file.read_text().splitlines() if file and file.exists() else []
    asked = {name: getattr(arguments, name) for name in ("env", "timesteps", "n_envs", "normalize", "set")}
    known = {row["seed"]: row for row in map(json.loads, lines) if {name: row[name] for name in asked} == asked}
    for seed in arguments.seeds:
        row = known.get(seed) or asked | {"seed": seed} | train(arguments, seed)
        if file and seed not in known:
            with file.open("a") as results:
                results.write(json.dumps(row) + "\n")
        print(
            f"{arguments.env} {' '.join(arguments.set)} seed {seed}: training {row['training']:.1f}, evaluation "
            f"{row['evaluation']:.1f} ± {row['spread']:.1f}, {arguments.timesteps / row['seconds']:.0f} steps/s",
            flush=True,
        )


if __name__ == "__main__":
    main()
