"""``python -m model_build sign``."""

import argparse
from pathlib import Path
from typing import Any

from model_build.errors import InputError
from model_build.terminal import say

_DESCRIPTION = """\
Put a checksum, and with --key an Ed25519 signature, at the end of model files. Both cover every byte before them, the
labels too. Files that an earlier version signed are signed again in the same way. Signing is not part of `export`, so
that the key need not lie where models are made.

exit codes:
  0  every file was signed
  2  a file or the key cannot be used; the files before it are signed
"""
_EXAMPLES = """\
examples:
  openssl genpkey -algorithm ed25519 -out models.key
  openssl pkey -in models.key -pubout -out models.pub    # for CLASSIFIER_MODEL_PUBLIC_KEY
  python -m model_build sign models/bins.int8.onnx --key models.key
"""


def add_to(commands: Any) -> None:
    """Adds the parser."""
    sign = commands.add_parser(
        "sign",
        help="checksum and signature for model files",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sign.add_argument("files", type=Path, nargs="+", metavar="FILE", help="model files; replaced by a rename")
    sign.add_argument("--key", type=Path, metavar="PEM", help="Ed25519 private key; without it there is no signature")
    sign.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Signs one file after the other."""
    try:
        from model_build.export.signing import sign
    except ModuleNotFoundError as error:
        raise InputError(f"sign needs the package {error.name}: pip install '.[teach,signatures]'") from error

    for path in options.files:
        file, contract = sign(path, options.key)
        done = "Signed" if options.key else "Wrote the checksum of"
        say(f"{done} {path}: {contract.name} {contract.version}, sha256 {file.digest.hex()}")
    return 0
