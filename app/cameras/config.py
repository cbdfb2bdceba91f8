"""What ``cameras.yaml`` says, checked as a whole; what is wrong is told with its line.

Whole documents are compared when the file is read again, so secrets are read here: one that has changed is a change.
"""

import os
import re
import shutil
import ssl
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SecretStr,
    Strict,
    StringConstraints,
    ValidationError,
    model_validator,
)

_MOST_BYTES: Final = 1_000_000
_MOST_CAMERAS: Final = 64
_MOST_REGIONS: Final = 16


class ConfigError(Exception):
    """The file cannot be used; each of ``problems`` is a line for a person, with the file's name and line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _secret(given: Any) -> Any:
    """Reads a secret that is a text itself, ``{file: PATH}`` or ``{env: NAME}``."""
    if not isinstance(given, dict):
        return SecretStr(given) if isinstance(given, str) else given
    if set(given) == {"file"} and isinstance(given["file"], str):
        try:
            text = Path(given["file"]).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the file cannot be read: {error}") from error
        return SecretStr(text.rstrip("\r\n"))
    if set(given) == {"env"} and isinstance(given["env"], str):
        if given["env"] not in os.environ:
            raise ValueError(f"the environment has no variable {given['env']!r}")
        return SecretStr(os.environ[given["env"]])
    raise ValueError("a secret is a text, {file: PATH} or {env: NAME}")


def _header(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x20-\x7e]*", secret.get_secret_value()):
        raise ValueError("a header may have printable ASCII characters only")
    return secret


def _context(authorities: Path | None) -> ssl.SSLContext:
    """Checks certificates by a file of authorities, or by those of the machine."""
    try:
        return ssl.create_default_context(cafile=authorities)
    except OSError as error:
        raise ValueError(f"{authorities}: {error}") from error


def _http_url(url: str) -> str:
    return _url(url, ("http", "https"))


def _rtsp_url(url: str) -> str:
    return _url(url, ("rtsp", "rtsps"))


def _url(url: str, schemes: tuple[str, ...]) -> str:
    scheme, found, rest = url.partition("://")
    if not found or scheme.lower() not in schemes or not rest.split("/")[0] or re.search(r"\s", url):
        raise ValueError(f"an address begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if "@" in rest.split("/")[0]:
        raise ValueError("a user name and password have settings of their own, 'username' and 'password'")
    return url


def _topic(topic: str) -> str:
    if re.search(r"[+#\0]|^/|/$|//|^\$", topic):
        raise ValueError("a topic has no + or #, and no / at its ends")
    return topic


# The numbers of characters are bounded beside the patterns: a pattern that counts to 200 takes megabytes.
Secret = Annotated[SecretStr, BeforeValidator(_secret)]
HeaderSecret = Annotated[SecretStr, BeforeValidator(_secret), AfterValidator(_header)]
HeaderName = Annotated[str, StringConstraints(max_length=100, pattern=r"^[A-Za-z0-9-]+$")]
HttpUrl = Annotated[str, Field(max_length=2000), AfterValidator(_http_url)]
RtspUrl = Annotated[str, Field(max_length=2000), AfterValidator(_rtsp_url)]
FilePath = Annotated[Path, Strict(False)]
#: Part of topics, of entities' ids and of file names.
Name = Annotated[str, StringConstraints(max_length=40, pattern=r"^[A-Za-z0-9_-]+$")]
Title = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Topic = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_topic)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Host = Annotated[str, StringConstraints(max_length=255, pattern=r"^[A-Za-z0-9.:_-]+$")]


class _Section(BaseModel):
    # Each would build a validator of its own, of which only the whole file's is needed.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


class Service(_Section):
    """The service that is asked."""

    url: HttpUrl = "http://localhost:8000"
    api_key: HeaderSecret | None = None
    #: Name of the model; None: the default one.
    model: Label | None = None
    #: So many frames at a time.
    at_once: int = Field(4, ge=1, le=64)


class _Account(_Section):
    username: Title | None = None
    password: Secret | None = None

    @model_validator(mode="after")
    def _both(self) -> "_Account":
        if self.password is not None and self.username is None:
            raise ValueError("there is a password, but no username")
        return self


class _Web(_Account):
    url: HttpUrl
    auth: Literal["basic", "digest"] = "basic"
    headers: dict[HeaderName, HeaderSecret] = Field({}, max_length=20)
    #: Of https, whether the camera's certificate is checked; or the file with the authorities to check it by.
    verify: bool | FilePath = True

    @model_validator(mode="after")
    def _readable(self) -> "_Web":
        self.context()
        return self

    def context(self) -> ssl.SSLContext | bool:
        """How the camera's certificate is checked, as httpx takes it; raises ValueError if the file is of no use."""
        if not self.url.lower().startswith("https:"):
            # Reading all authorities takes a while and some memory.
            return False
        return _context(self.verify) if isinstance(self.verify, Path) else self.verify


class Snapshot(_Web):
    """An address that answers with a picture."""

    kind: Literal["http"]


class Mjpeg(_Web):
    """An address that answers with one picture after the other (multipart/x-mixed-replace)."""

    kind: Literal["mjpeg"]


class Rtsp(_Account):
    """A stream that ffmpeg reads."""

    kind: Literal["rtsp"]
    url: RtspUrl
    transport: Literal["tcp", "udp"] = "tcp"
    #: Only the frames that stand alone are decoded: next to no work, and a frame every few seconds.
    keyframes: bool = False


class V4l2(_Section):
    """A camera of this machine, which ffmpeg reads."""

    kind: Literal["v4l2"]
    device: Annotated[str, StringConstraints(max_length=200, pattern=r"^/dev/[A-Za-z0-9_./-]+$")] = "/dev/video0"


class Folder(_Section):
    """A folder that something else puts pictures into; the newest counts."""

    kind: Literal["folder"]
    path: FilePath


Source = Annotated[Snapshot | Mjpeg | Rtsp | V4l2 | Folder, Discriminator("kind")]


class Region(_Section):
    """A part of what a camera sees, and when that has changed."""

    title: Title | None = None
    #: Left edge, upper edge, width, height, as shares of the picture's sides; None: all of it.
    crop: list[float] | None = Field(None, min_length=4, max_length=4)
    #: The same in pixels; needs the camera's ``size``.
    pixels: list[int] | None = Field(None, min_length=4, max_length=4)
    #: What is seen of it where it has another shape than the model's input; None: as the model has it.
    fit: Literal["crop", "squash", "pad"] | None = None
    #: What the model does not see of it, in shares of the picture's sides: rectangles as a crop has them, and polygons,
    #: x and y of each corner.
    masks: list[Annotated[list[float], Field(min_length=4, max_length=64)]] = Field([], max_length=8)
    #: The same in pixels; needs the camera's ``size``.
    mask_pixels: list[Annotated[list[int], Field(min_length=4, max_length=64)]] = Field([], max_length=8)
    answer: Literal["labels", "groups"] = "labels"
    min_score: Share = 0.5
    keep_score: Share = 0.4
    agree: int = Field(3, ge=1, le=100)
    of: int = Field(5, ge=1, le=100)
    hold_seconds: float = Field(0, ge=0, le=86_400, allow_inf_nan=False)
    flat_below: Share = 0.02
    binary_sensors: list[Label] = Field([], max_length=20)

    @model_validator(mode="after")
    def _fits(self) -> "Region":
        if self.keep_score > self.min_score:
            raise ValueError("keep_score is more than min_score: a state has to be easier to keep than to reach")
        if not self.of / 2 < self.agree <= self.of:
            raise ValueError(f"agree has to be more than half of 'of' ({self.of}), and not more than it")
        if self.crop is not None and self.pixels is not None:
            raise ValueError("crop and pixels say the same in two ways; give one of them")
        if self.masks and self.mask_pixels:
            raise ValueError("masks and mask_pixels say the same in two ways; give one of them")
        if self.crop is not None:
            check_crop(self.crop)
        for mask in self.masks:
            check_mask(mask)
        if len(set(self.binary_sensors)) < len(self.binary_sensors):
            raise ValueError("binary_sensors names a label twice")
        return self


def check_crop(crop: Sequence[float]) -> None:
    """Raises ValueError if four shares are no part of a picture."""
    left, upper, width, height = crop
    if not (left >= 0 and upper >= 0 and width > 0 and height > 0 and left + width <= 1 and upper + height <= 1):
        raise ValueError("a crop is x, y, width, height as shares, 0 to 1; this is empty, or reaches over the edge")


def check_mask(mask: Sequence[float]) -> None:
    """Raises ValueError if shares are no rectangle and no polygon in a picture."""
    if len(mask) == 4:
        check_crop(mask)
    elif len(mask) % 2 or not all(0 <= share <= 1 for share in mask):
        raise ValueError("a mask is x, y, width, height, or x and y of three corners or more, as shares, 0 to 1")


class Camera(_Section):
    """Where frames come from, and what is looked at in them."""

    title: Title | None = None
    source: Source
    interval_seconds: float = Field(1.0, ge=0.1, le=86_400, allow_inf_nan=False)
    #: For a whole frame to come.
    timeout_seconds: Seconds = 5.0
    #: A frame for which there is no answer by then gets none.
    max_age_seconds: Seconds = 2.0
    max_frame_bytes: int = Field(4_000_000, ge=1000, le=50_000_000)
    #: From then on the same bytes are a fault; null: never. Of a folder: no newer picture.
    frozen_after_seconds: Seconds | None = 120.0
    #: Width and height in pixels, for regions in pixels.
    size: list[int] | None = Field(None, min_length=2, max_length=2)
    regions: dict[Name, Region] = Field({"all": Region()}, min_length=1, max_length=_MOST_REGIONS)

    @model_validator(mode="after")
    def _pixels(self) -> "Camera":
        if self.size is not None and min(self.size) < 1:
            raise ValueError("size has to be the width and height in pixels, e.g. [1920, 1080]")
        for name, region in self.regions.items():
            if self.size is None and (region.pixels is not None or region.mask_pixels):
                raise ValueError(f"region {name!r} is in pixels: the camera has to say its 'size', e.g. [1920, 1080]")
            self.crop(region)
            self.masks(region)
        return self

    def crop(self, region: Region) -> tuple[float, float, float, float] | None:
        """A region's edges as shares; None: all of the picture.

        Raises:
            ValueError: it is no part of the picture.
        """
        given: Sequence[float] | None = region.crop
        if region.pixels is not None:
            given = self._shares(region.pixels)
        return None if given is None else (given[0], given[1], given[2], given[3])

    def masks(self, region: Region) -> tuple[tuple[float, ...], ...]:
        """What is hidden of a region, as shares.

        Raises:
            ValueError: it does not lie in the picture.
        """
        return tuple(tuple(mask) for mask in region.masks or map(self._shares, region.mask_pixels))

    def _shares(self, pixels: Sequence[int]) -> list[float]:
        width, height = self.size or (1, 1)
        shares = [number / (height if place % 2 else width) for place, number in enumerate(pixels)]
        if len(shares) == 4:
            # Sums of shares are rounded.
            shares = [
                *shares[:2],
                *(min(side, max(side - 1e-9, 1 - at)) for at, side in zip(shares, shares[2:], strict=False)),
            ]
        try:
            check_mask(shares)
        except ValueError as error:
            raise ValueError(f"pixels {list(pixels)} reach over the edge of {width} x {height}, or are none") from error
        return shares


class Tls(_Section):
    """How the broker's certificate is checked, and what certificate is shown to it."""

    ca_file: FilePath | None = None
    certificate: FilePath | None = None
    key: FilePath | None = None

    @model_validator(mode="after")
    def _both(self) -> "Tls":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together")
        self.context()
        return self

    def context(self) -> ssl.SSLContext:
        """For a connection; raises ValueError if a file is of no use."""
        context = _context(self.ca_file)
        if self.certificate is not None and self.key is not None:
            try:
                context.load_cert_chain(self.certificate, self.key)
            except OSError as error:
                raise ValueError(f"{self.certificate}, {self.key}: {error}") from error
        return context


class Mqtt(_Account):
    """The broker that states are told to."""

    host: Host
    port: Port | None = None
    tls: bool | Tls = False
    #: Begins all topics; different for each machine that uses the broker.
    topic: Topic = "edge-classifier"
    #: Where Home Assistant looks for entities; null: none are announced.
    discovery: Topic | None = "homeassistant"
    #: Whether the frame that changed a state is told too.
    images: bool = True


class Webhook(_Section):
    """An address that each event is POSTed to, as JSON."""

    url: HttpUrl
    headers: dict[HeaderName, HeaderSecret] = Field({}, max_length=20)
    #: Whether the frame is sent too, as base64.
    images: bool = False
    timeout_seconds: Seconds = 10.0
    #: How long an event is tried again.
    keep_seconds: Annotated[float, Field(gt=0, le=7 * 86_400, allow_inf_nan=False)] = 86_400.0


class Metrics(_Section):
    """Where Prometheus finds the metrics."""

    host: Host = "127.0.0.1"
    port: Port = 9108


class FrameFolder(_Section):
    """A folder that keeps the frames that changed a state; the oldest go first."""

    folder: FilePath
    max_megabytes: float = Field(100.0, gt=0, le=1_000_000, allow_inf_nan=False)
    max_days: float = Field(30.0, gt=0, le=3650, allow_inf_nan=False)


class Config(_Section):
    """The whole file."""

    service: Service = Service()
    mqtt: Mqtt | None = None
    webhooks: list[Webhook] = Field([], max_length=10)
    metrics: Metrics | None = None
    frames: FrameFolder | None = None
    #: The file in which states are kept over a restart; None: none is.
    states: FilePath | None = None
    #: Whether each event is a line on standard output.
    lines: bool = True
    cameras: dict[Name, Camera] = Field(min_length=1, max_length=_MOST_CAMERAS)


def load(path: Path) -> Config:
    """Reads and checks a file.

    Raises:
        ConfigError: it cannot be read, or is wrong.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error
    if len(text) > _MOST_BYTES:
        raise ConfigError([f"{path}: it has more than {_MOST_BYTES} bytes"])
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError([f"{path}: it has no settings; 'cameras:' is needed"])
        if twice := _twice(node, []):
            raise ConfigError([f"{path}:{line}: {name} is there twice" for line, name in twice])
        data = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError([f"{path}{line}: {error.problem or error.context}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: it is not YAML: {' '.join(str(error).split())}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{path}: it is nested too deeply, or contains itself"]) from error
    except ValueError as error:
        # What YAML takes for a date that no calendar has.
        raise ConfigError([f"{path}: {error}"]) from error
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError([_told(path, node, problem) for problem in error.errors(include_input=False)]) from error


def missing_ffmpeg(config: Config) -> list[str]:
    """A line for each camera that needs ffmpeg, where there is none."""
    if shutil.which("ffmpeg") is not None:
        return []
    needing = [name for name, camera in config.cameras.items() if camera.source.kind in ("rtsp", "v4l2")]
    return [f"camera {name!r} needs ffmpeg, which is not installed (Debian: apt install ffmpeg)" for name in needing]


def _keys(node: yaml.Node) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """The keys and values of a mapping, those that it merges in (``<<``) included."""
    found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                others = value.value if isinstance(value, yaml.SequenceNode) else [value]
                for other in others:
                    found = _keys(other) | found
            elif isinstance(key, yaml.ScalarNode):
                found[key.value] = (key, value)
    return found


def _twice(node: yaml.Node, above: list[str]) -> list[tuple[int, str]]:
    """The lines and names of keys that a mapping has already; YAML readers would take the last one."""
    found = []
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
            if name in seen and key.tag != "tag:yaml.org,2002:merge":
                found.append((key.start_mark.line + 1, ".".join([*above, name])))
            seen.add(name)
            found += _twice(value, [*above, name])
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            found += _twice(value, [*above, str(number)])
    return found


def _told(path: Path, node: yaml.Node, problem: Any) -> str:
    """A line about one problem of pydantic's."""
    line, place = node.start_mark.line + 1, []
    for part in problem["loc"]:
        keys = _keys(node)
        if isinstance(part, str) and part in keys:
            key, node = keys[part]
            line = key.start_mark.line + 1
        elif isinstance(part, int) and isinstance(node, yaml.SequenceNode) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        elif part is not problem["loc"][-1] or problem["type"] != "missing":
            # What pydantic says of a choice between kinds.
            continue
        place.append(str(part))
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        near = get_close_matches(place[-1], _settings(), 1)
        message = "there is no such setting" + (f"; did you mean {near[0]!r}?" if near else "")
        if near == place[-1:]:
            message = "this setting has its place elsewhere"
    elif problem["type"] == "missing":
        message = "it is missing"
    elif problem["type"] == "union_tag_not_found":
        message = "'kind' is missing: http, mjpeg, rtsp, v4l2 or folder"
    return f"{path}:{line}: {'.'.join(place)}: {message}" if place else f"{path}:{line}: {message}"


def _settings() -> list[str]:
    """The names of all settings, wherever they stand."""
    sections: list[type[_Section]] = [_Section]
    for section in sections:
        sections += section.__subclasses__()
    return sorted({name for section in sections for name in section.model_fields})
