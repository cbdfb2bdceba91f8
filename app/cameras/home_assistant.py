"""Which entities Home Assistant is told of, by its MQTT discovery: one device a camera.

https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .. import __version__
from . import config


@dataclass(frozen=True, slots=True)
class Topics:
    """Where a region is told of: its state as JSON, the frame that changed it, and ``online`` or ``offline``."""

    state: str
    image: str
    availability: str

    @classmethod
    def of(cls, topic: str, camera: str, region: str) -> "Topics":
        """Below the topic that all begin with."""
        base = f"{topic}/{camera}/{region}"
        return cls(f"{base}/state", f"{base}/image", f"{base}/availability")

    @staticmethod
    def node(topic: str) -> str:
        """The part of discovery's topics that is ours alone."""
        return re.sub(r"[^A-Za-z0-9_-]", "_", topic)


def entities(settings: config.Mqtt, cameras: Mapping[str, config.Camera]) -> dict[str, dict[str, Any]]:
    """The messages by which Home Assistant learns of all regions, by topic."""
    found = {}
    for name, camera in cameras.items():
        for region, given in camera.regions.items():
            for component, key, entity in _entities(settings, name, region, given):
                unique = f"{Topics.node(settings.topic)}_{name}_{region}_{key}"
                topic = f"{settings.discovery}/{component}/{Topics.node(settings.topic)}/{name}_{region}_{key}/config"
                found[topic] = entity | {
                    "unique_id": unique,
                    "device": {
                        "identifiers": [f"{Topics.node(settings.topic)}_{name}"],
                        "name": camera.title or name,
                        "manufacturer": "Edge Classifier",
                        "model": f"camera ({camera.source.kind})",
                        "sw_version": __version__,
                    },
                    "origin": {"name": "Edge Classifier", "sw_version": __version__},
                }
    return found


def _entities(
    settings: config.Mqtt, camera: str, region: str, given: config.Region
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """A region's entities: component, key, and what is their own."""
    topics = Topics.of(settings.topic, camera, region)
    title = given.title or region
    running = {"topic": f"{settings.topic}/status"}
    known = {"availability": [running, {"topic": topics.availability}], "availability_mode": "all"}
    state = {"state_topic": topics.state, "json_attributes_topic": topics.state}
    yield (
        "sensor",
        "state",
        {
            "name": title,
            **state,
            **known,
            # "unknown" is Home Assistant's own word for what has not been told yet. A state has 255 characters at most.
            "value_template": "{{ 'nothing known' if value_json.unknown else (value_json.label or '')[:255] }}",
            "icon": "mdi:image-search-outline",
        },
    )
    yield (
        "binary_sensor",
        "fault",
        {
            "name": f"{title} fault",
            **state,
            "availability": [running],
            "value_template": "{{ 'ON' if value_json.fault else 'OFF' }}",
            "device_class": "problem",
            "entity_category": "diagnostic",
        },
    )
    if settings.images:
        yield (
            "image",
            "image",
            {
                "name": f"{title} frame",
                "image_topic": topics.image,
                "content_type": "image/jpeg",
                "availability": [running],
            },
        )
    for label in given.binary_sensors:
        yield (
            "binary_sensor",
            f"is_{_key(label)}",
            {
                "name": f"{title} {label}",
                "state_topic": topics.state,
                **known,
                # Whether it is this label is not known of what is none of the model's.
                "value_template": "{{ 'None' if value_json.unknown else 'ON' if value_json.label == "
                + _quoted(label)
                + " else 'OFF' }}",
            },
        )


def _key(label: str) -> str:
    """A label as a part of an id: readable, and different for each."""
    return f"{re.sub(r'[^A-Za-z0-9]+', '_', label)[:20].strip('_')}_{hashlib.sha256(label.encode()).hexdigest()[:6]}"


def _quoted(label: str) -> str:
    """A label as a text in a template, whatever it has in it."""
    return json.dumps(label, ensure_ascii=False).replace("{", "\\u007b").replace("}", "\\u007d").replace("%", "\\u0025")
