"""The rooms of the house, and who may import whom: one table, which every module has to stand in."""

import ast
import re
from pathlib import Path

import pytest

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
    "http": {"registry", "inference", "telemetry", "runtime"},
    "http.protocols": {"http", "inference", "telemetry"},
    "main": {"settings", "http", "http.protocols", "registry", "inference", "telemetry", "runtime"},
    "cli": {"main", "settings", "http", "registry", "inference", "telemetry", "runtime", "client"},
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
#: What both may use of everywhere: the errors, and the version and such in the package itself.
EVERYBODYS = {"errors", ""}
#: What the model builder may use of the service.
SHARED = {"inference", "runtime", "errors", "client", ""}
HEAVY = {"tensorflow", "keras", "tf2onnx", "onnx", "model_build", "h5py", "scipy", "skimage", "matplotlib"}
HTTP = {"fastapi", "starlette", "uvicorn", "pydantic", "pydantic_settings", "prometheus_client", "httptools", "httpx"}


def modules(package: str) -> dict[str, Path]:
    """The modules of a package by their dotted names, without the package's own name."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT / package).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def room(module: str, rooms: dict[str, set[str]]) -> str:
    """The room that a module stands in; "" for the package's own two files."""
    if module in {"", "__main__"}:
        return ""
    fitting = [name for name in rooms if module == name or module.startswith(f"{name}.")]
    assert fitting, f"{module} stands in no room"
    return max(fitting, key=len)


def imports(path: Path) -> set[str]:
    """Everything that a file imports, wherever in it, by absolute dotted names."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*start, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def inside(package: str, path: Path) -> set[str]:
    """The modules of ``package`` that a file imports, without the package's name."""
    known, found = modules(package), set()
    for name in imports(path):
        if name != package and not name.startswith(f"{package}."):
            continue
        rest = name.removeprefix(package).removeprefix(".")
        # The last part may be something in a module.
        found.add(rest if rest in known else rest.rpartition(".")[0])
    return found


def arrows(package: str, rooms: dict[str, set[str]]) -> dict[str, set[str]]:
    """The rooms that the code of each room really imports."""
    found: dict[str, set[str]] = {name: set() for name in rooms}
    for module, path in modules(package).items():
        if here := room(module, rooms):
            found[here] |= {room(other, rooms) for other in inside(package, path)} - {here} - EVERYBODYS
    return found


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


def test_the_top_is_small():
    names = {path.name for path in (ROOT / "app").iterdir()} - {"__init__.py", "__main__.py", "__pycache__"}
    assert len(names) <= 10, names


def test_the_service_never_needs_the_builder():
    for module, path in modules("app").items():
        assert not packages(path) & HEAVY, module


def test_only_the_command_line_needs_the_client():
    for module, path in modules("app").items():
        if room(module, ROOMS) not in {"cli", "client"}:
            assert not packages(path) & {"httpx", "rich"}, module
    assert inside("app", ROOT / "app/client.py") == set()
    # Serving waits for none of it.
    assert "cli.commands" not in inside("app", ROOT / "app/cli/serve.py")


@pytest.mark.parametrize("name", ["errors", "inference", "registry", "runtime"])
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
    assert sorted(readers) == ["", "cli", "registry.trial", "settings"]
    assert re.findall(r"_PASSED_ON: Final = (.*)", (ROOT / "app/registry/trial.py").read_text()) == [
        '("LD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT")'
    ]
    writers = (ROOT / "app/cli/__init__.py").read_text() + (ROOT / "app/__init__.py").read_text()
    assert re.findall(r"environ.*", writers) == [
        'environ["OPENBLAS_NUM_THREADS"] = "1"',
        'environ["ORT_DISABLE_TELEMETRY"] = "1"',
    ]
