"""What a child process of this one gets to see of the environment: what Python needs to start, and nothing else."""

import os
import sys
from pathlib import Path
from typing import Final

#: What an interpreter may need to start; the rest of the environment stays here, API keys above all.
_PASSED_ON: Final = ("LD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT")


def environment() -> dict[str, str]:
    """The variables for a process of this interpreter that imports what this one can import."""
    found = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    # Python looks for the user's own packages; without a home it would ask a name service for one.
    found["HOME"] = os.sep
    # NumPy's threads for linear algebra, of which a model needs none.
    found["OPENBLAS_NUM_THREADS"] = "1"
    found["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    return found
