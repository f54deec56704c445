"""The plain way to RL Zoo's commands, ``python -m sb3_trpo_ext.zoo``, with the start-up hook turned off."""

import runpy
import sys
from pathlib import Path

import pytest

from sb3_trpo_ext.zoo import __main__ as zoo_main

CARTPOLE = ("--algo", "trpo_ext", "--env", "CartPole-v1")
SHORT = (*CARTPOLE, "-n", "1024", "--eval-freq", "-1", "--num-threads", "1")
NO_HOOK = {"SB3_TRPO_EXT_NO_ZOO_HOOK": "1"}
RUN = Path("logs/trpo_ext/CartPole-v1_1")


@pytest.fixture(scope="module")
def trained(installation, tmp_path_factory):
    """A folder in which CartPole has been trained without the hook."""
    folder = tmp_path_factory.mktemp("trained")
    installation.run("-m", "sb3_trpo_ext.zoo", "train", *SHORT, "--vec-env", "subproc", cwd=folder, **NO_HOOK)
    return folder


def test_train(trained):
    assert (trained / RUN / "CartPole-v1.zip").is_file()


def test_enjoy(installation, trained):
    command = ("enjoy", *CARTPOLE, "-f", "logs", "-n", "600", "--no-render")
    result = installation.run("-m", "sb3_trpo_ext.zoo", *command, cwd=trained, **NO_HOOK)
    assert "Mean reward" in result.stdout


def test_record_video(installation, trained):
    command = ("record_video", *CARTPOLE, "-f", "logs", "-n", "20", "-o", "videos")
    installation.run("-m", "sb3_trpo_ext.zoo", *command, cwd=trained, **NO_HOOK)
    assert list((trained / "videos").glob("*.mp4"))


def test_plot_train(installation, trained):
    command = ("plot_train", "-a", "trpo_ext", "-e", "CartPole-v1", "-f", "logs")
    installation.run("-m", "sb3_trpo_ext.zoo", *command, cwd=trained, **NO_HOOK)


def test_without_the_zoo_names_the_extra(install, tmp_path):
    installed = install(tmp_path, without="rl_zoo3")
    result = installed.run("-m", "sb3_trpo_ext.zoo", "train", *SHORT, cwd=tmp_path, fails=True)
    assert result.stderr.strip() == "RL Zoo's train needs rl_zoo3, which is missing: pip install '.[zoo]' in a checkout"
    assert "No module named 'rl_zoo3'" in installed.run("-c", "import rl_zoo3", cwd=tmp_path, fails=True).stderr


def test_lists_the_commands(installation, tmp_path):
    result = installation.run("-m", "sb3_trpo_ext.zoo", "tarin", cwd=tmp_path, fails=True, **NO_HOOK)
    assert "{train,enjoy,record_video,plot_train}" in result.stderr


@pytest.fixture
def started(monkeypatch):
    """What would have been run, and with which arguments; RL Zoo itself is left alone."""
    calls = []

    def run_module(name, **how):
        calls.append((name, sys.argv[1:], how))

    monkeypatch.setattr(zoo_main, "register", lambda: calls.append("registered"))
    monkeypatch.setattr(runpy, "run_module", run_module)
    monkeypatch.setattr(sys, "argv", ["zoo"])
    return calls


@pytest.mark.parametrize("command", zoo_main.COMMANDS)
def test_a_command_is_run_as_if_by_itself_after_registering(command, started):
    zoo_main.main([command, "--algo", "acer", "-n", "5", "--help"])
    how = {"run_name": "__main__", "alter_sys": True}
    assert started == ["registered", (zoo_main.COMMANDS[command], ["--algo", "acer", "-n", "5", "--help"], how)]


@pytest.mark.parametrize("arguments", [[], ["tarin"], ["--algo", "acer"]])
def test_without_a_command_nothing_is_run(arguments, started, capsys):
    with pytest.raises(SystemExit) as ended:
        zoo_main.main(arguments)
    assert ended.value.code == 2 and not started
    assert "train" in capsys.readouterr().err


@pytest.mark.parametrize("missing", sorted(zoo_main.FROM_THE_EXTRA))
def test_a_package_of_the_extra_that_is_missing_is_named_with_the_remedy(missing, started, monkeypatch):
    def run_module(name, **how):
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr(runpy, "run_module", run_module)
    with pytest.raises(SystemExit, match=rf"plot_train needs {missing}, which is missing: pip install '\.\[zoo\]'"):
        zoo_main.main(["plot_train"])


def test_another_missing_package_is_no_matter_of_the_extra(started, monkeypatch):
    def run_module(name, **how):
        raise ModuleNotFoundError("No module named 'own'", name="own")

    monkeypatch.setattr(runpy, "run_module", run_module)
    with pytest.raises(ModuleNotFoundError, match="own"):
        zoo_main.main(["train"])
