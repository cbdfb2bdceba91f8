"""Every operation of the OpenAPI document, with requests that it allows, over a real socket.

All of it is taken from the document, so a new route is covered as soon as it is described.
"""

import copy
from tempfile import mkdtemp

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.openapi.checks import UndefinedStatusCode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.http.protocols import custom_vision, edge_impulse
from app.main import create_app
from app.settings import Settings
from tests.conftest import serving
from tests.photos import encode, solid

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def operations(document):
    return [found.ok() for found in schemathesis.openapi.from_dict(document).get_all_operations()]


OPERATIONS = operations(create_app(Settings()).openapi())
#: Where photos are taught; a folder of their own, because an application that teaches makes it.
TEACHING = [o for o in operations(create_app(Settings(teach=mkdtemp())).openapi()) if o.path.startswith("/teach")]
MODES = [
    pytest.param(operation, mode, id=f"{operation.label} {mode.value}")
    for operation in OPERATIONS
    for mode in GenerationMode
    # Where nothing is sent but a path, which may be any text, nothing can be wrong with it.
    if mode is GenerationMode.POSITIVE
    or "requestBody" in operation.definition.raw
    or any(given["in"] != "path" for given in operation.definition.raw.get("parameters", []))
]


def ask(client, operation, mode, examples=60) -> None:
    @given(operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def once(case):
        case.call_and_validate(base_url=str(client.base_url), checks=CHECKS)

    once()


@pytest.mark.parametrize(("operation", "mode"), MODES)
def test_what_is_answered_is_what_is_documented(client, operation, mode):
    """Requests that follow the document, and requests that break it."""
    ask(client, operation, mode)


@pytest.fixture(scope="module")
def teaching(tiny, tmp_path_factory):
    """Two classes with a photo each; too few to train with."""
    with serving(tiny, max_body_bytes=1_000_000, teach=tmp_path_factory.mktemp("teach")) as client:
        for label, colour in (("red", (250, 9, 9)), ("blue", (9, 9, 250))):
            client.post("/teach/classes", json={"label": label}).raise_for_status()
            photo = encode(solid(colour), "PNG")
            client.post(f"/teach/photos?label={label}", content=photo).raise_for_status()
        yield client


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation", TEACHING, ids=lambda operation: operation.label)
def test_teaching_too(teaching, operation, mode):
    if mode is GenerationMode.NEGATIVE and not (
        "requestBody" in operation.definition.raw or operation.definition.raw.get("parameters")
    ):
        pytest.skip("nothing is sent that could be wrong")
    ask(teaching, operation, mode, examples=25)


@pytest.mark.parametrize(
    ("status", "mode"), [("415", GenerationMode.POSITIVE), ("400", GenerationMode.NEGATIVE)], ids=["415", "400"]
)
def test_what_is_not_documented_is_found(client, status, mode):
    document = copy.deepcopy(create_app(Settings()).openapi())
    del document["paths"]["/predict"]["post"]["responses"][status]
    operation = next(found for found in operations(document) if found.path == "/predict")
    with pytest.raises(FailureGroup) as found:
        ask(client, operation, mode)
    assert found.group_contains(UndefinedStatusCode)


# What ends in ":predict" is a name as well, which GET /v1/models/{name} looks for.
@pytest.mark.parametrize(
    "operation", [o for o in OPERATIONS if ":predict" not in o.path], ids=lambda operation: operation.label
)
def test_other_methods_are_refused(client, operation):
    """With the ones that are right."""
    known = {found.method.upper() for found in OPERATIONS if found.path == operation.path}
    for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"} - known:
        response = client.request(method, operation.path)
        assert response.status_code == 405, method
        assert set(response.headers["allow"].split(", ")) == known
        problem = not (
            operation.path.startswith(("/v1", "/v2"))
            or any(one.ERROR_FORMAT.speaks(operation.path) for one in (custom_vision, edge_impulse))
        )
        assert (response.headers["content-type"] == "application/problem+json") == problem
