"""The command with its subcommands: what it needs, what it prints where, and what the package does not need."""

import ast
import importlib
import io
import subprocess
import sys
from pathlib import Path

import pytest

import sb3_trpo_ext
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
        main([command, *source, "--out", str(tmp_path / "file" / "runs.jsonl")])


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("command", ["speed", "learn", "report", "check", "throughput"])
def test_signs_that_the_terminal_has_no_letters_for(command, encoding, monkeypatch):
    text = "−1 ± 2 µs \udce9"  # the last from the name of a file in another encoding
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding=encoding, errors="strict"))
    module = importlib.import_module(f"sb3_trpo_ext.bench.{command}")
    monkeypatch.setattr(module, "run", lambda options, arguments: print(text, flush=True))
    main([command])
    assert printed.getvalue().strip() == text.encode(encoding, "replace")


def test_every_text_file_is_utf_8_whatever_the_locale():
    without = []
    for path in sorted((Path(sb3_trpo_ext.__file__).parent / "bench").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", None) in ("read_text", "write_text"):
                encodings = [word.value.value for word in node.keywords if word.arg == "encoding"]
                if encodings != ["utf-8"]:
                    without.append(f"{path.name}:{node.lineno}")
    assert without == []
