"""One line of settings, and RL Zoo's environments are stepped by InProcessVecEnv."""

import pytest

LINE = "vec_env_wrapper:'sb3_trpo_ext.envs.as_vec_env'"
SAY = """
from stable_baselines3.common.callbacks import BaseCallback

class Say(BaseCallback):
    def _on_training_start(self):
        print("stepped by", type(self.training_env.unwrapped).__name__)

    def _on_step(self):
        return True
"""
SAME = """
import torch
from sb3_trpo_ext import TRPO
one, other = (TRPO.load(f"{folder}/trpo_ext/CartPole-v1_1/CartPole-v1.zip").policy.state_dict() for folder in "ab")
print(all(torch.equal(one[name], other[name]) for name in one))
"""


@pytest.fixture(scope="module")
def trained(installation, tmp_path_factory):
    """A folder in which CartPole has been trained with the line, in a, and without it, in b; and what was printed."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "say.py").write_text(SAY)
    command = ("-m", "rl_zoo3.train", "--algo", "trpo_ext", "--env", "CartPole-v1", "-n", "2048", "--num-threads", "1")
    command += ("--seed", "3", "--eval-freq", "-1", "-params", "callback:'say.Say'")
    printed = [
        installation.run(*command, *line, "-f", into, cwd=folder).stdout for into, line in (("a", [LINE]), ("b", []))
    ]
    return folder, printed


def test_it_is_used_and_changes_no_bit(installation, trained):
    folder, (with_it, without) = trained
    assert "stepped by InProcessVecEnv" in with_it and "stepped by DummyVecEnv" in without
    assert installation.run("-c", SAME, cwd=folder).stdout.strip() == "True"


def test_an_agent_that_was_trained_with_it_is_watched(installation, trained):
    folder, _ = trained
    command = ("--algo", "trpo_ext", "--env", "CartPole-v1", "-f", "a", "-n", "600", "--no-render")
    assert "Mean reward" in installation.run("-m", "rl_zoo3.enjoy", *command, cwd=folder).stdout
