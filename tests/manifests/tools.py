"""Programs that check what Python cannot, where they are installed."""

import os
import shutil

import pytest


def tool(name: str) -> str:
    """The program's path; without it the test is skipped, or fails if REQUIRE_<NAME>=1 says that it has to be there."""
    found = shutil.which(name)
    if found is None:
        variable = f"REQUIRE_{name.upper().replace('-', '_')}"
        assert os.environ.get(variable) != "1", f"{variable}=1, but there is no {name}"
        pytest.skip(f"{name} is not installed")
    return found
