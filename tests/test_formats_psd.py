"""PSD: our own files there and back, in ImageMagick and GIMP, and files that others would write."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray
from PIL import Image
from psd_tools import PSDImage
from psd_tools.constants import BlendMode, Tag
from psd_tools.psd import PSD
from psd_tools.psd.tagged_blocks import TaggedBlock
from stacks import assert_same_layers, everything, noise, printable, renamed, soft, stacks

from unfuse import formats
from unfuse.composite import flatten
from unfuse.errors import FormatError
from unfuse.layers import BLEND_MODES, Box, Layer, LayerStack
from unfuse.pixels import read as read_picture

NOT_IN_PSD = ("id", "kind")
STACKS: list[tuple[Literal[8, 16], bool]] = [(8, False), (8, True), (16, False), (16, True)]


# ---- there and back


@settings(max_examples=25, deadline=None)
@given(stack=stacks())
@pytest.mark.parametrize("suffix", [".psd", ".psb"])
def test_layers_come_back_to_the_bit(stack: LayerStack, suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("stacks") / f"a{suffix}"
    if not stack.layers:
        stack = stack.replace(layers=(Layer("one", "object", Box(0, 0, 1, 1), noise(0, 1, 1, stack.depth)),))
    stack = renamed(stack, printable)
    formats.write(stack, path)
    back = formats.read(path)
    assert (back.size, back.depth, back.icc, back.dpi) == (stack.size, stack.depth, stack.icc, stack.dpi)
    assert back.notes == ()
    assert_same_layers(back.layers, stack.layers, ignore=NOT_IN_PSD)


def test_every_blend_mode_comes_back(tmp_path: Path) -> None:
    layers = [Layer(mode, "object", Box(0, 0, 2, 2), noise(0, 2, 2, 8), blend_mode=mode) for mode in BLEND_MODES]
    stack = LayerStack((2, 2), (*layers, Layer.group("all", [x.replace(id=x.name) for x in layers], blend_mode="hue")))
    formats.write(stack, tmp_path / "a.psd")
    assert_same_layers(formats.read(tmp_path / "a.psd").layers, stack.layers, ignore=NOT_IN_PSD)


def test_a_stack_without_layers_is_its_canvas(tmp_path: Path) -> None:
    formats.write(LayerStack((3, 2), ()), tmp_path / "a.psd")
    assert formats.read(tmp_path / "a.psd").size == (3, 2)


@pytest.mark.parametrize(
    ("size", "suffix", "version"), [((9, 9), "psd", 1), ((9, 9), "psb", 2), ((30_001, 1), "psd", 2)]
)
def test_large_pictures_are_written_as_psb(tmp_path: Path, size: tuple[int, int], suffix: str, version: int) -> None:
    stack = LayerStack(size, (Layer("a", "object", Box(0, 0, *size), noise(0, *size, 8)),))
    formats.write(stack, tmp_path / f"a.{suffix}")
    assert (tmp_path / f"a.{suffix}").read_bytes()[4:6] == bytes([0, version])
    assert_same_layers(formats.read(tmp_path / f"a.{suffix}").layers, stack.layers, ignore=NOT_IN_PSD)


def test_psd_tools_reads_names_places_and_locks(tmp_path: Path) -> None:
    stack = everything()
    formats.write(stack, tmp_path / "a.psd")
    psd = PSDImage.open(tmp_path / "a.psd")
    theirs = {layer.name: layer for layer in psd.descendants()}
    assert set(theirs) == {layer.name for layer in stack.walk()}
    for layer in stack.walk():
        their = theirs[layer.name]
        assert their.is_group() == (layer.kind == "group")
        assert their.bbox == tuple(layer.box)
        assert abs(their.opacity - layer.opacity * 255) <= 0.5
        assert their.visible == layer.visible
        assert bool(their.locks and their.locks.complete) == layer.locked
    group: Any = theirs["Gruppe 組"]
    assert [layer.name for layer in group] == ["Sonne", "Licht", "innen"]
    assert theirs["Schatten"].blend_mode == BlendMode.MULTIPLY


@pytest.mark.parametrize(("depth", "transparent"), STACKS)
def test_the_preview_is_the_flattened_stack(tmp_path: Path, depth: Literal[8, 16], transparent: bool) -> None:
    stack = everything(depth, transparent)
    formats.write(stack, tmp_path / "a.psd")
    with (tmp_path / "a.psd").open("rb") as file:
        psd = PSD.read(file)
    planes: Any = psd.image_data.get_data(psd.header)
    preview = np.stack([np.frombuffer(plane, f">u{depth // 8}").reshape(80, 120) for plane in planes], axis=2)
    expected = flatten(stack)
    if not transparent:
        np.testing.assert_array_equal(preview, expected[..., :3])
        return
    np.testing.assert_array_equal(preview[..., 3], expected[..., 3])
    top = 2**depth - 1
    over_white = expected[..., :3] * (expected[..., 3:] / top) + (top - expected[..., 3:].astype(float))
    assert np.abs(preview[..., :3] - over_white).max() <= 0.5


# ---- in other programs


def program(*names: str, says: str) -> str | None:
    """The first of these that is there and is what its name says."""
    for name in names:
        path = shutil.which(name)
        if path and says in subprocess.run([path, "-version"], capture_output=True, text=True).stdout:
            return path
    return None


MAGICK = program("magick", "convert", "convert-im6.q16", says="Version: ImageMagick")
GIMP = shutil.which("gimp-console") or shutil.which("gimp")
needs_magick = pytest.mark.skipif(MAGICK is None, reason="ImageMagick is not installed")
needs_gimp = pytest.mark.skipif(GIMP is None, reason="GIMP is not installed")


def distance(picture: Path, stack: LayerStack) -> float:
    """The largest difference from the flattened stack in 8-bit levels, on premultiplied values."""
    shown = premultiplied(read_picture(picture).pixels.astype(np.float64))
    expected = flatten(stack)
    assert shown.shape == expected.shape
    return float(np.abs(shown - premultiplied(expected / np.iinfo(expected.dtype).max)).max() * 255)


def premultiplied(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], axis=2)


@needs_magick
@pytest.mark.parametrize(("depth", "transparent"), STACKS)
@pytest.mark.parametrize("suffix", ["psd", "psb"])
def test_imagemagick_shows_the_preview(tmp_path: Path, depth: Literal[8, 16], transparent: bool, suffix: str) -> None:
    stack = everything(depth, transparent)
    formats.write(stack, tmp_path / f"a.{suffix}")
    subprocess.run([str(MAGICK), f"{tmp_path}/a.{suffix}[0]", f"{tmp_path}/a.png"], check=True, capture_output=True)
    assert distance(tmp_path / "a.png", stack) <= 1
    assert Image.open(tmp_path / "a.png").info["icc_profile"] == stack.icc


@pytest.fixture(scope="module")
def gimp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what GIMP makes of each file's layers: it starts once, for starting takes it seconds."""
    folder = tmp_path_factory.mktemp("gimp")
    script = ["-idf", "--no-data", "--batch-interpreter", "plug-in-script-fu-eval"]
    for name, make in IN_GIMP.items():
        make(folder / name)
        psd, png = folder / name, folder / f"{name}.png"
        script += ["-b", f'(let* ((i (car (gimp-file-load 1 "{psd}" "{psd}")))'
            "(l (car (gimp-image-merge-visible-layers i CLIP-TO-IMAGE)))) (gimp-layer-resize-to-image-size l)"
            f'(file-png-save 1 i l "{png}" "{png}" 0 6 0 0 0 0 0))']  # fmt: skip
    environment = os.environ | {"HOME": str(folder), "GIMP2_DIRECTORY": str(folder / "settings")}
    command = [str(GIMP), *script, "-b", "(gimp-quit 1)"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert all((folder / f"{name}.png").exists() for name in IN_GIMP), said.stdout + said.stderr
    return folder


def ours(depth: Literal[8, 16], transparent: bool) -> Callable[[Path], object]:
    return lambda path: formats.write(everything(depth, transparent), path)


def foreign(path: Path) -> None:
    """A file as psd-tools writes it: a mask, a clipped layer, a group that passes blend modes through."""
    psd = PSDImage.new("RGBA", (120, 80))
    psd.create_pixel_layer(Image.fromarray(everything()[0].to_canvas((120, 80))), name="ground")
    disc = psd.create_pixel_layer(Image.fromarray(soft(60, 60, (240, 200, 20))), name="disc", top=10, left=10)
    x = np.arange(60, dtype=np.uint8)
    disc.create_mask(Image.fromarray(np.broadcast_to(x * 4, (60, 60)).copy()))
    psd.create_pixel_layer(Image.fromarray(square(40, (20, 160, 90))), name="base", top=30, left=60)
    inside = psd.create_pixel_layer(Image.fromarray(soft(60, 60, (10, 10, 200))), name="inside", top=10, left=70)
    inside.clipping = True
    dark = psd.create_pixel_layer(Image.fromarray(soft(50, 50, (200, 90, 90))), name="dark", top=5, left=40)
    dark.blend_mode = BlendMode.MULTIPLY
    psd.create_group([dark], name="through").blend_mode = BlendMode.PASS_THROUGH
    psd.save(path)


def square(side: int, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    return np.broadcast_to(np.array([*colour, 255], np.uint8), (side, side, 4)).copy()


IN_GIMP: dict[str, Callable[[Path], object]] = {
    f"ours{depth}{'t' * transparent}.psd": ours(depth, transparent) for depth, transparent in STACKS
} | {"foreign.psd": foreign}


@needs_gimp
@pytest.mark.parametrize(("depth", "transparent"), STACKS)
def test_gimp_composes_our_layers_as_we_do(gimp: Path, depth: Literal[8, 16], transparent: bool) -> None:
    name = f"ours{depth}{'t' * transparent}.psd.png"
    assert distance(gimp / name, everything(depth, transparent)) <= 2


@needs_gimp
def test_a_foreign_file_looks_as_in_gimp(gimp: Path) -> None:
    assert distance(gimp / "foreign.psd.png", formats.read(gimp / "foreign.psd")) <= 2


# ---- files of others


def test_what_a_stack_does_not_have_is_baked_and_noted(tmp_path: Path) -> None:
    foreign(tmp_path / "a.psd")
    stack = formats.read(tmp_path / "a.psd")
    assert [layer.name for layer in stack.walk()] == ["ground", "disc", "base", "inside", "dark"]
    assert stack[0].kind == "background"
    assert stack["dark"].blend_mode == "multiply"
    assert stack.notes == (
        "'disc' has a mask: it was put into its alpha",
        "'inside' is clipped to 'base': that was put into its alpha",
        "group 'through' lets blend modes through to what lies below it: it was taken apart",
    )


MARKED = {  # what Photoshop puts on a layer that is more than its pixels
    "levels": (Tag.INVERT, b""),
    "words": (Tag.TYPE_TOOL_INFO, b"\0\1"),
    "shadow": (Tag.OBJECT_BASED_EFFECTS_LAYER_INFO_V1, b"\0"),
    "half": (Tag.BLEND_FILL_OPACITY, b"\x33\0\0\0"),
    "smart": (Tag.PLACED_LAYER1, b"\0"),
    "shape": (Tag.SOLID_COLOR_SHEET_SETTING, b"\0"),
    "cut": (Tag.VECTOR_MASK_SETTING1, b"\0"),
}


def test_what_is_left_out_is_noted(tmp_path: Path) -> None:
    box = Box(0, 0, 2, 2)
    layers = [Layer(name, "object", box, square(2, (1, 2, 3))) for name in ("dissolved", "void", *MARKED)]
    formats.write(
        LayerStack((4, 4), (*layers, Layer.group("nothing", [layers[0].replace(id="x")]))), tmp_path / "a.psd"
    )
    with (tmp_path / "a.psd").open("rb") as file:
        psd = PSD.read(file)
    info: Any = psd.layer_and_mask_information.layer_info
    records = {record.name: record for record in info.layer_records}
    for name, (tag, data) in MARKED.items():
        records[name].tagged_blocks[tag] = TaggedBlock(key=tag, data=data)
    del info.layer_records[-2], info.channel_image_data[-2]
    info.layer_count -= 1 if info.layer_count > 0 else -1
    info.layer_records[0].blend_mode = BlendMode.DISSOLVE
    records["void"].right = records["void"].left
    for channel in info.channel_image_data[1]:
        channel.data = b""
    with (tmp_path / "a.psd").open("wb") as file:
        psd.write(file)
    stack = formats.read(tmp_path / "a.psd")
    names = [layer.name for layer in stack]
    assert names == ["dissolved", "words", "shadow", "half", "smart", "shape", "cut", "Merged picture"]
    assert not stack["Merged picture"].visible
    assert stack["words"].kind == "text"
    assert stack["half"].opacity == 0x33 / 255
    assert stack.notes == (
        "'dissolved' has the blend mode dissolve: it became normal",
        "'void' has no pixels: it was left out",
        "'levels' is an adjustment layer: it was left out, the whole may look different",
        "'words' is a text layer whose words cannot be read: it came in as pixels",
        "'shadow' has layer effects: they were left out",
        "'smart' is a smart object: it came in as pixels",
        "'shape' is a shape or a fill: it came in as pixels",
        "'cut' has a vector mask: it was left out",
        "group 'nothing' is empty: it was left out",
        "how it looked where it was saved is in the hidden layer 'Merged picture'",
    )


def test_a_psd_without_layers_is_one(tmp_path: Path) -> None:
    picture = everything()[0].to_canvas((120, 80))
    PSDImage.frompil(Image.fromarray(picture).convert("RGB")).save(tmp_path / "a.psd")
    stack = formats.read(tmp_path / "a.psd")
    assert [(layer.name, layer.kind) for layer in stack] == [("Background", "background")]
    np.testing.assert_array_equal(stack[0].pixels, picture)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colour_modes_are_named(tmp_path: Path, mode: str) -> None:
    PSDImage.new(mode, (4, 4)).save(tmp_path / "a.psd")
    with pytest.raises(FormatError, match=r"is (grayscale|cmyk) with 8 bits a channel: save it as RGB"):
        formats.read(tmp_path / "a.psd")


# ---- files that Photoshop and GIMP wrote

FOREIGN = Path(__file__).parent / "data" / "foreign"


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("1layer", ["Фон"]),
        ("2layers", ["Фон", "Слой"]),
        ("empty-layer", ["Background", "group", "normal"]),
        ("group", None),
        ("hidden-groups", None),
        ("semi-transparent-layers", None),
        ("transparentbg-gimp", None),
    ],
)
def test_a_foreign_file_looks_as_its_writer_saw_it(name: str, layers: list[str] | None) -> None:
    stack = formats.read(FOREIGN / f"{name}.psd")
    with Image.open(FOREIGN / f"{name}.psd") as merged:
        seen = np.asarray(merged.convert("RGB")).astype(float)
    flat = flatten(stack).astype(float)
    assert np.abs((flat[..., :3] * flat[..., 3:] + 255 * (255 - flat[..., 3:])) / 255 - seen).max() <= 1
    if layers:
        assert [layer.name for layer in stack.walk()] == layers


def test_what_ag_psd_writes_looks_as_a_canvas_composes_it() -> None:
    """Groups, opacity, blend modes, a mask, a clipped and a hidden layer, names of any letters: `ag_psd.js` made it."""
    stack = formats.read(FOREIGN / "ag_layers.psd")
    with Image.open(FOREIGN / "ag_layers.psd") as merged:
        seen = np.asarray(merged.convert("RGBA")).astype(float)
    assert np.abs(flatten(stack) - seen).max() <= 2
    assert [layer.name for layer in stack] == ["Back", "Masked", "Group Ä 組", "Screen", "Multiply", "Hidden"]
    assert stack.notes == (
        "'Masked' has a mask: it was put into its alpha",
        "'Clipped' is clipped to 'Base': that was put into its alpha",
    )


def test_what_no_layer_says_is_seen_in_the_whole() -> None:
    """Photoshop blends text with a gamma of its own, which no file says: only the saved picture shows it."""
    stack = formats.read(FOREIGN / "text.psb")
    assert stack["Merged picture"].visible is False
    assert any(note.startswith("it looks different from where it was saved, by up to ") for note in stack.notes)


def test_shapes_that_are_computed_are_said() -> None:
    """Four shapes without pixels; what lies in place of the whole is Photoshop's notice that it was not saved."""
    stack = formats.read(FOREIGN / "note.psd")
    assert [note.partition(" has no pixels")[0] for note in stack.notes] == [f"'Shape {x}'" for x in (1, 2, 3, 4)]
    assert "Merged picture" not in stack


def test_depths_of_others_are_read_or_named() -> None:
    assert formats.read(FOREIGN / "16bit5x5.psd").depth == 16
    with pytest.raises(FormatError, match="is rgb with 32 bits a channel: save it as RGB with 8 or 16 bits"):
        formats.read(FOREIGN / "32bit5x5.psd")


# ---- broken and hostile files


def header(width: int, height: int, channels: int = 3) -> bytes:
    sizes = channels.to_bytes(2, "big") + height.to_bytes(4, "big") + width.to_bytes(4, "big")
    return b"8BPS\0\1" + bytes(6) + sizes + b"\0\x08\0\3" + bytes(12) + b"\0\1"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"8BPS", "not a PSD"),
        (b"hello" * 9, "not a PSD"),
        (header(4, 4), "broken or cut short"),
        (header(30_000, 30_000), "30000x30000 pixels, the limit is 4,000,000"),
        (header(2000, 2000, 56), "in all layers, the limit is 16,000,000"),
    ],
)
def test_a_broken_psd_is_refused_in_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.psd").write_bytes(data)
    with pytest.raises(FormatError, match=message) as caught:
        formats.read(tmp_path / "a.psd", limit_megapixels=4)
    assert "\n" not in str(caught.value)


def test_a_layer_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    formats.write(LayerStack((4, 4), (Layer("a", "object", Box(1, 2, 3, 4), noise(0, 2, 2, 8)),)), tmp_path / "a.psd")
    box = b"".join(value.to_bytes(4, "big") for value in (2, 1, 4, 3))
    huge = b"".join(value.to_bytes(4, "big") for value in (2, 1, 100_000, 100_000))
    data = (tmp_path / "a.psd").read_bytes()
    assert data.count(box) == 1
    (tmp_path / "a.psd").write_bytes(data.replace(box, huge))
    with pytest.raises(FormatError, match="pixels in all layers, the limit is 800,000,000"):
        formats.read(tmp_path / "a.psd")


def test_a_psd_cut_anywhere_is_refused_or_whole(tmp_path: Path) -> None:
    stack = everything()
    formats.write(stack, tmp_path / "a.psd")
    data = (tmp_path / "a.psd").read_bytes()
    for length in range(0, len(data), len(data) // 40):
        (tmp_path / "b.psd").write_bytes(data[:length])
        try:
            back = formats.read(tmp_path / "b.psd")
        except FormatError:
            continue
        assert_same_layers(back.layers, stack.layers, ignore=(*NOT_IN_PSD, "opacity"))  # only the preview is cut
