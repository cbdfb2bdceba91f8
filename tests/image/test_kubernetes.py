"""The rendered Deployment, really run: podman plays it."""

import subprocess

import httpx
import pytest
import yaml

from tests.conftest import ROOT
from tests.image.conftest import look_from_inside, wait_until_ready
from tests.manifests.tools import tool
from tests.photos import encode, solid


def test_the_deployment_runs(engine, tmp_path):
    """With its settings, limits and security context; its probes answer (podman does not ask named ports itself)."""
    if not engine.is_podman:
        pytest.skip("docker plays no manifests")
    kustomize = [tool("kubectl"), "kustomize", str(ROOT / "k8s/overlays/cloud")]
    rendered = list(yaml.safe_load_all(subprocess.check_output(kustomize, text=True)))
    played = [document for document in rendered if document["kind"] in ("Deployment", "ConfigMap")]
    (deployment,) = [document for document in played if document["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert engine.image.endswith(container["image"])
    path = tmp_path / "play.yaml"
    path.write_text(yaml.safe_dump_all(played))
    engine("kube", "play", "--log-driver", "k8s-file", str(path))
    try:
        name = "edge-classifier-pod-0-edge-classifier"
        with httpx.Client(base_url="http://127.0.0.1:8000", timeout=60) as client:
            wait_until_ready(client)
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert client.get(container[probe]["httpGet"]["path"]).status_code == 200
            assert client.post("/predict", content=encode(solid((9, 200, 9)), "JPEG")).status_code == 200
            workers = client.get("/health").json()["cpus"]["workers"]
        limits = container["resources"]["limits"]
        assert look_from_inside(engine, name) == {
            "uid": "10001",
            "capabilities": 0,
            "no_new_privileges": "1",
            "root": "ro",
            "memory": int(limits["memory"].removesuffix("Gi")) * 2**30,
        }
        host = engine.inspect(name)["HostConfig"]
        assert host["NanoCpus"] == int(limits["cpu"]) * 10**9
        assert workers <= int(limits["cpu"])
    finally:
        engine("kube", "down", str(path), check=False)
