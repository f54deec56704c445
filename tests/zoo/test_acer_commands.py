"""RL Zoo's own commands know ACER too, its replay buffer included."""

from pathlib import Path

import pytest

CARTPOLE = ("--algo", "acer", "--env", "CartPole-v1")
SHORT = (*CARTPOLE, "-n", "1600", "--eval-freq", "-1", "--num-threads", "1")
RUN = Path("logs/acer/CartPole-v1_1")


@pytest.fixture(scope="module")
def trained(installation, tmp_path_factory):
    """A folder in which CartPole has been trained with the bare command."""
    folder = tmp_path_factory.mktemp("trained")
    result = installation.run("-m", "rl_zoo3.train", *SHORT, "--save-replay-buffer", cwd=folder)
    return folder, result


def test_train_finds_the_installed_settings_and_saves_agent_and_replay_buffer(installation, trained):
    folder, result = trained
    settings = installation.site_packages / "sb3_trpo_ext" / "hyperparams" / "acer.yml"
    assert f"Loading hyperparameters from: {settings}" in result.stdout
    assert (folder / RUN / "CartPole-v1.zip").is_file()
    assert (folder / RUN / "replay_buffer.pkl").read_bytes()[:2] == b"PK", "an archive of arrays, not a pickle"


def test_continue_training_with_the_replay_buffer(installation, trained):
    folder, _ = trained
    agent = str(RUN / "CartPole-v1.zip")
    result = installation.run("-m", "rl_zoo3.train", *SHORT, "-f", "continued", "-i", agent, cwd=folder)
    assert "Loading pretrained agent" in result.stdout and "Loading replay buffer" in result.stdout
    assert (folder / "continued/acer/CartPole-v1_1/CartPole-v1.zip").is_file()


def test_enjoy(installation, trained):
    folder, _ = trained
    command = ("-m", "rl_zoo3.enjoy", *CARTPOLE, "-f", "logs", "-n", "600", "--no-render")
    assert "Mean reward" in installation.run(*command, cwd=folder).stdout


def test_optimize(installation, tmp_path):
    command = ("-m", "rl_zoo3.train", *SHORT, "-optimize", "--n-trials", "1", "--no-optim-plots")
    installation.run(*command, "--eval-episodes", "1", "--seed", "1", cwd=tmp_path)
    (report,) = (tmp_path / "logs/acer").glob("report_CartPole-v1_1-trials*.csv")
    header, trial = report.read_text().splitlines()
    assert "params_replay_ratio" in header and "COMPLETE" in trial
