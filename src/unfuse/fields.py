"""The types of an edit's fields. Each says what JSON may hold there; the schema of recipes is made from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal


class Field(dict[str, Any]):
    """A piece of JSON schema in a type; hashable, which a plain dict in `Annotated` is not."""

    __hash__ = object.__hash__  # type: ignore[assignment]


HEX = r"^#([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"

Color = Annotated[str, Field(pattern=HEX, description="An sRGB colour, such as #e4002b.")]
Share = Annotated[float, Field(minimum=0, maximum=1)]
Amount = Annotated[float, Field(minimum=-1, maximum=1, description="0 changes nothing.")]
Radius = Annotated[float, Field(minimum=0, maximum=500, description="In pixels of the canvas.")]
Offset = Annotated[float, Field(minimum=-2000, maximum=2000, description="In pixels of the canvas.")]
Pixels = Annotated[float, Field(minimum=-1e6, maximum=1e6, description="In pixels of the canvas.")]
Point = tuple[Pixels, Pixels]
Rectangle = Annotated[tuple[int, int, int, int], Field(description="[left, top, right, bottom] on the canvas.")]
Side = Annotated[int, Field(minimum=1, maximum=100_000)]
Factor = Annotated[float, Field(minimum=1e-4, maximum=1e4)]
Spot = Literal["center", "left top", "top", "right top", "left", "right", "left bottom", "bottom", "right bottom"]
How = Annotated[
    Literal["fit", "fill", "stretch"],
    Field(description="Whole picture inside, whole place covered, or both by changing the proportions."),
]
Picture = Annotated[Any, Field(description="A picture file; in Python also bytes, a PIL image or an array.")]
Name = Annotated[str, Field(minLength=1)]

Words = Annotated[str, Field(pattern=r"\S", description="A text; a line break in it is kept.")]
Weight = Annotated[int, Field(minimum=100, maximum=900, description="Regular is 400, bold 700.")]

ONE = Field(description="A layer: id, name, index from the bottom, or 'at x,y'.", type=["string", "integer"])
ANY = Field(
    description="Layers: id, name, index from the bottom, 'at x,y', 'kind:text', a pattern such as 'B*', or a list.",
    anyOf=[
        {"type": ["string", "integer"]},
        {"type": "array", "items": {"type": ["string", "integer"]}, "minItems": 1},
    ],
)
Selector = Annotated[str | int, ONE]
Selectors = Annotated[str | int | list[str | int], ANY]
