"""docs/clients/: its addresses exist, its Python runs, what it gives Home Assistant and Node-RED has their form."""

import json
import re
import shlex
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


def test_the_home_assistant_configuration(box, folder):
    """The command is run as it stands; the templates are read by nobody but Home Assistant."""
    (text,) = blocks("yaml")
    document = yaml.safe_load(text)
    assert set(document) == {"homeassistant", "command_line", "binary_sensor", "automation"}
    (allowed,) = document["homeassistant"]["allowlist_external_dirs"]
    sensor = document["command_line"][0]["sensor"]
    (automation,) = document["automation"]
    snapshot, update = automation["actions"]
    assert snapshot["action"] == "camera.snapshot"
    path = snapshot["data"]["filename"]
    assert path.startswith(f"{allowed}/")
    assert update["action"] == "homeassistant.update_entity"
    assert update["data"]["entity_id"] == [f"sensor.{sensor['name'].lower().replace(' ', '_')}"]
    command = sensor["command"].replace(path, "photo.jpg")
    command = command.replace("edge-classifier.local:8000", f"localhost:{box.base_url.port}")
    answer = json.loads(subprocess.run(shlex.split(command), cwd=folder, capture_output=True, check=True).stdout)
    assert {"predictions", "unknown", "model"} <= set(answer)
    assert {"predictions", "model"} <= set(sensor["json_attributes"])
    (ready,) = document["binary_sensor"]
    assert ready["platform"] == "rest"
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
    (switch,) = (node for node in FLOW if node["type"] == "switch")
    assert switch["outputs"] == len(switch["wires"]) == len(switch["rules"]) == 2
