"""RL Zoo's own commands know our algorithm, with nothing done but installing the package."""

import shutil
import sys
from pathlib import Path

import pytest

CARTPOLE = ("--algo", "trpo_ext", "--env", "CartPole-v1")
SHORT = (*CARTPOLE, "-n", "2048", "--eval-freq", "-1", "--num-threads", "1")
RUN = Path("logs/trpo_ext/CartPole-v1_1")


@pytest.fixture(scope="module")
def trained(installation, tmp_path_factory):
    """A folder in which CartPole has been trained with the bare command."""
    folder = tmp_path_factory.mktemp("trained")
    result = installation.run("-m", "rl_zoo3.train", *SHORT, "-P", cwd=folder)
    return folder, result


def test_train_finds_the_installed_settings_and_saves_an_agent(installation, trained):
    folder, result = trained
    settings = installation.site_packages / "sb3_trpo_ext" / "hyperparams" / "trpo_ext.yml"
    assert f"Loading hyperparameters from: {settings}" in result.stdout
    assert (folder / RUN / "CartPole-v1.zip").is_file()
    assert "2,048/2,048" in result.stdout + result.stderr, "no progress bar"


def test_agent_is_ours(installation, trained):
    folder, _ = trained
    load = f"import sb3_trpo_ext; print(sb3_trpo_ext.TRPO.load('{RUN}/CartPole-v1.zip').num_timesteps)"
    assert installation.run("-c", load, cwd=folder).stdout.strip() == "2048"


def test_continue_training(installation, trained):
    folder, _ = trained
    agent = str(RUN / "CartPole-v1.zip")
    result = installation.run("-m", "rl_zoo3.train", *SHORT, "-f", "continued", "-i", agent, cwd=folder)
    assert "Loading pretrained agent" in result.stdout
    assert (folder / "continued/trpo_ext/CartPole-v1_1/CartPole-v1.zip").is_file()


def test_enjoy(installation, trained):
    folder, _ = trained
    command = ("-m", "rl_zoo3.enjoy", *CARTPOLE, "-f", "logs", "-n", "600", "--no-render")
    assert "Mean reward" in installation.run(*command, cwd=folder).stdout


def test_record_video(installation, trained):
    folder, _ = trained
    command = ("-m", "rl_zoo3.record_video", *CARTPOLE, "-f", "logs", "-n", "20", "-o", "videos")
    installation.run(*command, cwd=folder)
    assert list((folder / "videos").glob("*.mp4"))


def test_plot_train(installation, trained):
    folder, _ = trained
    # three episodes in the window, or so short a run has no curve
    command = ("-m", "rl_zoo3.plots.plot_train", "-a", "trpo_ext", "-e", "CartPole-v1", "-f", "logs", "-w", "3")
    assert "No artists with labels" not in installation.run(*command, cwd=folder).stderr


def test_optimize(installation, tmp_path):
    command = ("-m", "rl_zoo3.train", *SHORT, "-optimize", "--n-trials", "1", "--no-optim-plots")
    installation.run(*command, "--eval-episodes", "1", "--seed", "1", cwd=tmp_path)
    (report,) = (tmp_path / "logs/trpo_ext").glob("report_CartPole-v1_1-trials*.csv")
    header, trial = report.read_text().splitlines()
    assert "params_target_kl" in header and "params_cg_damping" in header
    assert "COMPLETE" in trial


def test_the_readmes_first_training_prints_what_a_person_can_read(installation, tmp_path):
    """100 000 steps are 49 iterations: nine tables."""
    interval = 5
    short = ("-n", "20480", "--eval-freq", "-1", "--num-threads", "1")  # 10 iterations
    command = ("-m", "rl_zoo3.train", *CARTPOLE, *short, "--log-interval", str(interval))
    printed = installation.run(*command, cwd=tmp_path).stdout
    assert printed.count("train/") == printed.count("update_status") == 10 // interval
    assert printed.count("\n") < 200


def test_train_in_subprocesses(installation, tmp_path):
    installation.run("-m", "rl_zoo3.train", *SHORT, "--vec-env", "subproc", cwd=tmp_path)
    assert (tmp_path / RUN / "CartPole-v1.zip").is_file()


def test_console_script(installation, tmp_path):
    script = shutil.which("rl_zoo3", path=Path(sys.executable).parent)
    installation.run(script, "train", *SHORT, cwd=tmp_path)
    assert (tmp_path / RUN / "CartPole-v1.zip").is_file()
