"""
Each command of README.md, CONTRIBUTING.md and the site is one that some test runs, with those options; those of the
page on RL Zoo run here as they stand, but with small budgets.
"""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(?:bash|sh|shell|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ZOO = ("rl_zoo3.train", "rl_zoo3.enjoy", "rl_zoo3.record_video", "rl_zoo3.plots.plot_train", "sb3_trpo_ext.zoo")
#: What a command starts with → the folder of the tests that run it.
TESTED = {
    **{f"python -m {module}": "zoo" for module in ZOO},
    "python -m sb3_trpo_ext.bench": "bench",
    "python examples/": "examples",
}
#: What no test can start → why.
LEFT = {
    "python -m venv": "what follows is installed in it",
    "pip install": "needs the network; its extras are looked at below",
    "make": "starts the tests themselves; its targets are looked at below",
    "python tests/fingerprints.py": "minutes, and means something beside older code only",
    ". .venv/bin/activate": "changes the shell alone",
    "export": "changes the shell alone",
    "rm benchmarks/": "takes stored results away",
}


def names():
    """Pages that are written by hand; those of `bench report` have the commands that their own test holds."""
    pages = [path for path in (CHECKOUT / "docs").rglob("*.md") if "_build" not in path.parts]
    written = [path for path in pages if "Made by `python -m sb3_trpo_ext.bench report`" not in path.read_text("utf-8")]
    return ["README.md", "CONTRIBUTING.md", *sorted(path.relative_to(CHECKOUT).as_posix() for path in written)]


def commands(text):
    """
    The commands of a page's blocks, one after the other, each as a list of words.

    :param text: of the page
    """
    found = []
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = words.index("&&") if "&&" in words else len(words)
                found.append(plain(words[:end]))
                words = words[end + 1 :]
    return [command for command in found if command]


def plain(words):
    """Without variables in front, and without the folder of the virtual environment."""
    while words and re.fullmatch(r"\w+=.*", words[0]):
        words = words[1:]
    if not words or words[0] == ".":
        return words
    first = words[0].removeprefix(".venv/bin/")
    return ["python" if first == "python3" else first, *words[1:]]


COMMANDS = [
    pytest.param(name, command, id=f"{name}-{' '.join(command)[:90]}")
    for name in names()
    for command in commands((CHECKOUT / name).read_text(encoding="utf-8"))
]
GUIDE = commands((CHECKOUT / "docs/guide/zoo.md").read_text(encoding="utf-8"))


def options(command):
    return {word for word in command if re.match(r"-{1,2}[a-zA-Z]", word)} - {"-m"}


def passed_by_tests(folder):
    """Those that some test of the folder passes, and for the zoo those of the page that runs below."""
    texts = [path.read_text(encoding="utf-8") for path in (CHECKOUT / "tests" / folder).glob("*.py")]
    passed = {option for text in texts for option in re.findall(r'"(-{1,2}[a-zA-Z][\w-]*)"', text)}
    more = {"zoo": set().union(*map(options, GUIDE)), "bench": {"--jobs"}}  # test_jobs.py calls what --jobs leads to
    return passed | more.get(folder, set())


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_every_command_is_one_that_some_test_runs(name, command):
    line = " ".join(command)
    if any(line.startswith(start) for start in LEFT):
        return
    folders = {folder for start, folder in TESTED.items() if line.startswith(start)}
    assert len(folders) == 1, f"{name}: nothing runs this"
    assert options(command) - passed_by_tests(*folders) == set(), f"{name}: no test passes these"


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_targets_extras_and_files_exist(name, command):
    if command[0] == "make":
        assert re.search(rf"^{command[1]}:", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    if command[:2] == ["pip", "install"]:
        project = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")[1]
        for extras in re.findall(r"\.\[(.*?)\]", " ".join(command)):
            assert [extra for extra in extras.split(",") if not re.search(rf"^{extra} = ", project, re.MULTILINE)] == []
    if command[0] == "python" and command[1].endswith(".py"):
        assert (CHECKOUT / command[1]).is_file()
    if "--suite" in command:
        from sb3_trpo_ext.bench.suites import SUITES

        assert command[command.index("--suite") + 1] in SUITES


def test_commands_are_taken_apart():
    text = "```bash\nA=1 .venv/bin/pip install '.[zoo]' && python3 -m x \\\n  --y  # why\n\n. .venv/bin/activate\n```\n"
    assert commands(text) == [["pip", "install", ".[zoo]"], ["python", "-m", "x", "--y"], [".", ".venv/bin/activate"]]


def short(command):
    """The same command as Python's arguments, with a budget of seconds."""
    words = command[1:]
    for option, value in (("-n", "1024"), ("--n-trials", "2"), ("--max-total-trials", "3")):
        if option in words:
            words[words.index(option) + 1] = value
    if {"rl_zoo3.train", "train"} & set(words):
        words += [] if "-n" in words else ["-n", "1024"]
        words += [] if "--num-threads" in words else ["--num-threads", "1"]
        words += ["--eval-episodes", "1", "--no-optim-plots"] if "-optimize" in words else ["--eval-freq", "-1"]
    elif {"rl_zoo3.enjoy", "enjoy"} & set(words):
        words += ["-n", "200", "--no-render"]
    elif {"rl_zoo3.record_video", "record_video"} & set(words):
        words += ["-n", "20"]
    return words


@pytest.mark.slow
def test_the_page_on_the_zoo_runs_from_top_to_bottom(installation, tmp_path):
    ran = {}
    for command in GUIDE:
        if "HalfCheetah-v5" in command and find_spec("mujoco") is None:
            continue
        hook = {"SB3_TRPO_EXT_NO_ZOO_HOOK": "1"} if "sb3_trpo_ext.zoo" in command else {}
        ran[" ".join(command)] = installation.run(*short(command), cwd=tmp_path, **hook).stdout
    assert (tmp_path / "cartpole.db").is_file()
    (searched,) = (out for line, out in ran.items() if "--max-total-trials" in line)
    assert "Number of finished trials:  3" in searched
    (trial,) = (out for line, out in ran.items() if "--trial-id" in line)
    assert "Loading from Optuna study" in trial
    assert any("Mean reward" in out for line, out in ran.items() if "enjoy" in line)


@pytest.mark.slow
def test_trial_0_can_not_be_chosen(installation, tmp_path):
    """As the page says; when this fails, RL Zoo has mended it, and the page is to be changed."""
    study = ("--storage", "sqlite:///a.db", "--study-name", "a")
    train = ("-m", "rl_zoo3.train", "--algo", "trpo_ext", "--env", "CartPole-v1", "-n", "512", "--num-threads", "1")
    search = ("-optimize", "--n-trials", "1", "--eval-episodes", "1", "--no-optim-plots")
    installation.run(*train, *search, *study, cwd=tmp_path)
    printed = installation.run(*train, *study, "--trial-id", "0", "--eval-freq", "-1", cwd=tmp_path).stdout
    assert "Loading from Optuna study" not in printed
