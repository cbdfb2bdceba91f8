"""What kustomize renders: valid, and fit for the service as it is."""

import os
import re
import subprocess

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions

from app import __version__
from app.cli.commands import parse_args
from app.main import create_app
from app.settings import Settings
from tests.conftest import ROOT
from tests.manifests.memory import needed_bytes
from tests.manifests.tools import tool

K8S = ROOT / "k8s"
COMPONENTS = {
    "api-keys": K8S / "components/api-keys",
    "cameras": K8S / "components/cameras",
    "scale-on-queue": K8S / "components/scale-on-queue",
    "monitoring": ROOT / "monitoring",
}
#: The three newest minor versions that the validator ships.
NEWEST = list(dict.fromkeys(all_versions()))[-3:]
#: The ones that only a cluster with their operator knows.
CUSTOM = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "InferenceService"}


def render(folder, tmp_path, components=()) -> list[dict]:
    """The documents of an overlay, with components, as a site of its own would render them."""
    site = tmp_path / "site"
    site.mkdir(exist_ok=True)
    relative = [os.path.relpath(path, site.resolve()) for path in (folder, *components)]
    (site / "kustomization.yaml").write_text(yaml.safe_dump({"resources": relative[:1], "components": relative[1:]}))
    return kustomize(site)


def kustomize(folder) -> list[dict]:
    command = [tool("kubectl"), "kustomize", str(folder)]
    rendered = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (rendered.returncode, rendered.stderr) == (0, "")
    return list(yaml.safe_load_all(rendered.stdout))


@pytest.fixture(params=["edge", "cloud"])
def overlay(request, tmp_path):
    return render(K8S / "overlays" / request.param, tmp_path)


def of_kind(documents, *kinds):
    return [document for document in documents if document["kind"] in kinds]


def pod_of(documents) -> dict:
    (workload,) = of_kind(documents, "DaemonSet", "Deployment")
    return workload["spec"]["template"]["spec"]


def variables(pod, documents) -> dict[str, str]:
    """The environment of the pod's container: its ConfigMap, then its own."""
    (container,) = pod["containers"]
    maps = {document["metadata"]["name"]: document["data"] for document in of_kind(documents, "ConfigMap")}
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found |= maps[source["configMapRef"]["name"]]
    return found | {variable["name"]: variable["value"] for variable in container.get("env", ())}


def inference_pod() -> dict:
    """KServe's predictor is a pod with a few more fields."""
    document = yaml.safe_load((K8S / "kserve/inferenceservice.yaml").read_text())
    scaling = ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget")
    return {name: value for name, value in document["spec"]["predictor"].items() if name not in scaling}


def validate(documents):
    for version in NEWEST:
        for document in documents:
            if document["kind"] not in CUSTOM:
                kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("name", ["edge", "cloud"])
@pytest.mark.parametrize("component", [None, *COMPONENTS])
def test_every_document_is_valid(name, component, tmp_path):
    documents = render(K8S / "overlays" / name, tmp_path, [COMPONENTS[component]] if component else [])
    validate(documents)
    assert all(document["metadata"].get("namespace") in (None, "edge-classifier") for document in documents)
    keys = [(document["kind"], document["metadata"]["name"]) for document in documents]
    assert len(keys) == len(set(keys))


def test_the_documented_site_renders(tmp_path):
    """The example in docs/deployment/kubernetes.md, with this checkout in the place of its neighbour."""
    text = (ROOT / "docs/deployment/kubernetes.md").read_text().split("```yaml\n", 1)[1].split("```", 1)[0]
    site = tmp_path / "site"
    site.mkdir()
    text = text.replace("../edge-classifier/", f"{os.path.relpath(ROOT, site.resolve())}/")
    (site / "kustomization.yaml").write_text(text.replace("sha256:...", f"sha256:{'0' * 64}"))
    documents = kustomize(site)
    validate(documents)
    (container,) = pod_of(documents)["containers"]
    assert container["image"] == f"registry.example/edge-classifier@sha256:{'0' * 64}"
    environment = variables(pod_of(documents), documents)
    assert (environment["CLASSIFIER_LOG_LEVEL"], environment["CLASSIFIER_DRAIN_SECONDS"]) == ("warning", "5")


def test_all_components_at_once(tmp_path):
    documents = render(K8S / "overlays/cloud", tmp_path, COMPONENTS.values())
    validate(documents)
    (scaler,) = of_kind(documents, "HorizontalPodAutoscaler")
    assert [metric["type"] for metric in scaler["spec"]["metrics"]] == ["Resource", "Pods"]
    assert len(of_kind(documents, "ServiceMonitor", "PodMonitor", "PrometheusRule")) == 3
    secrets = {volume["secret"]["secretName"] for volume in pod_of(documents)["volumes"] if "secret" in volume}
    assert secrets == {"edge-classifier-api-keys", "edge-classifier-cameras"}


def test_a_misspelt_field_is_found(tmp_path):
    documents = render(K8S / "overlays/edge", tmp_path)
    pod_of(documents)["containers"][0]["securityContext"]["readOnlyRootFileSystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(documents)


def test_kserve_is_a_valid_pod():
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": inference_pod()}
    for version in NEWEST:
        kubernetes_validate.validate(pod, version, strict=True)


def assert_fit(pod: dict, environment: dict[str, str]) -> None:
    """The restricted Pod Security Standard and more; probes, port, limits and settings that the service has."""
    (container,) = pod["containers"]
    # Pod Security Standards, "restricted".
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["runAsGroup"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers", "initContainers"} & set(pod)
    assert all(set(volume) == {"name", "secret"} for volume in pod.get("volumes", ()))
    assert pod["automountServiceAccountToken"] is False
    # The image is this version of the service.
    assert container["image"] == f"edge-classifier:{__version__}"
    assert container["imagePullPolicy"] == "IfNotPresent"
    # What the probes and the port name exists.
    assert container["ports"] == [{"name": "http", "containerPort": Settings().port}]
    routes = create_app(Settings()).openapi()["paths"]
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startup": "/health/startup",
        "readiness": "/health/ready",
        "liveness": "/health/live",
    }
    assert all(probe["path"] in routes and probe["port"] == "http" for probe in probes.values())
    known = {f"CLASSIFIER_{name.upper()}" for name in Settings.model_fields}
    assert set(environment) <= known
    settings = Settings(**{name.removeprefix("CLASSIFIER_").lower(): value for name, value in environment.items()})
    # Nothing that was accepted is killed.
    longest = settings.drain_seconds + settings.body_timeout_seconds + settings.queue_budget_ms / 1e3
    assert pod["terminationGracePeriodSeconds"] > longest
    resources = container["resources"]
    assert set(resources["requests"]) == set(resources["limits"]) == {"cpu", "memory"}
    assert size(resources["limits"]["memory"]) >= needed_bytes(12)


def size(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([MG]i)", quantity).groups()
    return int(number) * {"Mi": 2**20, "Gi": 2**30}[unit]


def test_the_pods_fit_the_service(overlay):
    pod = pod_of(overlay)
    assert_fit(pod, variables(pod, overlay))


def test_kserve_fits_the_service():
    assert_fit(inference_pod(), {})


def test_the_shared_pod_needs_no_kustomize_to_be_safe():
    """What is written once holds where kubectl is missing, too."""
    (shared,) = yaml.safe_load_all((K8S / "base/pod.yaml").read_text())
    spec, kserve = shared["spec"]["template"]["spec"], inference_pod()
    for name in ("securityContext", "automountServiceAccountToken", "terminationGracePeriodSeconds"):
        assert spec[name] == kserve[name]
    for name in ("securityContext", "ports", "startupProbe", "readinessProbe", "livenessProbe"):
        assert spec["containers"][0][name] == kserve["containers"][0][name]


def test_every_file_belongs_to_a_kustomization():
    for kustomization in ROOT.glob("k8s/**/kustomization.yaml"):
        named = yaml.safe_load(kustomization.read_text())
        files = {*named.get("resources", ()), *(patch["path"] for patch in named.get("patches", ()))}
        others = {"prometheus-adapter.yaml", "kustomization.yaml"}
        assert files == {path.name for path in kustomization.parent.glob("*.yaml")} - others


def test_keys_are_read_from_the_secret(tmp_path):
    if "api_keys_file" not in Settings.model_fields:
        pytest.skip("this version has no API keys yet")
    documents = render(K8S / "overlays/cloud", tmp_path, [COMPONENTS["api-keys"]])
    pod = pod_of(documents)
    (mount,) = pod["containers"][0]["volumeMounts"]
    environment = variables(pod, documents)
    assert environment["CLASSIFIER_API_KEYS_FILE"] == f"{mount['mountPath']}/api-keys"
    assert {name.removeprefix("CLASSIFIER_").lower() for name in environment} <= set(Settings.model_fields)
    # Readable for the service's group, and for nobody else.
    assert pod["securityContext"]["fsGroup"] == 10001
    assert pod["volumes"][0]["secret"]["defaultMode"] == 0o440


def test_cameras_are_watched_beside_the_service(overlay, tmp_path):
    documents = render(K8S / "overlays/edge", tmp_path, [COMPONENTS["cameras"]])
    containers = {container["name"]: container for container in pod_of(documents)["containers"]}
    service, cameras = containers["edge-classifier"], containers["cameras"]
    # The service is as it was.
    (alone,) = pod_of(render(K8S / "overlays/edge", tmp_path))["containers"]
    assert service == alone
    assert cameras["image"] == service["image"]
    assert cameras["securityContext"] == service["securityContext"]
    assert size(cameras["resources"]["limits"]["memory"]) >= 256 * 2**20
    options = parse_args(cameras["args"])
    mounts = {mount["name"]: mount for mount in cameras["volumeMounts"]}
    assert str(options.file) == f"{mounts['cameras']['mountPath']}/cameras.yaml"
    assert all(mount["readOnly"] for mount in mounts.values())
    (policy,) = of_kind(documents, "NetworkPolicy")
    assert policy["spec"]["egress"] == [{}]
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}


def test_photos_come_in_and_nothing_goes_out(overlay):
    (policy,) = of_kind(overlay, "NetworkPolicy")
    assert policy["spec"]["egress"] == []
    assert policy["spec"]["ingress"] == [{"ports": [{"protocol": "TCP", "port": Settings().port}]}]
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    (namespace,) = of_kind(overlay, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_selectors_select(overlay):
    (workload,) = of_kind(overlay, "DaemonSet", "Deployment")
    labels = workload["spec"]["template"]["metadata"]["labels"].items()
    (service,), (policy,) = of_kind(overlay, "Service"), of_kind(overlay, "NetworkPolicy")
    selectors = [service["spec"]["selector"], policy["spec"]["podSelector"]["matchLabels"]]
    selectors.append(workload["spec"]["selector"]["matchLabels"])
    selectors += [budget["spec"]["selector"]["matchLabels"] for budget in of_kind(overlay, "PodDisruptionBudget")]
    spread = workload["spec"]["template"]["spec"].get("topologySpreadConstraints", ())
    selectors += [constraint["labelSelector"]["matchLabels"] for constraint in spread]
    assert all(selector and selector.items() <= labels for selector in selectors)
    assert {port["targetPort"] for port in service["spec"]["ports"]} == {"http"}


def test_a_gateway_answers_its_own_callers(tmp_path):
    documents = render(K8S / "overlays/edge", tmp_path)
    (workload,), (service,) = of_kind(documents, "DaemonSet"), of_kind(documents, "Service")
    assert workload["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert pod_of(documents)["nodeSelector"]
    # A surge needs the port twice on one node.
    assert "hostPort" not in str(pod_of(documents))
    assert service["spec"]["internalTrafficPolicy"] == service["spec"]["externalTrafficPolicy"] == "Local"


def test_the_cloud_scales_and_survives_disruptions(tmp_path):
    documents = render(K8S / "overlays/cloud", tmp_path)
    (workload,), (scaler,) = of_kind(documents, "Deployment"), of_kind(documents, "HorizontalPodAutoscaler")
    assert workload["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    # Both would fight over the number.
    assert "replicas" not in workload["spec"]
    target = scaler["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", workload["metadata"]["name"])
    assert scaler["spec"]["minReplicas"] >= 2
    (budget,) = of_kind(documents, "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
