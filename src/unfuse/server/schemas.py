"""The bodies of the API, for its description and its checks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import File, UploadFile
from pydantic import BaseModel, ConfigDict, Field

HEXES = "0123456789abcdef0123"
Version = Annotated[int, Field(description="Goes up with every change.", examples=[3])]


class Strict(BaseModel):
    """What is not known is an error."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(BaseModel):
    """What is wrong, what is allowed, what to do."""

    type: str = Field(examples=["PictureError"])
    message: str = Field(examples=["the picture is 9000 x 9000 = 81 megapixels, more than the limit of 50: ..."])


class Error(BaseModel):
    """The answer to a request that cannot be done. Nothing was changed."""

    error: ErrorDetail


class Job(BaseModel):
    """Work that takes a while."""

    id: str = Field(examples=[f"j_{HEXES}"])
    kind: Literal["decomposition", "split", "variants"]
    name: str = Field(examples=["poster"])
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    place: int | None = Field(description="How many jobs go before it, while it is queued.", examples=[None])
    step: int = Field(examples=[12])
    total: int = Field(examples=[50])
    seconds_left: float | None = Field(examples=[31.5])
    stage: str = Field(examples=["layers"])
    stack: str | None = Field(description="The stack that it made or changes.", examples=[None])
    error: ErrorDetail | None = Field(
        description="Why it failed; where it is done, which rows of a table could not be made.", examples=[None]
    )
    created: float = Field(description="Seconds since 1970.", examples=[1790000000.0])
    finished: float | None


class StackSummary(BaseModel):
    """A stack in a list."""

    id: str = Field(examples=[f"s_{HEXES}"])
    name: str = Field(examples=["poster"])
    width: int = Field(examples=[1006])
    height: int = Field(examples=[1358])
    layers: int = Field(examples=[8])
    version: Version
    created: float
    changed: float
    thumbnail: str = Field(examples=[f"/v1/stacks/s_{HEXES}/flat.webp?size=320&v=0123"])


class Step(BaseModel):
    """A step of a stack's history."""

    index: int = Field(examples=[1])
    name: str = Field(examples=["Move"])
    edit: list[dict[str, Any]] = Field(examples=[[{"op": "move", "layer": "Badge", "x": 10}]])


class Recomposition(BaseModel):
    """How far the flattened stack is from the original picture, in levels of 255."""

    max: float = Field(examples=[0.0])
    mean: float = Field(examples=[0.0])


class Stack(BaseModel):
    """A stack: its layers bottom to top, and its history."""

    id: str = Field(examples=[f"s_{HEXES}"])
    name: str = Field(examples=["poster"])
    version: Version
    width: int = Field(examples=[1006])
    height: int = Field(examples=[1358])
    depth: int = Field(examples=[8])
    dpi: float = Field(examples=[72.0])
    layers: list[dict[str, Any]] = Field(
        description="Each as in a project's manifest, with `frame` (its exact bounds), `hash` (of its pixels) and "
        "`url` (its picture); a group has `layers` instead of a hash. An edited layer has `source` "
        "(the box of its untouched pixels), `transform`, `looks` and `effects`.",
        examples=[[]],
    )
    notes: list[str] = Field(examples=[[]])
    history: list[Step]
    position: int = Field(description="How many steps of the history are done.", examples=[1])
    recomposition: Recomposition | None
    flat: str = Field(description="The flattened picture.", examples=[f"/v1/stacks/s_{HEXES}/flat.png?v=0123"])
    original: str | None = Field(examples=[f"/v1/stacks/s_{HEXES}/original.png"])
    created: float
    changed: float


class Recipe(Strict):
    """Edits; see `ops` in /v1/capabilities for what each takes, and docs/edits.md."""

    version: Literal[1] = 1
    input: str = ""
    edits: list[dict[str, Any]] = Field(min_length=1, max_length=1000, examples=[[{"op": "move", "layer": 1, "x": 10}]])


class Position(Strict):
    """A place in a stack's history."""

    position: int = Field(ge=0, le=100_000, examples=[0])


class Name(Strict):
    """A stack's name."""

    name: str = Field(min_length=1, max_length=200, examples=["Summer poster"])


class Split(Strict):
    """How a layer is taken apart."""

    layers: int | Literal["auto"] = Field("auto", examples=["auto"])
    prompt: str = Field("", max_length=2000)
    engine: str | None = Field(None, max_length=100, description="By default the server's first.")
    steps: int | None = Field(None, ge=1, le=1000)
    seed: int = Field(0, ge=0, le=2**32 - 1)


class Picture(BaseModel):
    """The name under which recipes use a picture."""

    picture: str = Field(examples=[f"p_{HEXES}.png"])
    width: int
    height: int


class Decomposition(Strict):
    """A form: a picture, and how it is taken apart."""

    file: Annotated[UploadFile, File(description="PNG, JPEG, WebP, AVIF, TIFF, BMP or GIF.")]
    layers: str = Field("auto", pattern=r"^(auto|[0-9]{1,3})$", description="'auto', or how many at most.")
    prompt: str = Field("", max_length=2000, description="A caption of the whole, for engines that read one.")
    engine: str = Field("", max_length=100, description="By default the server's first.")
    steps: int | None = Field(None, ge=1, le=1000)
    seed: int = Field(0, ge=0, le=2**32 - 1)


class StackFile(Strict):
    """A form: a project, or any file of layers that the package reads."""

    file: Annotated[UploadFile, File(description="A project .zip, a .psd, or another file of layers.")]


class PictureFile(Strict):
    """A form: a picture for edits."""

    file: Annotated[UploadFile, File(description="PNG, JPEG, WebP, AVIF, TIFF, BMP or GIF.")]


class TableFile(Strict):
    """A form: a table of variants; its pictures are names of pictures sent to the stack before."""

    table: Annotated[UploadFile, File(description="CSV: a row a variant, a column what is varied.")]
