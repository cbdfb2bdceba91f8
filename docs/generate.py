"""``python -m docs.generate``: writes docs/configuration.md from ``Settings`` and the rooms into docs/architecture.md.

Tests compare. It stands beside what it writes, and the site leaves it out.
"""

from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from app.settings import Settings
from docs.rooms import drawing

PAGE: Final = Path(__file__).with_name("configuration.md")

ARCHITECTURE: Final = Path(__file__).with_name("architecture.md")

#: The rooms of the two packages.
ROOMS: Final = {
    "app": (
        "errors", "settings", "client", "runtime", "inference", "registry", "telemetry", "teaching", "http",
        "http.protocols", "main", "cameras", "cli",
    ),
    "model_build": ("errors", "terminal", "network", "dataset", "export", "training", "evaluation", "commands"),
}  # fmt: skip

#: Every setting in exactly one group, in the order of the page.
GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "Models": (
        "model",
        "default_model",
        "max_models",
        "precision",
        "cache_directory",
        "max_slowdown",
        "max_model_bytes",
        "model_public_key",
    ),
    "Address": ("host", "port", "path_prefix", "ui"),
    "Capacity": ("workers", "queue_budget_ms"),
    "Limits on requests": (
        "max_body_bytes",
        "max_pixels",
        "max_batch_images",
        "max_buffered_bytes",
        "max_decode_bytes",
        "header_timeout_seconds",
        "body_timeout_seconds",
        "send_timeout_seconds",
    ),
    "Shadow and drift": ("shadow", "shadow_share", "watched_cameras"),
    "Frame cache": ("cache_seconds", "cache_difference"),
    "Access": (
        "api_keys",
        "api_keys_file",
        "metrics_without_key",
        "allowed_hosts",
        "trusted_proxies",
        "cors_origins",
    ),
    "Teaching": ("teach", "teach_max_mb", "teach_days", "teach_lately"),
    "TLS": ("tls_certificate", "tls_key", "hsts_seconds"),
    "Logs, traces and shutdown": ("log_level", "traces", "drain_seconds"),
    "Set by systemd": ("notify_socket", "watchdog_usec"),
}

#: What a group has to say before its table.
_INTRODUCTIONS: Final = {
    "Models": "[Update models](models/update.md) explains how a model is found, checked and replaced, and\n"
    "[Sign models](models/sign.md) explains the key.",
    "Address": "A path prefix is explained in [Behind a proxy](deployment/proxies.md#a-path-prefix).",
    "Capacity": "[Capacity](capacity.md) explains how many photos a machine can answer.",
    "Limits on requests": "[Reliability](reliability.md#memory) explains how the service plans its memory.",
    "Shadow and drift": "[Shadow and drift](models/shadow.md) explains what is compared and counted.",
    "Frame cache": "[Frame cache](frame-cache.md) explains what counts as near-identical.",
    "Access": "[Security](security.md) explains what each of these protects against.",
    "Teaching": "[Teach in the browser](models/teach-in-the-browser.md) explains the page and the folder.",
    "Logs, traces and shutdown": "[Observability](observability.md) explains logs and traces.",
    "Set by systemd": "The unit in [systemd](deployment/systemd.md) uses these; do not set them yourself.",
}

_TOP: Final = """\
# Configuration

<!-- Written by `python -m docs.generate` from app/settings.py; a test compares. -->

The service is configured by environment variables, and by nothing else. All of them are optional. Without any, it
listens on port 8000 and serves the newest model in `models/`, or the bundled one if there is none. A wrong value or a
misspelt name ends the start with a line that says what is wrong.

A gateway that serves its own model, to cameras that have a key:

```sh
CLASSIFIER_MODEL=/var/lib/edge-classifier/models/bins.int8.onnx \\
CLASSIFIER_API_KEYS_FILE=/etc/edge-classifier.keys \\
CLASSIFIER_LOG_LEVEL=warning \\
edge-classifier serve
```

`edge-classifier doctor` checks the settings of its environment without serving.
"""


def variable(name: str, field: FieldInfo) -> str:
    """The environment variable of a setting."""
    return field.validation_alias if isinstance(field.validation_alias, str) else f"CLASSIFIER_{name.upper()}"


def values(field: FieldInfo) -> str:
    """What a setting may be, in words."""
    kinds = _kinds(field.annotation)
    if choices := [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]:
        return ", ".join(f"`{choice}`" for choice in choices)
    words: dict[Any, str] = {bool: "`true`, `false`", int: "whole number", float: "number", Path: "path"}
    words |= {str: "text", SecretStr: "text"}
    kind = next((word for kind, word in words.items() if kind in kinds), "list")
    least = next((item.ge for item in field.metadata if isinstance(item, Ge)), None)
    above = next((item.gt for item in field.metadata if isinstance(item, Gt)), None)
    most = next((item.le for item in field.metadata if isinstance(item, Le)), None)
    if kind not in ("whole number", "number") or (least is None and above is None):
        return kind
    if above is not None:
        return f"{kind} above {above}" + ("" if most is None else f", at most {most}")
    return f"{kind}, {least} or more" if most is None else f"{kind}, {least} to {most}"


def _kinds(annotation: Any) -> list[Any]:
    """The types of a union, of what is annotated, or the one type."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if isinstance(annotation, UnionType) or str(get_origin(annotation)) == "typing.Union":
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return [annotation]


def configuration() -> str:
    """The whole page."""
    parts = [_TOP]
    for group, names in GROUPS.items():
        rows = ["| variable | default | values | meaning |", "| --- | --- | --- | --- |"]
        for name in names:
            field = Settings.model_fields[name]
            default = "unset" if field.default is None else f"`{field.default}`"
            rows.append(f"| `{variable(name, field)}` | {default} | {values(field)} | {field.description} |")
        introduction = f"{_INTRODUCTIONS[group]}\n\n" if group in _INTRODUCTIONS else ""
        parts.append(f"## {group}\n\n{introduction}" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def architecture() -> str:
    """The page about the architecture, with the rooms as they are in the code."""
    page = ARCHITECTURE.read_text()
    for package, rooms in ROOMS.items():
        begin, end = f"<!-- rooms of {package} -->", f"<!-- end of the rooms of {package} -->"
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n\n{drawing(package, rooms)}\n\n{end}{rest.partition(end)[2]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(configuration())
    ARCHITECTURE.write_text(architecture())
