"""The site is built without a warning, and its tables have every argument and every key of the log."""

import inspect
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from stable_baselines3.common.callbacks import BaseCallback

from sb3_trpo_ext import ACER, TRPO
from sb3_trpo_ext.kernels.conjugate_gradient import CGStop
from sb3_trpo_ext.trust_region.policy_step import StepStatus

CHECKOUT = Path(__file__).parents[2]
DOCS = CHECKOUT / "docs"
TROUBLE = (DOCS / "guide/troubleshooting.md").read_text(encoding="utf-8")
#: Of Stable-Baselines3, not of an update.
THEIRS = {"time/fps", "time/iterations", "time/time_elapsed", "time/total_timesteps"}


def rows(text):
    """Every table's rows, as lists of cells."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]


def said_defaults(algorithm):
    """Argument → its default, in words, of the tables under "Arguments" of an algorithm's page."""
    text = (DOCS / f"algorithms/{algorithm}.md").read_text(encoding="utf-8")
    section = text.split("\n## Arguments\n")[1].split("\n## ")[0]
    found = {}
    for names, default, *_ in (row for row in rows(section) if len(row) > 2):
        names = re.findall(r"`(\w+)`", names)
        values = default.split(", ") if len(names) > 1 and default.count(", ") == len(names) - 1 else [default]
        found |= dict(zip(names, values * len(names) if len(values) == 1 else values, strict=True))
    return found


@pytest.mark.parametrize("algorithm", [TRPO, ACER])
def test_every_argument_is_in_the_table_with_its_default(algorithm):
    said = said_defaults(algorithm.__name__.lower())
    arguments = dict(inspect.signature(algorithm.__init__).parameters)
    for name in ("self", "_init_setup_model"):
        del arguments[name]
    assert said.keys() == arguments.keys()
    for name in arguments.keys() - {"policy", "env"}:
        first = re.split(r"[:,]| as ", said[name])[0].strip("`").replace("−", "-").replace(" ", "")
        default = arguments[name].default
        assert first.strip('"') == str(default) or float(first) == default, name


class Keys(BaseCallback):
    """Collects what is logged."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        self.found |= self.logger.name_to_value.keys()

    def _on_training_end(self):
        self.found |= self.logger.name_to_value.keys()


@pytest.fixture(scope="module")
def logged():
    keys = Keys()
    TRPO("MlpPolicy", "Pendulum-v1", n_steps=64, batch_size=64, critic="adam", rollouts_per_update=2).learn(192, keys)
    acers = Keys()
    ACER("MlpPolicy", "CartPole-v1", replay_start=20).learn(60, acers)
    return {"TRPO": keys.found, "ACER": acers.found}


@pytest.mark.parametrize("algorithm", ["TRPO", "ACER"])
def test_every_key_of_the_log_is_explained(algorithm, logged):
    trpo, acer = TROUBLE.split("\n## ACER\n")
    text = trpo if algorithm == "TRPO" else acer.split("\n## ")[0]
    keys = {key for key in logged[algorithm] - THEIRS if key.startswith("train/")}
    times = {key for key in logged[algorithm] - THEIRS if key.startswith("time/") and algorithm == "TRPO"}
    assert len(keys) > 10
    named = set(re.findall(r"`([\w/]+)`", text))
    assert {key.removeprefix("train/") for key in keys} - named - {"learning_rate"} == set()
    assert times - named == set()


def test_the_numbers_of_status_and_stop_are_told():
    for member in (*StepStatus, *CGStop):
        assert f"| {member.code} {member.name.lower()} |" in TROUBLE


def test_every_page_is_in_the_contents():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = {entry for block in re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL) for entry in block.split()}
    listed = {entry.strip("<>") for entry in listed}
    pages = [page for page in DOCS.rglob("*.md") if "_build" not in page.parts and page.name != "index.md"]
    assert [page for page in pages if page.relative_to(DOCS).with_suffix("").as_posix() not in listed] == []


def test_lines_of_the_guide_are_not_too_long():
    pages = [*(DOCS / "guide").glob("*.md"), DOCS / "index.md"]
    lines = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    assert [line for line in lines if len(line) > 165 and not line.startswith(("|", "python "))] == []


@pytest.mark.slow
@pytest.mark.skipif(not all(map(find_spec, ("sphinx", "myst_parser", "furo"))), reason="the extra docs is missing")
def test_the_site_is_built_without_a_warning(tmp_path):
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    _, *options, folder, _ = re.search(r"^\t\$\(PYTHON\) -m (sphinx .*)$", makefile, re.MULTILINE).group(1).split()
    command = [sys.executable, "-m", "sphinx", *options, "-E", "-q", folder, str(tmp_path / "html")]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, encoding="utf-8", timeout=600)
    assert done.returncode == 0, done.stderr
    assert "class" in (tmp_path / "html/api.html").read_text(encoding="utf-8")


def test_learn_is_documented_of_a_class_whose_own_is_inherited():
    """The site's ``:inherited-members:`` and the names beside it: each exists."""
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    for name, members in re.findall(r"autoclass:: (TRPO|ACER)\n   :members: (.*)", text):
        assert all(hasattr({"TRPO": TRPO, "ACER": ACER}[name], member) for member in members.split(", "))
