"""A training run, and what comes of it."""

import ast
import json
import math
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sb3_trpo_ext.bench.fields import check_fields
from sb3_trpo_ext.bench.suites import Task

Document = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """
    What is asked for: everything that a run depends on besides code and machine.

    :param algo: RL Zoo's name of the algorithm
    :param environment: its name in gymnasium
    :param timesteps: of training
    :param seed: of environments, networks and actions
    :param label: under which it is stored and reported; the algorithm's name unless settings are changed
    :param params: settings that replace RL Zoo's, as its ``--hyperparams`` has them
    :param defaults: whether they replace the defaults of the algorithm's constructor instead
    """

    algo: str
    environment: str
    timesteps: int
    seed: int
    label: str
    params: dict[str, Any] = field(default_factory=dict)
    defaults: bool = False

    @property
    def task(self) -> Task:
        return Task(self.environment, self.timesteps)

    def __str__(self) -> str:
        return f"{self.label} {self.task} seed {self.seed}"

    def path(self, out: Path) -> Path:
        """
        :param out: folder with a file for each run
        """
        task = f"{self.environment.replace('/', '-')}_{self.timesteps}"
        return out / self.label / f"{task}_{self.seed}.json"

    def command(self, seeds: Iterable[int] | None = None, algos: Iterable[str] | None = None) -> str:
        """
        What a newcomer types to have this run again.

        :param seeds: other than the run's own
        :param algos: likewise
        """
        chosen = [self.seed] if seeds is None else seeds
        named = [self.algo] if algos is None else algos
        parts = ["python", "-m", "sb3_trpo_ext.bench", "learn", "--algos", *named, "--envs", self.environment]
        parts += ["--timesteps", str(self.timesteps), "--seeds", *map(str, chosen)]
        if self.defaults:
            parts.append("--defaults")
        if self.params:
            parts += ["--params", *(as_typed(key, value) for key, value in self.params.items())]
        if self.label != self.algo:
            # In one piece where it could be taken for an option.
            parts += [f"--label={self.label}"] if self.label.startswith("-") else ["--label", self.label]
        return shlex.join(parts)


def as_typed(key: str, value: Any) -> str:
    """
    A setting as ``--params`` takes it. Text that would be read as something else, such as a number, is given quotes.

    :param key: of the setting
    :param value: of the setting
    """
    if not isinstance(value, str):
        return f"{key}:{value}"
    try:
        ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError):
        return f"{key}:{value}"
    return f"{key}:{value!r}"


@dataclass(frozen=True)
class Result:
    """
    A finished run.

    :param run: that was asked for
    :param steps: at which the curve was read, shape (k,); the last is the end
    :param returns: mean, un-normalised return of the last 100 training episodes, shape (k,)
    :param seconds: of training until then, shape (k,): the processor's, which are what a run takes that has a core for
        itself. Older runs stored those only for the end: theirs are the wall clock's in that proportion. NaN where no
        times were taken.
    :param evaluation: returns of the deterministic policy, one for each episode; may be empty
    :param document: all that was stored
    """

    run: Run
    steps: tuple[int, ...]
    returns: tuple[float, ...]
    seconds: tuple[float, ...]
    evaluation: tuple[float, ...]
    document: Document

    @property
    def final(self) -> float:
        """Mean return of the last 100 training episodes."""
        return self.returns[-1]

    @property
    def minutes(self) -> float:
        """Of training, as :attr:`seconds`."""
        return self.seconds[-1] / 60

    def minutes_to(self, score: float) -> float:
        """
        Training time until the curve was first read at a return.

        :param score: the return
        :return: as :attr:`minutes`; infinite when it was never read so high
        """
        times = (time for time, value in zip(self.seconds, self.returns, strict=True) if value >= score)
        return next(times, math.inf) / 60

    @property
    def is_timed(self) -> bool:
        """Whether times were taken."""
        return not math.isnan(self.minutes)

    @property
    def evaluated(self) -> float:
        """Mean return of the deterministic policy; NaN where it was not evaluated."""
        return sum(self.evaluation) / len(self.evaluation) if self.evaluation else math.nan

    @property
    def origin(self) -> str | None:
        """How it was measured, if not by ``bench learn``."""
        return self.document.get("origin")


def read(path: Path) -> Result:
    """
    :param path: of a file with one run
    :raises ValueError: when it is no such file
    """
    return result_of(path.read_bytes(), str(path))


def result_of(text: bytes, place: str) -> Result:
    """
    :param text: JSON
    :param place: where it was found
    :raises ValueError: when it is no result
    """
    try:
        document = json.loads(text)
        check_fields(document)
        run = Run(**{name: value for name, value in document["run"].items() if value is not None})
        steps, returns = document["curve"]["steps"], document["curve"]["returns"]
        seconds = processor_seconds(document)
        if not len(steps) == len(returns) == len(seconds) > 0:
            raise ValueError(f"a curve of {len(steps)} steps, {len(returns)} returns, {len(seconds)} seconds")
        curve = tuple(steps), tuple(map(float, returns)), tuple(map(float, seconds))
        return Result(run, *curve, tuple(map(float, document["evaluation"])), document)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{place} is no result of `bench learn`: {error}. Remove it, or give another file") from error


def processor_seconds(document: Document) -> list[float]:
    """
    :param document: of a result, whose fields were checked
    :return: :attr:`Result.seconds`
    """
    curve = document["curve"]
    exact, wall = curve.get("processor_seconds"), curve.get("seconds")
    if exact is not None:
        times: list[float] = exact
        return times
    total, total_wall = document.get("processor_seconds"), document.get("wall_seconds")
    if wall is not None and total and total_wall:
        return [one * total / total_wall for one in wall]
    return [math.nan] * len(curve["steps"]) if wall is None else wall


def write(path: Path, document: Document) -> None:
    """
    Write a file so that it is never there half.

    :param path: of the file
    :param document: one line of the file for each of its keys
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in document.items())
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    unfinished.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    unfinished.replace(path)
