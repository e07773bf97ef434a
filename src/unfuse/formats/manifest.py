"""A stack as named files, the native project: what the `.zip` and the folder format have in common.

`manifest.json` says everything but the pixels and follows `manifest.schema.json`, which ships beside this module;
`flat.png` is a preview; `profile.icc` is there where the stack has a profile; each layer is a PNG, cropped to its box
("cropped") or on the full canvas ("canvas"). Both layouts are read back without loss, from either container. What
edited layers were made from, and the states that undo and redo go to, lie in `kept/`: see `kept`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from io import BytesIO
from typing import Any, Literal

import numpy as np

from unfuse import edits
from unfuse.composite import THREADS, flatten
from unfuse.effects import EFFECTS, reach
from unfuse.errors import FormatError, PictureError, StackError
from unfuse.formats.kept import FIELDS, FOLDER, Kept, area, digest, fields
from unfuse.formats.names import file_names
from unfuse.layers import Box, Edit, Layer, LayerStack, Original, Pixels, Provenance, State
from unfuse.looks import LOOKS
from unfuse.pixels import quantise
from unfuse.pixels import read as read_picture
from unfuse.saving import write_flat
from unfuse.textblock import TextBlock

VERSION = 2  # 1 where no group has effects, so that older releases read it
MANIFEST, FLAT, ICC = "manifest.json", "flat.png", "profile.icc"
LARGEST_MANIFEST = 16 << 20
LARGEST_ICC = 16 << 20
LAYERS_TO_CANVAS = 4  # all layers together may have so many times the pixels that a canvas may have

Layout = Literal["cropped", "canvas"]
Encode = Callable[[Pixels, LayerStack], bytes]
Read = Callable[[str, int], bytes]  # (name, most bytes) -> the file; FormatError where it is missing or larger


def pack(stack: LayerStack, layout: Layout, encode: Encode | None = None) -> Iterator[tuple[str, bytes]]:
    """The project's files by name, the manifest first; same stack, same bytes.

    encode: what makes PNGs, for whoever remembers those that it made; it must give the same bytes as `png`.
    """
    encode = encode or png
    named = list(file_names(stack.layers))
    names = {layer.id: name for layer, name in named}
    canvas = Box(0, 0, *stack.size)
    shared = {name: layer.pixels for layer, name in named if layer.pixels is not None and layout == "cropped"}
    kept = Kept(stack, shared)
    manifest: dict[str, Any] = {"format": "unfuse", "version": _version(stack), "layout": layout}
    manifest |= {"size": stack.size, "depth": stack.depth, "dpi": stack.dpi}
    manifest |= {"icc": ICC} if stack.icc is not None else {}
    manifest |= {"flat": FLAT, "provenance": dataclasses.asdict(stack.provenance), "notes": stack.notes}
    manifest["layers"] = [_entry(layer, names, canvas, layout, kept) for layer in stack]
    states = {"past": kept.states(stack.past), "future": kept.states(stack.future)}
    manifest |= {name: entries for name, entries in states.items() if entries}
    yield MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=1).encode(errors="surrogatepass")
    yield FLAT, encode(flatten(stack), stack)
    if stack.icc is not None:
        yield ICC, stack.icc
    pictures = [(name, partial(_shown, layer, stack, layout)) for layer, name in named]
    pictures += [
        (_whole(name), partial(_shown, layer, stack, "cropped"))
        for layer, name in named
        if _leaves(layer.box, canvas, layout)
    ]
    pictures += [(name, partial(np.asarray, pixels)) for name, pixels in kept.pictures()]
    with ThreadPoolExecutor(THREADS) as pool:  # zlib works outside the interpreter's lock
        files = pool.map(lambda row: encode(row[1](), stack), pictures)
        yield from zip((name for name, _ in pictures), files, strict=True)


def _version(stack: LayerStack) -> int:
    tops = [*stack.layers, *(layer for state in (*stack.past, *stack.future) for layer in state.layers)]
    return VERSION if any(layer.effects for top in tops for layer in top.walk()) else 1


def unpack(read: Read, *, what: str, max_pixels: int) -> LayerStack:
    """The stack whose files `read` gives; `what` names the project in errors.

    Sizes are checked before pixels are decoded: the canvas has at most `max_pixels`, all layers together at most
    `LAYERS_TO_CANVAS` times as many. In the canvas layout what was painted beside a layer's box belongs to it too.
    Raises FormatError, in one line, for anything that does not follow the schema.
    """
    manifest = parse(read(MANIFEST, LARGEST_MANIFEST), what=what)
    width, height = manifest["size"]
    if width * height > max_pixels:
        raise FormatError(f"{what} has a canvas of {width}x{height} pixels, the limit is {max_pixels:,}")
    used = [entry["file"] for entry in _leaves_of(manifest["layers"])]
    if len(set(used)) < len(used):
        raise FormatError(f"{what} gives one file to several layers: give each its own")
    most = LAYERS_TO_CANVAS * max_pixels
    states = [state for name in ("past", "future") for state in manifest.get(name, [])]
    history = area(entry for state in states for entry in state["layers"])
    reader = _Reader(read, what, Box(0, 0, width, height), manifest["depth"], manifest["layout"], most)
    if history > most:
        reader.notes.append(f"its history of {history:,} pixels is too large to be read: nothing can be undone")
        manifest |= {"past": [], "future": []}
    try:
        return LayerStack(
            size=(width, height),
            layers=tuple(reader.layer(entry) for entry in manifest["layers"]),
            past=tuple(reader.state(state) for state in manifest.get("past", [])),
            future=tuple(reader.state(state) for state in manifest.get("future", [])),
            depth=manifest["depth"],
            icc=read(ICC, LARGEST_ICC) if "icc" in manifest else None,
            dpi=manifest["dpi"],
            provenance=Provenance(**manifest["provenance"]),
            notes=(*manifest["notes"], *reader.notes),
        )
    except StackError as error:
        raise FormatError(f"{what} holds a stack that cannot be: {error}") from error


def parse(data: bytes, *, what: str) -> dict[str, Any]:
    """The manifest in `data`, checked against the schema; a newer version is named as such."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    try:
        manifest = json.loads(data, parse_constant=lambda word: _refuse(f"{word} is not JSON"))
        version = manifest.get("version") if isinstance(manifest, dict) else None
        if isinstance(version, int) and version > VERSION:
            _refuse(f"it has version {version} and this unfuse reads up to {VERSION}: install a newer unfuse")
        if problem := best_match(Draft202012Validator(schema()).iter_errors(manifest)):
            _refuse(f"at {problem.json_path}, {short(problem.message)}")
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not a project that unfuse can read: in {MANIFEST}, {short(error)}") from error
    checked: dict[str, Any] = manifest
    return checked


def schema() -> dict[str, Any]:
    """The published JSON schema of the manifest."""
    loaded: dict[str, Any] = json.loads(files(__package__).joinpath("manifest.schema.json").read_bytes())
    return loaded


def members(manifest: dict[str, Any]) -> set[str]:
    """The names of all files that a checked manifest speaks of, its own too."""
    icc = {ICC} & {manifest.get("icc")}
    states = [manifest, *manifest.get("past", []), *manifest.get("future", [])]
    entries = [entry for state in states for entry in _leaves_of(state["layers"])]
    entries += [entry["original"] for entry in entries if "original" in entry]
    return {MANIFEST, FLAT} | icc | {entry[key] for entry in entries for key in ("file", "whole") if key in entry}


@dataclasses.dataclass
class _Reader:
    """Makes layers of manifest entries and collects what the user should know."""

    read: Read
    what: str
    canvas: Box
    depth: Literal[8, 16]
    layout: Layout
    most: int
    taken: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)
    known: dict[str, Pixels] = dataclasses.field(default_factory=dict)  # so that states share what they shared

    def state(self, state: dict[str, Any]) -> State:
        """Another state of the stack; its layers are cropped, whatever the layout."""
        cropped = dataclasses.replace(self, layout="cropped", taken=0)
        width, height = state["size"]
        return State((width, height), tuple(cropped.layer(x) for x in state["layers"]), tuple(state["edits"]))

    def layer(self, entry: dict[str, Any]) -> Layer:
        given = {key: entry[key] for key in FIELDS if key != "box"}
        if "layers" in entry:
            given["effects"] = tuple(entry.get("effects", ()))
            _check_steps((), given["effects"])
            group = Layer(box=self.canvas, layers=tuple(self.layer(inner) for inner in entry["layers"]), **given)
            if group.effects:  # it is composed, as far beyond the canvas as they reach
                room = sum(reach(edit) for edit in group.effects)
                self.take(Box(0, 0, self.canvas.width + 2 * room, self.canvas.height + 2 * room))
            return group
        if "text" in entry:
            given["text"] = TextBlock.from_json(entry["text"])
        box = Box(*entry["box"])
        if self.layout == "cropped":
            self.take(box)
            shown = self.pixels(entry["file"], box)
            return Layer(box=box, pixels=shown, original=self.original(entry, shown), **given)
        shown = self.pixels(entry["file"], self.canvas)
        given["original"] = self.original(entry, shown)
        content = Layer.from_canvas("content", "object", shown)
        if not content.is_empty:
            box = box.union(content.box)
        self.take(box)
        pixels: Pixels = np.zeros((box.height, box.width, 4), dtype=shown.dtype)
        if "whole" in entry:
            whole = Box(*entry["box"])
            pixels[whole.within(box)] = self.pixels(entry["whole"], whole)
        if common := box.intersection(self.canvas):
            pixels[common.within(box)] = shown[common.within(self.canvas)]
        return Layer(box=box, pixels=pixels, **given)

    def original(self, entry: dict[str, Any], shown: Pixels) -> Original | None:
        """What a layer was made from, unless its file no longer shows what was made."""
        if "original" not in entry:
            return None
        made = entry["original"]
        if made["made"] != digest(shown):
            self.notes.append(f"{entry['file']!r} was painted: it stays as it is, and its edits cannot be taken back")
            return None
        _check_steps(made["looks"], made["effects"])
        box = Box(*made["box"])
        self.take(box)
        pixels = self.pixels(made["file"], box)
        return Original(box, pixels, tuple(made["transform"]), tuple(made["looks"]), tuple(made["effects"]))

    def take(self, box: Box) -> None:
        """Count a layer's pixels before there is memory for them."""
        self.taken += max(0, box.width) * max(0, box.height)
        if self.taken > self.most:
            raise FormatError(f"{self.what} has more than {self.most:,} pixels in all layers, the limit")

    def pixels(self, name: str, box: Box) -> Pixels:
        """The PNG of that name, which must have the size of `box`, at the stack's depth."""
        if name in self.known and self.known[name].shape[:2] == (box.height, box.width):
            return self.known[name]
        what = f"{name!r} in {self.what}"
        area = box.width * box.height
        try:
            picture = read_picture(self.read(name, 9 * area + LARGEST_ICC), limit_megapixels=(area + 0.5) / 1e6)
        except PictureError as error:
            raise FormatError(f"{what}: {error}") from error
        if picture.size != box.size:
            raise FormatError(f"{what} has {picture.size} pixels, {MANIFEST} gives it {box.size}: keep the size")
        if picture.depth > self.depth:
            self.notes.append(f"{name!r} has 16 bits in a stack of 8: rounded")
        pixels = quantise(picture.pixels, self.depth)
        if self.layout == "cropped" or name.startswith(FOLDER):  # a canvas would only take memory: it is cropped
            self.known[name] = pixels
        return pixels


def _entry(layer: Layer, names: dict[str, str], canvas: Box, layout: Layout, kept: Kept) -> dict[str, Any]:
    if layer.pixels is None:
        return fields(layer) | {"layers": [_entry(inner, names, canvas, layout, kept) for inner in layer.layers]}
    entry = fields(layer) | {"file": names[layer.id]}
    if layer.original:
        entry |= kept.original(layer, layer.pixels if layout == "cropped" else layer.to_canvas(canvas.size))
    return entry | ({"whole": _whole(names[layer.id])} if _leaves(layer.box, canvas, layout) else {})


def _shown(layer: Layer, stack: LayerStack, layout: Layout) -> Pixels:
    """What a layer's file shows."""
    assert layer.pixels is not None
    return layer.pixels if layout == "cropped" else layer.to_canvas(stack.size)


def png(pixels: Pixels, stack: LayerStack) -> bytes:
    """Pixels as a PNG with the stack's profile and resolution."""
    file = BytesIO()
    write_flat(file, pixels, icc=stack.icc, dpi=stack.dpi, suffix=".png")
    return file.getvalue()


def _leaves(box: Box, canvas: Box, layout: Layout) -> bool:
    """Whether a PNG on the canvas cannot hold the whole layer."""
    return layout == "canvas" and box.intersection(canvas) != box


def _whole(name: str) -> str:
    return f"off canvas/{name}"


def _leaves_of(entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for entry in entries:
        if "layers" in entry:
            yield from _leaves_of(entry["layers"])
        else:
            yield entry


def _check_steps(looks: Iterable[Edit], effects: Iterable[Edit]) -> None:
    """Raise StackError for what is no look or no effect, or has wrong values."""
    for table, steps in ((LOOKS, looks), (EFFECTS, effects)):
        for step in steps:
            edits.check_step(step)
            if step["op"] not in table:
                raise StackError(f"{step['op']} is none of {', '.join(table)}")


def _refuse(why: str) -> None:
    raise ValueError(why)


def short(message: object) -> str:
    """A message from elsewhere as one line that is not too long."""
    line = " ".join(str(message).split())
    return line if len(line) <= 200 else f"{line[:100]} ... {line[-100:]}"
