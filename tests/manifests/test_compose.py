"""compose.yaml: what it mounts exists, and what it runs is held in."""

import re

import pytest
import yaml

from app import __version__
from app.cameras.config import load
from app.cli.commands import parse_args
from app.settings import Settings
from tests.conftest import ROOT
from tests.manifests.memory import needed_bytes

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_held_in(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\d+m", service["mem_limit"])
    assert not {"privileged", "network_mode", "pid", "ipc", "cap_add"} & set(service)
    for mount in service.get("volumes", ()):
        source, _, mode = mount.split(":") if mount.count(":") == 2 else (*mount.split(":"), "rw")
        if source.startswith("."):
            assert (ROOT / source).is_file(), source
            assert mode == "ro"
        else:
            assert source in COMPOSE["volumes"]


def test_the_service_fits():
    service, settings = SERVICES["classifier"], Settings()
    assert service["image"] == f"edge-classifier:{__version__}"
    assert service["ports"] == [f"{settings.port}:{settings.port}"]
    assert int(service["mem_limit"].rstrip("m")) * 2**20 >= needed_bytes(12)
    longest = settings.drain_seconds + settings.body_timeout_seconds + settings.queue_budget_ms / 1e3
    assert int(service["stop_grace_period"].rstrip("s")) > longest


def test_the_cameras_are_asked_for_by_name_and_their_file_is_right():
    service = SERVICES["cameras"]
    assert service["profiles"] == ["cameras"]
    assert service["image"] == f"edge-classifier-cameras:{__version__}"
    (source, target, _), *_ = (mount.split(":") for mount in service["volumes"])
    assert str(parse_args(service["command"]).file) == target
    found = load(ROOT / source)
    assert found.service.url == f"http://classifier:{Settings().port}"
    assert f"127.0.0.1:{found.metrics.port}/health/live" in str(service["healthcheck"]["test"])


def test_the_parts_know_each_other():
    folder = ROOT / "monitoring/compose"
    scrape = yaml.safe_load((folder / "prometheus.yml").read_text())
    job, cameras = scrape["scrape_configs"]
    assert job["job_name"] == "edge-classifier"
    assert job["static_configs"] == [{"targets": [f"classifier:{Settings().port}"]}]
    assert cameras["job_name"] == "edge-classifier-cameras"
    watching = load(ROOT / "docker/cameras.yaml").metrics
    assert (watching.host, cameras["dns_sd_configs"]) == (
        "0.0.0.0",
        [{"names": ["cameras"], "type": "A", "port": watching.port}],
    )
    assert "cameras" in SERVICES
    mounted = [volume.split(":")[1] for service in SERVICES.values() for volume in service.get("volumes", ())]
    assert {f"/etc/prometheus/{name}" for name in ("prometheus.yml", *scrape["rule_files"])} <= set(mounted)
    (source,) = yaml.safe_load((folder / "datasource.yml").read_text())["datasources"]
    host, port = source["url"].removeprefix("http://").split(":")
    assert SERVICES[host]["ports"] == [f"127.0.0.1:{port}:{port}"]
    (provider,) = yaml.safe_load((folder / "dashboards.yml").read_text())["providers"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home in mounted
    assert home.startswith(provider["options"]["path"] + "/")
