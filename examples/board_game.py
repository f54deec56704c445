"""
MaskableTRPO on a board game against an opponent that moves at random, beside TRPO, for which a forbidden move loses::

    pip install pettingzoo pygame
    python examples/board_game.py --game go --timesteps 50000
"""

import argparse
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_trpo_ext import TRPO, MaskableTRPO
from sb3_trpo_ext.bench.provenance import provenance

# Of Go on a board of five by five many moves are forbidden; of the others only those onto what is occupied.
GAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "go": ("go_v5", {"board_size": 5}),
    "tictactoe": ("tictactoe_v3", {}),
    "connect_four": ("connect_four_v3", {}),
}


class AgainstRandom(gym.Env[np.ndarray, np.integer]):
    """
    One side of a game of PettingZoo, which begins half of the games. 1 for a won game, −1 for a lost one or a forbidden
    move, else 0.

    :param game: a key of ``GAMES``
    """

    def __init__(self, game: str) -> None:
        module, settings = GAMES[game]
        self.game = import_module(f"pettingzoo.classic.{module}").env(**settings)
        self.game.reset()
        first = self.game.agents[0]
        shape = self.game.observation_space(first)["observation"].shape
        self.observation_space = spaces.Box(0.0, 1.0, (int(np.prod(shape)),), np.float32)
        self.action_space = self.game.action_space(first)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.game.reset(seed=seed)
        self.me = self.game.agents[self.np_random.integers(2)]
        self._let_the_other_move()
        return self._seen()["observation"], {}

    def step(self, action: np.integer) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self.action_masks()[action]:
            return self._seen()["observation"], -1.0, True, False, {}
        self.game.step(int(action))
        self._let_the_other_move()
        over = any(self.game.terminations.values())
        reward = float(self.game.rewards[self.me]) if over else 0.0
        return self._seen()["observation"], reward, over, False, {}

    def action_masks(self) -> np.ndarray:
        """Which moves the rules allow. By this method MaskableTRPO finds them."""
        return self._seen()["action_mask"].astype(bool)

    def _seen(self) -> dict[str, np.ndarray]:
        seen = self.game.observe(self.me)
        return {**seen, "observation": seen["observation"].astype(np.float32).ravel()}

    def _let_the_other_move(self) -> None:
        while self.game.agent_selection != self.me and not any(self.game.terminations.values()):
            allowed = np.flatnonzero(self.game.observe(self.game.agent_selection)["action_mask"])
            self.game.step(int(self.np_random.choice(allowed)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=100_000)
    parser.add_argument("--game", choices=GAMES, default="go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, help="file to add a line of results to for each run")
    options = parser.parse_args()
    for algorithm in (MaskableTRPO, TRPO):
        for seed in options.seeds:
            env = Monitor(AgainstRandom(options.game))
            model = algorithm("MlpPolicy", env, n_steps=1024, seed=seed)
            model.learn(options.timesteps)
            # Nothing is said of masks here: the policy finds those of the environment.
            mean, _ = evaluate_policy(model, Monitor(AgainstRandom(options.game)), n_eval_episodes=200)
            print(f"{algorithm.__name__}, seed {seed}: mean result {mean:.2f} of 200 games", flush=True)
            if options.out:
                setting = {"game": options.game, "algorithm": algorithm.__name__, "seed": seed}
                result = {**setting, "timesteps": options.timesteps, "mean": mean, "games": 200}
                arguments = f"--game {options.game} --timesteps {options.timesteps} --seeds {seed}"
                with options.out.open("a") as file:
                    file.write(
                        json.dumps({**result, **provenance(f"python examples/board_game.py {arguments}")}) + "\n"
                    )


if __name__ == "__main__":
    main()
