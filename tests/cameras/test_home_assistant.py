"""What Home Assistant is told: one entity for each thing, whatever names people choose."""

import ast
import re

import pytest

from app.cameras import config
from app.cameras.home_assistant import entities


def told(topic="edge-classifier", discovery="homeassistant", images=True, **region):
    """All messages for one region."""
    mqtt = config.Mqtt(host="h", topic=topic, discovery=discovery, images=images)
    source = {"kind": "http", "url": "http://x/"}
    camera = config.Camera.model_validate({"title": "Yard", "source": source, "regions": {"bin": region}})
    return entities(mqtt, {"yard": camera})


def test_a_region_is_a_sensor_a_fault_and_an_image():
    found = told(topic="gw/1", discovery="ha", title="Bin")
    assert sorted(found) == [
        "ha/binary_sensor/gw_1/yard_bin_fault/config",
        "ha/image/gw_1/yard_bin_image/config",
        "ha/sensor/gw_1/yard_bin_state/config",
    ]
    assert len({one["unique_id"] for one in found.values()}) == 3
    assert {one["device"]["name"] for one in found.values()} == {"Yard"}
    assert {tuple(one["device"]["identifiers"]) for one in found.values()} == {("gw_1_yard",)}
    assert found["ha/sensor/gw_1/yard_bin_state/config"]["name"] == "Bin"
    # Of the fault only the process's own end says nothing.
    assert found["ha/binary_sensor/gw_1/yard_bin_fault/config"]["availability"] == [{"topic": "gw/1/status"}]
    assert len(told(images=False)) == 2


@pytest.mark.parametrize(
    "label", ["full", 'a"b', "it's", "{{ x }}", "{% raw %}", "%}", "}}", "a\\n\\", "äöü 🐈", "{# c #}", "a\nb\u2028"]
)
def test_a_label_in_a_template_is_a_text(label):
    """Jinja reads texts as Python does."""
    found = told(binary_sensors=[label])
    (sensor,) = [one for one in found.values() if one["name"] == f"bin {label}"]
    (quoted,) = re.findall(r"label == (.*) else 'OFF' }}$", sensor["value_template"], re.DOTALL)
    assert ast.literal_eval(quoted) == label
    assert not set("{}%") & set(quoted)


def test_labels_that_differ_by_their_signs_are_different_entities():
    found = told(binary_sensors=["a b", "a-b", "a_b", "ä", "ö"])
    assert len(found) == 3 + 5
    assert all(re.fullmatch(r"[A-Za-z0-9_/-]+", topic) for topic in found)
