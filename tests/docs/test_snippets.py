"""Each Python snippet of README.md and of the site runs as it stands there, with those before it on its page."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: What a snippet says that it prints; behind a colon there may be a word on it.
PRINTED = re.compile(r"^ *print\(.*\)  # (.*)$", re.MULTILINE)
#: Their snippets train for as long as a task needs.
LONG = ("README.md",)


def page_names():
    pages = [path for path in (CHECKOUT / "docs").rglob("*.md") if "_build" not in path.parts]
    return ["README.md", *sorted(path.relative_to(CHECKOUT).as_posix() for path in pages)]


def script(text):
    """
    The snippets of a page, each in the lines that it has there, so that a traceback names them.

    :param text: of the page
    """
    lines = [""] * text.count("\n")
    for block in BLOCK.finditer(text):
        first = text.count("\n", 0, block.start(1))
        code = block.group(1).splitlines()
        lines[first : first + len(code)] = code
    return "\n".join(lines)


PAGES = {name: (CHECKOUT / name).read_text(encoding="utf-8") for name in page_names()}
WITH_SNIPPETS = [
    pytest.param(name, marks=pytest.mark.slow if name in LONG else ())
    for name, text in PAGES.items()
    if BLOCK.search(text)
]


@pytest.mark.parametrize("name", WITH_SNIPPETS)
def test_snippets_run(name, tmp_path):
    page = tmp_path / "page.py"
    page.write_text(script(PAGES[name]), encoding="utf-8")
    alone = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "SDL_VIDEODRIVER": "dummy", "PYTHONIOENCODING": "utf-8"}
    environment = {**os.environ, **alone, "PYTHONPATH": str(CHECKOUT), "PYTHONWARNINGS": "default"}
    command = [sys.executable, page]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=600)
    assert done.returncode == 0, f"{name}\n{done.stderr}"
    said = [comment.split(":")[0].strip() for comment in PRINTED.findall(PAGES[name])]
    assert [value for value in said if value not in done.stdout.splitlines()] == []
    ours = [line for line in done.stderr.splitlines() if "UserWarning" in line and "sb3_contrib" not in line]
    assert ours == [], "a warning would puzzle whoever tries it"


@pytest.mark.parametrize("name", PAGES)
def test_no_fence_is_overlooked(name):
    """Such as one that is indented, which the pattern would not find."""
    text = PAGES[name]
    assert len(BLOCK.findall(text)) == len(re.findall(r"```\{?(?:python|py|pycon)\b", text))


def test_a_snippet_keeps_its_lines():
    assert script("# A\n\n```python\na = 1\n\nb = 2\n```\n\n```python\nc = a\n```\n") == (
        "\n\n\na = 1\n\nb = 2\n\n\n\nc = a\n"
    )
