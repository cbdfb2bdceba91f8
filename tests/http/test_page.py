"""How the two pages are served; ``tests/e2e`` is about what they do."""

import base64
import re
from hashlib import sha256

import pytest

from app.http.routes import page, teach
from app.http.schemas.common import TINY_PNG
from app.registry.source import BUNDLED
from tests.conftest import ROOT, assert_problem, serving

FOLDER = ROOT / "app/http/page"
SWAGGER = FOLDER / "swagger"
OURS = [path for path in FOLDER.iterdir() if path.is_file()]
#: Of the page on which classes are taught.
TEACH = [*(FOLDER / "teach").iterdir()]
PATHS = ["/", "/docs", *(f"/page/{name}" for name in sorted(page.ASSETS))]


@pytest.mark.parametrize("path", PATHS)
def test_files_are_served_once_and_then_known(client, path):
    first = client.get(path)
    assert first.status_code == 200
    assert first.headers["cache-control"] == "no-cache"
    assert first.headers["content-security-policy"].startswith(
        "default-src 'none'; script-src 'self'; style-src 'self'"
    )
    assert ("unsafe" in first.headers["content-security-policy"]) == (path == "/docs")
    again = client.get(path, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert client.get(path, headers={"if-none-match": '"other"'}).status_code == 200
    head = client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(first.content))


def test_nothing_else_is_served(client):
    for name in ("index.html", "docs.html", "swagger/README.md", "../settings.py", "%2e%2e/settings.py", ""):
        assert_problem(client.get(f"/page/{name}"), 404, "not-found")
    assert_problem(client.post("/"), 405, "method-not-allowed")


def test_it_can_be_switched_off(tiny):
    with serving(tiny, ui="off") as client:
        for path in PATHS:
            assert_problem(client.get(path), 404, "not-found")


def test_every_file_of_ours_is_served():
    assert {path.name for path in OURS} == {name for name in page.ASSETS if "/" not in name} | {
        "index.html",
        "docs.html",
    }
    assert {path.name for path in TEACH} == teach.ASSETS | {"teach.html"}


def test_our_files_name_no_other_host():
    for path in OURS + TEACH:
        assert set(re.findall(r"https?://[^\"'\s]+", path.read_text())) <= {"http://www.w3.org/2000/svg"}, path


def test_text_never_becomes_html():
    for path in OURS + TEACH:
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", path.read_text()), path


def test_swagger_ui_is_what_its_note_says():
    stated = re.findall(r"^([0-9a-f]{64})  (\S+)$", (SWAGGER / "README.md").read_text(), re.MULTILINE)
    assert {name for _, name in stated} == {path.name for path in SWAGGER.iterdir()} - {"README.md"}
    for digest, name in stated:
        assert sha256((SWAGGER / name).read_bytes()).hexdigest() == digest, name


def test_every_documented_request_can_be_sent():
    """As the documentation page would: its examples, and a small photo where a form or a raw body is asked for."""
    (model,) = BUNDLED.glob("*.onnx")
    with serving(model) as client:
        assert sent_examples(client) >= 12


def sent_examples(client) -> int:
    document, sent = client.get("/openapi.json").json(), 0
    # An example names some model; this service serves this one.
    here = client.get("/health").json()["model"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            url = path.format(project="bins", **here)
            good = {int(status) for status in operation["responses"] if status.startswith("2")}
            bodies = []
            for form, said in operation.get("requestBody", {}).get("content", {}).items():
                if form == "multipart/form-data":
                    # The photo's field comes first.
                    bodies.append({"files": [(next(iter(said["schema"]["properties"])), base64.b64decode(TINY_PNG))]})
                elif path.endswith("/infer") and form != "application/json":
                    # Tensors behind a JSON head: no example in words; test_open_inference sends them.
                    continue
                elif said.get("schema", {}).get("format") == "binary":
                    bodies.append(
                        {"content": base64.b64decode(TINY_PNG), "headers": {"content-type": form.replace("*", "png")}}
                    )
                else:
                    examples = [said["example"]] if "example" in said else []
                    examples += [example["value"] for example in said.get("examples", {}).values()]
                    examples += said.get("schema", {}).get("examples", [])
                    assert examples, f"{method} {path} has no example of {form}"
                    bodies += [{"json": example} for example in examples]
            if path.startswith("/admin/") or not good:
                # This service has no API keys, and says so; test_swap sends them with one. And some routes are there
                # only to say that what their clients want is not offered.
                good = {403}
            needed = [p for p in operation.get("parameters", []) if p["in"] == "query" and p.get("required")]
            query = {parameter["name"]: parameter["schema"]["examples"][0] for parameter in needed}
            for body in bodies or [{}]:
                response = client.request(method, url, params=query, **body)
                assert response.status_code in good, (method, url, body, response.text)
                sent += 1
    return sent
