"""What a package index shows of README.md: all of it but pictures and links to files, which are not there."""

import re
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
BUILD = "import hatchling.build, sys; print(hatchling.build.prepare_metadata_for_build_wheel(sys.argv[1]))"


def test_its_links_lead_somewhere_and_nothing_else_is_missing(tmp_path):
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    folder = subprocess.run(command, cwd=CHECKOUT, check=True, text=True, stdout=subprocess.PIPE).stdout.strip()
    page = (tmp_path / folder / "METADATA").read_text(encoding="utf-8").partition("\n\n")[2]
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\((.*?)\)", page)
    assert targets and all(target.startswith("https://") for target in targets)
    assert re.search(r"\]\((?!https)", readme)
    words = re.compile(r"\w+")
    shown = re.sub(r"!\[[^]]*\]\([^)]*\)", "", readme)
    shown = re.sub(r"\]\((?!https)[^)]*\)", "]", shown)
    assert words.findall(page) == words.findall(shown)
