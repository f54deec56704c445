"""Imports go downward: kernels ← common ← trust_region ← algorithms ← zoo, bench, envs; nothing optional is needed."""

import ast
import sys
from pathlib import Path

import pytest

import sb3_trpo_ext

PACKAGE = "sb3_trpo_ext"
FOLDER = Path(sb3_trpo_ext.__file__).parent
ALGORITHMS = ("trpo", "acer")
SHARED = ("kernels", "common", "trust_region")
TOP = ""  # the package's own __init__
# Room → rooms that it may import besides itself; TOP stands for names of the package itself, such as TRPO.
BELOW = {
    "kernels": (),
    "common": ("kernels",),
    "trust_region": ("kernels", "common"),
    **{algorithm: SHARED for algorithm in ALGORITHMS},
    TOP: (*SHARED, *ALGORITHMS),
    "zoo": (*SHARED, *ALGORITHMS, TOP),
    "bench": (*SHARED, *ALGORITHMS, TOP, "zoo", "envs"),
    "envs": ("common",),
}
# Room → packages from elsewhere, besides the standard library, that it may import; zoo and bench may import any.
SB3 = {"torch", "numpy", "gymnasium", "stable_baselines3", "sb3_contrib"}
OUTSIDE = {"kernels": {"torch", "numpy"}, **dict.fromkeys(("common", "trust_region", *ALGORITHMS, TOP, "envs"), SB3)}
CONTRIB_TRPO = ("sb3_contrib", "sb3_contrib.TRPO", "sb3_contrib.trpo")


def imported(source: str, module: str) -> set[str]:
    """Dotted names that a module imports: for ``from a import b`` it is a.b."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            origin = [*parents, *([node.module] if node.module else [])]
            names |= {".".join([*origin, alias.name]) for alias in node.names}
    return names


def violations(source: str, path: str) -> list[str]:
    """
    What a file imports and should not.

    :param path: of the file inside the package, such as kernels/fisher.py
    """
    parts = path.removesuffix(".py").split("/")
    room = parts[0] if len(parts) > 1 else TOP

    def allowed(name: str) -> bool:
        top, *rest = name.split(".")
        if top == PACKAGE:
            other = rest[0] if rest and rest[0] in BELOW else TOP
            return other == room or other in BELOW[room]
        if room != "bench" and (name in CONTRIB_TRPO or name.startswith("sb3_contrib.trpo.")):
            return False
        return top in sys.stdlib_module_names or room not in OUTSIDE or top in OUTSIDE[room]

    return sorted(name for name in imported(source, ".".join([PACKAGE, *parts])) if not allowed(name))


FILES = [file.relative_to(FOLDER).as_posix() for file in sorted(FOLDER.rglob("*.py"))]


@pytest.mark.parametrize("path", FILES)
def test_no_import_goes_upward(path):
    assert violations((FOLDER / path).read_text(), path) == []


def test_every_module_has_tests_in_the_file_of_its_name():
    """Tests that go across modules are in further files, named after their topic."""
    modules = [path for path in FILES if "/" in path and not path.endswith("__init__.py")]
    folder = Path(__file__).parents[1]
    files = [folder / Path(path).parent / f"test_{Path(path).name.replace('__', '')}" for path in modules]
    assert files and [file for file in files if not file.is_file()] == []


def test_every_folder_with_code_is_a_known_room():
    assert {path.split("/")[0] for path in FILES if "/" in path} <= BELOW.keys()


@pytest.mark.parametrize(
    "path, source",
    [
        ("kernels/x.py", "import stable_baselines3"),
        ("kernels/x.py", "def f():\n    from gymnasium import spaces"),
        ("kernels/x.py", "from sb3_trpo_ext.common.inputs import Inputs"),
        ("kernels/x.py", "from sb3_trpo_ext.common import inputs"),
        ("kernels/x.py", "from ..common import inputs"),
        ("kernels/x.py", "from .. import TRPO"),
        ("kernels/x.py", "import sb3_trpo_ext"),
        ("common/x.py", "from sb3_trpo_ext.trust_region.batch import Batch"),
        ("common/x.py", "from sb3_trpo_ext.trpo import TRPO"),
        ("common/x.py", "import rl_zoo3"),
        ("trust_region/x.py", "from sb3_trpo_ext.trpo.settings import RULES"),
        ("trust_region/x.py", "from sb3_trpo_ext import TRPO"),
        ("trust_region/x.py", "import sb3_contrib"),
        ("trpo/x.py", "from sb3_trpo_ext import acer"),
        ("trpo/x.py", "from sb3_trpo_ext.zoo import samplers"),
        ("trpo/x.py", "import optuna"),
        ("trpo/x.py", "import sb3_contrib"),
        ("zoo/x.py", "from sb3_contrib import TRPO"),
        ("zoo/x.py", "from sb3_contrib.trpo.trpo import TRPO"),
        ("zoo/x.py", "from sb3_trpo_ext.bench import speed"),
        ("__init__.py", "from sb3_trpo_ext.zoo import registration"),
        ("__init__.py", "import yaml"),
        ("envs/x.py", "import envpool"),
        ("envs/x.py", "from sb3_trpo_ext import TRPO"),
    ],
)
def test_wrong_imports_are_noticed(path, source):
    assert len(violations(source, path)) == 1


@pytest.mark.parametrize(
    "path, source",
    [
        ("kernels/x.py", "import math\nfrom torch import nn\nfrom sb3_trpo_ext.kernels.fisher import Fisher"),
        ("common/x.py", "from ..kernels import fisher\nfrom . import inputs\nfrom sb3_contrib.common import recurrent"),
        ("zoo/x.py", "import rl_zoo3\nfrom sb3_trpo_ext import TRPO"),
        ("bench/x.py", "from sb3_contrib import TRPO"),
    ],
)
def test_right_imports_are_not(path, source):
    assert violations(source, path) == []
