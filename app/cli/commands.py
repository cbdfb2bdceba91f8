"""What the command line understands, and who does it."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from .. import __version__
from ..errors import ClassifierError
from .photos import STDIN
from .results import ResultsFileError

_NEEDS_CLIENT: Final = "this needs the extra 'client': pip install 'edge-classifier[client]'"
_NEEDS_CAMERAS: Final = "this needs the extra 'cameras': pip install 'edge-classifier[cameras]'"


def run(arguments: Sequence[str]) -> int:
    """Does what is asked for; the exit code is the command's, or 2 if it cannot begin."""
    options = parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read the output has seen enough (`| head`); Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ValidationError as error:
        from .local import wrong_settings

        said = "\n".join(wrong_settings(error))
    except ModuleNotFoundError as error:
        said = f"{error.name} is not installed; {_NEEDS_CAMERAS if options.run is _cameras else _NEEDS_CLIENT}"
    except (ClassifierError, ResultsFileError, OSError) as error:
        said = str(error)
    print(f"edge-classifier: {said}", file=sys.stderr)
    return 2


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the arguments; ends the process with 2 and a line that says why if they make no sense."""
    parser = argparse.ArgumentParser("edge-classifier", description="A photo in, its labels out.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="answer photos over HTTP; configured by CLASSIFIER_* variables alone")
    serve.set_defaults(run=_serve)

    classify = commands.add_parser("classify", help="label photos with the model of this machine, or by a service")
    classify.set_defaults(run=_classify)
    classify.add_argument("photos", nargs="+", metavar="PHOTO", help="a file, a folder with its sub-folders, or -")
    classify.add_argument("--url", help="the service to ask, e.g. http://gateway:8000")
    classify.add_argument("--api-key-file", type=Path, metavar="FILE", help="file that holds the service's key")
    classify.add_argument("--top-k", type=_count, metavar="N", help="classes of a photo at most")
    classify.add_argument(
        "--groups", action="store_true", help="the everyday name first, and its classes alone; where the model has any"
    )
    form = classify.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line")
    form.add_argument("--csv", action="store_true", help="comma-separated values")
    classify.add_argument(
        "--out", type=Path, metavar="FILE", help="append to FILE, and skip what it has already; with --json or --csv"
    )
    classify.add_argument("--watch", action="store_true", help="go on with photos that come into the folders")

    cameras = commands.add_parser("cameras", help="watch cameras by a service, and tell when what they show changes")
    cameras.set_defaults(run=_cameras)
    cameras.add_argument("file", type=Path, metavar="FILE", help="which cameras, and who is told: cameras.yaml")
    what = cameras.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="only say what is wrong with FILE, by line")
    what.add_argument("--once", action="store_true", help="only print one answer for each region")

    models = commands.add_parser("models", help="the model files here, and which one would be served")
    models.set_defaults(run=_models)
    models.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="model files, or folders that hold some")
    models.add_argument("--json", action="store_true", help="one JSON object a line")

    doctor = commands.add_parser("doctor", help="check that this machine can serve, and say what to mend")
    doctor.set_defaults(run=_doctor)
    doctor.add_argument("--json", action="store_true", help="one JSON object a line")
    doctor.add_argument(
        "--bench", action="store_true", help="instead, measure for a minute, and print a line to compare with others'"
    )

    options = parser.parse_args(arguments)
    if getattr(options, "out", None) and not (options.json or options.csv):
        classify.error("--out needs --json or --csv")
    if STDIN in getattr(options, "photos", ()) and (len(options.photos) > 1 or options.out or options.watch):
        classify.error("- stands alone: standard input is one photo, and cannot be taken up again or watched")
    return options


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _serve(_options: argparse.Namespace) -> int:
    from .serve import serve

    serve(tell=True)
    return 0


def _classify(options: argparse.Namespace) -> int:
    from . import classify

    return classify.run(options)


def _cameras(options: argparse.Namespace) -> int:
    import asyncio

    from ..cameras import supervisor

    if options.check:
        return supervisor.check(options.file)
    return asyncio.run(supervisor.once(options.file)) if options.once else supervisor.run(options.file)


def _models(options: argparse.Namespace) -> int:
    from . import models

    return models.run(options)


def _doctor(options: argparse.Namespace) -> int:
    if options.bench:
        from . import benchmark

        return benchmark.run(as_json=options.json)
    from . import doctor

    return doctor.run(options)
