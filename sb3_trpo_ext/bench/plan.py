"""Which runs a command line asks for."""

import argparse
import ast
import json
import re
from typing import Any

import gymnasium as gym

from sb3_trpo_ext.bench import games
from sb3_trpo_ext.bench.algorithms import ALGOS
from sb3_trpo_ext.bench.results import Run
from sb3_trpo_ext.bench.suites import SUITES, Task, short


def plan(options: argparse.Namespace) -> list[Run]:
    """
    The runs that were asked for; the seeds outermost, so that an early end leaves a comparison.

    :param options: of the command line
    :raises ValueError: when they contradict each other
    """
    params = parameters(options.params)
    if options.label and len(options.algos) > 1:
        raise ValueError(f"--label names one algorithm's settings, got --algos {' '.join(options.algos)}")
    if options.label in ALGOS and options.label != options.algos[0]:
        raise ValueError(f"--label {options.label} is the name of another algorithm")
    if (params or options.defaults) and (not options.label or options.label in ALGOS):
        option = "--params" if params else "--defaults"
        raise ValueError(f"{option} needs a --label of its own, or these runs could not be told from those without")
    if options.label and not re.fullmatch(r"[\w+=-][\w.+=-]*", options.label):
        raise ValueError(
            f"--label is the name of a folder: letters, digits and -_+=, points not in front, got {options.label!r}"
        )
    return [
        Run(algo, task.environment, task.timesteps, seed, options.label or algo, params, options.defaults)
        for seed in dict.fromkeys(options.seeds)
        for task in tasks(options.suite, options.envs, options.timesteps)
        for algo in dict.fromkeys(options.algos)
    ]


def tasks(suite: str, environments: list[str] | None, timesteps: int | None) -> list[Task]:
    """
    :param suite: its name
    :param environments: only these; None for all
    :param timesteps: instead of the suite's
    :raises ValueError: for an environment that gymnasium does not know, or without a number of timesteps
    """
    budgets = dict(SUITES[suite])
    chosen = []
    for environment in dict.fromkeys(environments or budgets):
        # Quick's environments are in the others with more steps, but a name must not mean two budgets by chance.
        steps = timesteps or budgets.get(environment)
        if steps is None:
            names = ", ".join(f"{name} {short(steps)}" for name, steps in budgets.items())
            raise ValueError(
                f"{environment} is not in the suite {suite} ({names}): give another --suite or --timesteps"
            )
        games.register(environment)
        try:
            gym.spec(environment.replace("NoVel", ""))  # RL Zoo's own, of which gymnasium does not know yet
        except gym.error.Error as error:
            raise ValueError(f"--envs {environment}: {error}") from error
        chosen.append(Task(environment, steps))
    return chosen


def parameters(texts: list[str]) -> dict[str, Any]:
    """
    Read settings as RL Zoo's command line does, but what is no plain value stays text, which its files have too.

    :param texts: key:value
    :raises ValueError: when there is no colon
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, colon, value = text.partition(":")
        if not colon or not key:
            raise ValueError(f"--params takes key:value, got {text!r}")
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = value
        try:
            # As it will be read back from the file.
            found[key] = json.loads(json.dumps(found[key]))
        except TypeError as error:
            raise ValueError(f"--params {text!r} can not be stored: {error}") from error
    return found
