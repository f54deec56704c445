"""
Measurements beside sb3-contrib's TRPO: how fast it is, and how well it learns; and ACER's speed beside A2C's::

    python -m sb3_trpo_ext.bench speed --quick
    python -m sb3_trpo_ext.bench learn --suite quick
    python -m sb3_trpo_ext.bench report
    python -m sb3_trpo_ext.bench check
    python -m sb3_trpo_ext.bench throughput
    python -m sb3_trpo_ext.bench scale
"""

import argparse
import io
import sys

#: Modules that only the ``bench`` extra installs.
FROM_THE_EXTRA = {"matplotlib"}


def main(arguments: list[str]) -> None:
    """
    Run a subcommand.

    :param arguments: its name and its options
    """
    # Names and signs that a terminal or a pipe has no letters for must not end the program: it prints "?" instead.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        from sb3_trpo_ext.bench import check, learn, report, scale, speed, throughput
    except ModuleNotFoundError as error:
        if error.name not in FROM_THE_EXTRA:
            raise
        sys.exit(f"The benchmark needs {error.name}, which is missing: pip install '.[zoo,bench]' in a checkout")

    parser = argparse.ArgumentParser(
        prog="python -m sb3_trpo_ext.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for module in (speed, learn, report, check, throughput, scale):
        summary = (module.__doc__ or "").partition(": ")[2]
        command = commands.add_parser(module.__name__.rpartition(".")[2], help=summary, description=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    try:
        options.run(options, arguments)
    except OSError as error:  # such as --out that is a file, or may not be written to
        sys.exit(f"{error.strerror}: {error.filename}" if error.filename else str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
