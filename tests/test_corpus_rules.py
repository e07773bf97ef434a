"""What turns a file's layers into a record's: plain layers that give the same picture, and each rule on known cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from psd_tools import PSDImage
from stacks import stacks

from unfuse import formats, pixels
from unfuse.composite import flatten, residual
from unfuse.corpus import anomalies, captions, rules
from unfuse.corpus.plain import plain, rasterised
from unfuse.corpus.shrink import shrink, shrunk_size
from unfuse.corpus.stored import difference, stored
from unfuse.errors import FormatError
from unfuse.layers import BLEND_MODES, Box, Kind, Layer, LayerStack, to_8_bit

PSD = Path(__file__).parent / "data" / "psd"
PHOTO = Path(__file__).parents[1] / "examples" / "field.jpg"
ALL = frozenset(rules.RULES)
SIZE = (120, 90)


def box(
    left: int, top: int, width: int, height: int, colour: Sequence[int] = (200, 30, 40, 255), **fields: Any
) -> Layer:
    pixels = np.empty((height, width, 4), np.uint8)
    pixels[:] = colour
    given: dict[str, Any] = {"name": "box", "kind": "object", **fields}
    return Layer(box=Box(left, top, left + width, top + height), pixels=pixels, **given)


def backdrop(colour: Sequence[int] = (240, 230, 220, 255), size: tuple[int, int] = SIZE) -> Layer:
    return box(0, 0, *size, colour, name="ground", kind="background")


def canvas(layers: Sequence[Layer], size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    return flatten(LayerStack(size, tuple(layers))).astype(np.uint8)


# --- plain layers ----------------------------------------------------------------------------------------------------


STEEP = ("color-dodge", "color-burn", "soft-light", "hue", "saturation", "color", "luminosity", "overlay")


def gentle(layer: Layer) -> Layer:
    """Without modes that make much of a level: what lies below is rounded to 8 bit."""
    mode = "multiply" if layer.blend_mode in STEEP else layer.blend_mode
    return layer.replace(blend_mode=mode, layers=tuple(gentle(inner) for inner in layer.layers))


def roundings(stack: LayerStack) -> int:
    """How often something is rounded to 8 bit, one on top of the other."""
    return sum(1 + (x.opacity < 1) + (x.blend_mode != "normal") for x in stack.walk())


def apart(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """The largest difference in levels, premultiplied: where alpha is small, colour may be anything."""
    x, y = (pixels.to_float(levels) for levels in (one, other))
    x[..., :3] *= x[..., 3:]
    y[..., :3] *= y[..., 3:]
    return float(np.abs(x - y).max()) * 255


@settings(max_examples=25, deadline=None)
@given(stack=stacks())
def test_plain_layers_give_the_same_picture(stack: LayerStack) -> None:
    stack = stack.replace(layers=tuple(gentle(layer) for layer in stack))
    layers, _ = plain(stack, {"hidden", "groups"})
    assert all((x.opacity, x.blend_mode, x.visible, x.layers) == (1, "normal", True, ()) for x in layers)
    assert all(x.box.intersection(Box(0, 0, *stack.size)) == x.box for x in layers)
    assert apart(canvas(layers, stack.size), to_8_bit(flatten(stack))) <= 1 + 1.5 * roundings(stack)


def test_a_multiplied_shadow_becomes_black_with_alpha() -> None:
    shade = box(10, 10, 50, 40, (128, 128, 128, 255), blend_mode="multiply")
    layers, counts = plain(LayerStack(SIZE, (backdrop(), shade)), ALL)
    assert counts == {"blend": 1}
    assert layers[1].pixels is not None
    assert {tuple(map(int, p)) for p in layers[1].pixels.reshape(-1, 4)} == {(0, 0, 0, 127)}
    assert residual(LayerStack(SIZE, tuple(layers)), canvas([backdrop(), shade])).max <= 1


def test_a_screened_light_becomes_white_with_alpha_and_neutral_colours_nothing() -> None:
    light = box(10, 10, 50, 40, (51, 51, 51, 255), blend_mode="screen")
    white = box(0, 0, 60, 60, (255, 255, 255, 255), blend_mode="multiply")
    layers, _ = plain(LayerStack(SIZE, (backdrop((100, 50, 25, 255)), light, white)), ALL)
    assert len(layers) == 2
    assert layers[1].pixels is not None
    assert {tuple(map(int, p)) for p in layers[1].pixels.reshape(-1, 4)} == {(255, 255, 255, 51)}


@pytest.mark.parametrize("mode", BLEND_MODES)
def test_every_blend_mode_over_an_opaque_and_a_clear_ground(mode: str) -> None:
    rng = np.random.default_rng(3)
    ground = rng.random((24, 24, 4), np.float32)
    ground[:, :12, 3] = 1
    ground[:, 18:, 3] = 0
    ground[..., :3] *= ground[..., 3:]
    source = np.asarray(np.round(rng.random((24, 24, 4)) * 255) / 255, np.float32)
    made = rasterised(ground, source, mode, 0.8).astype(np.float32) / 255
    got = ground * (1 - made[..., 3:]) + np.dstack([made[..., :3], np.ones((24, 24))]) * made[..., 3:]
    straight = np.dstack([ground[..., :3] / np.maximum(ground[..., 3:], 1e-9), ground[..., 3]])
    from unfuse.composite import over

    want = over(straight, source, mode, 0.8)
    want[..., :3] *= want[..., 3:]
    assert np.abs(got - want).max() * 255 < 1.01
    assert (made[:, :12, 3] <= np.ceil(source[:, :12, 3] * 0.8 * 255) / 255 + 1e-6).all()


def test_groups_come_apart_and_keep_together_where_they_must() -> None:
    single = Layer.group("apart", [box(0, 0, 10, 10), box(20, 20, 10, 10)], opacity=0.5)
    meeting = Layer.group("meeting", [box(40, 0, 30, 30), box(50, 10, 30, 30, (0, 0, 255, 255))], opacity=0.5)
    stack = LayerStack(SIZE, (backdrop(), single, meeting))
    layers, counts = plain(stack, ALL)
    assert [layer.name for layer in layers] == ["ground", "box", "box", "meeting"]
    assert counts["groups"] == 2
    assert residual(LayerStack(SIZE, tuple(layers)), canvas(stack.layers)).max <= 1
    assert [layer.name for layer in plain(stack, {"hidden"})[0]] == ["ground", "apart", "meeting"]


def test_hidden_layers_go_or_show() -> None:
    hidden = Layer.group("hidden", [box(0, 0, 9, 9), box(20, 0, 9, 9)], visible=False)
    stack = LayerStack(SIZE, (backdrop(), hidden))
    layers, counts = plain(stack, ALL)
    assert (len(layers), counts["hidden"]) == (1, 2)
    assert len(plain(stack, ALL - {"hidden"})[0]) == 3


# --- files of others -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "most"),
    [("clipping-mask", 5, 0.1), ("hidden-groups", 3, 0.01), ("mask", 3, 0.01), ("semi-transparent-layers", 3, 0.01)],
)
def test_plain_layers_of_photoshop_files_give_what_photoshop_stored(name: str, count: int, most: float) -> None:
    stack = formats.read(PSD / f"{name}.psd")
    layers, _ = plain(stack, ALL)
    picture = stored(PSD / f"{name}.psd", 10**6)
    assert picture is not None
    assert abs(len(layers) - count) <= 1
    assert difference(canvas(layers, stack.size), picture) <= most


def test_effects_that_cannot_be_rendered_are_seen_in_the_stored_picture() -> None:
    stack = formats.read(PSD / "layer_params.psd")
    picture = stored(PSD / "layer_params.psd", 10**6)
    assert picture is not None
    assert 7 < difference(canvas(plain(stack, ALL)[0], stack.size), picture) < 8


def test_the_stored_picture_agrees_with_psd_tools_and_with_what_we_write(tmp_path: Path) -> None:
    shown = np.asarray(PSDImage.open(PSD / "clipping-mask.psd").topil().convert("RGB"))  # type: ignore[union-attr]
    ours = stored(PSD / "clipping-mask.psd", 10**6)
    assert ours is not None
    assert np.abs(ours.astype(int) - shown).max() == 0
    clear = LayerStack(SIZE, (box(10, 10, 50, 50, (9, 99, 199, 100)),))
    for suffix in (".psd", ".psb"):
        formats.write(clear, tmp_path / f"a{suffix}")
        picture = stored(tmp_path / f"a{suffix}", 10**6)
        assert picture is not None
        assert difference(canvas(clear.layers), picture) < 0.2
    formats.write(clear, tmp_path / "a.zip")
    assert stored(tmp_path / "a.zip", 10**6) is None


def test_a_stored_picture_that_is_broken_or_too_large_is_refused(tmp_path: Path) -> None:
    data = (PSD / "mask.psd").read_bytes()
    (tmp_path / "cut.psd").write_bytes(data[:-20_000])
    with pytest.raises(FormatError, match="stored picture cannot be read"):
        stored(tmp_path / "cut.psd", 10**6)
    with pytest.raises(FormatError, match="the limit is 100"):
        stored(PSD / "mask.psd", 100)
    (tmp_path / "deep.psd").write_bytes(data[:12] + b"\0\x38" + data[14:])  # 56 channels
    with pytest.raises(FormatError, match="in 56 channels, the limit is"):
        stored(tmp_path / "deep.psd", 16_000)


# --- smaller ---------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.tuples(st.integers(8, 60), st.integers(8, 60)),
    side=st.integers(4, 60),
    place=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
)
def test_a_cropped_layer_shrinks_as_its_canvas_does(
    seed: int, size: tuple[int, int], side: int, place: tuple[float, float, float, float]
) -> None:
    (left, right), (top, bottom) = (sorted(place[i::2]) for i in (0, 1))
    where = Box(int(left * (size[0] - 1)), int(top * (size[1] - 1)), 0, 0)
    where = Box(
        where.left, where.top, max(where.left + 1, int(right * size[0])), max(where.top + 1, int(bottom * size[1]))
    )
    levels = np.random.default_rng(seed).integers(0, 256, (where.height, where.width, 4), np.uint8)
    layer = Layer("a", "object", where, levels)
    small = shrunk_size(size, side)
    got = pixels.to_float(shrink(layer, size, small).to_canvas(small))
    want = pixels.resize(pixels.to_float(layer.to_canvas(size)), small)
    for x in (got, want):
        x[..., :3] *= x[..., 3:]
    assert np.abs(got - want).max() * 255 < 1.6
    assert max(small) <= max(side, 1)


def test_sizes_never_grow() -> None:
    assert shrunk_size((300, 200), 0) == shrunk_size((300, 200), 1024) == (300, 200)
    assert shrunk_size((300, 200), 150) == (150, 100)
    assert shrunk_size((3000, 1), 100) == (100, 1)


# --- rules on layers -------------------------------------------------------------------------------------------------


def test_layers_that_change_nothing_go_and_the_picture_stays() -> None:
    under = box(20, 20, 10, 10, (1, 2, 3, 255), name="covered")
    over = box(15, 15, 30, 30, (9, 9, 200, 255), name="cover")
    same = box(20, 20, 5, 5, (9, 9, 200, 255), name="same colour")
    layers = [backdrop(), under, over, same, box(60, 60, 9, 9, name="seen")]
    found = rules.unseen(layers, SIZE)
    assert {layers[i].name for i in found} == {"covered", "same colour"}
    left = [layer for i, layer in enumerate(layers) if i not in found]
    np.testing.assert_array_equal(canvas(left), canvas(layers))


def test_of_two_equal_layers_only_one_counts_as_unseen() -> None:
    twins = [backdrop(), box(5, 5, 30, 30, name="lower"), box(5, 5, 30, 30, name="upper")]
    assert rules.unseen(twins, SIZE) == {1}


@settings(max_examples=20, deadline=None)
@given(stack=stacks())
def test_leaving_out_the_unseen_never_shows(stack: LayerStack) -> None:
    layers, _ = plain(stack, ALL)
    found = rules.unseen(layers, stack.size)
    left = [layer for i, layer in enumerate(layers) if i not in found]
    assert apart(canvas(left, stack.size), canvas(layers, stack.size)) <= rules.SEEN * len(found) + 1


def test_nearly_empty_layers() -> None:
    size = (400, 400)
    assert anomalies.nearly_empty(box(0, 0, 8, 8), size)
    assert anomalies.nearly_empty(box(0, 0, 200, 200, (0, 0, 0, 0)), size)
    assert anomalies.nearly_empty(box(0, 0, 100, 100, (0, 0, 0, 1)), size)
    assert not anomalies.nearly_empty(box(0, 0, 10, 10), size)


def test_near_duplicates_are_at_the_same_place() -> None:
    rng = np.random.default_rng(0)
    noisy = box(10, 10, 40, 40)
    assert noisy.pixels is not None
    noisy = noisy.replace(pixels=(noisy.pixels - rng.integers(0, 4, noisy.pixels.shape)).astype(np.uint8))
    other = box(10, 10, 40, 40, (30, 200, 40, 255))
    layers = [backdrop(), box(10, 10, 40, 40), noisy, other, box(60, 10, 40, 40)]
    assert anomalies.duplicates(layers) == {1}


def tiled(size: tuple[int, int] = (400, 300), text: str = "stock") -> Layer:
    """A watermark as they are: words in rows, slanted, pale."""
    plane = np.zeros((size[1] * 2, size[0] * 2), np.uint8)
    for y in range(40, plane.shape[0], 90):
        for x in range(0, plane.shape[1], 170):
            cv2.putText(plane, text, (x + y // 3 % 60, y), cv2.FONT_HERSHEY_DUPLEX, 1.2, 80, 2, cv2.LINE_AA)
    turn = cv2.getRotationMatrix2D((size[0], size[1]), 20, 1)
    alpha = cv2.warpAffine(plane, turn, plane.shape[::-1])[size[1] // 2 :, size[0] // 2 :][: size[1], : size[0]]
    pixels = np.full((size[1], size[0], 4), 255, np.uint8)
    pixels[..., 3] = alpha
    return Layer("Layer 9", "object", Box(0, 0, *size), pixels).crop_to_content()


def test_watermarks_repeat_or_are_named_and_veils_are_not() -> None:
    size = (400, 300)
    below = [backdrop(size=size), box(50, 50, 99, 99)]
    assert anomalies.watermarks([*below, tiled()], size) == {2}
    y, x = np.mgrid[0:300, 0:400]
    vignette = np.zeros((300, 400, 4), np.uint8)
    vignette[..., 3] = np.clip(np.hypot((y - 150) / 150, (x - 200) / 200) * 90, 0, 140)
    veil = Layer("vignette", "decoration", Box(0, 0, *size), vignette)
    assert anomalies.watermarks([*below, veil], size) == set()
    assert anomalies.watermarks([*below, veil.replace(name="Watermark (c)")], size) == {2}
    grain = np.random.default_rng(1).integers(0, 60, (300, 400, 4), np.uint8)
    assert anomalies.watermarks([*below, Layer("grain", "object", Box(0, 0, *size), grain)], size) == set()
    assert anomalies.watermarks([below[0], tiled(), below[1], box(9, 9, 30, 30)], size) == set()  # a pattern


def photo() -> NDArray[np.uint8]:
    with Image.open(PHOTO) as image:
        return np.array(image.convert("RGBA").resize((640, 640), Image.Resampling.LANCZOS))


def as_layer(levels: NDArray[np.uint8], name: str = "photo", kind: Kind = "background") -> Layer:
    return Layer(name, kind, Box(0, 0, levels.shape[1], levels.shape[0]), np.ascontiguousarray(levels))


def blurred(levels: NDArray[np.uint8], x: int, y: int, radius: int) -> NDArray[np.uint8]:
    mask = np.zeros(levels.shape[:2], np.float32)
    cv2.ellipse(mask, (x, y), (round(0.8 * radius), radius), 0, 0, 360, 1.0, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), 2)[..., None]
    soft = cv2.GaussianBlur(levels.astype(np.float32), (0, 0), radius / 5)
    return np.asarray(levels * (1 - mask) + soft * mask + 0.5, np.uint8)


def textured(seed: int = 0) -> NDArray[np.uint8]:
    """What a photograph of gravel has: large shapes, and detail all over."""
    rng = np.random.default_rng(seed)
    spread = sum(
        weight * cv2.resize(rng.random((n, n), np.float32), (512, 512), interpolation=cv2.INTER_CUBIC)
        for n, weight in ((8, 1.0), (24, 1.0), (256, 0.6))
    )
    levels = (spread - spread.min()) / np.ptp(spread) * 255
    return np.dstack([levels, levels, levels, np.full_like(levels, 255)]).astype(np.uint8)


def test_a_blurred_patch_is_found_and_a_sharp_picture_has_none() -> None:
    clean = textured()
    assert anomalies.blurred_faces(as_layer(clean)) is None
    found = anomalies.blurred_faces(as_layer(blurred(clean, 300, 200, 60)))
    assert found is not None
    assert found.intersection(Box(240, 140, 360, 260)) is not None
    assert abs((found.left + found.right) / 2 - 300) < 40
    assert abs((found.top + found.bottom) / 2 - 200) < 40


def test_what_is_soft_all_over_or_flat_is_no_blurred_face() -> None:
    clean = textured(1)
    assert anomalies.blurred_faces(as_layer(np.asarray(cv2.GaussianBlur(clean, (0, 0), 8), np.uint8))) is None
    flat = clean.copy()
    cv2.circle(flat, (256, 256), 70, (30, 30, 30, 255), -1)
    assert anomalies.blurred_faces(as_layer(flat)) is None
    out_of_focus = blurred(clean, 256, 256, 900)
    out_of_focus[180:330, 180:330] = clean[180:330, 180:330]  # the subject is sharp, what is around it is not
    assert anomalies.blurred_faces(as_layer(out_of_focus)) is None
    assert anomalies.blurred_faces(as_layer(photo())) is None


def test_a_background_with_a_blurred_face_takes_its_file() -> None:
    layers = [as_layer(blurred(textured(), 300, 200, 60)), box(0, 0, 60, 60)]
    with pytest.raises(rules.Dropped, match="faces"):
        rules.clean(layers, (512, 512), ALL)
    kept, left = rules.clean([backdrop(size=(512, 512)), *layers], (512, 512), {"faces"})
    assert [layer.name for layer in kept] == ["ground", "box"]
    assert [(rule, layer.name) for rule, layer in left] == [("faces", "photo")]
    assert len(rules.clean(layers, (512, 512), ALL - {"faces"})[0]) == 2


# --- merging ---------------------------------------------------------------------------------------------------------


def test_layers_that_do_not_overlap_are_merged_as_far_as_needed() -> None:
    words = [box(5 + 25 * i, 5, 20, 8, name=f"word {i}", kind="text") for i in range(4)]
    layers = [backdrop(), *words, box(10, 30, 40, 40), box(20, 40, 40, 40, (0, 90, 0, 200))]
    for most in range(7, 3, -1):
        merged, count = rules.merge(layers, most)
        assert len(merged) == most
        assert count == 7 - most
        np.testing.assert_array_equal(canvas(merged), canvas(layers))
    names = [layer.name for layer in rules.merge(layers, 4)[0]]
    assert "ground" in names
    assert any(name.startswith("word") and "word 1" in name for name in names)
    assert all(layer.kind == "text" for layer in rules.merge(layers, 4)[0] if layer.name.startswith("word"))


def test_layers_that_overlap_are_never_merged() -> None:
    pile = [backdrop(), *(box(10 + 5 * i, 10 + 5 * i, 40, 40, (40 * i, 0, 0, 200)) for i in range(4))]
    assert rules.merge(pile, 2) == (pile, 0)


@settings(max_examples=25, deadline=None)
@given(stack=stacks(), most=st.integers(1, 4))
def test_merging_keeps_the_picture_to_the_bit(stack: LayerStack, most: int) -> None:
    layers, _ = plain(stack, ALL)
    merged, count = rules.merge(layers, most)
    assert len(merged) == len(layers) - count
    np.testing.assert_array_equal(canvas(merged, stack.size), canvas(layers, stack.size))


def test_rules_and_limits_that_cannot_be_are_refused() -> None:
    assert rules.without(["faces", "merge"]).rules == ALL - {"faces", "merge"}
    with pytest.raises(
        FormatError, match=r"no rule 'face' \(did you mean 'faces'\?\): it must be one of groups, hidden"
    ):
        rules.without(["face"])
    with pytest.raises(FormatError, match="5 to 3 layers cannot be"):
        rules.without([], least=5, most=3)
    with pytest.raises(FormatError, match="a longer side of 32, a shorter of at least 64"):
        rules.without([], side=32)


# --- captions --------------------------------------------------------------------------------------------------------


def test_an_offline_caption_says_what_is_known() -> None:
    layers = [
        backdrop((20, 30, 100, 255)),
        box(10, 10, 30, 30, (220, 30, 30, 255), name="Badge"),
        box(60, 60, 30, 10, (250, 250, 250, 255), name="Layer 3 copy"),
        box(60, 20, 40, 12, (250, 250, 250, 255), name="Summer Sale", kind="text"),
    ]
    told = captions.captioner("offline")(canvas(layers), layers)
    assert told.startswith("A wide design of 4 layers on a navy background. It shows Badge (red object")
    assert told.endswith("It says “Summer Sale”.")
    assert "Layer 3" not in told
    with pytest.raises(FormatError, match="neither 'offline' nor a folder"):
        captions.captioner("gpt")
    assert to_8_bit(canvas(layers)).shape == (90, 120, 4)


@pytest.mark.parametrize("alone", [False, True])
def test_a_model_captions_from_a_checkpoint_and_from_its_own_folder(alone: bool, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = Path(__file__).parent / "data" / "qwen_layered_tiny" / "checkpoint"
    from unfuse.model.text import TextEncoder

    picture = np.full((56, 56, 4), (90, 160, 220, 255), np.uint8)
    want = TextEncoder(folder).caption(Image.fromarray(picture).convert("RGB"), max_tokens=3)
    if alone:
        for part in ("processor", "tokenizer", "text_encoder"):
            for file in (folder / part).iterdir():
                (tmp_path / file.name).write_bytes(file.read_bytes())
        folder = tmp_path
    assert captions.Model(str(folder), max_tokens=3)(picture, []) == " ".join(want.split())
    assert isinstance(captions.captioner(str(folder)), captions.Model)
