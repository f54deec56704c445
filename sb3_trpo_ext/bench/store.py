"""Finished runs on disk: a file with a line of JSON for each, to which lines are only ever added."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from sb3_trpo_ext.bench.results import Document, Result, Run, read, result_of
from sb3_trpo_ext.bench.suites import Task

NEWEST = Path("logs/learn.jsonl")  # where results go, and are read from, unless another file is given
Key: TypeAlias = tuple[str, Task, int]


def key(run: Run) -> Key:
    """
    What tells a run from all others: there is one line for it.

    :param run: in question
    """
    return run.label, run.task, run.seed


def read_all(paths: Iterable[Path]) -> list[Result]:
    """
    The finished runs in some files, in order of label, task and seed.

    :param paths: files, or folders of an older version, with a file for each run
    :raises ValueError: when there are none, or a run is there twice
    """
    found: dict[Key, Result] = {}
    places: dict[Key, str] = {}
    paths = list(paths)
    for place, result in (one for path in paths for one in _results(path)):
        name = key(result.run)
        if name in found:
            raise ValueError(f"{result.run} is there twice: {places[name]} and {place}")
        found[name], places[name] = result, place
    if not found:
        raise ValueError(
            f"There are no finished runs in {', '.join(map(str, paths))}. "
            "Make some: python -m sb3_trpo_ext.bench learn --out …"
        )
    return [found[name] for name in sorted(found)]


def finished(path: Path) -> dict[Key, Result]:
    """
    The runs that need not be trained again.

    :param path: of a file of lines, which need not be there
    :raises ValueError: when it is a folder, or has a line that is no result
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder, and results are lines of a file: give a file, such as {path}.jsonl")
    return {key(result.run): result for _, result in _results(path)}


def append(path: Path, document: Document) -> None:
    """
    Add a line. It is written in one piece, so that others who add to the file do not come between.

    :param path: of the file, which is made if need be
    :param document: ready for JSON
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(document, separators=(",", ":"), ensure_ascii=False) + "\n"
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            # Of a line that was cut short nothing must be lost but itself.
            line = line if file.read(1) == b"\n" else "\n" + line
        file.write(line.encode())


def _results(path: Path) -> Iterator[tuple[str, Result]]:
    """Each run with the place where it was found."""
    if path.is_dir():
        yield from ((str(one), read(one)) for one in sorted(path.glob("*/*.json")))
    elif path.is_file():
        lines = path.read_bytes().split(b"\n")
        for place, line in ((f"line {i} of {path}", line) for i, line in enumerate(lines, start=1) if line):
            yield place, result_of(line, place)
