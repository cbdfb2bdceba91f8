"""The command line: ``edge-classifier``, or ``python -m app``."""

import gc
import os
import sys


def main() -> None:
    """Serves where nothing else is asked for; the other commands import nothing that serving has to wait for."""
    if sys.argv[1:] in ([], ["serve"]):
        # NumPy's threads for linear algebra, of which serving does none, take 0.1 s of the start.
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        # Next to nothing of what importing makes is garbage; looking for it takes 0.1 s. ``serve`` turns it on.
        gc.disable()
        from .serve import serve

        # Who spells it out is a person; units and images, whose output is a log, do not.
        serve(tell=sys.argv[1:] == ["serve"])
    else:
        from .commands import run

        sys.exit(run(sys.argv[1:]))
