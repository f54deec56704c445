"""The plain way to RL Zoo's commands, ``python -m sb3_trpo_ext.zoo``, with the start-up hook turned off."""

import json
import re
import runpy
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from sb3_trpo_ext.zoo import __main__ as zoo_main
from sb3_trpo_ext.zoo.registration import ALGORITHMS

CARTPOLE = ("--algo", "trpo_ext", "--env", "CartPole-v1")
SHORT = (*CARTPOLE, "-n", "1024", "--eval-freq", "-1", "--num-threads", "1")
NO_HOOK = {"SB3_TRPO_EXT_NO_ZOO_HOOK": "1"}
RUN = Path("logs/trpo_ext/CartPole-v1_1")
COMMANDS = zoo_main.commands()
HELP = """
import contextlib, io, json
from sb3_trpo_ext.zoo.__main__ import commands, main
texts = {}
for command in commands():
    with contextlib.redirect_stdout(io.StringIO()) as text:
        try:
            main([command, "--help"])
        except SystemExit as ended:
            texts[command] = [ended.code, text.getvalue()]
print(json.dumps(texts))
"""
MODEL_CARD = """
import runpy, sys
from pathlib import Path
from sb3_trpo_ext.zoo.__main__ import main
sys.argv = ["zoo"]
try:
    main(["push_to_hub", "--help"])
except SystemExit:
    from rl_zoo3.push_to_hub import generate_model_card, save_model_card
card = generate_model_card("trpo_ext", "TRPO", "us", "CartPole-v1", 500.0, 1.5, {"n_steps": 512}, {})
save_model_card(Path(), *card)
"""


@pytest.fixture(scope="module")
def trained(installation, tmp_path_factory):
    """A folder in which CartPole has been trained without the hook."""
    folder = tmp_path_factory.mktemp("trained")
    evaluated = (*CARTPOLE, "-n", "1024", "--eval-freq", "256", "--eval-episodes", "2", "--num-threads", "1")
    installation.run("-m", "sb3_trpo_ext.zoo", "train", *evaluated, "--vec-env", "subproc", cwd=folder, **NO_HOOK)
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


def test_record_training_starts_record_video_with_our_algorithms(installation, trained, tmp_path):
    import imageio_ffmpeg

    (tmp_path / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    # Any `python` that is found there has not the package.
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    command = ("record_training", *CARTPOLE, "-f", "logs", "-n", "20")
    installation.run("-m", "sb3_trpo_ext.zoo", *command, cwd=trained, **NO_HOOK, **path)
    assert (trained / RUN / "videos" / "training.mp4").is_file()


def test_benchmark_starts_enjoy_with_our_algorithms(installation, trained):
    command = ("benchmark", "--log-dir", "logs", "--no-hub", "-n", "600", "--num-threads", "1", "--test-mode")
    installation.run("-m", "sb3_trpo_ext.zoo", *command, cwd=trained, **NO_HOOK)
    (row,) = [line for line in (trained / "logs/benchmark/benchmark.md").open() if "CartPole-v1" in line]
    assert row.startswith("|trpo_ext|")


def test_all_plots_and_plot_from_file(installation, trained, tmp_path):
    # plot_from_file wants several runs, in an environment with a reference score, so ours passes for two of those.
    for number in (1, 2):
        shutil.copytree(trained / RUN, tmp_path / f"logs/trpo_ext/BipedalWalker-v3_{number}")
    command = ("all_plots", "-a", "trpo_ext", "-e", "BipedalWalker-v3", "-f", "logs", "-o", "evaluated", "--no-display")
    assert "TRPO_EXT" in installation.run("-m", "sb3_trpo_ext.zoo", *command, cwd=tmp_path, **NO_HOOK).stdout
    command = ("plot_from_file", "-i", "evaluated.pkl", "-o", "evaluated.png", "--format", "png")
    result = installation.run("-m", "sb3_trpo_ext.zoo", *command, cwd=tmp_path, **NO_HOOK)
    assert (tmp_path / "evaluated.png").is_file() and "RuntimeWarning" not in result.stderr


@pytest.fixture(scope="module")
def helps(installation, tmp_path_factory):
    """The exit status of each command's ``--help``, and what it prints."""
    result = installation.run("-c", HELP, cwd=tmp_path_factory.mktemp("helps"), **NO_HOOK)
    return json.loads(result.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_starts_and_knows_our_algorithms(command, helps):
    status, text = helps[command]
    assert status == 0 and text.startswith("usage: ")
    takes_algo = {"train", "enjoy", "record_video", "record_training", "load_from_hub", "push_to_hub"}
    if command in takes_algo or "--algo {" in text:
        assert {"ppo", *ALGORITHMS} <= set(re.findall(r"\w+", text))


def test_push_to_hub_writes_a_model_card(installation, tmp_path):
    """RL Zoo 2.9.2 alone does not start: it asks for a function that huggingface_sb3 has under another name."""
    installation.run("-c", MODEL_CARD, cwd=tmp_path, **NO_HOOK)
    card = (tmp_path / "README.md").read_text()
    assert (
        card.startswith("---\n") and "library_name: stable-baselines3\n" in card and "value: 500.00 +/- 1.50\n" in card
    )
    assert "--algo trpo_ext" in card


def test_without_the_zoo_names_the_extra(install, tmp_path):
    installed = install(tmp_path, without="rl_zoo3")
    result = installed.run("-m", "sb3_trpo_ext.zoo", "train", *SHORT, cwd=tmp_path, fails=True)
    assert result.stderr.strip() == "RL Zoo's train needs rl_zoo3, which is missing: pip install '.[zoo]' in a checkout"
    assert "No module named 'rl_zoo3'" in installed.run("-c", "import rl_zoo3", cwd=tmp_path, fails=True).stderr
    result = installed.run("-m", "sb3_trpo_ext.zoo", cwd=tmp_path, fails=True)
    assert result.stderr.strip() == "RL Zoo needs rl_zoo3, which is missing: pip install '.[zoo]' in a checkout"


def test_commands_are_the_modules_with_a_command_line(tmp_path, monkeypatch):
    """Of whichever RL Zoo is installed; looking runs none of it."""
    parser = "raise SystemExit\nparser = argparse.ArgumentParser()\n"
    texts = {
        "__init__": "",
        "train": parser,
        "utils": "",
        "plots/__init__": "",
        "plots/new": parser,
        "plots/scores": "",
    }
    for name, text in texts.items():
        file = tmp_path / "rl_zoo3" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "rl_zoo3"]:
        monkeypatch.delitem(sys.modules, name)
    assert zoo_main.commands() == {"new": "rl_zoo3.plots.new", "train": "rl_zoo3.train"}
    assert "rl_zoo3" not in sys.modules


@pytest.fixture
def fail(monkeypatch):
    """Have the command end in an error."""

    def run_module(error):
        raise error

    return lambda error: monkeypatch.setattr(runpy, "run_module", lambda name, **how: run_module(error))


@pytest.fixture
def started(monkeypatch):
    """What would have been run, and with which arguments; RL Zoo itself is left alone."""
    calls = []

    def run_module(name, **how):
        calls.append((name, sys.argv[1:], how))

    monkeypatch.setattr(zoo_main, "register", lambda: calls.append("registered"))
    monkeypatch.setattr(zoo_main, "_mend_push_to_hub", lambda: None)
    monkeypatch.setattr(runpy, "run_module", run_module)
    monkeypatch.setattr(sys, "argv", ["zoo"])
    # Both are changed for the process, which a test is not alone in.
    monkeypatch.setattr(subprocess, "call", lambda command: calls.append(command) or 0)
    with warnings.catch_warnings():
        yield calls


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_run_as_if_by_itself_after_registering(command, started):
    zoo_main.main([command, "--algo", "acer", "-n", "5", "--help"])
    how = {"run_name": "__main__", "alter_sys": True}
    assert started == ["registered", (COMMANDS[command], ["--algo", "acer", "-n", "5", "--help"], how)]


@pytest.mark.parametrize("arguments", [[], ["tarin"], ["--algo", "acer"], ["--help"]])
def test_without_a_command_nothing_is_run_and_all_are_listed(arguments, started, capsys):
    with pytest.raises(SystemExit) as ended:
        zoo_main.main(arguments)
    asked = arguments == ["--help"]
    assert ended.value.code == (0 if asked else 2) and not started
    printed = capsys.readouterr()
    text = printed.out if asked else printed.err
    assert text.startswith("usage: python -m sb3_trpo_ext.zoo command …\n")
    if arguments != ["--algo", "acer"]:
        assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize("missing", sorted(zoo_main.FROM_THE_EXTRA))
def test_a_package_of_the_extra_that_is_missing_is_named_with_the_remedy(missing, started, fail):
    fail(ModuleNotFoundError(f"No module named '{missing}.part'", name=f"{missing}.part"))
    with pytest.raises(SystemExit, match=rf"plot_train needs {missing}, which is missing: pip install '\.\[zoo\]'"):
        zoo_main.main(["plot_train"])


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'own'", name="own"),
        ImportError("cannot import name 'own' from 'rl_zoo3'", name="rl_zoo3"),
    ],
)
def test_another_failing_import_is_no_matter_of_the_extra(error, started, fail):
    fail(error)
    with pytest.raises(ImportError, match="own"):
        zoo_main.main(["train"])


def test_what_the_zoo_itself_says_about_something_missing_is_shown_without_a_traceback(started, fail):
    fail(ImportError("You must install rliable"))
    with pytest.raises(SystemExit, match=r"RL Zoo's plot_from_file stopped: You must install rliable"):
        zoo_main.main(["plot_from_file", "--rliable"])


def test_record_training_needs_ffmpeg(started, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"program ffmpeg, which is missing: install it .* record_video"):
        zoo_main.main(["record_training", "--algo", "trpo_ext"])
    assert not started


def test_commands_that_start_others_start_them_through_us(started):
    zoo_main.main(["benchmark"])
    del started[:]
    ours = [sys.executable, "-m", "sb3_trpo_ext.zoo"]
    for command, instead in (
        (["python", "-m", "rl_zoo3.record_video", "-n", "5"], [*ours, "record_video", "-n", "5"]),
        (["python", "-m", "rl_zoo3.plots.all_plots"], [*ours, "all_plots"]),
        (["python", "enjoy.py", "--algo", "acer"], [*ours, "enjoy", "--algo", "acer"]),
        (["python", "-m", "own.train"], ["python", "-m", "own.train"]),
        (["python", "train.py"], ["python", "train.py"]),
        ("python enjoy.py", "python enjoy.py"),
    ):
        assert subprocess.call(command) == 0
        assert started.pop() == instead
