"""What RL Zoo is told of our algorithms: beside a stand-in for RL Zoo, and in an installation."""

import inspect
import sys
from types import ModuleType
from typing import Any

import pytest
import yaml

import sb3_trpo_ext
from sb3_trpo_ext.zoo import registration
from sb3_trpo_ext.zoo.registration import ALGORITHMS, hyperparams_file, register


class Manager:
    """Has of RL Zoo's ExperimentManager what registration touches: two arguments, one of them by keyword mostly."""

    def __init__(self, args: Any, algo: str, env_id: str, config: str | None = None, **others: Any):
        self.config = config or "theirs.yml"
        self.others = others


@pytest.fixture
def zoo(monkeypatch):
    """Modules of RL Zoo's names, as importing the real ones would patch gymnasium for good."""
    modules = {name: ModuleType(f"rl_zoo3.{name}") for name in ("exp_manager", "hyperparams_opt", "utils")}
    manager = type("ExperimentManager", (Manager,), {"__init__": Manager.__init__})
    modules["exp_manager"].ExperimentManager = manager
    modules["hyperparams_opt"].HYPERPARAMS_CONVERTER = {"ppo": "theirs"}
    modules["hyperparams_opt"].HYPERPARAMS_SAMPLER = {"ppo": "theirs"}
    modules["utils"].ALGOS = {"ppo": "theirs"}
    monkeypatch.setitem(sys.modules, "rl_zoo3", ModuleType("rl_zoo3"))
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, f"rl_zoo3.{name}", module)
    return modules


def tables(zoo):
    options = zoo["hyperparams_opt"]
    return zoo["utils"].ALGOS, options.HYPERPARAMS_SAMPLER, options.HYPERPARAMS_CONVERTER


def test_algorithms_are_added_to_the_tables_that_others_hold(zoo):
    held = tables(zoo)
    register()
    for before, now, part in zip(held, tables(zoo), ("algorithm", "sample", "convert"), strict=True):
        assert now is before, "RL Zoo's modules hold references to it"
        assert now == {"ppo": "theirs", **{key: getattr(entry, part) for key, entry in ALGORITHMS.items()}}
    assert held[0]["trpo_ext"] is sb3_trpo_ext.TRPO and held[0]["acer"] is sb3_trpo_ext.ACER


def test_our_algorithms_find_our_settings_unless_a_file_is_given(zoo):
    register()
    manager = zoo["exp_manager"].ExperimentManager
    for algo in ALGORITHMS:
        assert manager(None, algo, "CartPole-v1").config == str(hyperparams_file(algo))
        assert manager(args=None, algo=algo, env_id="CartPole-v1", config="").config == str(hyperparams_file(algo))
        assert manager(None, algo, "CartPole-v1", config="mine.yml").config == "mine.yml"
        assert manager(None, algo, "CartPole-v1", "mine.yml").config == "mine.yml"
    assert manager(None, "ppo", "CartPole-v1").config == "theirs.yml"
    assert manager(None, "ppo", "CartPole-v1", "mine.yml", seed=3).others == {"seed": 3}


def test_registering_again_changes_nothing(zoo):
    register()
    construct, before = zoo["exp_manager"].ExperimentManager.__init__, [dict(table) for table in tables(zoo)]
    register()
    assert zoo["exp_manager"].ExperimentManager.__init__ is construct
    assert [dict(table) for table in tables(zoo)] == before
    assert inspect.signature(construct) == inspect.signature(Manager.__init__)


def test_without_the_zoo_registering_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "rl_zoo3", None)
    with pytest.raises(ModuleNotFoundError, match="rl_zoo3"):
        register()


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_algorithm_has_its_file_of_settings(algo):
    settings = yaml.safe_load(hyperparams_file(algo).read_text())
    assert "default" in settings


def test_settings_are_inside_an_installed_package_and_beside_one_in_a_checkout(tmp_path, monkeypatch):
    package = tmp_path / "sb3_trpo_ext"
    package.mkdir()
    monkeypatch.setattr(registration.sb3_trpo_ext, "__file__", str(package / "__init__.py"))
    assert hyperparams_file("acer") == tmp_path / "hyperparams" / "acer.yml"
    (package / "hyperparams").mkdir()
    assert hyperparams_file("acer") == package / "hyperparams" / "acer.yml"


def test_other_algorithms_and_given_files_keep_their_settings(installation, tmp_path):
    script = """
import argparse, sb3_trpo_ext.zoo
from rl_zoo3.exp_manager import ExperimentManager
sb3_trpo_ext.zoo.register()  # a second time, after the hook
for algo, file in (("trpo", None), ("trpo_ext", "mine.yml"), ("trpo_ext", None)):
    print(ExperimentManager(argparse.Namespace(), algo, "CartPole-v1", "logs", config=file).config)
"""
    theirs, given, ours = installation.run("-c", script, cwd=tmp_path).stdout.split()
    assert theirs.endswith("trpo.yml") and "rl_zoo3" in theirs
    assert given == "mine.yml"
    assert ours == str(installation.site_packages / "sb3_trpo_ext" / "hyperparams" / "trpo_ext.yml")
