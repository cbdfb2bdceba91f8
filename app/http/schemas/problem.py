"""How every error of our own API is told."""

from pydantic import BaseModel, Field


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(examples=["urn:edge-classifier:problem:not-an-image"])
    title: str = Field(examples=["Not an image"])
    status: int = Field(examples=[415])
    detail: str = Field(
        description="What happened and what to do about it.",
        examples=[
            "The 11 bytes are not an image in a supported format (JPEG, PNG, ...). Send the file's bytes as they are."
        ],
    )
    request_id: str = Field(examples=["6f1c0f0e7a9b4c55"])
