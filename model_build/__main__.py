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


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    parser = argparse.ArgumentParser(prog=_called(), description="Makes, checks and measures models.")
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        command.add_to(commands)
    options = parser.parse_args(arguments)
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
