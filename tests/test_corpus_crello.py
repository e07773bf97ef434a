"""Crello's designs and folders of pictures become records: tiny files in the true layout, known answers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from unfuse.composite import flatten
from unfuse.corpus import collect, crello, sources
from unfuse.corpus.intake import IntakeParams
from unfuse.corpus.records import Records
from unfuse.corpus.rules import RuleParams
from unfuse.errors import FormatError
from unfuse.layers import LayerStack

pa: Any = pytest.importorskip("pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet")

TYPES = ("ColoredBackground", "ImageElement", "MaskElement", "SvgElement", "TextElement")
NUMBERS = pa.list_(pa.float32())
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "length": pa.int64(),
        "group": pa.int64(),
        "canvas_width": pa.int64(),
        "canvas_height": pa.int64(),
        "title": pa.string(),
        "type": pa.list_(pa.int64()),
        **dict.fromkeys(("left", "top", "width", "height", "opacity", "angle"), NUMBERS),
        "text": pa.list_(pa.string()),
        "image": pa.list_(pa.struct({"bytes": pa.binary(), "path": pa.string()})),
    }
)
ABOUT = {"info": {"features": {"type": {"feature": {"names": TYPES, "_type": "ClassLabel"}, "_type": "Sequence"}}}}


def png(levels: NDArray[np.uint8]) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def element(
    kind: int, box: tuple[float, float, float, float], levels: NDArray[np.uint8], **fields: Any
) -> dict[str, Any]:
    left, top, width, height = box
    given = {"type": kind, "left": left, "top": top, "width": width, "height": height, "image": png(levels)}
    return {**given, "angle": 0.0, "opacity": 1.0, "text": "", **fields}


def plain(colour: tuple[int, ...], width: int = 8, height: int = 8) -> NDArray[np.uint8]:
    return np.full((height, width, 4), (*colour, 255)[:4], np.uint8)


def write(
    path: Path, designs: list[list[dict[str, Any]]], size: tuple[int, int] = (120, 80), about: Any = ABOUT
) -> None:
    names = ("type", "left", "top", "width", "height", "angle", "opacity", "text", "image")
    table = [
        {"id": f"{i:024x}", "length": len(elements), "group": 0, "canvas_width": size[0], "canvas_height": size[1]}
        | {"title": f"design {i}"}
        | {name: [one[name] for one in elements] for name in names}
        for i, elements in enumerate(designs)
    ]
    schema = SCHEMA.with_metadata({"huggingface": json.dumps(about)})
    parquet.write_table(pa.Table.from_pylist(table, schema), path, row_group_size=2)


def layers(path: Path, row: int = 0) -> LayerStack:
    return crello.read(path, row, 10)[0]


def test_upright_elements_are_where_their_boxes_are(tmp_path: Path) -> None:
    ramp = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    ramp[..., 3] = 255
    ground = element(0, (0, 0, 120, 80), plain((10, 20, 30)))
    write(
        tmp_path / "a.parquet",
        [[ground, element(1, (50, 40, 30, 20), ramp), element(4, (-5, 70, 20, 30), ramp, text="Hi\nyou")]],
    )
    stack = layers(tmp_path / "a.parquet")
    assert [(x.name, x.kind, tuple(x.box)) for x in stack] == [
        ("ColoredBackground", "background", (0, 0, 120, 80)),
        ("ImageElement", "object", (50, 40, 80, 60)),
        ("Hi you", "text", (0, 70, 15, 80)),
    ]
    flat = flatten(stack)
    np.testing.assert_array_equal(flat[40:60, 50:80], ramp)
    np.testing.assert_array_equal(flat[0, 0], (10, 20, 30, 255))


def test_an_element_turns_about_its_middle_clockwise(tmp_path: Path) -> None:
    arrow = plain((255, 0, 0), 40, 20)
    arrow[:, :20] = (0, 0, 255, 255)  # its left half is blue
    turned = element(1, (40, 30, 40, 20), arrow, angle=90.0, opacity=0.5)
    write(tmp_path / "a.parquet", [[turned]])
    (layer,) = layers(tmp_path / "a.parquet")
    assert (tuple(layer.box), layer.opacity) == ((50, 20, 70, 60), 0.5)
    shown = layer.to_canvas((120, 80))
    assert tuple(shown[25, 60]) == (0, 0, 255, 255)  # what was left is up
    assert tuple(shown[55, 60]) == (255, 0, 0, 255)


def test_what_is_scaled_keeps_its_area_and_what_is_outside_goes(tmp_path: Path) -> None:
    disc = np.zeros((64, 64, 4), np.uint8)
    y, x = np.mgrid[:64, :64]
    disc[np.hypot(y - 31.5, x - 31.5) < 30] = (200, 100, 50, 255)
    write(
        tmp_path / "a.parquet",
        [
            [
                element(3, (10.4, 20.6, 32, 16), disc, angle=30.0),
                element(1, (500, 0, 9, 9), disc),
                element(1, (0, 0, 0, 9), disc),
            ]
        ],
    )
    (layer,) = layers(tmp_path / "a.parquet")
    alpha = layer.to_canvas((120, 80))[..., 3].astype(float) / 255
    assert alpha.sum() == pytest.approx(np.pi * 30**2 / 64**2 * 32 * 16, rel=0.02)
    rows, columns = np.indices(alpha.shape)
    middle = (columns * alpha).sum() / alpha.sum() + 0.5, (rows * alpha).sum() / alpha.sum() + 0.5
    assert middle == pytest.approx((26.4, 28.6), abs=0.05)
    assert layer.pixels is not None
    seen = layer.pixels[layer.pixels[..., 3] > 8]
    assert np.abs(seen[:, :3].astype(int) - (200, 100, 50)).max() <= 12  # no dark fringe


def test_records_of_a_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)

    def design(i: int) -> list[dict[str, Any]]:
        ground = element(0, (0, 0, 120, 80), rng.integers(0, 256, (4, 6, 3), np.uint8))
        return [
            ground,
            *(element(1, (10 + 30 * j, 10 + 5 * i, 20, 20), plain((30 * j, 9, 200))) for j in range(1 + i % 3)),
        ]

    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "train-00000-of-00001.parquet", [design(i) for i in range(5)])
    write(tmp_path / "data" / "test-00000-of-00001.parquet", [design(9)])
    found = sources.find_crello(tmp_path, "train")
    assert [source.name for source in found][:2] == [f"data/train-00000-of-00001.parquet#{i}" for i in (0, 1)]
    collect.collect(tmp_path, found, tmp_path / "out", IntakeParams(RuleParams()))
    records = Records.open(tmp_path / "out")
    assert [record.about["id"] for record in records] == [f"{i:024x}" for i in range(5)]
    assert [len(record.layers) for record in records] == [2 + i % 3 for i in range(5)]
    for record in records:
        assert record.about["license"] == "CDLA-Permissive-2.0"
        np.testing.assert_array_equal(flatten(record.stack), record.picture)


def test_other_revisions_and_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"holds no train\*.parquet"):
        sources.find_crello(tmp_path, "train")
    old = {"info": {"features": {"type": {"feature": {"names": ["coloredBackground", "imageElement"]}}}}}
    write(tmp_path / "old.parquet", [[element(0, (0, 0, 1, 1), plain((1, 2, 3)))]], about=old)
    with pytest.raises(FormatError, match="an element of type 'coloredBackground': take revision 5"):
        layers(tmp_path / "old.parquet")
    (tmp_path / "train.parquet").write_bytes((tmp_path / "old.parquet").read_bytes()[:-9])
    with pytest.raises(FormatError, match="is not a parquet file, or is cut short"):
        sources.find_crello(tmp_path, "train")
    parquet.write_table(pa.table({"id": ["a"]}), tmp_path / "train.parquet")
    with pytest.raises(FormatError, match="lacks the column 'canvas_width'"):
        sources.find_crello(tmp_path, "train")
    write(tmp_path / "large.parquet", [[element(0, (0, 0, 1, 1), plain((1, 2, 3)))]], size=(9000, 9000))
    with pytest.raises(FormatError, match="the limit is 10 megapixels"):
        layers(tmp_path / "large.parquet")


def test_pictures_with_alpha_and_pictures_with_mattes(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    levels = rng.integers(0, 256, (90, 70, 4), np.uint8)
    for folder in ("original", "mask", "trimap", "cutouts"):
        (tmp_path / folder).mkdir()
    Image.fromarray(levels[..., :3]).save(tmp_path / "original" / "o_1.png")
    Image.fromarray(levels[..., 3]).save(tmp_path / "mask" / "o_1.png")
    Image.fromarray(levels[..., 3]).save(tmp_path / "trimap" / "o_1.png")
    Image.fromarray(levels[::-1]).save(tmp_path / "cutouts" / "c.png")
    Image.fromarray(levels[::-1, ::-1, :3]).save(tmp_path / "cutouts" / "plain.webp", lossless=True)
    Image.fromarray(levels[..., 0]).save(tmp_path / "original" / "o_2.png")
    Image.fromarray(levels[:50, :, 0]).save(tmp_path / "mask" / "o_2.png")
    found = sources.find_pictures(tmp_path, {"license": "MIT"})
    assert [source.file for source in found] == [
        "cutouts/c.png",
        "cutouts/plain.webp",
        "original/o_1.png",
        "original/o_2.png",
    ]
    chosen = RuleParams(frozenset({"empty", "similar"}), side=0, least=1, most=1)
    index = collect.collect(tmp_path, found, tmp_path / "out", IntakeParams(chosen))
    assert (index["records"], index["counts"]["errors"]) == (3, 1)
    records = {record.about["file"]: record for record in Records.open(tmp_path / "out")}
    for file, want in (("original/o_1.png", levels), ("cutouts/c.png", levels[::-1])):
        got = records[file].canvas()[0]
        np.testing.assert_array_equal(got[want[..., 3] > 0], want[want[..., 3] > 0])
        np.testing.assert_array_equal(got[..., 3], want[..., 3])
    assert records["cutouts/plain.webp"].layers[0].kind == "background"
    (wrong,) = [row for row in map(json.loads, (tmp_path / "out" / "files.jsonl").open()) if row["status"] == "error"]
    assert "they must have one size" in wrong["why"]
