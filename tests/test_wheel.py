"""The wheel, installed beside other packages called ``app`` and ``model_build``, works from an empty folder."""

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import Distribution
from pathlib import Path

import httpx
import numpy as np
import pytest
import skimage
from PIL import Image

from app import __version__
from app.registry.source import BUNDLED
from tests.conftest import ROOT
from tests.photos import encode

NAMES = {"app": "edge_classifier", "model_build": "edge_classifier_build"}
PHOTO = Path(skimage.__file__).parent / "data/chelsea.png"
(MODEL,) = BUNDLED.glob("*.onnx")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # The build backend is in no lock; pip fetches it for each build.
    here = Path(sysconfig.get_path("purelib"), "hatchling").is_dir()
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT]
    built = subprocess.run(
        [*command, *["--no-build-isolation"] * here], cwd=folder, capture_output=True, text=True, check=False
    )
    if "Retrying" in built.stderr and "No matching distribution found for hatchling" in built.stderr:
        pytest.skip("no package registry answers, and hatchling is not installed")
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


class Installed:
    """A fresh environment with the wheel, and packages of somebody else's that have our modules' names."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.bin = folder / "bin"
        self.packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        pip = [sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "--quiet"]
        subprocess.run([*pip, "--no-index", "--no-deps", wheel], check=True)
        # What it depends on is here already.
        (self.packages / "locked.pth").write_text(sysconfig.get_path("purelib"))
        self.told = folder / "imported"
        for name in NAMES:
            (self.packages / name).mkdir()
            (self.packages / name / "__init__.py").write_text(f"open({str(self.told)!r}, 'a').write({name!r})\n")

    def start(self, folder: Path, *command: object, **variables: object) -> subprocess.Popen:
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("CLASSIFIER_", "PYTHONPATH"))
        }
        settings = {f"CLASSIFIER_{name.upper()}": str(value) for name, value in variables.items()}
        program, *arguments = map(str, command)
        return subprocess.Popen(
            [self.bin / program, *arguments],
            cwd=folder,
            env=clean | settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, folder: Path, *command: object, **variables: object) -> str:
        process = self.start(folder, *command, **variables)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, output + errors
        return output

    @contextlib.contextmanager
    def serving(self, folder: Path, *command: object, **variables: object):
        """A client of a service that this starts, and its log: so far, and at the end all of it."""
        process = self.start(folder, *command, host="127.0.0.1", port=0, drain_seconds=0, **variables)
        log = []
        try:
            for line in process.stderr:
                log.append(json.loads(line))
                fields = log[-1]
                port = fields.get("port") or next(iter(re.findall(r"127\.0\.0\.1:(\d+)", fields["message"])), None)
                if port:
                    break
            else:
                raise AssertionError(f"it ended without being ready: {log}")
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                yield client, log
            process.send_signal(signal.SIGTERM)
            rest = process.communicate(timeout=60)[1]
            log.extend(map(json.loads, rest.splitlines()))
        finally:
            process.kill()
            process.communicate()


@pytest.fixture(scope="session")
def built(wheel, tmp_path_factory) -> Installed:
    return Installed(wheel, tmp_path_factory.mktemp("installed") / "venv")


@pytest.fixture
def installed(built):
    built.told.unlink(missing_ok=True)
    yield built
    assert not built.told.exists(), "somebody else's package was imported"


@pytest.fixture
def empty(tmp_path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def modules(wheel: Path) -> dict[str, ast.Module]:
    archive = zipfile.ZipFile(wheel)
    return {name: ast.parse(archive.read(name)) for name in archive.namelist() if name.endswith(".py")}


def test_it_brings_two_packages_whole_and_nothing_else(wheel):
    shipped = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    expected = [
        f"{installed}/{path.relative_to(ROOT / ours).as_posix()}"
        for ours, installed in NAMES.items()
        for path in (ROOT / ours).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert sorted(shipped) == sorted(expected)


def test_no_module_imports_a_package_by_its_name_in_the_checkout(wheel):
    for name, tree in modules(wheel).items():
        for node in ast.walk(tree):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                imported = [node.module]
            assert not {module.split(".")[0] for module in imported} & NAMES.keys(), name


def test_no_message_names_a_package_as_it_is_called_in_the_checkout(wheel):
    for name, tree in modules(wheel).items():
        # Docstrings, which are for those who read the code, may.
        documented = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and isinstance(node.body[0] if node.body else None, ast.Expr)
        }
        texts = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented
        ]
        assert [text for text in texts if re.search(r"python -m (app|model_build)\b", text)] == [], name


def test_linux_is_the_only_system(built):
    (found,) = built.packages.glob("*.dist-info")
    metadata = Distribution.at(found).metadata
    assert (metadata["Name"], metadata["Version"]) == ("edge-classifier", __version__)
    systems = [name for name in metadata.get_all("Classifier") if name.startswith("Operating System")]
    assert systems == ["Operating System :: POSIX :: Linux"]
    for path in [ROOT / "pyproject.toml", *sorted((ROOT / "requirements").glob("*.txt"))]:
        assert not re.search(r"\b(sys_platform|platform_system|os_name)\b", path.read_text()), path


(IN_UNIT,) = re.findall(
    r"^ExecStart=/opt/edge-classifier/bin/(.*)", (ROOT / "systemd/edge-classifier.service").read_text(), re.MULTILINE
)
SERVE = ["edge-classifier serve", "edge-classifier", "python -m edge_classifier", IN_UNIT]
UVICORN = "python -m uvicorn edge_classifier.main:app --port 0"


@pytest.mark.parametrize("command", dict.fromkeys([*SERVE, UVICORN]))
def test_it_serves_the_bundled_model(installed, empty, command):
    with installed.serving(empty, *command.split()) as (client, log):
        answer = client.post("/predict", files={"file": PHOTO.read_bytes()}).json()
        assert client.get("/").status_code == client.get("/docs").status_code == 200
    assert (answer["model"]["name"], answer["predictions"][0]["label"]) == ("mobilenet_v2_1.0_224", "Egyptian cat")
    (ready,) = [line for line in log if line["message"] == "ready"]
    assert Path(ready["path"]).is_relative_to(installed.packages / "edge_classifier")
    assert list(empty.iterdir()) == []


def test_a_child_process_of_the_installed_package_tries_a_model(installed, empty, tmp_path):
    """The bundled model is not tried, a copy of it is."""
    model = shutil.copy(MODEL, tmp_path / "copy.onnx")
    with installed.serving(empty, "edge-classifier", "serve", model=model) as (client, _):
        answer = client.post("/predict", content=PHOTO.read_bytes()).json()
    assert answer["predictions"][0]["label"] == "Egyptian cat"


def test_the_client_asks_a_service(installed, empty):
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/clients/python.md").read_text(), re.DOTALL)
    shutil.copy(PHOTO, empty / "photo.jpg")
    with installed.serving(empty, "edge-classifier", "serve") as (client, _):
        address = str(client.base_url)
        told = installed.run(empty, "python", "-c", snippet.replace("http://gateway:8000", address))
        table = installed.run(empty, "edge-classifier", "classify", "--url", address, "--csv", "photo.jpg")
    best, refused = told.splitlines()
    assert best.startswith("Egyptian cat 0.")
    assert refused == "415 not-an-image"
    assert "Egyptian cat" in table


def test_the_other_commands(installed, empty):
    shutil.copy(PHOTO, empty)
    assert installed.run(empty, "edge-classifier", "--version") == f"{__version__}\n"
    assert "Egyptian cat" in installed.run(empty, "edge-classifier", "classify", "--csv", PHOTO.name)
    assert "mobilenet_v2_1.0_224" in installed.run(empty, "edge-classifier", "models")
    assert "mobilenet_v2_1.0_224" in installed.run(empty, "edge-classifier", "doctor", port=0)
    assert "teach" in installed.run(empty, "python", "-m", "edge_classifier_build", "--help")


def test_own_classes_are_taught_signed_and_served(installed, empty):
    random = np.random.default_rng(0)
    for label, redness in (("red", 180), ("grey", 0)):
        (empty / "bins" / label).mkdir(parents=True)
        for number in range(10):
            noise = random.integers(0, 70, (80, 80, 3), np.uint8) + np.array([redness, 0, 0], np.uint8)
            (empty / "bins" / label / f"{number}.jpg").write_bytes(encode(Image.fromarray(noise), "JPEG"))
    bundled = installed.packages / "edge_classifier" / MODEL.relative_to(ROOT / "app")
    installed.run(empty, "edge-classifier-build", "teach", bundled, "bins/")
    assert "to learn from" in installed.run(empty, "edge-classifier-build", "check", "bins/")
    for command in ("genpkey -algorithm ed25519 -out models.key", "pkey -in models.key -pubout -out models.pub"):
        subprocess.run(["openssl", *command.split()], cwd=empty, check=True)
    installed.run(empty, "edge-classifier-build", "sign", "models/bins.int8.onnx", "--key", "models.key")
    with installed.serving(empty, "edge-classifier", "serve", model_public_key="models.pub") as (client, _):
        answer = client.post("/predict", content=(empty / "bins/red/0.jpg").read_bytes()).json()
    assert (answer["model"]["name"], answer["predictions"][0]["label"]) == ("bins", "red")
