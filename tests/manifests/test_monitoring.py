"""Alert rules, dashboard and scaling rule ask for what a real service reports."""

import json
import re
import subprocess

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from app.cameras.metrics import Metrics
from app.settings import Settings
from tests import tiny_model
from tests.conftest import ROOT, serving, wait_until
from tests.manifests.tools import tool
from tests.photos import encode, solid

MONITORING = ROOT / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana.json").read_text())
RULES = yaml.safe_load((MONITORING / "alerts.yml").read_text())
#: Labels that Prometheus adds when it scrapes.
SCRAPED = {"instance", "job", "namespace", "pod"}


def queries() -> dict[str, str]:
    """Every PromQL expression, by where it stands."""
    found = {rule["alert"]: rule["expr"] for group in RULES["groups"] for rule in group["rules"]}
    for panel in DASHBOARD["panels"]:
        found |= {f"{panel['title']} {target['refId']}": target["expr"] for target in panel["targets"]}
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            found[f"${variable['name']}"] = variable["query"]["query"]
    adapter = yaml.safe_load((ROOT / "k8s/components/scale-on-queue/prometheus-adapter.yaml").read_text())
    (rule,) = adapter["rules"]["custom"]
    return found | {"adapter": rule["seriesQuery"]}


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> dict[str, list[dict[str, str]]]:
    """The label sets of every series of a service that has answered a photo, by name."""
    folder = tmp_path_factory.mktemp("models")
    model = tiny_model.write(folder / "tiny.onnx", tiny_model.contract(unknown_below=0.6))
    shadow = tiny_model.write(folder / "shadow.onnx", tiny_model.contract(labels=("blue", "green", "red")))
    with serving(model, shadow=shadow, shadow_share=1, watched_cameras="yard") as client:
        for colour in ((250, 9, 9), (9, 250, 9), (120, 120, 118)):
            seen = sum(counted(client.get("/metrics").text))
            photo = encode(solid(colour), "JPEG")
            assert client.post("/predict?camera=yard", content=photo).status_code == 200
            wait_until(lambda seen=seen: sum(counted(client.get("/metrics").text)) > seen)
        assert client.post("/predict", content=b"rubbish").status_code == 415
        assert client.get("/health/ready").status_code == 200
        text = client.get("/metrics").text
    series: dict[str, list[dict[str, str]]] = {"up": [{}]}
    watching = Metrics()
    watching.know("yard", ["bin"])
    watching.undelivered("webhook")
    for family in text_string_to_metric_families(text + generate_latest(watching.registry).decode()):
        for sample in family.samples:
            series.setdefault(sample.name, []).append(sample.labels)
    return series


def counted(text: str) -> list[float]:
    """How many photos the shadow has compared, or missed."""
    lines = [line for line in text.splitlines() if re.match(r"classifier_shadow_(photos|dropped)_total", line)]
    return [float(line.rpartition(" ")[2]) for line in lines]


def unknown_in(query: str, reported) -> list[str]:
    """What a query names that no series has: metrics, labels, and label values that are spelt out."""
    wrong = []
    selectors = re.findall(r"\b(up|classifier_\w+|cameras_\w+)\b(?:\{([^}]*)\})?", query)
    assert selectors, query
    names = {name for name, _ in selectors}
    for name, matchers in selectors:
        if name not in reported:
            wrong.append(name)
            continue
        for label, operator, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', matchers):
            if label in SCRAPED:
                continue
            values = {labels.get(label) for labels in reported[name]}
            named = re.split(r"\|", value) if re.fullmatch(r"[\w|-]+", value) else [value]
            if values == {None} or ("." not in value and not set(named) <= values):
                wrong.append(f"{name}{{{label}{operator}{value}}}")
    known = SCRAPED.union(*(labels for name in names for labels in reported.get(name, ())))
    for group in re.findall(r"\bby \(([^)]*)\)", query):
        wrong += [label for label in re.split(r"[,\s]+", group.strip()) if label not in known]
    return wrong


@pytest.mark.parametrize("place", queries())
def test_every_query_asks_for_what_is_reported(place, reported):
    assert unknown_in(queries()[place], reported) == []


@pytest.mark.parametrize(
    "query",
    [
        "classifier_queue_length > 0",
        'rate(classifier_problems_total{type="over-loaded"}[5m])',
        'rate(classifier_problems_total{kind="overloaded"}[5m])',
        'rate(classifier_problems_total{type=~"not-an-image|no-image"}[5m])',
        "sum by (stages) (rate(classifier_stage_duration_seconds_count[5m]))",
    ],
)
def test_a_misspelt_query_is_found(query, reported):
    assert unknown_in(query, reported)


def test_the_rule_for_kubernetes_is_the_same():
    made = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())
    assert made["spec"] == RULES, "copy what alerts.yml has"


def test_thresholds_follow_the_settings():
    exprs = {rule["alert"]: rule["expr"] for rule in RULES["groups"][0]["rules"]}
    assert float(exprs["EdgeClassifierSlow"].rpartition("> ")[2]) == Settings().queue_budget_ms / 1e3


def promtool(*arguments) -> str:
    checked = subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    return checked.stdout + checked.stderr


def test_prometheus_takes_the_rules_and_the_configuration(tmp_path):
    promtool("check", "rules", str(MONITORING / "alerts.yml"))
    # As compose.yaml mounts them, side by side.
    for source in (MONITORING / "alerts.yml", MONITORING / "compose/prometheus.yml"):
        (tmp_path / source.name).write_text(source.read_text())
    assert "1 rule files found" in promtool("check", "config", str(tmp_path / "prometheus.yml"))


def test_the_alerts_fire_when_they_should_and_only_then():
    tests = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if "exp_alerts" in case}
    assert fired == {rule["alert"] for group in RULES["groups"] for rule in group["rules"]}
    promtool("test", "rules", str(MONITORING / "alerts_test.yml"))


def test_prometheus_takes_what_the_service_reports(tiny):
    with serving(tiny) as client:
        client.post("/predict", content=encode(solid((250, 9, 9)), "JPEG"))
        text = client.get("/metrics").text
    checked = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_dashboard_has_the_form_that_grafana_reads():
    assert DASHBOARD["schemaVersion"] >= 36
    assert DASHBOARD["uid"] == "edge-classifier"
    assert "id" not in DASHBOARD
    source = {"type": "prometheus", "uid": "${datasource}"}
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = set()
    for panel in panels:
        assert panel["type"] in {"stat", "timeseries"}
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"] == source
        assert panel["targets"]
        assert all(target["datasource"] == source for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places
        places |= cells
    used = set(re.findall(r"\$(\w+)", " ".join(queries().values()))) - {"__rate_interval"}
    assert used | {"datasource"} == set(variables)
