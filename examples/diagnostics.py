"""
A callback that keeps what every update logs, and a picture of it: is TRPO doing well, and if not, why?::

    python examples/diagnostics.py --timesteps 60000

It writes diagnostics.png into the present folder. It needs matplotlib.
"""

import argparse

import matplotlib.pyplot as plt
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import safe_mean

from sb3_trpo_ext import TRPO

# Title of a panel → its lines: what the logger calls each, and what the picture calls it.
PANELS = {
    "Mean return of the last 100 episodes": {"return": "return"},
    "KL divergence of each update, in nats": {"train/target_kl": "limit", "train/kl_divergence_loss": "step taken"},
    "Actual / predicted improvement. Far below 1: steps too long": {"train/improvement_ratio": "ratio"},
    "Entropy of the policy. Near 0: it no longer explores": {"train/entropy": "entropy"},
}


class Diagnostics(BaseCallback):
    """One row for each update: all that it logged, the number of steps and the mean return."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def _on_step(self) -> bool:
        return True  # go on training

    # An update follows its rollout. What it logged is there when the next rollout begins, or training ends.
    def _on_rollout_start(self) -> None:
        if "train/n_updates" in self.logger.name_to_value:
            mean = safe_mean([episode["r"] for episode in self.model.ep_info_buffer])
            self.rows.append({**self.logger.name_to_value, "steps": self.num_timesteps, "return": mean})

    _on_training_end = _on_rollout_start


def draw(rows: list[dict[str, float]], path: str) -> None:
    figure, grid = plt.subplots(2, 2, figsize=(12, 7), sharex=True, layout="constrained")
    for axes, (title, lines) in zip(grid.flat, PANELS.items(), strict=True):
        for name, label in lines.items():
            axes.plot([row["steps"] for row in rows], [row.get(name) for row in rows], ".-", label=label)
        axes.set_title(title, loc="left", fontsize=11)
        axes.grid(alpha=0.3)
        if len(lines) > 1:  # above the panel, where it hides no line
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, ncols=2, frameon=False)
    grid[1, 0].set_xlabel("environment steps")
    grid[1, 1].set_xlabel("environment steps")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=60_000)
    diagnostics = Diagnostics()
    TRPO("MlpPolicy", "CartPole-v1", n_steps=1024, seed=0).learn(parser.parse_args().timesteps, diagnostics)
    draw(diagnostics.rows, "diagnostics.png")
    print(f"{len(diagnostics.rows)} updates are drawn in diagnostics.png. All that is known of the last one:")
    print("\n".join(f"  {name:30} {value:.4g}" for name, value in diagnostics.rows[-1].items()))


if __name__ == "__main__":
    main()
