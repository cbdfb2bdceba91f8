"""What the code uses of other packages that these do not promise to keep: all of it is named here, and is as expected.

Where one of these tests fails after an upgrade, look at what the name does now, and at the code that uses it.
"""

import ast
import functools
import importlib
import inspect
import logging
import pkgutil
import re
import textwrap
import tomllib

import onnxruntime
import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image, ImageFile, _imaging
from uvicorn.config import Config
from uvicorn.lifespan.on import LifespanOn
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server, ServerState

import app
from app.http import server
from tests.conftest import ROOT

#: By class, the members that are used or overridden: for a method what it takes, for an attribute None.
USED = {
    HttpToolsProtocol: {
        "_start_asgi_task": "(self, cycle, app)",
        "_unset_keepalive_if_required": "(self)",
        "client": None,
        "connection_lost": "(self, exc)",
        "connection_made": "(self, transport)",
        "connections": None,
        "cycle": None,
        "data_received": "(self, data)",
        "flow": None,
        "headers": None,
        "loop": None,
        "on_body": "(self, body)",
        "on_header": "(self, name, value)",
        "on_headers_complete": "(self)",
        "on_message_begin": "(self)",
        "on_message_complete": "(self)",
        "on_response_complete": "(self)",
        "on_url": "(self, url)",
        "parser": None,
        "pause_writing": "(self)",
        "pipeline": None,
        "resume_writing": "(self)",
        "server_state": None,
        "shutdown": "(self)",
        "tasks": None,
        "timeout_keep_alive": None,
        "timeout_keep_alive_handler": "(self)",
        "timeout_keep_alive_task": None,
        "transport": None,
        "url": None,
    },
    RequestResponseCycle: {
        "body": None,
        "default_headers": None,
        "disconnected": None,
        "keep_alive": None,
        "more_body": None,
        "response_complete": None,
        "response_started": None,
        "run_asgi": "async (self, app)",
        "scope": None,
        "transport": None,
        "waiting_for_100_continue": None,
    },
    FlowControl: {"pause_reading": "(self)", "resume_reading": "(self)"},
    Config: {"backlog": None},
    LifespanOn: {"should_exit": None, "startup": "async (self)", "state": None},
    Server: {
        "capture_signals": "(self)",
        "config": None,
        "lifespan": None,
        "main_loop": "async (self)",
        "server_state": None,
        "servers": None,
        "started": None,
        "startup": "async (self, sockets=None)",
    },
    ServerState: {"connections": None, "default_headers": None},
    FastAPI: {"build_middleware_stack": "(self)", "middleware_stack": None},
    ImageFile.ImageFile: {"decodermaxblock": None, "tile": None},
    Image.Image: {"im": None},
}
#: Our classes, and those of others that they extend.
EXTENDED = {
    server.Protocol: HttpToolsProtocol,
    server.Server: Server,
    server.State: ServerState,
}
#: What our classes call objects of others' classes.
CALLED = {
    "cycle": RequestResponseCycle,
    "_running": RequestResponseCycle,
    "flow": FlowControl,
    "config": Config,
    "lifespan": LifespanOn,
    "server_state": ServerState,
}
#: What is imported from modules of uvicorn, which documents its top only, and from modules with an underscore.
IMPORTED = {
    "PIL._imaging",
    "uvicorn.config.STARTUP_FAILURE",
    "uvicorn.middleware.proxy_headers.ProxyHeadersMiddleware",
    "uvicorn.protocols.http.flow_control.HIGH_WATER_LIMIT",
    "uvicorn.protocols.http.httptools_impl.STATUS_LINE",
    "uvicorn.protocols.http.httptools_impl.HttpToolsProtocol",
    "uvicorn.protocols.http.httptools_impl.RequestResponseCycle",
    "uvicorn.server.ServerState",
}
#: Others' names that begin with an underscore, beside those above. The first is ONNX Runtime's,
#: the second what Keras keeps quantized weights in; the others are documented by Python.
UNDERSCORED = {"_model_bytes", "_kernel", "_exit", "_srcfile"}

SOURCES = [path for package in ("app", "model_build") for path in sorted((ROOT / package).rglob("*.py"))]
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in SOURCES}


def attributes(tree: ast.AST, *of: str) -> set[str]:
    """The names after a dot, or only those of objects that are called so."""
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return {node.attr for node in found if not of or last_name(node.value) in of}


def last_name(node: ast.expr) -> str:
    """What an expression calls an object."""
    return re.sub(r"\(\)$", "", ast.unparse(node)).rpartition(".")[2]


def defined(scope: ast.ClassDef | ast.Module) -> set[str]:
    """What a class or module defines, and what a class assigns to its objects."""
    found = {node.name for node in scope.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    for node in scope.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    stored = (node for node in ast.walk(scope) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    return found | {node.attr for node in stored if last_name(node.value) == "self"}


def tree_of(cls: type) -> ast.ClassDef:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    return tree


@functools.cache
def members(cls: type) -> set[str]:
    """The methods and attributes of a class, with those of the classes that it extends, but without Python's own."""
    found: set[str] = set()
    for each in cls.__mro__:
        found |= vars(each).keys()
        try:
            stored = (node for node in ast.walk(tree_of(each)) if isinstance(node, ast.Attribute))
            found |= {node.attr for node in stored if last_name(node.value) == "self"}
        except (TypeError, OSError):
            # It is written in C.
            continue
    return {name for name in found if not name.startswith("__")}


def takes(function: object) -> str:
    """What a function takes, without types."""
    signature = inspect.signature(function)
    parameters = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    told = str(signature.replace(parameters=parameters, return_annotation=signature.empty))
    return f"async {told}" if inspect.iscoroutinefunction(function) else told


@pytest.mark.parametrize(
    ("owner", "name", "taken"), [(owner, name, taken) for owner, names in USED.items() for name, taken in names.items()]
)
def test_it_is_there_and_takes_what_is_expected(owner, name, taken):
    assert name in members(owner)
    member = getattr(owner, name, None)
    assert (takes(member) if callable(member) else None) == taken


@pytest.mark.parametrize(("ours", "theirs"), EXTENDED.items())
def test_what_overrides_it_takes_the_same(ours, theirs):
    for name, taken in USED[theirs].items():
        if taken is not None:
            assert takes(getattr(ours, name)) == taken


def test_no_other_is_used_of_these_classes():
    used = {owner: set() for owner in USED}
    for ours, theirs in EXTENDED.items():
        tree = tree_of(ours)
        used[theirs] |= (attributes(tree, "self", "super") | defined(tree)) & members(theirs)
        for called, owner in CALLED.items():
            used[owner] |= attributes(tree, called) & members(owner)
    everywhere = set().union(*map(attributes, TREES.values()))
    for owner in (FastAPI, Image.Image, ImageFile.ImageFile):
        used[owner] = USED[owner].keys() & everywhere
    assert used == {owner: set(names) for owner, names in USED.items()}


def test_no_other_is_used_of_uvicorn_s_objects_whatever_they_are_called():
    theirs = set().union(*(members(owner) for owner in USED if owner.__module__.startswith("uvicorn")))
    named = set().union(*(USED[owner] for owner in USED if owner.__module__.startswith("uvicorn")))
    assert attributes(TREES["app/http/server.py"]) & theirs - named == set()


def test_no_other_is_imported():
    imported = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and not node.level:
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
    private = {name for name in imported if name.startswith("uvicorn.") or re.search(r"(^|\.)_[^_]", name)}
    assert private == IMPORTED


def test_what_is_imported_is_as_expected():
    assert takes(ProxyHeadersMiddleware) == "(app, trusted_hosts='127.0.0.1')"
    assert STATUS_LINE[503] == b"HTTP/1.1 503 Service Unavailable\r\n"
    decoder = _imaging.jpeg_decoder("RGB", "RGB", "", 2, 0)
    picture = Image.new("RGB", (2, 1), None)
    decoder.setimage(picture.im, (0, 0, 2, 1))
    # Of nothing it takes nothing, and asks for more.
    assert decoder.decode(b"") == (0, 0)


def test_no_other_name_begins_with_an_underscore():
    ours = set()
    for tree in TREES.values():
        ours |= set().union(*(defined(node) for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.Module)))
    used = {name for tree in TREES.values() for name in attributes(tree) if re.match("_[^_]", name)}
    assert used - ours == UNDERSCORED | {"_unset_keepalive_if_required"}


def test_no_other_is_overridden():
    """Also not by accident."""
    for module in pkgutil.walk_packages(app.__path__, "app."):
        if module.name.endswith("__main__"):
            continue
        for ours in vars(importlib.import_module(module.name)).values():
            if not inspect.isclass(ours) or ours.__module__ != module.name:
                continue
            theirs = [base for base in ours.__mro__ if not base.__module__.startswith("app.")]
            private = {name for base in theirs for name in members(base) if name.startswith("_")}
            named = USED.get(EXTENDED.get(ours), {})
            assert defined(tree_of(ours)) & private - named.keys() == set(), ours


def test_a_session_s_bytes_are_where_they_are_taken_from(tiny):
    data = tiny.read_bytes()
    assert onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])._model_bytes is data


def test_python_s_are_there():
    assert hasattr(logging, "_srcfile")


def test_no_release_of_uvicorn_is_installed_that_nobody_has_looked_at():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (bounds,) = (line for line in project["dependencies"] if line.startswith("uvicorn"))
    installed = re.match(r"(\d+)\.(\d+)\.", uvicorn.__version__)
    major, minor = int(installed[1]), int(installed[2])
    assert bounds == f"uvicorn>={major}.{minor},<{major}.{minor + 1}"
