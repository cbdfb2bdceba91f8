"""docs/clients/: its addresses exist, its Python runs, what it gives Home Assistant and Node-RED has their form."""

import json
import re
import subprocess

import pytest
import yaml

from app.main import create_app
from app.settings import Settings
from tests.conftest import ROOT
from tests.photos import encode, quarters

GUIDE = "\n".join(path.read_text() for path in sorted((ROOT / "docs/clients").glob("*.md")))
FLOW = json.loads((ROOT / "docs/clients/node-red-flow.json").read_text())


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture(scope="module")
def is_route():
    """Whether a path is one of the service's."""
    patterns = [re.sub(r"\{\w+\}", "[^/]+", path) for path in create_app(Settings()).openapi()["paths"]]
    return lambda path: any(re.fullmatch(pattern, path) for pattern in patterns)


@pytest.fixture
def folder(tmp_path):
    """A folder with the photo that the examples read."""
    (tmp_path / "photo.jpg").write_bytes(encode(quarters(), "JPEG"))
    return tmp_path


def test_every_address_exists(is_route):
    found = set(re.findall(r"(?:localhost|edge-classifier\.local):8000(/[\w/:.]+)", GUIDE + json.dumps(FLOW)))
    found |= set(re.findall(r"`(?:GET |POST )?(/[\w/:.]+)`", GUIDE))
    assert len(found) > 5
    assert [path for path in found if not is_route(path)] == []


def test_the_curl_examples_answer(box, folder):
    script = "\n".join(blocks("sh"))
    script = script.replace("localhost:8000", f"localhost:{box.base_url.port}").replace(
        "curl ", "curl -sS --fail-with-body "
    )
    commands = re.split(r"\n(?=curl|echo)", script.strip())
    assert len(commands) == 9
    for command in commands:
        shell = ["bash", "-c", f"set -o pipefail; {command}"]
        ran = subprocess.run(shell, check=False, cwd=folder, capture_output=True, text=True)
        assert ran.returncode == 0, (command, ran.stdout, ran.stderr)
        assert set(json.loads(ran.stdout)) & {"predictions", "label", "outputs", "result"}


@pytest.mark.parametrize("name", ["tritonclient", "httpx"])
def test_the_python_examples_run(box, folder, monkeypatch, capsys, name):
    (code,) = [block for block in blocks("python") if f"import {name}" in block]
    monkeypatch.chdir(folder)
    exec(compile(code.replace("localhost:8000", f"localhost:{box.base_url.port}"), name, "exec"), {})
    assert capsys.readouterr().out


@pytest.mark.parametrize("number", [0, 1])
def test_the_home_assistant_configuration(box, folder, number):
    """The command that asks is run as it stands; ``make recipes`` starts Home Assistant with all of it."""
    document = yaml.safe_load(blocks("yaml")[number])
    (command,) = document["shell_command"].values()
    asks = command.partition("&& ")[2] or command
    for file in ("/tmp/front_door.jpg", "/config/snapshots/front_door.jpg"):
        asks = asks.replace(file, "photo.jpg")
    asks = asks.replace("edge-classifier.local:8000", f"localhost:{box.base_url.port}")
    ran = subprocess.run(["sh", "-c", asks], check=True, cwd=folder, capture_output=True, text=True)
    assert {"predictions", "unknown"} <= set(json.loads(ran.stdout))
    gone = subprocess.run(["sh", "-c", asks.replace("photo.jpg", "absent.jpg")], check=False, cwd=folder)
    assert gone.returncode != 0
    (template,) = document["template"]
    (name,) = document["shell_command"]
    assert template["actions"][-1] == {"action": f"shell_command.{name}", "response_variable": "answer"}
    (sensor,) = template["sensor"]
    assert sensor["availability"] == "{{ answer.returncode == 0 }}"
    if number:
        (allowed,) = document["homeassistant"]["allowlist_external_dirs"]
        assert template["actions"][0]["data"]["filename"].startswith(f"{allowed}/")
        # The picture that was looked at is gone.
        assert not (folder / "photo.jpg").exists()
    else:
        (ready,) = document["binary_sensor"]
        assert box.get(ready["resource"].partition(":8000")[2]).json()["status"] == "ready"


def test_the_node_red_flow():
    """One tab whose nodes are all wired to each other, of kinds that Node-RED brings."""
    nodes = {node["id"]: node for node in FLOW}
    assert len(nodes) == len(FLOW)
    assert {node["type"] for node in FLOW} == {"tab", "inject", "http request", "switch", "change", "debug"}
    (tab,) = (node["id"] for node in FLOW if node["type"] == "tab")
    inside = [node for node in FLOW if node["type"] != "tab"]
    assert {node["z"] for node in inside} == {tab}
    targets = {target for node in inside for output in node["wires"] for target in output}
    assert targets == {node["id"] for node in inside if node["type"] != "inject"}
    snapshot, classify = (node for node in FLOW if node["type"] == "http request")
    assert (snapshot["method"], snapshot["ret"]) == ("GET", "bin")
    assert (classify["method"], classify["ret"]) == ("POST", "obj")
    assert classify["headers"][0]["valueValue"] == "application/octet-stream"
    for switch in (node for node in FLOW if node["type"] == "switch"):
        assert switch["outputs"] == len(switch["wires"]) == len(switch["rules"]) == 2
        assert switch["property"] == "statusCode"
