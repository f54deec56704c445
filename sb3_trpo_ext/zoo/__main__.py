"""
RL Zoo's commands with our algorithms registered, without the start-up hook::

    python -m sb3_trpo_ext.zoo train --algo trpo_ext --env CartPole-v1
"""

import argparse
import runpy
import sys

from sb3_trpo_ext.zoo.registration import register

COMMANDS = {
    "train": "rl_zoo3.train",
    "enjoy": "rl_zoo3.enjoy",
    "record_video": "rl_zoo3.record_video",
    "plot_train": "rl_zoo3.plots.plot_train",
}

#: Modules that the commands import and the ``zoo`` extra installs; RL Zoo alone does not bring them all.
FROM_THE_EXTRA = {"rl_zoo3", "requests", "seaborn"}


def main(arguments: list[str]) -> None:
    """
    Run one of RL Zoo's commands as if it had been started by itself.

    :param arguments: the command's name, then its own arguments
    """
    parser = argparse.ArgumentParser(
        prog="python -m sb3_trpo_ext.zoo", description="RL Zoo's commands, with our algorithms."
    )
    parser.add_argument("command", choices=COMMANDS, help="followed by that command's own arguments, or its --help")
    command = parser.parse_args(arguments[:1]).command
    sys.argv = [sys.argv[0], *arguments[1:]]
    try:
        register()
        runpy.run_module(COMMANDS[command], run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        if error.name not in FROM_THE_EXTRA:
            raise
        sys.exit(f"RL Zoo's {command} needs {error.name}, which is missing: pip install '.[zoo]' in a checkout")


if __name__ == "__main__":
    main(sys.argv[1:])
