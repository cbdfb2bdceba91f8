"""Home Assistant and Node-RED, each with what docs/clients has for it; nothing of that is changed but addresses."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import httpx

from tests.conftest import ROOT, wait_until
from tests.processes import free_port

#: Where .ci/recipes has put the programs.
TOOLS = Path(os.environ["RECIPES"])


class Program:
    """A program that runs until the end of the block; what it says goes into a file."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.output = folder / "output"
        self._process: subprocess.Popen | None = None

    def run(self, *command: str | Path) -> None:
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def look(self) -> None:
        raise NotImplementedError

    def label(self) -> str:
        raise NotImplementedError

    def shows(self, label: str) -> None:
        """Looks, and waits for this label instead of another one."""
        before = self.label()
        assert before != label, "it would not be seen to change"
        self.look()
        wait_until(lambda: self.label() != before, 60)
        assert self.label() == label

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        if self._process:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(30)


class NodeRed(Program):
    """Node-RED with the flow."""

    def __init__(self, folder: Path, camera: int, service: int) -> None:
        super().__init__(folder)
        flow = (ROOT / "docs/clients/node-red-flow.json").read_text()
        for address, port in (("camera.local", camera), ("localhost:8000", service)):
            assert address in flow
            flow = flow.replace(address, f"127.0.0.1:{port}")
        (self._tick,) = re.findall(r'"id": "(\w+)", "type": "inject"', flow)
        (folder / "flows.json").write_text(flow)
        (folder / "settings.js").write_text(
            f'module.exports = {{uiPort: {self.port}, uiHost: "127.0.0.1", flowFile: "flows.json"}}\n'
        )
        program = TOOLS / "node-red/node_modules/node-red/red.js"
        self.run("node", program, "-u", folder, "-s", folder / "settings.js")
        wait_until(lambda: "Started flows" in self.said(), 120)

    def look(self) -> None:
        """Has the camera looked at, without waiting for the minute to end."""
        httpx.post(f"http://127.0.0.1:{self.port}/inject/{self._tick}").raise_for_status()

    def label(self) -> str:
        """What the last node shows."""
        labels = re.findall(r"\[debug:label\] *\n\{\s*label: '([^']*)'", self.said())
        return labels[-1] if labels else ""


class HomeAssistant(Program):
    """Home Assistant with the configuration."""

    def __init__(self, folder: Path, camera: int, service: int, block: int = 0) -> None:
        super().__init__(folder)
        page = (ROOT / "docs/clients/home-assistant.md").read_text()
        given = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[block]
        assert "edge-classifier.local:8000" in given
        for address, port in (("camera.local", camera), ("edge-classifier.local:8000", service)):
            given = given.replace(address, f"127.0.0.1:{port}")
        system = TOOLS / "debian"
        config = system / "config"
        shutil.rmtree(config, ignore_errors=True)
        (config / "snapshots").mkdir(parents=True)
        # What a default configuration has too, as far as it is needed here.
        own = f"http:\n  server_host: 127.0.0.1\n  server_port: {self.port}\napi:\nconfig:\nonboarding:\n"
        (config / "configuration.yaml").write_text(own + given)
        self.run("chroot", system, "/venv/bin/hass", "-c", "/config")
        url = f"http://127.0.0.1:{self.port}"
        self._client = httpx.Client(base_url=url, timeout=60)
        wait_until(lambda: self._answers("/api/onboarding"), 180)
        user = {"client_id": f"{url}/", "name": "t", "username": "t", "password": "a-password", "language": "en"}
        code = self._client.post("/api/onboarding/users", json=user).raise_for_status().json()["auth_code"]
        asked = {"grant_type": "authorization_code", "code": code, "client_id": f"{url}/"}
        token = self._client.post("/auth/token", data=asked).raise_for_status().json()["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"
        wait_until(lambda: self._client.get("/api/config").json()["state"] == "RUNNING", 180)

    def __exit__(self, *error) -> None:
        self._client.close()
        super().__exit__(*error)

    def look(self) -> None:
        """Has the camera looked at, because somebody moves."""
        for state in ("off", "on"):
            motion = "/api/states/binary_sensor.front_door_motion"
            self._client.post(motion, json={"state": state}).raise_for_status()

    def label(self) -> str:
        """What the sensor shows."""
        return self.state("sensor.front_door_shows")

    def state(self, entity: str) -> str:
        """What an entity says."""
        found = self._client.get(f"/api/states/{entity}")
        return found.json()["state"] if found.status_code == 200 else "missing"

    def update(self, entity: str) -> str:
        """What an entity says once it has looked again."""
        service = "/api/services/homeassistant/update_entity"
        self._client.post(service, json={"entity_id": entity}).raise_for_status()
        return self.state(entity)

    def add_camera(self, port: int) -> None:
        """Adds ``camera.front_door`` as a person does, by its form."""
        forms = "/api/config/config_entries/flow"
        form = self._client.post(forms, json={"handler": "mjpeg"}).raise_for_status().json()
        address = f"http://127.0.0.1:{port}/snapshot.jpg"
        filled = {"name": "Front door", "mjpeg_url": address, "still_image_url": address, "verify_ssl": False}
        done = self._client.post(f"{forms}/{form['flow_id']}", json=filled).raise_for_status().json()
        assert done["type"] == "create_entry", done
        wait_until(lambda: self.state("camera.front_door") not in ("missing", "unavailable"), 60)

    def _answers(self, path: str) -> bool:
        try:
            return self._client.get(path).status_code == 200
        except httpx.HTTPError:
            time.sleep(0.5)
            return False
