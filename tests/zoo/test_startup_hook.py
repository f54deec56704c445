"""The start-up hook: what it costs, that it does its work, and that it can do no harm."""

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
ALGOS = "import rl_zoo3; print('trpo_ext' in rl_zoo3.ALGOS)"
MODULES = "import sys; print(*sys.modules)"
NO_HOOK = {"SB3_TRPO_EXT_NO_ZOO_HOOK": "1"}


def test_costs_a_start_less_than_a_millisecond(installation, tmp_path):
    def microseconds() -> int:
        printed = installation.run("-X", "importtime", "-c", "pass", cwd=tmp_path).stderr
        return int(re.search(r"\| +(\d+) \| +sb3_trpo_ext_startup", printed).group(1))

    # The fastest of several is the hook's own cost; the others had to wait for a core.
    assert min(microseconds() for _ in range(7)) < 1000


def test_a_start_imports_nothing_but_the_hook(installation, tmp_path):
    with_hook = installation.run("-c", MODULES, cwd=tmp_path).stdout.split()
    (installation.site_packages / "sb3_trpo_ext_startup.pth").rename(tmp_path / "away")
    try:
        without = installation.run("-c", MODULES, cwd=tmp_path).stdout.split()
    finally:
        (tmp_path / "away").rename(installation.site_packages / "sb3_trpo_ext_startup.pth")
    assert set(with_hook) - set(without) == {"sb3_trpo_ext_startup"}


def test_registers_when_the_zoo_is_imported(installation, tmp_path):
    assert installation.run("-W", "error::RuntimeWarning", "-c", ALGOS, cwd=tmp_path).stdout.strip() == "True"


def test_environment_variable_turns_it_off(installation, tmp_path):
    result = installation.run("-m", "rl_zoo3.train", "--algo", "trpo_ext", cwd=tmp_path, fails=True, **NO_HOOK)
    assert "invalid choice: 'trpo_ext'" in result.stderr


@pytest.mark.parametrize(("option", "registered"), [("-I", "True"), ("-E", "True"), ("-S", None)])
def test_options_that_isolate_python(installation, tmp_path, option, registered):
    """The hook needs no variable of the environment and no site-packages, without which RL Zoo is not there either."""
    result = installation.run(option, "-c", ALGOS, cwd=tmp_path, fails=registered is None)
    if registered is None:
        assert result.stderr.endswith("ModuleNotFoundError: No module named 'rl_zoo3'\n")
    else:
        assert result.stdout.strip() == registered


def test_the_zoo_purged_and_imported_again(installation, tmp_path):
    purge = "import sys\nfor name in [n for n in sys.modules if n.startswith('rl_zoo3')]:\n    del sys.modules[name]\n"
    settings = (
        "import argparse; from rl_zoo3.exp_manager import ExperimentManager as E, HYPERPARAMS_SAMPLER as S\n"
        "print('trpo_ext' in S, E(argparse.Namespace(), 'trpo_ext', 'CartPole-v1', 'logs').config)"
    )
    result = installation.run("-c", f"{ALGOS}\n{settings}\n{purge}{ALGOS}\n{settings}", cwd=tmp_path)
    before, config, again, config_again = result.stdout.splitlines()
    assert (before, config) == (again, config_again)
    assert config.startswith("True ") and config.endswith("trpo_ext.yml")


def test_the_hook_watches_the_modules_that_are_registered_in(installation, tmp_path):
    code = (
        "from sb3_trpo_ext.zoo.registration import PLACES; import sb3_trpo_ext_startup; "
        "print(tuple(PLACES) == sb3_trpo_ext_startup.ZOO)"
    )
    assert installation.run("-c", code, cwd=tmp_path).stdout.strip() == "True"


def test_looking_for_the_zoo_does_not_spend_the_hook(installation, tmp_path):
    look = "import importlib.util; importlib.util.find_spec('rl_zoo3')"
    assert installation.run("-c", f"{look}; {ALGOS}", cwd=tmp_path).stdout.strip() == "True"


@pytest.fixture
def spoiled(install, tmp_path):
    """An installation that the test may damage."""
    return install(tmp_path)


def test_a_broken_hook_is_silent_and_harmless(spoiled, tmp_path):
    hook = spoiled.site_packages / "sb3_trpo_ext_startup.py"
    for damaged in ("raise RuntimeError", "(", "", None):
        if damaged is None:
            hook.unlink()
        else:
            hook.write_text(damaged)
        result = spoiled.run("-c", "print('started')", cwd=tmp_path)
        assert (result.stdout.strip(), result.stderr) == ("started", "")


def test_a_broken_package_leaves_the_zoo_working_and_says_so(spoiled, tmp_path):
    (spoiled.site_packages / "sb3_trpo_ext" / "__init__.py").write_text("raise RuntimeError('damaged')")
    result = spoiled.run("-c", ALGOS, cwd=tmp_path)
    assert result.stdout.strip() == "False"
    assert "could not be registered: RuntimeError: damaged" in result.stderr
    assert "SB3_TRPO_EXT_NO_ZOO_HOOK=1" in result.stderr


@pytest.mark.parametrize("build", ["build_wheel", "build_editable"])
def test_every_way_to_install_brings_the_hook_and_uninstalling_removes_it(build, install, tmp_path):
    installed = install(tmp_path, build)
    settings = "from sb3_trpo_ext.zoo.registration import hyperparams_file; print(hyperparams_file('trpo_ext'))"
    registered, path = installed.run("-c", f"{ALGOS}; {settings}", cwd=tmp_path).stdout.split()
    assert registered == "True"
    package = installed.site_packages / "sb3_trpo_ext" if build == "build_wheel" else CHECKOUT
    assert path == str(package / "hyperparams" / "trpo_ext.yml")
    files = {file.name for file in installed.site_packages.glob("sb3_trpo_ext_startup.*")}
    assert files == {f"sb3_trpo_ext_startup.{end}" for end in ("pth", "py", "start")}

    installed.uninstall()
    assert not list(installed.site_packages.glob("*sb3_trpo_ext*"))
