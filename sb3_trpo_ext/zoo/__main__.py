"""
RL Zoo's commands with our algorithms registered, without the start-up hook::

    python -m sb3_trpo_ext.zoo train --algo trpo_ext --env CartPole-v1
"""

import argparse
import importlib
import importlib.util
import runpy
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

from sb3_trpo_ext.zoo.ranks import prepare
from sb3_trpo_ext.zoo.registration import ALGORITHMS, register

#: Packages that RL Zoo's commands import and the ``zoo`` extra installs; RL Zoo alone does not bring them all.
FROM_THE_EXTRA = {
    *("huggingface_hub", "huggingface_sb3", "matplotlib", "moviepy", "optuna", "pandas", "pytablewriter", "requests"),
    *("rich", "rl_zoo3", "rliable", "sb3_contrib", "scipy", "seaborn", "shimmy", "tqdm", "wasabi", "yaml"),
}
REMEDY = "pip install '.[zoo]' in a checkout"
EXAMPLES = """\
Each has a --help of its own. In the order in which they are needed:

  python -m sb3_trpo_ext.zoo train --algo trpo_ext --env CartPole-v1
  python -m sb3_trpo_ext.zoo enjoy --algo trpo_ext --env CartPole-v1 -f logs
  python -m sb3_trpo_ext.zoo record_video --algo trpo_ext --env CartPole-v1 -f logs
  python -m sb3_trpo_ext.zoo plot_train -a trpo_ext -e CartPole-v1 -f logs
"""


def commands() -> dict[str, str]:
    """
    The commands of the RL Zoo that is installed. Looking imports none of them.

    :return: the name of each → its module: every one that reads a command line of its own
    :raises ModuleNotFoundError: if RL Zoo is not installed
    """
    spec = importlib.util.find_spec("rl_zoo3")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'rl_zoo3'", name="rl_zoo3")
    folder = Path(spec.origin).parent
    return {
        file.stem: ".".join((folder.name, *file.relative_to(folder).with_suffix("").parts))
        for file in sorted(folder.rglob("*.py"), key=lambda file: file.stem)
        if "ArgumentParser(" in file.read_text(encoding="utf-8")
    }


def main(arguments: list[str]) -> None:
    """
    Run one of RL Zoo's commands as if it had been started by itself.

    :param arguments: the command's name, then its own arguments
    """
    try:
        _run(arguments)
    except ImportError as error:
        # An import that fails has a name. Without one the error is a sentence of RL Zoo's about something optional.
        name = (error.name or "").partition(".")[0]
        if name and not (isinstance(error, ModuleNotFoundError) and name in FROM_THE_EXTRA):
            raise
        command = f"RL Zoo's {arguments[0]}" if arguments else "RL Zoo"
        sys.exit(f"{command} needs {name}, which is missing: {REMEDY}" if name else f"{command} stopped: {error}")


def _run(arguments: list[str]) -> None:
    """
    :param arguments: as for :func:`main`
    """
    known = commands()
    listed = "\n".join(f"  {name:<16} {module}" for name, module in known.items())
    parser = argparse.ArgumentParser(
        prog="python -m sb3_trpo_ext.zoo",
        usage="%(prog)s command …",
        description=f"RL Zoo's commands, with our algorithms ({', '.join(ALGORITHMS)}):\n\n{listed}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=known, metavar="command", help="one of these, then its own arguments")
    if not arguments:
        parser.print_help(sys.stderr)
        sys.exit(2)
    command = parser.parse_args(arguments[:1]).command
    own = arguments[1:]
    if command == "record_training" and not shutil.which("ffmpeg") and not {"-h", "--help"}.intersection(own):
        sys.exit(
            "RL Zoo's record_training joins its videos with the program ffmpeg, which is missing: install it (on Debian"
            " and Ubuntu: apt install ffmpeg), or record one video with record_video, which does not need it"
        )
    register()
    if command == "push_to_hub":
        _mend_push_to_hub()
    sys.argv = [sys.argv[0], *(prepare(own) if command == "train" else own)]
    # The package of the plots imports them all, which Python warns of when one of them is then run.
    warnings.filterwarnings("ignore", "'rl_zoo3", RuntimeWarning, "runpy")
    subprocess.call = _started_as_we_were(subprocess.call, known)
    runpy.run_module(known[command], run_name="__main__", alter_sys=True)


def _started_as_we_were(call: Any, known: dict[str, str]) -> Any:
    """
    A command that starts another says ``python -m rl_zoo3.record_video`` or ``python enjoy.py``: some Python, which
    need be neither this one nor one that knows our algorithms, and a file that only RL Zoo's own checkout has.

    :param call: ``subprocess.call``
    :param known: from :func:`commands`
    :return: the same, but RL Zoo's commands are started through this module
    """

    def call_through_us(command: Any, *args: Any, **kwargs: Any) -> int:
        ours = [sys.executable, "-m", "sb3_trpo_ext.zoo"]
        match command:
            case ["python", "-m", module, *own] if module in known.values():
                command = [*ours, module.rpartition(".")[2], *own]
            case ["python", "enjoy.py", *own]:
                command = [*ours, "enjoy", *own]
        return int(call(command, *args, **kwargs))

    return call_through_us


def _mend_push_to_hub() -> None:
    """
    RL Zoo 2.9 asks ``huggingface_sb3`` for a function by the name that it had before version 3, and so does not start.
    Where that name is missing, give it back, with the plain dictionary that it returned.
    """
    hub = importlib.import_module("huggingface_sb3.push_to_hub")
    if not hasattr(hub, "generate_metadata") and hasattr(hub, "_generate_metadata"):
        hub.generate_metadata = lambda *arguments: hub._generate_metadata(*arguments).to_dict()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main(sys.argv[1:])
