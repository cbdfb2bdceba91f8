"""Who may import what, and where the things stand that may stand in one place only."""

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

APP = sorted((ROOT / "app").rglob("*.py"))
BUILD = sorted((ROOT / "model_build").rglob("*.py"))
HEAVY = {"tensorflow", "keras", "tf2onnx", "onnx", "model_build", "h5py", "scipy", "skimage", "matplotlib"}
# The extra "client": what the service must do without.
CLIENT = {"httpx", "rich"}
HTTP = {"fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client"}
CORE = {
    "imaging",
    "model",
    "ranking",
    "classifier",
    "contract",
    "evidence",
    "frames",
    "lanes",
    "cpus",
    "errors",
}
# Wire formats: plain functions from bytes to pictures and back.
CORE |= {"wire", "open_inference"}
CORE |= {"malloc", "modelfile", "repository", "room", "swap", "trial", "watch"}
CORE |= {"containers", "formats", "jpeg", "png"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", APP, ids=lambda p: p.name)
def test_the_service_never_needs_the_workshop(path):
    assert not packages(path) & HEAVY


@pytest.mark.parametrize(
    "path", [p for p in APP if p.name != "client.py" and p.parent.name != "cli"], ids=lambda p: p.name
)
def test_the_service_never_needs_the_client(path):
    assert not packages(path) & CLIENT
    assert not imports(path) & {"app.client", "app.cli.commands"}


def test_the_client_needs_nothing_of_the_service():
    assert "app" not in packages(ROOT / "app/client.py")


@pytest.mark.parametrize("path", [p for p in APP if p.stem in CORE and p.parent.name == "app"], ids=lambda p: p.name)
def test_the_core_knows_nothing_of_http(path):
    assert not packages(path) & HTTP
    inside = {name.split(".")[1] for name in imports(path) if name.startswith("app.")}
    assert inside <= CORE, inside


@pytest.mark.parametrize("path", BUILD, ids=lambda p: p.name)
def test_the_workshop_uses_only_the_core(path):
    inside = {name.split(".")[1] for name in imports(path) if name.startswith("app.")}
    assert inside <= CORE, inside


def test_images_are_decoded_in_one_place():
    assert [p.name for p in APP + BUILD if "Image.open" in p.read_text()] == ["imaging.py"]


def test_the_environment_is_read_in_one_place():
    readers = [p.name for p in APP if "os.environ" in p.read_text() or "getenv" in p.read_text()]
    # Two only write: the runtime's telemetry switch, NumPy's threads; and one passes on what Python needs to start.
    assert readers == ["__init__.py", "__init__.py", "settings.py", "trial.py"]
    assert re.findall(r"_PASSED_ON: Final = (.*)", (ROOT / "app/trial.py").read_text()) == [
        '("LD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT")'
    ]
    writers = (ROOT / "app/cli/__init__.py").read_text() + (ROOT / "app/__init__.py").read_text()
    assert re.findall(r"environ.*", writers) == [
        'environ["OPENBLAS_NUM_THREADS"] = "1"',
        'environ["ORT_DISABLE_TELEMETRY"] = "1"',
    ]
