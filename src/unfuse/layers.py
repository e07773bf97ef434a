"""The layer model: what a decomposed picture is made of.

A `Layer` is straight-alpha RGBA with a place on the canvas, cropped to what it shows; a `LayerStack` is layers bottom
to top on one canvas. Both are frozen and checked when they are made: an edit makes a new stack that shares the pixels
it did not touch.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from unfuse import checked
from unfuse.boxes import IDENTITY as IDENTITY
from unfuse.boxes import Affine as Affine
from unfuse.boxes import Box as Box
from unfuse.checked import DEPTHS as DEPTHS
from unfuse.checked import Pixels as Pixels
from unfuse.errors import StackError
from unfuse.errors import nearest as nearest
from unfuse.errors import one_of as one_of
from unfuse.textblock import TextBlock

if TYPE_CHECKING:
    from PIL import Image

Kind = Literal["background", "object", "text", "decoration", "group"]
KINDS: tuple[str, ...] = get_args(Kind)

BLEND_MODES: tuple[str, ...] = (  # W3C Compositing and Blending Level 1, sections 10.1 and 10.2
    "normal",
    "multiply",
    "screen",
    "overlay",
    "darken",
    "lighten",
    "color-dodge",
    "color-burn",
    "hard-light",
    "soft-light",
    "difference",
    "exclusion",
    "hue",
    "saturation",
    "color",
    "luminosity",
)

Edit = Mapping[str, Any]  # {"op": name, field: value, ...}, in the words of JSON: see `unfuse.edits`


@dataclass(frozen=True, eq=False)
class Original:
    """What the pixels of an edited layer are made from, each time anew: untouched pixels, and what is done to them.

    `looks` change the pixels' colours, `transform` takes points of the canvas from where the pixels were (`box`) to
    where they are, `effects` are laid around the result; in this order, which `unfuse.render` follows. Because every
    edit changes only these and starts from the untouched pixels, ten small edits lose no more than one.
    """

    box: Box
    pixels: Pixels
    transform: Affine = IDENTITY
    looks: tuple[Edit, ...] = ()
    effects: tuple[Edit, ...] = ()

    def __post_init__(self) -> None:
        numbers = tuple(float(x) for x in self.transform)
        if len(numbers) != 6 or not all(math.isfinite(x) for x in numbers):
            raise StackError(f"a transform is {self.transform!r}: it must be six finite numbers")
        object.__setattr__(self, "box", checked.box_of("original", self.box))
        object.__setattr__(self, "pixels", checked.pixels_of("original", self.pixels, self.box))
        object.__setattr__(self, "transform", numbers)


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer, or a group of layers.

    pixels: `h w 4`, uint8 or uint16, straight alpha, the size of `box`. A group has `layers` instead, bottom to top,
    and its box is always the union of theirs, whatever box it is given, and as much more as its `effects` reach: those
    are laid around all of the group as it shows; those of a layer with pixels are its `original`'s. `opacity` is 0 to
    1. `blend_mode` is one of the 16 names of W3C Compositing and Blending Level 1. `id` stays the same through edits.
    `original` is what an edited layer's pixels were made from; new pixels or a new box without one drop it. `text` is
    what the pixels say, on the canvas as they show; it moves with the box, and new pixels without one drop it. A group
    has none.

    The pixels are handed over: the array is made read-only and shared, not copied, unless it is not C-contiguous.
    Raises StackError where a field is wrong.
    """

    name: str
    kind: Kind
    box: Box
    pixels: Pixels | None = None
    layers: tuple[Layer, ...] = ()
    opacity: float = 1.0
    blend_mode: str = "normal"
    visible: bool = True
    locked: bool = False
    original: Original | None = None
    text: TextBlock | None = None
    effects: tuple[Edit, ...] = ()
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        named = checked.text("a layer's name", self.name)
        one_of(f"the kind of layer {named!r}", self.kind, KINDS)
        one_of(f"the blend mode of layer {named!r}", self.blend_mode, BLEND_MODES)
        checked.text(f"the id of layer {named!r}", self.id)
        self._set("opacity", checked.opacity(named, self.opacity))
        self._set("layers", _layers(f"layer {named!r}", self.layers))
        if (self.kind == "group") != bool(self.layers) or (self.kind == "group") != (self.pixels is None):
            raise StackError(
                f"layer {named!r} is of kind {self.kind!r} with {len(self.layers)} layers and "
                f"{'no ' if self.pixels is None else ''}pixels: a group has layers and no pixels, every other kind has "
                "pixels and no layers"
            )
        if self.original and (self.pixels is None or self.original.pixels.dtype != self.pixels.dtype):
            raise StackError(f"layer {named!r} is given an original that its pixels cannot be made from")
        if self.text is not None and (self.pixels is None or not isinstance(self.text, TextBlock)):
            raise StackError(f"layer {named!r} is given the text {self.text!r}: it must be a TextBlock, and no group's")
        if self.effects and self.pixels is not None:
            raise StackError(f"layer {named!r} is given effects of its own: only groups have them, others an original")
        if self.pixels is None:
            self._set("box", self._reached())
        else:
            self._set("box", checked.box_of(named, self.box))
            self._set("pixels", checked.pixels_of(named, self.pixels, self.box))

    def _reached(self) -> Box:
        """What a group covers."""
        box = self.layers[0].box
        for layer in self.layers[1:]:
            box = box.union(layer.box)
        if self.effects:
            from unfuse.effects import reach

            room = sum(reach(edit) for edit in self.effects)
            box = Box(box.left - room, box.top - room, box.right + room, box.bottom + room)
        return box

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen for everyone else

    @classmethod
    def from_canvas(cls, name: str, kind: Kind, pixels: Pixels, **fields: Any) -> Layer:
        """A layer from full-canvas `h w 4` pixels, cropped to what shows; `to_canvas` is the way back."""
        height, width = pixels.shape[:2]
        return cls(name, kind, Box(0, 0, width, height), pixels, **fields).crop_to_content()

    @classmethod
    def group(cls, name: str, layers: Iterable[Layer], **fields: Any) -> Layer:
        """A group of layers, bottom to top. It is composed on its own, then laid down as one layer (isolated)."""
        return cls(name, "group", Box(0, 0, 1, 1), layers=tuple(layers), **fields)

    @property
    def depth(self) -> int:
        """Bits of a channel, 8 or 16; of a group, those of its lowest layer."""
        return self.layers[0].depth if self.pixels is None else DEPTHS[self.pixels.dtype]

    @property
    def is_empty(self) -> bool:
        """Whether no pixel has alpha above 0, whatever the opacity and visibility."""
        return not self.pixels[..., 3].any() if self.pixels is not None else all(x.is_empty for x in self.layers)

    def replace(self, **changes: Any) -> Layer:
        """The layer with some fields changed; everything else, the id too, stays."""
        if "original" not in changes and {"pixels", "box"} & changes.keys():
            changes["original"] = None
        if self.text and "text" not in changes and {"pixels", "box"} & changes.keys():
            x, y = (changes.get("box", self.box)[i] - self.box[i] for i in (0, 1))
            changes["text"] = None if "pixels" in changes else self.text.shifted(x, y)
        return replace(self, **changes)

    def walk(self) -> Iterator[Layer]:
        """The layer, then all layers in it, depth first, bottom to top."""
        yield self
        for layer in self.layers:
            yield from layer.walk()

    def crop_to_content(self) -> Layer:
        """The layer cropped to the box of alpha above 0; one that shows nothing, to its top left pixel.

        Colour under alpha 0 outside that box is dropped; everything else keeps its bits. In a group each layer is
        cropped.
        """
        if self.pixels is None:
            return self.replace(layers=tuple(layer.crop_to_content() for layer in self.layers))
        shows = self.pixels[..., 3] > 0
        rows, columns = np.flatnonzero(shows.any(axis=1)), np.flatnonzero(shows.any(axis=0))
        if rows.size == 0:
            rows = columns = np.zeros(1, dtype=np.intp)
        inner = Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        if inner.size == self.box.size:
            return self
        pixels = self.pixels[inner.top : inner.bottom, inner.left : inner.right]
        # A copy, so that a small layer does not keep a whole canvas in memory.
        box = inner.moved(self.box.left, self.box.top)
        return self.replace(box=box, pixels=pixels.copy(), original=self.original, text=self.text)

    @property
    def alone(self) -> tuple[Layer, ...]:
        """What shows a group as it is before its opacity, blend mode and visibility: its layers, or with effects it."""
        return (self.replace(opacity=1.0, blend_mode="normal", visible=True),) if self.effects else self.layers

    def to_canvas(self, size: tuple[int, int]) -> Pixels:
        """The layer alone on a transparent canvas of `size` (width, height): `h w 4` at its own depth, straight alpha.

        Its own opacity, blend mode and visibility stay outside; a group is flattened, theirs inside.
        """
        canvas = Box(0, 0, *size)
        if self.pixels is None:
            from unfuse.composite import flatten

            return flatten(LayerStack(size, self.alone, depth=16 if self.depth == 16 else 8))
        pixels: Pixels = np.zeros((canvas.height, canvas.width, 4), dtype=self.pixels.dtype)
        if common := self.box.intersection(canvas):
            pixels[common.within(canvas)] = self.pixels[common.within(self.box)]
        return pixels

    def to_image(self, size: tuple[int, int]) -> Image.Image:
        """`to_canvas` as a PIL RGBA image, straight alpha; 16 bits are rounded to 8."""
        from PIL import Image

        return Image.fromarray(to_8_bit(self.to_canvas(size)))


@dataclass(frozen=True)
class Provenance:
    """Where a stack came from, enough to make it again."""

    source_sha256: str = ""
    engine: str = ""
    weights_sha256: str = ""
    seed: int = 0
    steps: int = 0
    prompt: str = ""
    version: str = ""
    reader: str = ""  # what read the text; "" where nothing did


@dataclass(frozen=True, eq=False)
class State:
    """A stack as it once was, and the edits between it and the state that follows it towards now."""

    size: tuple[int, int]
    layers: tuple[Layer, ...]
    edits: tuple[Edit, ...]


@dataclass(frozen=True, eq=False)
class LayerStack:
    """Layers bottom to top on one canvas of `size` (width, height); `depth` is the bits of a channel in all of them.

    `icc` is the colour profile of the pixels (None: sRGB), `dpi` the resolution in print. Ids are unique, in groups
    too. `past` and `future` are what `undo` and `redo` go to, the nearest last. Raises StackError where a field is
    wrong.

    Every edit is a method too: `stack.move("Badge", x=10)` is `unfuse.edit(stack, [{"op": "move", "layer": "Badge",
    "x": 10}])`.
    """

    size: tuple[int, int]
    layers: tuple[Layer, ...]
    depth: Literal[8, 16] = 8
    icc: bytes | None = None
    dpi: float = 72.0
    provenance: Provenance = Provenance()
    notes: tuple[str, ...] = ()  # what a reader or an engine wants the user to know, a line each
    past: tuple[State, ...] = ()
    future: tuple[State, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", checked.size_of(self.size))
        object.__setattr__(self, "layers", _layers("the stack", self.layers))
        if self.depth not in DEPTHS.values():
            raise StackError(f"the stack's depth is {self.depth!r}: it must be 8 or 16")
        if not 0 < self.dpi < math.inf:
            raise StackError(f"the stack's dpi is {self.dpi!r}: it must be above 0")
        ids: dict[str, str] = {}
        for layer in self.walk():
            if layer.id in ids:
                raise StackError(
                    f"layers {ids[layer.id]!r} and {layer.name!r} share the id {layer.id!r}: give one a new"
                )
            ids[layer.id] = layer.name
            if layer.pixels is not None and layer.depth != self.depth:
                raise StackError(
                    f"layer {layer.name!r} holds {layer.pixels.dtype} in a stack of depth {self.depth}: "
                    "depth 8 holds uint8, depth 16 holds uint16"
                )

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __contains__(self, key: object) -> bool:
        """Whether a layer, or a layer of that id or name, is in the stack, in groups too."""
        return any(key is layer or key in (layer.id, layer.name) for layer in self.walk())

    def __getitem__(self, key: int | str) -> Layer:
        """The layer at an index from the bottom, or the one of that id or name, in groups too.

        Raises StackError where there is none, or several of that name.
        """
        if not isinstance(key, str):
            if not -len(self) <= key < len(self):
                raise StackError(f"layer {key} is not in the stack: it has {len(self)}, the bottom one is 0")
            return self.layers[key]
        layers = list(self.walk())
        found = [x for x in layers if x.id == key] or [x for x in layers if x.name == key]
        if len(found) > 1:
            raise StackError(
                f"{len(found)} layers are called {key!r}: ask by id, one of {_listed(x.id for x in found)}"
            )
        if not found:
            names = [layer.name for layer in layers]
            raise StackError(f"no layer is called {key!r}{nearest(key, names)}: the stack has {_listed(names)}")
        return found[0]

    def walk(self) -> Iterator[Layer]:
        """All layers depth first, bottom to top; a group comes before what is in it."""
        for layer in self.layers:
            yield from layer.walk()

    def replace(self, **changes: Any) -> LayerStack:
        """The stack with some fields changed."""
        return replace(self, **changes)

    def replace_layer(self, key: int | str, *new: Layer) -> LayerStack:
        """The stack with other layers, bottom to top, in place of one, in groups too; with none it is taken out.

        A group that loses its last layer goes with it.
        """
        old = self[key]

        def swapped(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
            result: list[Layer] = []
            for layer in layers:
                if layer is old:
                    result.extend(new)
                elif any(old is inner for inner in layer.walk()):
                    inside = swapped(layer.layers)
                    result.extend([layer.replace(layers=inside)] if inside else [])
                else:
                    result.append(layer)
            return tuple(result)

        return self.replace(layers=swapped(self.layers))

    def __getattr__(self, name: str) -> Callable[..., LayerStack]:
        """An edit as a method: `stack.move("Badge", x=10)`."""
        if name.startswith("_"):
            raise AttributeError(name)
        from unfuse.edits import method

        return method(self, name)

    def undo(self) -> LayerStack:
        """The stack before the last edits; StackError where there are none."""
        return self._travel("past", "future")

    def redo(self) -> LayerStack:
        """The stack before the last undo; StackError where nothing was undone since the last edit."""
        return self._travel("future", "past")

    def _travel(self, back: str, forth: str) -> LayerStack:
        states: tuple[State, ...] = getattr(self, back)
        if not states:
            kept = "only a project, a .zip or a folder, keeps what was done"
            raise StackError(f"there is nothing to {'undo' if back == 'past' else 'redo'}: {kept}")
        here = State(self.size, self.layers, states[-1].edits)
        others = {back: states[:-1], forth: (*getattr(self, forth), here)}
        return self.replace(size=states[-1].size, layers=states[-1].layers, **others)

    def flatten(self) -> Image.Image:
        """The whole as a PIL RGBA image, straight alpha, whatever the layers hold; 16 bits are rounded to 8.

        The colour profile and the resolution are in its `info`. `composite.flatten` gives the pixels at full depth.
        """
        from PIL import Image

        from unfuse.composite import flatten

        image = Image.fromarray(to_8_bit(flatten(self)))
        image.info["dpi"] = (self.dpi, self.dpi)
        if self.icc is not None:
            image.info["icc_profile"] = self.icc
        return image

    def save(self, path: str | Path, **options: Any) -> tuple[str, ...]:
        """Write the stack in the format that the suffix names; returns notes on what that cannot hold as it was.

        Options are those of the format: see `unfuse.formats`.
        """
        from unfuse.formats import write

        return write(self, path, **options)

    def split(self, layer: int | str, layers: int | Literal["auto"] = "auto", **options: Any) -> LayerStack:
        """Decompose one layer again: it becomes a group. Options as in `unfuse.decomposition.split`."""
        from unfuse.decomposition import split

        return split(self, layer, layers=layers, **options)


def to_8_bit(pixels: Pixels) -> NDArray[np.uint8]:
    """Pixels of either depth at 8 bits, rounded to the nearest level (65535 is 255 times 257: there are no ties)."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "no layers"


def _layers(what: str, value: Iterable[object]) -> tuple[Layer, ...]:
    layers = []
    for layer in value:
        if not isinstance(layer, Layer):
            raise StackError(f"{what} is given a {type(layer).__name__} among its layers: they must be unfuse.Layer")
        layers.append(layer)
    return tuple(layers)
