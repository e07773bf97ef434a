"""The manifest, the split, the drawings' layers, and a build from local archives; nothing is fetched."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unfuse.corpus import harvest, parts, vector

SQUARES = """<svg xmlns="http://www.w3.org/2000/svg" width="40mm" height="20mm">
  <g id="wrap" transform="scale(3.7795)">
    <g id="red"><path fill="#f00" d="M2 2h20v16h-20z"/></g>
    <g id="blue" opacity="0.5"><path fill="#00f" d="M12 6h20v8h-20z"/></g>
  </g>
</svg>"""


def disc(colour: tuple[int, int, int]) -> bytes:
    """A soft disc on a transparent 64 x 64 canvas, lossless."""
    y, x = np.mgrid[:64, :64]
    alpha = np.clip(20.5 - np.hypot(x - 31.5, y - 31.5), 0, 1)
    rgba = np.dstack([np.broadcast_to(np.array(colour, np.uint8), (64, 64, 3)), (255 * alpha).astype(np.uint8)])
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "WEBP", lossless=True, exact=True)
    return buffer.getvalue()


def npm_archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def row(archive: bytes, **changes: Any) -> dict[str, Any]:
    fields = {
        "registry": "npm",
        "name": "@fake/emoji",
        "version": "1.0.0",
        "sha256": hashlib.sha256(archive).hexdigest(),
        "license": "CC0-1.0",
        "takes": "discs",
        "harvest": "emoji",
    }
    return fields | changes


@pytest.fixture
def local(tmp_path: Path) -> Any:
    """Builds in `tmp_path/pack` from archives that are already there."""

    def build(*rows: dict[str, Any], archives: tuple[bytes, ...] = (), **options: Any) -> Path:
        folder = tmp_path / "archives"
        folder.mkdir(exist_ok=True)
        for data in archives:
            (folder / hashlib.sha256(data).hexdigest()).write_bytes(data)
        manifest = tmp_path / "manifest.json"
        manifest.write_text(json.dumps({"packages": rows}))
        parts.build(tmp_path / "pack", archives=folder, manifest=manifest, tell=lambda line: None, **options)
        return tmp_path / "pack"

    return build


def test_manifest_pins_and_licenses_every_package() -> None:
    packages = parts.read_manifest()
    assert len(packages) == len({package.name for package in packages}) > 30
    allowed = {"MIT", "CC0-1.0", "public-domain", "OFL-1.1", "Apache-2.0"}
    assert {package.license for package in packages} == allowed
    assert all(package.takes for package in packages)
    assert all(package.attribution for package in packages if package.license in ("OFL-1.1", "Apache-2.0"))
    assert all(package.files for package in packages if package.harvest == "fonts")


@pytest.mark.parametrize(
    "name",
    [
        "@iconify-json/noto",
        "@iconify-json/noto-v1",
        "@dicebear/lorelei-neutral",
        "lomiri-wallpapers-16.04",
        "tuxpaint-stamps-default",
        "scikit-image",
        "fonts-ebgaramond",
        "fonts-lxgw-wenkai",
        "fonts-noto-color-emoji",
        "@fontsource/eb-garamond",
        "@fontsource-variable/quicksand",
        "@fontsource/comic-neue",
    ],
)
def test_held_out_packages_are_refused_by_name(name: str, local: Any) -> None:
    assert parts.held_out(name)
    with pytest.raises(parts.PartsError, match="held out"):
        local(row(b"", name=name))


def test_what_is_trained_on_is_not_held_out() -> None:
    assert not any(
        map(parts.held_out, ["@fontsource/noto-sans-sc", "@iconify-json/flat-color-icons", "@dicebear/core"])
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"license": ""}, "licence"),
        ({"version": ""}, "pinned version"),
        ({"sha256": "abc"}, "64 hexadecimal"),
        ({"registry": "cargo"}, "none of npm, debian, pypi"),
        ({"harvest": "weeds"}, "none of emoji, icons"),
        ({"needs": ["@fake/core"]}, "needs @fake/core"),
    ],
)
def test_a_wrong_manifest_is_an_error(changes: dict[str, Any], message: str, local: Any) -> None:
    with pytest.raises(parts.PartsError, match=message):
        local(row(b"", **changes))


def test_split_is_stable_and_holds_out_a_tenth() -> None:
    assert [parts.split(family) for family in ("inter", "open-sans", "bebas-neue", "lemon")] == [
        "train",
        "valid",
        "valid",
        "train",
    ]
    counts = Counter(parts.split(f"family {index}") for index in range(5000))
    assert counts["valid"] == pytest.approx(500, abs=80)


def test_build_from_a_local_archive(local: Any) -> None:
    archive = npm_archive(
        {
            "assets/1f34b.webp": disc((250, 220, 40)),
            "assets/1f600.webp": disc((20, 90, 250)),
            "assets/1f44b-1f3fd.webp": disc((200, 150, 100)),
            "assets/1f1e9-1f1ea.webp": disc((0, 0, 0)),
        }
    )
    pack = local(row(archive), archives=(archive,))
    index = json.loads((pack / "pack.json").read_text())
    files = {path.relative_to(pack).as_posix() for path in pack.rglob("*") if path.is_file()}
    assert files == {
        "pack.json",
        "objects/fluent-emoji-3d/1f34b.webp",
        "objects/fluent-emoji-3d/1f600.webp",
    }
    assert index["packages"][0]["sha256"] == hashlib.sha256(archive).hexdigest()
    first = index["parts"][0]
    assert first | {"split": ""} == {
        "file": "objects/fluent-emoji-3d/1f34b.webp",
        "kind": "object",
        "category": "emoji",
        "source": "@fake/emoji",
        "license": "CC0-1.0",
        "attribution": "",
        "size": [40, 40],
        "split": "",
    }
    pixels = np.asarray(Image.open(pack / first["file"]))
    assert pixels.shape == (40, 40, 4)
    assert np.abs(pixels[20, 20].astype(int) - (250, 220, 40, 255)).max() < 12
    assert pixels[0, 0, 3] == 0


def test_build_goes_on_where_it_stopped(local: Any) -> None:
    lemon, face = (npm_archive({f"assets/{name}.webp": disc((9, 99, 199))}) for name in ("1f34b", "1f600"))
    rows = row(lemon), row(face, name="@fake/faces")
    pack = local(*rows, archives=(lemon, face), only=["@fake/emoji"])
    made = pack / "objects/fluent-emoji-3d/1f34b.webp"
    made.write_bytes(b"not built again")
    local(*rows)
    assert made.read_bytes() == b"not built again"
    sources = [part["source"] for part in json.loads((pack / "pack.json").read_text())["parts"]]
    assert sources == ["@fake/emoji", "@fake/faces"]


def test_a_changed_archive_is_refused_and_writes_nothing(local: Any, tmp_path: Path) -> None:
    archive = npm_archive({"assets/1f34b.webp": disc((250, 220, 40))})
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / hashlib.sha256(archive).hexdigest()).write_bytes(archive + b"x")
    with pytest.raises(parts.PartsError, match="the manifest pins"):
        local(row(archive))
    assert not list((tmp_path / "pack").iterdir())


def test_an_unknown_package_is_an_error(local: Any) -> None:
    with pytest.raises(parts.PartsError, match=r"no package nope .* @fake/emoji"):
        local(row(b""), only=["nope"])


def test_copyright_rules_are_last_match_wins() -> None:
    text = "Format: x\n\nFiles: a/*\nCopyright: Various\nLicense: public-domain\n text\n\nFiles:\n a/b*\n a/c?d*\n"
    text += "Copyright: Someone\nLicense: CC-BY-SA-4.0\n"
    assert harvest._copyright(text) == [
        ("a/*", "public-domain", "Various"),
        ("a/b*", "CC-BY-SA-4.0", "Someone"),
        ("a/c?d*", "CC-BY-SA-4.0", "Someone"),
    ]


def test_unicode_ranges() -> None:
    assert harvest._points("U+41-43, U+4e00") == {0x41, 0x42, 0x43, 0x4E00}


def test_like_names_are_one_family() -> None:
    assert {harvest._stem(name) for name in ("lemon_simple_bw", "Lemon_02", "lemon_half_ganson")} == {"lemon"}


def test_scene_layers_are_the_top_groups() -> None:
    layers = vector.scene(vector.parse(SQUARES), 120)
    assert [layer.size for layer in layers] == [(121, 65)] * 2
    red, blue = (np.asarray(layer) for layer in layers)
    assert red[32, 20].tolist() == [255, 0, 0, 255]
    assert blue[32, 20, 3] == 0
    assert blue[32, 100].tolist()[:3] == [0, 0, 255]
    assert abs(int(blue[32, 100, 3]) - 128) <= 1
    whole = vector.drawing(vector.parse(SQUARES), 120)
    assert np.abs(np.asarray(vector.flatten(layers), int) - np.asarray(whole, int)).max() <= 1


def test_scene_refuses_groups_that_do_not_make_the_whole() -> None:
    with pytest.raises(vector.DrawingError, match="do not make the whole"):
        vector.scene(vector.parse(SQUARES.replace('id="wrap"', 'id="wrap" opacity="0.5"')), 120)


def test_tiny_groups_are_joined_and_hidden_ones_dropped() -> None:
    extra = '<g><path fill="#0f0" d="M3 3h.5v.5h-.5z"/></g>'
    buried = '<g><path fill="#0f0" d="M5 5h4v4h-4z"/></g>'
    more = SQUARES.replace('<g id="red"', f'{buried}<g id="red"').replace('<g id="blue"', f'{extra}<g id="blue"')
    layers = vector.scene(vector.parse(more), 120)
    assert len(layers) == 2
    assert (np.asarray(layers[0])[..., 1] > 200).any()  # the tiny one, on the red below


@pytest.mark.parametrize(
    "markup",
    [
        "<svg",
        '<svg xmlns="http://www.w3.org/2000/svg" width="100%" height="100%"/>',
        '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><text>a</text></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    ],
)
def test_unusable_drawings(markup: str) -> None:
    with pytest.raises(vector.DrawingError):
        vector.drawing(vector.parse(markup), 64)


def test_objects_are_neither_empty_nor_rectangles_nor_stripes() -> None:
    full = Image.new("RGBA", (40, 40), (1, 2, 3, 255))
    assert not harvest.usable(full)
    assert not harvest.usable(full.resize((200, 10)))
    assert not harvest.usable(Image.new("RGBA", (40, 40), (1, 2, 3, 9)))
    ring = Image.open(io.BytesIO(disc((1, 2, 3))))
    assert harvest.usable(ring)
    assert harvest.one_colour(ring)
