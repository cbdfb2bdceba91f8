"""The ``CLASSIFIER_*`` environment variables, read and validated once; nothing else reads the environment."""

import ipaddress
import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _split(value: object) -> object:
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


#: What Kubernetes (and Docker's links) set for a Service named ``classifier`` or ``classifier-...``: nobody's setting.
_SERVICE_LINK: Final = re.compile(
    r"CLASSIFIER(_[A-Z0-9_]+)?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_ADDRESS: Final = re.compile(r"(tcp|udp|sctp)://.*")
_PREFIX: Final = "CLASSIFIER_"
_CACHE: Final = "edge-classifier"
#: Variables that have another name since 0.2, without their prefix; the old ones go with 0.3.
_RENAMED: Final = {
    "LANES": "WORKERS",
    "MAX_HELD_BYTES": "MAX_BUFFERED_BYTES",
    "HEAD_TIMEOUT_SECONDS": "HEADER_TIMEOUT_SECONDS",
}


def _renamed(environment: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The values of variables with an old name, by their new one (in lower case, without the prefix)."""
    given = {name.upper(): value for name, value in environment}
    return {
        new.lower(): given[_PREFIX + old]
        for old, new in _RENAMED.items()
        if _PREFIX + old in given and _PREFIX + new not in given
    }


def deprecated(environment: Iterable[tuple[str, str]] | None = None) -> list[str]:
    """A line for each variable that is set by its old name.

    Args:
        environment: names and values; None: the process's own.
    """
    given = {name.upper() for name, _ in (os.environ.items() if environment is None else environment)}
    return [
        f"{_PREFIX}{old} is called {_PREFIX}{new} now; the old name will not be read any more from 0.3 on"
        for old, new in _RENAMED.items()
        if _PREFIX + old in given
    ]


def misspelt(environment: Iterable[tuple[str, str]], known: Iterable[str]) -> list[str]:
    """A line for each environment variable that is meant for the service, but is none of its settings.

    Args:
        environment: names and values; what Kubernetes sets for a Service of our name is passed over.
        known: the settings' names, in upper case and without their prefix.
    """
    settings, lines = list(known), []
    for given, value in sorted(environment):
        name = given.upper()
        if _SERVICE_LINK.fullmatch(name) or _SERVICE_ADDRESS.fullmatch(value):
            continue
        prefix, underscore, rest = name.partition("_")
        if prefix + underscore != _PREFIX:
            # A slip in the prefix itself: the rest is right.
            near = [rest] if rest in settings and get_close_matches(prefix, [_PREFIX[:-1]], cutoff=0.85) else []
            if not near:
                continue
        elif rest in settings or rest in _RENAMED:
            continue
        else:
            near = get_close_matches(rest, settings, n=1)
        hint = (
            f"did you mean {_PREFIX}{near[0]}?" if near else "docs/configuration.md has a table of those that there are"
        )
        lines.append(f"{given}: there is no such setting; {hint}")
    return lines


#: Several values, separated by commas.
Several = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), Field(min_length=1)]


class Settings(BaseSettings):
    """Everything that can be configured. ``docs/configuration.md`` is made from it (a test compares)."""

    model_config = SettingsConfigDict(env_prefix="CLASSIFIER_", extra="ignore", frozen=True, hide_input_in_errors=True)

    model: Path | None = Field(
        None,
        description="ONNX file to serve, or a folder of them; unset: the newest int8 file in `models/`, else the "
        "newest fp32 one, else the bundled model",
    )
    default_model: str | None = Field(
        None, description="the model that answers where none is named; unset: the first of a folder by name"
    )
    max_models: int = Field(8, ge=1, le=1000, description="most models served from a folder")
    max_slowdown: float = Field(
        3.0,
        ge=1,
        description="a new model that takes more than this many times the CPU time of the running one is refused",
    )
    model_public_key: Path | None = Field(
        None, description="Ed25519 public key (PEM file); only models that it has signed are served; unset: all are"
    )
    max_model_bytes: int = Field(
        100_000_000, ge=1, description="largest model file, in bytes; a larger one is not read"
    )
    precision: Literal["auto", "fp32", "int8"] | None = Field(
        None,
        description="which of a model's files (`NAME.fp32.onnx`, `NAME.int8.onnx`) to serve; `auto` measures at the "
        "first start which is faster on this CPU; unset: `CLASSIFIER_MODEL` as it is, or int8 before fp32",
    )
    cache_directory: Path | None = Field(
        None,
        description="folder where `CLASSIFIER_PRECISION=auto` remembers what it measured; unset: "
        "`$XDG_CACHE_HOME/edge-classifier`, else `~/.cache/edge-classifier`; where it cannot be written, each start "
        "measures",
    )
    host: str = Field("0.0.0.0", description="address to listen on")  # noqa: S104 - a container has to
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    workers: int = Field(0, ge=0, le=256, description="photos worked on at once; 0: as many as CPUs may really be used")
    queue_budget_ms: int = Field(
        1000, ge=1, le=600_000, description="a request that would wait longer than this for its answer gets 503 at once"
    )
    drain_seconds: float = Field(
        5.0,
        ge=0,
        le=3600,
        description="after SIGTERM: how long new connections are still taken while `/health/ready` says 503",
    )
    header_timeout_seconds: float = Field(
        10.0, gt=0, le=3600, description="how long a client may take to send a request's headers (408 after)"
    )
    body_timeout_seconds: float = Field(
        30.0, gt=0, le=3600, description="how long a client may take to send a body (408 after)"
    )
    send_timeout_seconds: float = Field(
        30.0, gt=0, le=3600, description="how long a client may take to read an answer (the connection is closed after)"
    )
    max_buffered_bytes: int | None = Field(
        None,
        ge=1,
        description="request bodies in memory at once, in bytes; 503 above, and 413 where one body alone is more; "
        "unset: a quarter of the memory that is free at the start, 64 MB at most",
    )
    max_body_bytes: int = Field(10_000_000, ge=1, description="largest request body, in bytes (413 above)")
    max_pixels: int = Field(50_000_000, ge=1, description="largest image, width x height from its header (413 above)")
    max_decode_bytes: int | None = Field(
        None,
        ge=1,
        description="memory for all photos that are decoded at once, in bytes; a photo that needs more gets 413; "
        "unset: half of the memory that is free at the start, 268 MB at most",
    )
    max_batch_images: int = Field(16, ge=1, le=1024, description="most photos in one batch request (413 above)")
    shadow: Path | None = Field(
        None, description="ONNX file of a second model that is compared with the default one; unset: none"
    )
    shadow_share: float = Field(
        0.1, gt=0, le=1, description="share of the photos that the second model sees too, where no other photo waits"
    )
    watched_cameras: Several | None = Field(
        None,
        max_length=64,
        description="names of cameras, as `?camera=` has them, that get metrics of their own, separated by commas; at "
        "most 64; unset: none",
    )
    cache_seconds: float = Field(
        0.0,
        ge=0,
        le=86_400,
        description="how long a near-identical frame of the same camera gets the same scores; 0: off",
    )
    cache_difference: float = Field(
        3.0,
        ge=0,
        le=255,
        description="largest difference of a cell's mean between near-identical frames, in levels of 255",
    )
    path_prefix: str | None = Field(
        None,
        description="where a proxy has the service, as `/classifier`; requests are answered with it and without it; "
        "unset: at the root",
    )
    ui: Literal["on", "off"] = Field("on", description="the web page at `/` and the documentation at `/docs`")
    api_keys: SecretStr | None = Field(
        None, description="API keys, separated by commas; with one, `/predict` and all that is not open wants a key"
    )
    api_keys_file: Path | None = Field(
        None, description="file with more API keys, one a line, `#` comments; read again when it changes"
    )
    metrics_without_key: bool = Field(False, description="whether `/metrics` is answered without an API key")
    allowed_hosts: Several | None = Field(
        None,
        description="names that the service may be addressed by, separated by commas, `*.example.com` for all below "
        "(421 for others; probes excepted); unset: any",
    )
    trusted_proxies: Several | None = Field(
        None,
        description="addresses and networks of the proxies before the service, separated by commas; only what they say "
        "in `X-Forwarded-For` and `X-Forwarded-Proto` counts; unset: none",
    )
    cors_origins: Several | None = Field(
        None,
        description="origins whose web pages may use the service, separated by commas, as `https://example.com`; `*`: "
        "all; unset: none",
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file with the certificate and its chain; read again when it changes; unset: plain HTTP"
    )
    tls_key: Path | None = Field(None, description="PEM file with the certificate's private key, not encrypted")
    hsts_seconds: int = Field(
        0,
        ge=0,
        description="with TLS: how long browsers shall refuse plain HTTP to this host name, all its other ports "
        "included; 0: not at all",
    )
    traces: Literal["on", "off"] = Field(
        "off", description="send OpenTelemetry traces to where the standard `OTEL_*` variables say"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe log line written")
    teach: Path | None = Field(
        None,
        description="folder for photos to learn from: turns the page `/teach` on, where classes are taught in the "
        "browser; unset: off",
    )
    teach_max_mb: int = Field(
        1000, ge=1, le=1_000_000, description="what everything in that folder may take, in MB; 507 above"
    )
    teach_days: float = Field(
        30.0, gt=0, le=3650, description="how long removed photos, and those that came in lately, are kept there"
    )
    teach_lately: int = Field(
        0,
        ge=0,
        le=10_000,
        description="how many of the uncertain, unknown and changed photos of named cameras are kept there, to be "
        "looked at; 0: none",
    )
    # systemd's own names (sd_notify(3), sd_watchdog_enabled(3)).
    notify_socket: str | None = Field(
        None, validation_alias="NOTIFY_SOCKET", description="set by systemd: where it is told that the service is ready"
    )
    watchdog_usec: int | None = Field(
        None,
        ge=1,
        validation_alias="WATCHDOG_USEC",
        description="set by systemd: it restarts the service after this many silent microseconds",
    )

    def cache_folder(self) -> Path | None:
        """``cache_directory``, else where the XDG Base Directory Specification has it; None: there is no home."""
        if self.cache_directory is not None:
            return self.cache_directory
        # The specification: relative paths are to be ignored.
        if (given := Path(os.environ.get("XDG_CACHE_HOME", ""))).is_absolute():
            return given / _CACHE
        try:
            return Path.home() / ".cache" / _CACHE
        except RuntimeError:
            return None

    @model_validator(mode="before")
    @classmethod
    def _spelling(cls, given: Any) -> Any:
        known = [name.upper() for name, field in cls.model_fields.items() if field.validation_alias is None]
        if lines := misspelt(os.environ.items(), known):
            raise ValueError("\n".join(lines))
        # What is named in code counts more than the environment.
        return _renamed(os.environ.items()) | given

    @field_validator("port", mode="before")
    @classmethod
    def _service_link(cls, value: Any) -> Any:
        # Kubernetes sets CLASSIFIER_PORT=tcp://... for a Service named "classifier".
        linked = isinstance(value, str) and _SERVICE_ADDRESS.fullmatch(value)
        return cls.model_fields["port"].default if linked else value

    @field_validator("path_prefix")
    @classmethod
    def _path(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", value):
            raise ValueError("write it as /classifier, with a slash before it and none behind")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for origin in value or ():
            if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/@\s]+", origin):
                raise ValueError(f"{origin} is no origin; write it as https://example.com or http://10.0.0.5:8123")
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for host in value or ():
            if not re.fullmatch(r"(\*\.)?[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", host):
                raise ValueError(f"{host} is no host name; write names and addresses without scheme and port")
        return value and tuple(map(str.lower, value))

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        try:
            return value and tuple(str(ipaddress.ip_network(each)) for each in value)
        except ValueError as error:
            raise ValueError(f"{error}; write addresses as 10.0.0.2 and networks as 10.0.0.0/8") from error

    @field_validator("teach")
    @classmethod
    def _folder(cls, value: Path | None) -> Path | None:
        # Said before the service has begun to load anything.
        if value is not None and value.exists() and not value.is_dir():
            raise ValueError(f"{value} is no folder")
        return value

    @model_validator(mode="after")
    def _tls(self) -> Self:
        for one, other in (("tls_certificate", "tls_key"), ("tls_key", "tls_certificate"), ("hsts_seconds", "tls_key")):
            if getattr(self, one) and not getattr(self, other):
                raise ValueError(f"CLASSIFIER_{one.upper()} needs CLASSIFIER_{other.upper()} too")
        return self
