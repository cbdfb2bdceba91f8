"""``/teach``."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .common import ModelRef

#: An id of a photo: looked up, never a path.
PhotoId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", examples=["4f53cda18c2baa0c0354bb5f9a3ecbe5"])]
#: A class's name, as long as one may be before it is tidied.
Name = Annotated[str, Field(min_length=1, max_length=200, examples=["full"])]


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewClass(_Sent):
    """A class to make or to remove."""

    label: Name


class Renamed(_Sent):
    """A class's new name."""

    label: Name
    to: Name


class Move(_Sent):
    """Photos, and where they shall be."""

    photos: list[PhotoId] = Field(min_length=1, max_length=20_000)
    to: Name | None = Field(description="A class; null: they are removed.")


class Use(_Sent):
    """A training whose model shall be served."""

    training: int = Field(ge=1, le=1_000_000, examples=[7])


class LabelQuery(_Sent):
    """Which class a photo is of."""

    label: Name


class PhotosQuery(_Sent):
    """Which photos are asked for."""

    label: Name | None = Field(None, description="A class's.")
    place: Literal["photos", "removed", "lately"] = Field(
        "photos", description="`removed`, or what came in `lately`, instead of a class's."
    )


class PhotoQuery(_Sent):
    """How large a photo is shown."""

    size: Literal["small", "large"] = "small"


class PhotoOut(BaseModel):
    """One photo."""

    id: PhotoId
    label: str = Field(description="Its class, or the one that it was removed from.")
    place: Literal["photos", "removed", "lately"]
    bytes: int
    since: float = Field(description="Seconds since the epoch at which it came where it is.")
    marks: list[str] = Field(description="What the last training found odd about it.", examples=[["too dark"]])
    camera: str | None = Field(None, description="Of one that came in lately: its camera.")
    said: str | None = Field(None, description="Of one that came in lately: what it was said to show, and why kept.")


class PhotosOut(BaseModel):
    """The photos of a class, or of another place, the newest first."""

    photos: list[PhotoOut]


class AddedOut(BaseModel):
    """What became of an uploaded photo."""

    photo: PhotoOut
    added: bool = Field(description="False: a class has this very photo already; it was left as it is.")


class MovedOut(BaseModel):
    """A photo that was moved, and where it was: what an undo sends back."""

    id: PhotoId
    before: str | None = Field(description="Its class before; null: it had been removed, or came in lately.")


class MovesOut(BaseModel):
    """What was moved."""

    moved: list[MovedOut]


class ClassOut(BaseModel):
    """One class."""

    label: str
    photos: int
    refused: bool = Field(description="It is none: its photos are to be answered with `unknown`.")


class ClassNameOut(BaseModel):
    """A class's name as it is written."""

    label: str


class TrainingOut(BaseModel):
    """The training that is under way."""

    number: int
    step: str
    share: float = Field(ge=0, le=1, description="How much is done.")
    left_s: float | None = Field(description="A guess of the seconds that are left.")


class RunOut(BaseModel):
    """A training, in short."""

    number: int
    outcome: Literal["running", "done", "failed", "cancelled", "interrupted"]
    reason: str | None
    started_at: float
    seconds: float | None
    photos: int
    accuracy: float | None = Field(description="Share of the photos that are named rightly; see `measured`.")
    interval: list[float] | None = Field(description="In which it lies with a confidence of 95 %.")


class TeachState(BaseModel):
    """All that the page shows besides the photos."""

    revision: str = Field(description="Another text once classes or photos have changed.")
    classes: list[ClassOut]
    removed: int
    lately: int | None = Field(description="Photos that came in and were kept; null: none are.")
    used_bytes: int
    most_bytes: int
    free_bytes: int = Field(description="What the disk has left.")
    days: float = Field(description="How long removed photos, and those that came in, are kept.")
    least_photos: int = Field(description="That a class needs.")
    missing: str | None = Field(description="What has to be installed before anything can be trained; null: nothing.")
    training: TrainingOut | None
    runs: list[RunOut]
    model: ModelRef
    served: int | None = Field(description="The training whose model is served; null: none's.")
    can_go_back: bool


class BegunOut(BaseModel):
    """A training that has begun."""

    training: int


class RunDetails(BaseModel):
    """A training: its worth, what it confuses, what to look at, and the model that was served beside it."""

    number: int
    outcome: Literal["running", "done", "failed", "cancelled", "interrupted"]
    reason: str | None = None
    started_at: float
    seconds: float | None = None
    photos: int
    classes: dict[str, int]
    model: dict[str, Any] | None = None
    labels: list[str] = []
    measured: dict[str, Any] = Field({}, description="As `GET /model` has it.")
    warnings: list[str] = []
    notes: list[str] = []
    left_out: list[str] = []
    doubts: list[dict[str, Any]] = Field(
        [], description="Photos that look like another class to a head that has not learned from them, the worst first."
    )
    confusions: list[dict[str, Any]] = []
    compared: dict[str, Any] = Field({}, description="The model that was served then, on the same photos.")
