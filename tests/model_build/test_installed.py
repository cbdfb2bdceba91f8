"""What the model builder says is right in a checkout and, under the names of the wheel, where it is installed."""

import importlib.util
import os
import shutil
import subprocess
import sys
import types

import pytest

import app
from model_build.__main__ import COMMANDS
from tests import tiny_model
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def rewritten():
    """``hatch_build.rewritten``; the build backend is needed to build alone."""
    backend = types.ModuleType("hatchling.builders.hooks.plugin.interface")
    backend.BuildHookInterface = dict
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, backend.__name__, backend)
        spec.loader.exec_module(module)
    return module.rewritten


@pytest.fixture(scope="module")
def installed(tmp_path_factory, rewritten):
    """A folder with both packages as the wheel has them."""
    root = tmp_path_factory.mktemp("site")
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "app", root / "edge_classifier", ignore=without)
    shutil.copytree(ROOT / "model_build", root / "edge_classifier_build", ignore=without)
    for path in (root / "edge_classifier_build").rglob("*.py"):
        path.write_text(rewritten(path.read_text()))
    return root


def run(folder, *arguments) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_no_module_names_a_package_of_the_checkout(rewritten):
    named = "python -m model_build", "python -m app", "``app.", "``model_build", "from app", "from model_build", "'.["
    for path in (ROOT / "model_build").rglob("*.py"):
        assert not [name for name in named if name in rewritten(path.read_text())], path


@pytest.mark.parametrize("command", [command.__name__.rpartition(".")[2] for command in COMMANDS])
def test_every_command_shows_how_it_is_called(installed, command):
    shown = run(installed, "-m", "edge_classifier_build", command, "--help")
    assert shown.returncode == 0, shown.stderr
    assert f"python -m edge_classifier_build {command}" in shown.stdout
    assert "python -m model_build" not in shown.stdout
    assert f"python -m model_build {command}" in run(ROOT, "-m", "model_build", command, "--help").stdout


def test_the_service_names_the_builder_that_is_there(installed, tmp_path):
    assert app.BUILDER == "python -m model_build"
    path = tiny_model.write(tmp_path / "tiny.onnx")
    code = (
        "import sys; from pathlib import Path; from edge_classifier.inference.model_file import ModelFile;"
        "ModelFile.read(Path(sys.argv[1]), lambda signature, message: True)"
    )
    said = run(installed, "-c", code, path).stderr
    assert "`python -m edge_classifier_build sign FILE --key KEY`" in said, said
    assert run(installed, "-m", "edge_classifier_build", "sign", path).returncode == 0
