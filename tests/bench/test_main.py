"""The command with its subcommands: what it needs, and what the package does not need."""

import subprocess
import sys

import pytest

from sb3_trpo_ext.bench.__main__ import main


def test_without_matplotlib_names_the_extra():
    code = "import sys; sys.modules['matplotlib'] = None; from sb3_trpo_ext.bench.__main__ import main; main(['speed'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.strip().endswith(
        "The benchmark needs matplotlib, which is missing: pip install '.[zoo,bench]' in a checkout"
    )


def test_the_package_does_not_import_the_benchmark():
    code = (
        "import sys, sb3_trpo_ext; print([n for n in sys.modules if n.split('.')[0] in ('sb3_contrib', 'matplotlib')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["report", "learn"])
def test_a_folder_that_cannot_be_made(tmp_path, results, command):
    (tmp_path / "file").touch()
    source = ["--results", str(results)] if command == "report" else ["--envs", "CartPole-v1"]
    with pytest.raises(SystemExit, match=r"(File exists|Not a directory): .*file"):
        main([command, *source, "--out", str(tmp_path / "file")])
