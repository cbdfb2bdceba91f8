"""The ``CLASSIFIER_*`` environment variables, read and validated once; nothing else reads the environment."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.cpus import Cpus, usable_cpus
from app.errors import ModelError
from app.limits import Limits

#: Where ``make model`` writes, relative to the working directory.
MODELS = Path("models")
#: The model in the box, beside its card: what is served where nothing else is configured or built.
BUNDLED = Path(__file__).parent / "bundled"


class Settings(BaseSettings):
    """Everything that can be configured. The descriptions are the README's configuration table (a test compares)."""

    model_config = SettingsConfigDict(env_prefix="CLASSIFIER_", extra="ignore", frozen=True)

    model: Path | None = Field(
        None,
        description="ONNX file to serve; unset: the newest int8 file in `models/`, else the newest fp32 one, else the "
        "bundled model",
    )
    precision: Literal["auto", "fp32", "int8"] | None = Field(
        None,
        description="which of a model's files (`NAME.fp32.onnx`, `NAME.int8.onnx`) to serve; `auto` measures at the "
        "start which is faster on this CPU; unset: `CLASSIFIER_MODEL` as it is, or int8 before fp32",
    )
    host: str = Field("0.0.0.0", description="address to listen on")  # noqa: S104 - a container has to
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    lanes: int = Field(0, ge=0, le=256, description="photos worked on at once; 0: as many as CPUs may really be used")
    queue_budget_ms: int = Field(
        1000, ge=1, le=600_000, description="a request that would wait longer than this for its answer gets 503 at once"
    )
    drain_seconds: float = Field(
        5.0,
        ge=0,
        le=3600,
        description="after SIGTERM: how long new connections are still taken while `/health/ready` says 503",
    )
    head_timeout_seconds: float = Field(
        10.0, gt=0, le=3600, description="how long a client may take to send a request's head (408 after)"
    )
    body_timeout_seconds: float = Field(
        30.0, gt=0, le=3600, description="how long a client may take to send a body (408 after)"
    )
    max_held_bytes: int = Field(64_000_000, ge=1, description="request bodies in memory at once, in bytes; 503 above")
    max_body_bytes: int = Field(10_000_000, ge=1, description="largest request body, in bytes (413 above)")
    max_pixels: int = Field(50_000_000, ge=1, description="largest image, width x height from its header (413 above)")
    max_batch_images: int = Field(16, ge=1, le=1024, description="most photos in one batch request (413 above)")
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
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe log line written")

    @property
    def limits(self) -> Limits:
        """The request limits as plain values, for the core."""
        return Limits(
            body_bytes=self.max_body_bytes,
            body_timeout_s=self.body_timeout_seconds,
            held_bytes=self.max_held_bytes,
            pixels=self.max_pixels,
            batch_images=self.max_batch_images,
        )

    def model_paths(self) -> list[Path]:
        """The file to serve; several where the faster one of them is to be served.

        Raises:
            ModelError: there is none in the precision that is asked for.
        """
        path = self.model or self._newest()
        if self.precision is None:
            return [path]
        name = path.name.removesuffix(".onnx").removesuffix(".fp32").removesuffix(".int8")
        wanted = ["int8", "fp32"] if self.precision == "auto" else [self.precision]
        siblings = [path.with_name(f"{name}.{precision}.onnx") for precision in wanted]
        if found := [sibling for sibling in siblings if sibling.is_file()]:
            return found
        raise ModelError(f"CLASSIFIER_PRECISION={self.precision}, but there is no {' or '.join(map(str, siblings))}")

    def _newest(self) -> Path:
        for pattern in ("*.int8.onnx", "*.fp32.onnx"):
            if built := sorted(MODELS.glob(pattern), key=lambda path: path.stat().st_mtime):
                return built[-1]
        (bundled,) = BUNDLED.glob("*.onnx")
        return bundled

    def model_source(self, path: Path) -> str:
        """Why ``path`` is served, for the log and ``/health``."""
        if self.model:
            return "CLASSIFIER_MODEL"
        if path.parent == BUNDLED:
            return f"bundled with the service, because CLASSIFIER_MODEL is not set and {MODELS}/ has no model"
        return f"the newest one in {MODELS}/"

    def cpus(self) -> Cpus:
        """The lanes to run, and why."""
        return Cpus(self.lanes, f"CLASSIFIER_LANES={self.lanes}") if self.lanes else usable_cpus()
