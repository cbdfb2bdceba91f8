"""``python -m model_build``: the model builder's command line; ``commands`` has a module for each command."""

import argparse
import sys
from pathlib import Path

from model_build.commands import check, cost, evaluate, export, sign, teach, train
from model_build.errors import BuildError

COMMANDS = (export, train, teach, check, sign, evaluate, cost)


def _called() -> str:
    """How this is called: by the installed command, or as a module."""
    name = Path(sys.argv[0]).name
    return name if name.startswith("edge-classifier") else "python -m model_build"


def _with_ranges(arguments: list[str]) -> list[str]:
    """Writes ``--pixel-range -1..1`` with an equals sign: argparse takes what begins with a dash for an option."""
    made: list[str] = []
    for argument in arguments:
        if made and made[-1] == "--pixel-range" and argument.startswith("-1"):
            made[-1] += f"={argument}"
        else:
            made.append(argument)
    return made


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    parser = argparse.ArgumentParser(prog=_called(), description="Makes, checks and measures models.")
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        command.add_to(commands)
    options = parser.parse_args(_with_ranges(sys.argv[1:] if arguments is None else arguments))
    try:
        return int(options.run(options))
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def run() -> None:
    """``edge-classifier-build``: ends with the command's exit code."""
    sys.exit(main())


if __name__ == "__main__":
    run()
