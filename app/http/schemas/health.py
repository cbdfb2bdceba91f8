"""``/health`` and the probes."""

from typing import Literal

from pydantic import BaseModel, Field

from .common import ModelRef
from .models import UpdateOut


class CpusOut(BaseModel):
    """The CPUs and threads that were chosen, and why."""

    workers: int = Field(description="Photos worked on at once.", examples=[2])
    threads_per_worker: int = Field(description="Threads that one inference uses beside others.", examples=[1])
    exclusive_threads: int = Field(description="Threads that one inference uses when it is alone.", examples=[2])
    reason: str = Field(examples=["2 CPUs in the affinity mask, no cgroup quota"])


class InputSize(BaseModel):
    """The model's input, in pixels."""

    height: int = Field(examples=[224])
    width: int = Field(examples=[224])


class Health(BaseModel):
    """Whether photos are being answered, and by what."""

    status: Literal["ready", "not ready"]
    reason: str = Field(examples=["the golden photo was classified correctly"])
    model: ModelRef
    precision: str = Field(examples=["int8"])
    model_source: str = Field(examples=["the newest one in models/"])
    precision_reason: str = Field(examples=["measured at the start: int8 took 6.5 ms, fp32 took 9.6 ms"])
    input_size: InputSize
    cpus: CpusOut
    last_update: UpdateOut | None = Field(description="What became of the last new model file, if there was one.")
    uptime_s: float = Field(examples=[86400.0])


class Probe(BaseModel):
    """The answer to a probe."""

    status: Literal["alive", "ready", "started", "not ready"]
    reason: str
