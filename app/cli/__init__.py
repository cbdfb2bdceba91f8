"""The command line: ``edge-classifier``, or ``python -m app``."""

import sys


def main() -> None:
    """Serves where nothing else is asked for; the other commands import nothing that serving has to wait for."""
    if sys.argv[1:] in ([], ["serve"]):
        from app.cli.serve import serve

        serve()
    else:
        from app.cli.commands import run

        sys.exit(run(sys.argv[1:]))
