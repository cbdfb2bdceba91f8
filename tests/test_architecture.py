"""The rooms of the house, and who may import whom: one table, which every module has to stand in."""

import ast
import re

import pytest

from docs import generate
from docs.rooms import arrows, inside, modules, packages, room
from tests.conftest import ROOT

#: Which rooms of the service each one may import, beside itself and ``errors``. ``docs/architecture.md`` has the same
#: as a drawing. A room's modules are those below it, but for those of a room that has a line of its own.
ROOMS = {
    "errors": set(),
    "settings": set(),
    "client": set(),
    "runtime": set(),
    "inference": {"runtime"},
    "registry": {"inference", "runtime"},
    "telemetry": set(),
    "teaching": {"registry", "inference", "runtime"},
    "http": {"teaching", "registry", "inference", "telemetry", "runtime"},
    "http.protocols": {"http", "inference", "telemetry"},
    "main": {"settings", "http", "http.protocols", "teaching", "registry", "inference", "telemetry", "runtime"},
    # Another process than the service: it knows of it what its client knows.
    "cameras": {"client"},
    "cli": {"main", "settings", "http", "registry", "inference", "telemetry", "runtime", "client", "cameras"},
}
BUILDER = {
    "errors": set(),
    "terminal": set(),
    "network": set(),
    "dataset": {"network"},
    "export": {"dataset", "network"},
    "training": {"dataset", "network", "export"},
    "evaluation": {"dataset"},
    "commands": {"dataset", "network", "export", "training", "evaluation", "terminal"},
}
#: What the model builder may use of the service.
SHARED = {"inference", "runtime", "errors", "client", ""}
HEAVY = {"tensorflow", "keras", "tf2onnx", "onnx", "model_build", "h5py", "scipy", "skimage", "matplotlib"}
HTTP = {"fastapi", "starlette", "uvicorn", "pydantic", "pydantic_settings", "prometheus_client", "httptools", "httpx"}


CASES = [("app", ROOMS), ("model_build", BUILDER)]


@pytest.mark.parametrize(("package", "rooms"), CASES)
def test_every_module_stands_in_a_room_and_imports_only_what_it_may(package, rooms):
    assert len(modules(package)) > 30
    for name, others in arrows(package, rooms).items():
        assert others <= rooms[name], f"{package}.{name} imports {others - rooms[name]}"


@pytest.mark.parametrize(("package", "rooms"), CASES)
def test_what_the_table_allows_is_used(package, rooms):
    unused = {name: rooms[name] - others for name, others in arrows(package, rooms).items() if rooms[name] - others}
    assert not unused


@pytest.mark.parametrize(("package", "rooms"), CASES)
def test_there_is_no_cycle(package, rooms):
    left = arrows(package, rooms)
    while left:
        free = {name for name, others in left.items() if not others & left.keys()}
        assert free, f"a cycle between {sorted(left)}"
        left = {name: others for name, others in left.items() if name not in free}


def test_a_module_in_no_room_is_found():
    with pytest.raises(LookupError, match="stands in no room"):
        room("helpers", ROOMS)


def test_the_drawing_is_of_the_code():
    assert generate.ARCHITECTURE.read_text() == generate.architecture(), "run python -m docs.generate"
    assert list(generate.ROOMS["app"]) == list(ROOMS)
    assert list(generate.ROOMS["model_build"]) == list(BUILDER)


def test_the_top_is_small():
    names = {path.name for path in (ROOT / "app").iterdir()} - {"__init__.py", "__main__.py", "__pycache__"}
    assert len(names) <= 12, names


def test_the_service_never_needs_the_builder():
    for module, path in modules("app").items():
        assert not packages(path) & HEAVY, module


def test_only_the_command_line_and_the_cameras_need_the_client():
    for module, path in modules("app").items():
        if room(module, ROOMS) not in {"cli", "client", "cameras"}:
            assert not packages(path) & {"httpx", "rich", "paho", "yaml"}, module
    assert inside("app", ROOT / "app/client.py") == set()
    # Serving waits for none of it.
    assert "cli.commands" not in inside("app", ROOT / "app/cli/serve.py")


@pytest.mark.parametrize("name", ["errors", "inference", "registry", "runtime", "teaching"])
def test_the_core_knows_nothing_of_http(name):
    for module, path in modules("app").items():
        if room(module, ROOMS) == name:
            assert not packages(path) & HTTP, module


def test_the_builder_uses_only_the_core():
    for module, path in modules("model_build").items():
        assert {room(other, ROOMS) for other in inside("app", path)} <= SHARED, module


def test_the_service_imports_itself_by_relative_names():
    """Installed, it is called ``edge_classifier``, beside whatever else is called ``app``."""
    for module, path in modules("app").items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module.split(".")[0] != "app", module
            if isinstance(node, ast.Import):
                assert all(alias.name.split(".")[0] != "app" for alias in node.names), module


def test_images_are_decoded_in_one_place():
    every = [*modules("app").values(), *modules("model_build").values()]
    assert [path.name for path in every if "Image.open" in path.read_text()] == ["imaging.py"]


def test_the_environment_is_read_in_one_place():
    readers = [m for m, p in modules("app").items() if "os.environ" in p.read_text() or "getenv" in p.read_text()]
    # Two only write: the runtime's telemetry switch, NumPy's threads; and one passes on what Python needs to start.
    # And the cameras' file may name variables that have its secrets; the service's are not its.
    assert sorted(readers) == ["", "cameras.config", "cli", "runtime.children", "settings"]
    assert re.findall(r"_PASSED_ON: Final = (.*)", (ROOT / "app/runtime/children.py").read_text()) == [
        '("LD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT")'
    ]
    writers = (ROOT / "app/cli/__init__.py").read_text() + (ROOT / "app/__init__.py").read_text()
    assert re.findall(r"environ.*", writers) == [
        'environ["OPENBLAS_NUM_THREADS"] = "1"',
        'environ["ORT_DISABLE_TELEMETRY"] = "1"',
    ]
