"""RL Zoo's own commands with policies that remember, and with action masks of which RL Zoo knows nothing."""

import pytest

NO_VELOCITIES = ("--algo", "trpo_lstm", "--env", "CartPoleNoVel-v1")
DOORS = ("--algo", "trpo_mask", "--env", "Doors-v0", "--gym-packages", "doors")
QUIET = ("--eval-freq", "-1", "--num-threads", "1")
ENVIRONMENT = """
import gymnasium as gym
import numpy as np


class Doors(gym.Env):
    observation_space, action_space = gym.spaces.Box(0, 1, (4,), np.float32), gym.spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 20
        return self.next(), {}

    def next(self):
        self.open = self.np_random.random(4) < 0.5
        self.open[self.np_random.integers(4)] = True
        return self.open.astype(np.float32)

    def action_masks(self):
        return self.open

    def step(self, action):
        assert self.open[action], "a closed door"
        reward, self.left = float(self.open.argmax() == action), self.left - 1
        return self.next(), reward, self.left == 0, False, {}


gym.register("Doors-v0", Doors)
"""


@pytest.fixture(scope="module")
def remembering(installation, tmp_path_factory):
    """A folder in which a policy with memory was trained."""
    folder = tmp_path_factory.mktemp("remembering")
    result = installation.run("-m", "rl_zoo3.train", *NO_VELOCITIES, "-n", "2048", *QUIET, cwd=folder)
    return folder, result


def test_train_finds_the_installed_settings(installation, remembering):
    folder, result = remembering
    settings = installation.site_packages / "sb3_trpo_ext" / "hyperparams" / "trpo_lstm.yml"
    assert f"Loading hyperparameters from: {settings}" in result.stdout
    load = (
        "import sb3_trpo_ext as s; m = s.RecurrentTRPO.load('logs/trpo_lstm/CartPoleNoVel-v1_1/CartPoleNoVel-v1.zip')"
    )
    printed = installation.run("-c", f"{load}; print(m.num_timesteps, m.policy.recurrent)", cwd=folder).stdout
    assert printed.split() == ["2048", "lstm"]


def test_enjoy_with_memory(installation, remembering):
    command = ("-m", "rl_zoo3.enjoy", *NO_VELOCITIES, "-f", "logs", "-n", "600", "--no-render")
    assert "Mean reward" in installation.run(*command, cwd=remembering[0]).stdout


def test_record_video_with_memory(installation, remembering):
    folder, _ = remembering
    command = ("-m", "rl_zoo3.record_video", *NO_VELOCITIES, "-f", "logs", "-n", "20", "-o", "videos")
    installation.run(*command, cwd=folder)
    assert list((folder / "videos").glob("*.mp4"))


def test_optimize_with_memory(installation, tmp_path):
    command = ("-m", "rl_zoo3.train", *NO_VELOCITIES, "-n", "512", *QUIET, "-optimize", "--n-trials", "1")
    installation.run(*command, "--no-optim-plots", "--eval-episodes", "1", "--seed", "1", cwd=tmp_path)
    (report,) = (tmp_path / "logs/trpo_lstm").glob("report_CartPoleNoVel-v1_1-trials*.csv")
    header, trial = report.read_text().splitlines()
    assert "params_recurrent" in header and "params_lstm_hidden_size" in header and "COMPLETE" in trial


def test_masks_are_found_in_training_evaluation_and_enjoy(installation, tmp_path):
    """The environment refuses what it forbids."""
    (tmp_path / "doors.py").write_text(ENVIRONMENT)
    evaluated = ("--eval-freq", "1024", "--eval-episodes", "2", "--num-threads", "1")
    installation.run("-m", "rl_zoo3.train", *DOORS, "-n", "2048", *evaluated, cwd=tmp_path)
    enjoyed = installation.run(
        "-m", "rl_zoo3.enjoy", *DOORS, "-f", "logs", "-n", "100", "--no-render", "--stochastic", cwd=tmp_path
    )
    assert "Mean reward" in enjoyed.stdout
