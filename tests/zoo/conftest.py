"""
The zoo is tested as its users meet it: commands in a subprocess, started from a temporary folder, with the package
installed in a virtual environment of its own. That environment borrows its dependencies from the one running the tests.
"""

import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@dataclass
class Installation:
    """
    A virtual environment with the package installed.

    :param folder: where the environment is
    :param build: hook of the build backend: ``build_wheel`` or ``build_editable``
    :param without: a package not to borrow
    """

    folder: Path
    build: str = "build_wheel"
    without: str | None = None
    python: str = field(init=False)
    site_packages: Path = field(init=False)

    def __post_init__(self) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.folder / "venv"], check=True)
        paths = {"base": str(self.folder / "venv"), "platbase": str(self.folder / "venv")}
        # Python 3.10 has no scheme of that name; its environments have the one of an installation.
        known = "venv" in sysconfig.get_scheme_names()
        scheme = "venv" if known else sysconfig.get_preferred_scheme("prefix")
        self.python = str(Path(sysconfig.get_path("scripts", scheme, paths)) / Path(sys.executable).name)
        self.site_packages = Path(sysconfig.get_path("purelib", scheme, paths))
        wheel = subprocess.run(
            [sys.executable, "-c", f"import hatchling.build as b; print(b.{self.build}(r'{self.folder}'))"],
            cwd=CHECKOUT,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
        ).stdout.strip()
        self._pip("install", "--no-deps", "--no-index", str(self.folder / wheel))
        # A .pth file named in another site-packages is not read, so nothing of ours comes along with what is borrowed.
        self._borrowed.write_text(str(self._lender()))

    def _lender(self) -> Path:
        lender = Path(sysconfig.get_path("purelib"))
        if self.without is None:
            return lender
        selection = self.folder / "selection"
        selection.mkdir()
        for entry in lender.iterdir():
            if entry.name != self.without:
                (selection / entry.name).symlink_to(entry)
        return selection

    @property
    def _borrowed(self) -> Path:
        return self.site_packages / "borrowed.pth"

    def _pip(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "pip", "--python", self.python, *arguments, "--quiet"]
        subprocess.run([*command, "--disable-pip-version-check"], check=True)

    def uninstall(self) -> None:
        """Remove the package; not while it could be taken for one in the borrowed folder."""
        self._borrowed.unlink()
        self._pip("uninstall", "--yes", "sb3-trpo-ext")

    def run(self, *arguments: str, cwd: Path, fails: bool = False, **environment: str) -> subprocess.CompletedProcess:
        """
        Run the environment's Python as a user would.

        :param arguments: of Python
        :param cwd: folder to start from
        :param fails: whether the command is expected to fail
        :param environment: variables to set
        :return: what it printed
        """
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONWARNINGS")}
        # no windows, no downloads, one thread
        clean |= {"MPLBACKEND": "Agg", "SDL_VIDEODRIVER": "dummy", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        result = subprocess.run(
            [self.python, *arguments], cwd=cwd, env=clean | environment, text=True, capture_output=True, timeout=300
        )
        assert (result.returncode != 0) == fails, f"{arguments}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
        return result


@pytest.fixture(scope="session")
def install() -> type[Installation]:
    """What makes an installation; for tests that need one of their own."""
    return Installation


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The package installed from its wheel, and not importable by chance from where the tests are run."""
    installed = Installation(tmp_path_factory.mktemp("wheel"))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    found = installed.run("-c", "import sb3_trpo_ext; print(sb3_trpo_ext.__file__)", cwd=elsewhere).stdout.strip()
    assert Path(found).parent == installed.site_packages / "sb3_trpo_ext"
    return installed
