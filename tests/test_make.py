"""What ``make`` says and does where there is no network."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import LONGEST, ROOT


@pytest.fixture
def checkout(tmp_path):
    """A fresh checkout, as far as the runtime's environment needs it."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    return tmp_path


def make(folder, *arguments, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE"))}
    return subprocess.run(
        ["make", f"PYTHON={sys.executable}", *arguments],
        cwd=folder,
        env=clean | {"PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_a_registry_it_names_the_offline_way(checkout):
    # Nobody listens on this port (RFC 863's service is long gone).
    made = make(checkout, "serve", PIP_INDEX_URL="http://127.0.0.1:9/simple")
    assert made.returncode == 2
    said = [line for line in made.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1, made.stderr
    assert said[0].startswith("The packages could not be fetched")
    assert "make serve WHEELS=wheels" in said[0]


def test_what_is_wrong_with_a_package_is_told_by_pip(checkout):
    (checkout / "none").mkdir()
    made = make(checkout, "serve", "WHEELS=none", PIP_INDEX_URL="http://127.0.0.1:9/simple")
    assert made.returncode == 2
    assert "No matching distribution found" in made.stderr
    assert "registry" not in made.stderr


def test_wheels_are_fetched_and_used_by_the_same_lock(checkout):
    fetched = make(checkout, "-n", "wheels").stdout.splitlines()[-1]
    used = make(checkout, "-n", "serve", "WHEELS=wheels").stdout
    assert "pip download" in fetched
    assert "-d wheels" in fetched
    assert "--no-index --find-links wheels" in used
    for command in (fetched, used):
        assert "--require-hashes" in command
        assert "-r requirements/runtime.txt" in command


def test_the_longest_files_are_there():
    """A file that is renamed would lose its place among those that begin first."""
    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []
