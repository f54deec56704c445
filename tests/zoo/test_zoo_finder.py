"""The start-up hook among other finders, with stand-ins for RL Zoo and for our package: it helps, or is not there."""

import os
import pkgutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

STARTUP = Path(__file__).parents[2] / "startup"
INSTALL = "import sb3_trpo_ext_startup as hook; hook.install()\n"
NOTHING = "pass\n"
ALGOS = "import rl_zoo3.utils; print(sorted(rl_zoo3.utils.ALGOS))\n"
OURS = "['trpo_ext']\n"
ZOO = {
    "__init__": "from rl_zoo3.utils import ALGOS",
    "utils": "ALGOS = {}",
    "hyperparams_opt": "HYPERPARAMS_SAMPLER = {}",
    "exp_manager": (
        "import rl_zoo3.utils\nfrom rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER\n"
        "class ExperimentManager: ours = 0"
    ),
}
# Registers where the real one does, and counts.
PACKAGE = """
calls = 0
def register_in(module):
    global calls
    calls += 1
    name = module.__name__.rpartition(".")[2]
    if name == "exp_manager":
        module.ExperimentManager.ours = 1
    else:
        getattr(module, {"utils": "ALGOS", "hyperparams_opt": "HYPERPARAMS_SAMPLER"}[name])["trpo_ext"] = 1
"""
# As the importer of six before 1.16 is: with nothing but what Python 3.12 and later do not ask for.
OLD_SIX = """
class OldSix:
    def find_module(self, fullname, path=None):
        return None
sys.meta_path.insert({place}, OldSix())
"""
# Asks all the others, and so us, who ask it.
DELEGATING = """
class Delegating:
    def find_spec(self, fullname, path=None, target=None):
        for finder in sys.meta_path:
            spec = finder.find_spec(fullname, path, target) if finder is not self else None
            if spec is not None:
                return spec
sys.meta_path.insert({place}, Delegating())
"""
LAST = "len(sys.meta_path)"


@pytest.fixture
def stand_ins(tmp_path):
    """Folder with RL Zoo and our package."""
    folder = tmp_path / "stand-ins"
    (folder / "rl_zoo3").mkdir(parents=True)
    for name, text in ZOO.items():
        (folder / "rl_zoo3" / f"{name}.py").write_text(text)
    (folder / "sb3_trpo_ext").mkdir()
    (folder / "sb3_trpo_ext" / "__init__.py").touch()
    (folder / "sb3_trpo_ext" / "zoo.py").write_text(PACKAGE)
    return folder


@pytest.fixture
def python(stand_ins):
    """Run code in a Python that has the hook and the stand-ins, or another folder; returns what it printed."""

    def run(code, folder=stand_ins, options=(), **environment):
        start = f"import sys\nsys.path[:0] = {[str(folder), str(STARTUP)]!r}\n"
        return subprocess.run(
            [sys.executable, "-S", *options, "-c", start + code],
            env={**os.environ, "PYTHONWARNINGS": "", **environment}, text=True, capture_output=True, timeout=60,
        )  # fmt: skip

    return run


def test_a_module_of_the_zoo_imported_first(python):
    assert python(f"{INSTALL}{ALGOS}").stdout == OURS
    manager = "from rl_zoo3.exp_manager import ExperimentManager; print(ExperimentManager.ours)"
    assert python(f"{INSTALL}{manager}").stdout == "1\n"


@pytest.mark.parametrize("place", [0, 1, LAST])
@pytest.mark.parametrize("other", [OLD_SIX, DELEGATING], ids=["old six", "delegating"])
@pytest.mark.parametrize("first", [True, False], ids=["before the hook", "after the hook"])
def test_among_other_finders(python, place, other, first, stand_ins, tmp_path):
    """They register, and where RL Zoo or a part of it is missing the error is Python's own."""
    other = other.format(place=place)
    code = f"{other}{INSTALL}" if first else f"{INSTALL}{other}"
    assert python(f"{code}{ALGOS}").stdout == OURS
    (stand_ins / "rl_zoo3/exp_manager.py").unlink()
    for module, folder in (("rl_zoo3", tmp_path), ("rl_zoo3.utils", tmp_path), ("rl_zoo3.exp_manager", stand_ins)):
        missing = python(f"{code}import {module}", folder=folder).stderr
        without = python(f"{code.replace(INSTALL, NOTHING)}import {module}", folder=folder).stderr
        assert "ModuleNotFoundError: No module named 'rl_zoo3" in missing and missing == without


def test_two_delegating_finders_around_the_hook(python):
    code = DELEGATING.format(place=0) + INSTALL + DELEGATING.format(place=LAST).replace("Delegating", "Second")
    code = code.replace("if finder is not self", "if type(finder).__name__ not in ('Delegating', 'Second')")
    assert python(f"{code}{ALGOS}").stdout == OURS


def test_behind_wrappers_around_all_finders(python):
    wrap = """
class Wrapper:
    def __init__(self, finder):
        self.find_spec = finder.find_spec
sys.meta_path[:] = map(Wrapper, sys.meta_path)
"""
    assert python(f"{INSTALL}{wrap}{ALGOS}").stdout == OURS


@pytest.mark.parametrize("kind", ["find_spec", "find_module"])
def test_the_error_of_another_finder_is_the_error(python, kind):
    blocker = f"""
class Blocker:
    def {kind}(self, fullname, path=None, target=None):
        if fullname == "rl_zoo3.utils":
            raise ImportError("blocked")
sys.meta_path.insert(0, Blocker())
"""
    result = python(f"{blocker}{INSTALL}{ALGOS}")
    if kind == "find_module" and sys.version_info >= (3, 12):
        assert result.stdout == OURS
    else:
        assert result.stderr.splitlines()[-1] == "ImportError: blocked"
    assert result.stderr == python(f"{blocker}{NOTHING}{ALGOS}").stderr


def test_a_loader_that_is_a_class_serves_other_modules_as_before(python):
    """As the loader of frozen modules is."""
    finder = """
import importlib.util
class Finder:
    def find_spec(self, fullname, path=None, target=None):
        for name in ("rl_zoo3", "rl_zoo3.utils", "rl_zoo3.exp_manager", "rl_zoo3.hyperparams_opt"):
            if fullname == name:
                return importlib.util.spec_from_loader(fullname, Loader, is_package=fullname == "rl_zoo3")
class Loader:
    __slots__ = ()
    @staticmethod
    def create_module(spec):
        return None
    @staticmethod
    def exec_module(module):
        module.ALGOS = module.HYPERPARAMS_SAMPLER = {}
        module.ExperimentManager = Loader
sys.meta_path.insert(1, Finder())
before = Loader.exec_module
"""
    check = "import sb3_trpo_ext.zoo as z; print(Loader.exec_module is before, z.calls, rl_zoo3.utils.__loader__)"
    result = python(f"{INSTALL}{finder}{ALGOS}{check}")
    assert result.stdout == f"{OURS}True 1 <class '__main__.Loader'>\n", result.stderr


def test_from_a_zip_file(python, stand_ins, tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        for path in stand_ins.rglob("*.py"):
            file.write(path, path.relative_to(stand_ins))
    result = python(f"{INSTALL}{ALGOS}print(type(rl_zoo3.utils.__loader__).__name__)", folder=tmp_path / "all.zip")
    assert result.stdout == f"{OURS}zipimporter\n"


def test_a_folder_without_code_is_still_a_namespace(python, tmp_path):
    (tmp_path / "rl_zoo3/utils").mkdir(parents=True)
    result = python(f"{INSTALL}import rl_zoo3.utils; print(list(rl_zoo3.utils.__path__))", folder=tmp_path)
    assert (result.stdout, result.stderr) == (f"{[str(tmp_path / 'rl_zoo3/utils')]}\n", "")


def test_the_imported_module_has_its_own_loader(python):
    code = "print({type(m.__loader__).__name__ for m in modules} | {type(m.__spec__.loader).__name__ for m in modules})"
    modules = "import rl_zoo3.utils; modules = rl_zoo3, rl_zoo3.utils\n"
    assert python(f"{INSTALL}{modules}{code}").stdout == "{'SourceFileLoader'}\n"


def test_a_loader_that_was_only_looked_up_can_be_copied_and_asked(python):
    look = (
        "import copy, importlib.util; spec = importlib.util.find_spec('rl_zoo3.utils')\n"
        "loader = copy.deepcopy(copy.copy(spec.loader)); print(loader.is_package('rl_zoo3.utils'))\n"
    )
    result = python(f"{INSTALL}{look}{ALGOS}")
    assert result.stdout == f"False\n{OURS}", result.stderr


@pytest.mark.parametrize(
    "purged",
    [
        ("rl_zoo3",),
        ("rl_zoo3.utils",),
        ("rl_zoo3.hyperparams_opt",),
        ("rl_zoo3.exp_manager",),
        ("rl_zoo3.exp_manager", "rl_zoo3.hyperparams_opt", "rl_zoo3.utils"),
        ("rl_zoo3", "rl_zoo3.exp_manager", "rl_zoo3.hyperparams_opt", "rl_zoo3.utils"),
    ],
)
def test_modules_purged_and_imported_again(python, purged):
    code = f"""
import rl_zoo3.exp_manager
for name in {purged}:
    del sys.modules[name]
import {purged[0]}
from rl_zoo3.utils import ALGOS
from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER
from rl_zoo3.exp_manager import ExperimentManager
print(list(ALGOS), list(HYPERPARAMS_SAMPLER), ExperimentManager.ours)
"""
    result = python(f"{INSTALL}{code}", options=("-W", "error"))
    assert (result.stdout, result.stderr) == ("['trpo_ext'] ['trpo_ext'] 1\n", "")


@pytest.mark.parametrize("name", ["rl_zoo3", "rl_zoo3.utils", "rl_zoo3.exp_manager"])
def test_reload(python, name):
    code = f"import importlib, {name}; importlib.reload({name})\n"
    manager = "import rl_zoo3.exp_manager; print(rl_zoo3.exp_manager.ExperimentManager.ours)"
    assert python(f"{INSTALL}{ALGOS}{code}{ALGOS}{manager}").stdout == f"{OURS}{OURS}1\n"


def test_threads_that_import_together(python, stand_ins):
    slow = "import time; time.sleep(0.2)\n"
    (stand_ins / "rl_zoo3/__init__.py").write_text(slow + ZOO["__init__"])
    code = """
import threading, importlib
names = ["rl_zoo3", "rl_zoo3.utils", "rl_zoo3.exp_manager", "sb3_trpo_ext.zoo"] * 4
found = []
def look(name):
    module = importlib.import_module(name)
    found.append("trpo_ext" in importlib.import_module("rl_zoo3").ALGOS)
threads = [threading.Thread(target=look, args=(name,)) for name in names]
for thread in threads: thread.start()
for thread in threads: thread.join()
import sb3_trpo_ext.zoo
print(found == [True] * 16, sb3_trpo_ext.zoo.calls)
"""
    result = python(f"{INSTALL}{code}", options=("-W", "error"))
    assert (result.stdout, result.stderr) == ("True 3\n", "")


@pytest.mark.parametrize("error", ["ImportError", "RuntimeError"])
def test_a_package_that_can_not_register_is_told_of_once(python, stand_ins, error):
    (stand_ins / "sb3_trpo_ext/zoo.py").write_text(f"raise {error}('damaged')")
    purge = "for name in [n for n in sys.modules if n.startswith('rl_zoo3')]: del sys.modules[name]\n"
    for options in ((), ("-W", "error"), ("-W", "always")):
        result = python(f"{INSTALL}{ALGOS}{purge}{ALGOS}", options=options)
        assert result.stdout == "[]\n" * 2 and result.returncode == 0
        assert result.stderr.count(f"could not be registered: {error}: damaged") == 1
        assert "Traceback" not in result.stderr


def test_an_error_of_the_zoo_is_its_own(python, stand_ins):
    (stand_ins / "rl_zoo3/utils.py").write_text("import nowhere")
    again = f"try:\n    import rl_zoo3\nexcept ImportError as error:\n    print(error)\n{ALGOS}"
    result = python(f"{INSTALL}{again}")
    assert result.stdout == "No module named 'nowhere'\n"
    assert result.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'nowhere'"
    assert "could not be registered" not in result.stderr


def test_installing_twice_is_installing_once(python):
    finders = "print(sum(type(one).__name__ == 'ZooFinder' for one in sys.meta_path))\n"
    calls = "import sb3_trpo_ext.zoo; print(sb3_trpo_ext.zoo.calls)"
    # What Python does with the files, both of them, in either order.
    pth, start = (STARTUP / f"sb3_trpo_ext_startup.{end}" for end in ("pth", "start"))
    (entry,) = start.read_text().splitlines()
    run = [pth.read_text(), f"import pkgutil; pkgutil.resolve_name({entry!r})()\n"]
    for code in (run[0] + run[1], run[1] + run[0], run[1] * 2):
        result = python(f"{code}{finders}{ALGOS}{calls}")
        assert result.stdout == f"1\n{OURS}1\n", result.stderr
    off = python(f"{run[0]}{run[1]}{finders}", SB3_TRPO_EXT_NO_ZOO_HOOK="1")
    assert off.stdout == "0\n"


def test_the_start_file_is_as_python_3_15_reads_it(monkeypatch):
    """UTF-8, a line for each ``module:callable`` without arguments, and a .pth file of the same name before 3.15."""
    monkeypatch.syspath_prepend(STARTUP)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, "sb3_trpo_ext_startup", raising=False)
    lines = (STARTUP / "sb3_trpo_ext_startup.start").read_text(encoding="utf-8-sig").splitlines()
    entries = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    assert entries == ["sb3_trpo_ext_startup:install"]
    for entry in entries:
        assert pkgutil.resolve_name(entry)() is None
    assert type(sys.meta_path[0]).__name__ == "ZooFinder"
    assert (STARTUP / "sb3_trpo_ext_startup.pth").is_file()
