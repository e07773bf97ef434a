"""The table, what happens to files on the disk, and the two project formats there and back."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import stat
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator
from PIL import Image
from stacks import assert_same, everything, noise, png, stacks

from unfuse import formats
from unfuse.composite import flatten
from unfuse.errors import FormatError, UnfuseError
from unfuse.formats import manifest
from unfuse.layers import BLEND_MODES, KINDS, Box, Layer, LayerStack, Original, Provenance, State

SUFFIXES = [suffix for row in formats.FORMATS for suffix in row.suffixes]
EVERYTHING = settings(max_examples=25, deadline=None)


# ---- the table


def test_every_format_is_found_by_its_suffixes_in_any_case() -> None:
    for row in formats.FORMATS:
        for suffix in row.suffixes:
            assert formats.find(f"a{suffix.upper()}") is row
    assert formats.find("a") is formats.FOLDER
    assert formats.find("a.b/") is formats.FOLDER


def test_an_unknown_suffix_lists_the_known_ones(tmp_path: Path) -> None:
    for call in (lambda path: formats.write(everything(), path), formats.read):
        with pytest.raises(FormatError) as caught:
            call(tmp_path / "a.pdsx")
        assert "'.pdsx'" in str(caught.value)
        assert all(suffix in str(caught.value) for suffix in SUFFIXES)


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    formats.write(everything(), tmp_path / "a.png")
    with pytest.raises(FormatError, match=r"cannot be read as layers.*\.zip"):
        formats.read(tmp_path / "a.png")
    with pytest.raises(FormatError, match="no such file"):
        formats.read(tmp_path / "a.zip")
    with pytest.raises(FormatError, match="no such folder"):
        formats.read(tmp_path / "a")


def test_heavy_libraries_are_imported_when_needed() -> None:
    code = (
        "import sys, unfuse.formats; print([m for m in ('psd_tools', 'pptx', 'jsonschema', 'cv2') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp"])
def test_flat_pictures_are_the_whole(tmp_path: Path, suffix: str) -> None:
    stack = everything(transparent=True)
    formats.write(stack, tmp_path / f"a{suffix}")
    image = Image.open(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(np.asarray(image), flatten(stack))
    assert image.info["icc_profile"] == stack.icc


# ---- files on the disk


@pytest.mark.parametrize("name", ["a.zip", "a.psd", "a.ora", "a.pptx", "a.png", "a"])
def test_a_failing_write_leaves_everything_as_it_was(tmp_path: Path, name: str) -> None:
    formats.write(everything(), tmp_path / name)
    before = contents(tmp_path)
    broken = everything().replace(dpi=1e300) if name != "a.psd" else LayerStack((300_001, 1), ())
    with pytest.raises(UnfuseError):
        formats.write(broken, tmp_path / name)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", [*(f"a{suffix}" for suffix in SUFFIXES if suffix != ".mp4"), "a"])
def test_a_target_is_replaced_and_nothing_else_is_left(tmp_path: Path, name: str) -> None:
    formats.write(LayerStack((3, 2), ()), tmp_path / name)
    formats.write(everything(), tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    if formats.find(name).reads:
        merged = 2 if name == "a.pptx" else 0  # what lies under the layer that multiplies is one picture there
        assert len(formats.read(tmp_path / name)) == len(everything()) - merged


@pytest.mark.parametrize("name", ["not there/a.zip", "not there/a"])
def test_a_place_that_is_not_there_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnfuseError, match="cannot be written"):
        formats.write(everything(), tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_a_folder_of_someone_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "diary.txt").write_text("mine")
    with pytest.raises(FormatError, match=r"diary\.txt"):
        formats.write(everything(), tmp_path / "a")
    assert contents(tmp_path) == {"a/diary.txt": b"mine"}


def test_a_folder_of_ours_with_something_new_in_it_is_refused(tmp_path: Path) -> None:
    formats.write(everything(), tmp_path / "a")
    (tmp_path / "a" / "03 Gruppe 組" / "sketch.xcf").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(FormatError, match=r"sketch\.xcf"):
        formats.write(everything(), tmp_path / "a")
    assert contents(tmp_path) == before


def test_an_empty_folder_and_one_with_a_dot_are_taken(tmp_path: Path) -> None:
    (tmp_path / "v1.2").mkdir()
    formats.write(everything(), tmp_path / "v1.2")
    assert len(formats.read(tmp_path / "v1.2")) == len(everything())


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(FormatError, match="is a file"):
        formats.write(everything(), tmp_path / "a")
    assert contents(tmp_path) == {"a": b"mine"}


# ---- there and back


@EVERYTHING
@given(stack=stacks())
def test_zip_and_folder_come_back_without_loss(stack: LayerStack, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("stacks")
    for name in ("a.zip", "a"):
        formats.write(stack, folder / name)
        assert_same(formats.read(folder / name), stack)


@EVERYTHING
@given(stack=stacks())
def test_the_manifest_follows_its_schema(stack: LayerStack) -> None:
    for layout in ("cropped", "canvas"):
        files = dict(manifest.pack(stack, layout))
        parsed = json.loads(files[manifest.MANIFEST])
        Draft202012Validator(manifest.schema()).validate(parsed)
        assert manifest.members(parsed) == set(files)


def test_the_schema_says_what_the_model_has() -> None:
    schema = manifest.schema()
    Draft202012Validator.check_schema(schema)
    layer = schema["$defs"]["layer"]["properties"]
    assert tuple(layer["kind"]["enum"]) == KINDS
    assert tuple(layer["blend_mode"]["enum"]) == BLEND_MODES
    assert list(schema["properties"]["provenance"]["properties"]) == [f.name for f in dataclasses.fields(Provenance)]
    assert set(layer) == {field.name for field in dataclasses.fields(Layer)} - {"pixels"} | {"file", "whole"}
    original = schema["$defs"]["original"]["properties"]
    assert set(original) == {field.name for field in dataclasses.fields(Original)} - {"pixels"} | {"file", "made"}
    assert set(schema["$defs"]["states"]["items"]["properties"]) == {field.name for field in dataclasses.fields(State)}
    stack = {field.name for field in dataclasses.fields(LayerStack)}
    assert set(schema["properties"]) == stack | {"format", "version", "layout", "flat"}


def test_the_same_stack_gives_the_same_bytes(tmp_path: Path) -> None:
    stack = everything()
    formats.write(stack, tmp_path / "a.zip")
    formats.write(stack, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_the_folder_is_pictures_for_everyone(tmp_path: Path) -> None:
    stack = everything()
    formats.write(stack, tmp_path / "a")
    for name, layer in (("00 Background 背景.png", stack[0]), ("03 Gruppe 組/02 innen/00 x_y_z.png", stack["x/y:z"])):
        image = Image.open(tmp_path / "a" / name)
        np.testing.assert_array_equal(np.asarray(image.convert("RGBA")), layer.to_canvas(stack.size))
        assert image.info["icc_profile"] == stack.icc
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a" / "flat.png")), flatten(stack)[..., :3])


def test_a_layer_painted_in_its_folder_keeps_what_was_painted(tmp_path: Path) -> None:
    stack = everything()
    formats.write(stack, tmp_path / "a")
    file = tmp_path / "a" / "02 Schatten.png"  # its box leaves the canvas at the left and below
    painted = np.array(Image.open(file))
    painted[3, 110] = (1, 2, 3, 4)
    Image.fromarray(painted).save(file)
    back = formats.read(tmp_path / "a")
    np.testing.assert_array_equal(back["Schatten"].to_canvas(stack.size), painted)
    assert back["Schatten"].box == stack["Schatten"].box.union(Box(110, 3, 111, 4))
    before, after = stack["Schatten"], back["Schatten"]
    assert before.pixels is not None
    assert after.pixels is not None
    outside = Box(-15, 30, 0, 90)
    np.testing.assert_array_equal(after.pixels[outside.within(after.box)], before.pixels[outside.within(before.box)])


def test_a_png_saved_at_another_depth_still_fits(tmp_path: Path) -> None:
    deep = everything(depth=16)
    formats.write(deep, tmp_path / "a")
    (tmp_path / "a" / "00 Background 背景.png").write_bytes(png(everything()[0].to_canvas(deep.size)))
    assert_same(formats.read(tmp_path / "a"), deep)


# ---- files that are broken or hostile: one line, and little memory


def good() -> dict[str, bytes]:
    layers = [Layer(str(i), "object", Box(i, 0, i + 4, 4), noise(i, 4, 4, 8), id=str(i)) for i in range(2)]
    return dict(
        manifest.pack(LayerStack((8, 8), (layers[0], Layer.group("g", [layers[1]], id="g")), icc=b"p"), "cropped")
    )


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def changed(**changes: Any) -> bytes:
    """The good project with other fields in its manifest."""
    files = good()
    return zipped(files | {manifest.MANIFEST: json.dumps(json.loads(files[manifest.MANIFEST]) | changes).encode()})


def first(**changes: Any) -> bytes:
    """The good project with other fields in its first layer."""
    layers = json.loads(good()[manifest.MANIFEST])["layers"]
    return changed(layers=[layers[0] | changes, layers[1]])


def named(id: str) -> dict[str, Any]:
    """The first layer under another id."""
    entry: dict[str, Any] = json.loads(good()[manifest.MANIFEST])["layers"][0]
    return entry | {"id": id}


def many_canvases() -> bytes:
    """Layers that say they are small, each with a picture that fills the canvas."""
    full = png(np.full((2000, 2000, 4), 255, np.uint8))
    layers = [named(str(i)) | {"file": f"{i}.png"} for i in range(5)]
    fields = json.loads(good()[manifest.MANIFEST]) | {"layers": layers, "layout": "canvas", "size": [2000, 2000]}
    return zipped(good() | {manifest.MANIFEST: json.dumps(fields).encode()} | {f"{i}.png": full for i in range(5)})


def with_member(name: str, mode: int = stat.S_IFREG | 0o644) -> bytes:
    file = io.BytesIO(zipped(good()))
    with zipfile.ZipFile(file, "a") as archive:
        info = zipfile.ZipInfo("x" * len(name))
        info.external_attr = mode << 16
        archive.writestr(info, "/etc/passwd")
    return file.getvalue().replace(b"x" * len(name), name.encode())


def without(name: str) -> bytes:
    return zipped({key: data for key, data in good().items() if key != name})


def replaced(name: str, data: bytes) -> bytes:
    return zipped(good() | {name: data})


def encrypted() -> bytes:
    data = bytearray(zipped(good()))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def nested(depth: int) -> bytes:
    return replaced(manifest.MANIFEST, b'{"layers":' + b"[" * depth + b"]" * depth + b"}")


def infinite_dpi() -> bytes:
    return good()[manifest.MANIFEST].replace(b'"dpi": 72.0', b'"dpi": 9e9999')


def png_that_claims(width: int, height: int) -> bytes:
    data = bytearray(good()["00 0.png"])
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return bytes(data)


FILE = "00 0.png"
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "not a zip": (lambda: b"PK nothing", "not a zip"),
    "empty": (lambda: b"", r"is empty \(0 bytes\): save or download it again"),
    "cut short": (lambda: zipped(good())[:-30], r"not a zip, or is cut short .*: save or download it again"),
    "encrypted": (encrypted, "not a zip, or .*encrypted"),
    "parent folder": (lambda: with_member("../evil.png"), "leaves its place"),
    "absolute": (lambda: with_member("/etc/passwd"), "leaves its place"),
    "drive": (lambda: with_member("C:/windows"), "leaves its place"),
    "backslashes": (lambda: with_member("a\\..\\..\\b"), "leaves its place"),
    "link": (lambda: with_member("link.png", stat.S_IFLNK | 0o777), "is a link"),
    "twice": (lambda: with_member("flat.png"), "two members called 'flat.png'"),
    "no manifest": (lambda: without(manifest.MANIFEST), "lacks 'manifest.json'"),
    "no layer": (lambda: without(FILE), "lacks '00 0.png'"),
    "no profile": (lambda: without("profile.icc"), "lacks 'profile.icc'"),
    "not JSON": (lambda: replaced(manifest.MANIFEST, b"{"), "not a project"),
    "not UTF-8": (lambda: replaced(manifest.MANIFEST, b"\xff\xfe\xff"), "not a project"),
    "a list": (lambda: replaced(manifest.MANIFEST, b"[1]"), "not a project"),
    "nested lists": (lambda: nested(100_000), "not a project"),
    "other format": (lambda: changed(format="other"), r"\$\.format"),
    "newer": (lambda: changed(version=3), "version 3 .* up to 2: install a newer"),
    "older": (lambda: changed(version=0), r"\$\.version"),
    "unknown field": (lambda: changed(text="x"), "'text' was unexpected"),
    "unknown layer field": (lambda: first(script="x"), "'script' was unexpected"),
    "field missing": (lambda: changed(layers=[{"name": "a"}]), "is a required property"),
    "not a number": (lambda: first(opacity=float("nan")), "NaN"),
    "too opaque": (lambda: first(opacity=1.5), "maximum of 1"),
    "infinite dpi": (lambda: replaced(manifest.MANIFEST, infinite_dpi()), "dpi is inf"),
    "unknown mode": (lambda: first(blend_mode="dissolve"), "'dissolve' is not one of"),
    "unknown kind": (lambda: first(kind="script"), "'script' is not one of"),
    "box inside out": (lambda: first(box=[4, 0, 0, 4]), "the box of layer|00 0.png"),
    "box of fractions": (lambda: first(box=[0, 0, 4.5, 4]), "is not of type 'integer'"),
    "same id": (lambda: first(id="g"), "share the id"),
    "same file": (lambda: changed(layers=[named("1"), named("2")]), "one file to several layers"),
    "canvases too many": (many_canvases, "more than 16,000,000 pixels in all layers"),
    "group without layers": (lambda: first(kind="group"), "layers"),
    "file elsewhere": (lambda: first(file="../00 0.png"), "does not match"),
    "file of the system": (lambda: first(file="/etc/x.png"), "does not match"),
    "canvas too large": (lambda: changed(size=[100_000, 100_000]), "100000x100000 pixels, the limit is 4,000,000"),
    "layers too large": (lambda: first(box=[0, 0, 100_000, 100_000]), "more than 16,000,000 pixels in all layers"),
    "layer of another size": (lambda: first(box=[0, 0, 5, 4]), r"has \(4, 4\) pixels, .* gives it \(5, 4\)"),
    "PNG bomb": (lambda: replaced(FILE, png_that_claims(40_000, 40_000)), "00 0.png"),
    "PNG cut short": (lambda: replaced(FILE, good()[FILE][:60]), "00 0.png.*not a picture"),
    "PNG that is text": (lambda: replaced(FILE, b"hello"), "00 0.png.*not a picture"),
    "manifest bomb": (lambda: replaced(manifest.MANIFEST, b" " * (1 << 25)), "larger than the 16,777,216"),
    "layer bomb": (lambda: replaced(FILE, bytes(1 << 25)), "larger than"),
    "bomb beside": (lambda: replaced("extra", bytes(1 << 27)), "would expand to 134"),
    "too many": (lambda: zipped(good() | {f"{i}": b"" for i in range(10_001)}), "members, the limit is 10,000"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_zip_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    make, message = HOSTILE[name]
    (tmp_path / "a.zip").write_bytes(make())
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=message) as caught:
            formats.read(tmp_path / "a.zip", limit_megapixels=4)
        assert tracemalloc.get_traced_memory()[1] < 256 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))
    assert os.listdir(tmp_path) == ["a.zip"]


def test_the_good_project_is_good(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped(good()))
    assert len(formats.read(tmp_path / "a.zip")) == 2


def test_a_size_that_a_zip_lies_about_does_not_help(tmp_path: Path) -> None:
    data = zipped(good() | {"00 0.png": bytes(1 << 22)})
    (tmp_path / "a.zip").write_bytes(data.replace((1 << 22).to_bytes(4, "little"), (60).to_bytes(4, "little")))
    with pytest.raises(FormatError):
        formats.read(tmp_path / "a.zip")


def test_a_folder_does_not_follow_links_out_of_it(tmp_path: Path) -> None:
    formats.write(everything(), tmp_path / "a")
    secret = tmp_path / "secret.png"
    secret.write_bytes((tmp_path / "a" / "04 hidden.png").read_bytes())
    (tmp_path / "a" / "04 hidden.png").unlink()
    (tmp_path / "a" / "04 hidden.png").symlink_to(secret)
    with pytest.raises(FormatError, match="link that leaves the folder"):
        formats.read(tmp_path / "a")


def contents(path: Path) -> dict[str, bytes]:
    """Every file below a path and its bytes; of a file, itself."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}
