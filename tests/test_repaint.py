"""Painting one layer anew: the published pipeline on tiny random weights, and answers whose true layer is known."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import unfuse
from unfuse import recipe
from unfuse.composite import flatten
from unfuse.edits import repaint
from unfuse.errors import EngineError, MissingExtra, StackError, UnfuseError
from unfuse.layers import Box, Layer, LayerStack
from unfuse.model import painter
from unfuse.pixels import quantise, to_float
from unfuse.rematte import near
from unfuse.server import allowed

Colour = NDArray[np.float32]
TINY = Path(__file__).parent / "data/qwen_layered_tiny/checkpoint"
SIZE = 200, 150
Y, X = np.mgrid[: SIZE[1], : SIZE[0]].astype(np.float32) + 0.5
REACH = 8


def disc(x: float, y: float, radius: float) -> Colour:
    """Alpha `h w` of a disc with a soft edge."""
    return np.asarray(np.clip(radius - np.hypot(X - x, Y - y) + 0.5, 0, 1), np.float32)


def cup(color: tuple[float, float, float]) -> Colour:
    """Colours `h w 3` in 0..1, lighter at the top."""
    return np.asarray(np.clip(np.array(color) * (1.1 - 0.4 * Y / SIZE[1])[..., None], 0, 1), np.float32)


def laid(color: Colour, alpha: Colour) -> Any:
    return np.concatenate((color, alpha[..., None]), -1)


BLUE, RED = cup((0.15, 0.3, 0.8)), cup((0.85, 0.2, 0.1))
MUG = disc(100, 80, 32)


def wall(depth: Any = 8) -> Any:
    """`h w 4`: plaster, with texture."""
    grain = cv2.GaussianBlur(np.random.default_rng(0).standard_normal(SIZE[::-1]), (0, 0), 2)
    light = 0.65 + 0.08 * grain / grain.std() + 0.05 * ((X // 25 + Y // 25) % 2)
    return quantise(laid(light[..., None] * np.array([1, 0.93, 0.8]), np.ones_like(light)).clip(0, 1), depth)


def stack(alpha: Colour = MUG, depth: Any = 8, **fields: Any) -> LayerStack:
    """A wall, a mug, and a label over it."""
    label = np.zeros((20, 60, 4), np.uint8 if depth == 8 else np.uint16)
    label[:] = np.iinfo(label.dtype).max
    return LayerStack(
        SIZE,
        (
            Layer.from_canvas("Wall", "background", wall(depth), id="wall"),
            Layer.from_canvas("Mug", "object", quantise(laid(BLUE, alpha), depth), id="mug", **fields),
            Layer("Label", "text", Box(70, 70, 130, 90), label, id="label"),
        ),
        depth=depth,
    )


class Known:
    """Answers with a picture that is known."""

    def __init__(self, answer: Callable[[Colour], Any]) -> None:
        self.answer, self.seen = answer, np.zeros((0, 0, 3), np.float32)

    def paint(self, picture: Colour, words: str, *, seed: int, steps: int) -> Colour:
        self.seen = picture
        return np.asarray(self.answer(picture), np.float32)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Known]:
    """Make the engine 'known' answer so."""

    def answering(answer: Callable[[Colour], Any]) -> Known:
        painter.load.cache_clear()
        engine = Known(answer)
        monkeypatch.setitem(painter.TABLE, "known", lambda model: engine)
        return engine

    return answering


def view(before: LayerStack) -> tuple[slice, slice]:
    """What of the canvas the model is shown."""
    box = repaint._view(before, repaint._bare(before["Mug"]))
    return slice(box.top, box.bottom), slice(box.left, box.right)


def over_wall(color: Colour, alpha: Colour) -> Colour:
    below = to_float(wall())[..., :3]
    return alpha[..., None] * color + (1 - alpha[..., None]) * below


def levels(of: LayerStack) -> Any:
    """The mug on the canvas, whole numbers."""
    return of["Mug"].to_canvas(of.size)


def canvas(of: LayerStack) -> Any:
    return to_float(levels(of))


def alone(of: LayerStack) -> Any:
    """The wall and the mug, flattened, in levels."""
    return to_float(flatten(of.replace(layers=of.layers[:2])))[..., :3] * 255


def beyond(before: LayerStack, reach: float = REACH) -> Any:
    """Where nothing may change."""
    return ~near(levels(before)[..., 3] > 0, reach)


# --- answers that are known


def test_a_layer_in_another_colour_is_found_again(known: Any) -> None:
    before, truth = stack(), over_wall(RED, MUG)
    engine = known(lambda picture: truth[view(before)])
    after = before.repaint("Mug", "make the mug red", engine="known")
    assert np.abs(engine.seen - over_wall(BLUE, MUG)[view(before)]).max() < 1.01 / 255  # without the label
    mug = canvas(after)
    assert np.abs(mug[..., 3] - MUG).max() < 0.1
    seen = mug[..., 3] > 0.3
    assert 255 * np.abs(mug[..., :3] - RED)[seen].mean() < 1
    assert 255 * np.abs(mug[..., :3] - RED)[seen].max() < 25  # thin edges; no blue, no plaster
    assert np.abs(alone(after) - 255 * truth)[MUG == 1].max() <= 1
    assert np.abs(alone(after) - 255 * truth).max() <= 4
    assert np.array_equal(flatten(before)[beyond(before)], flatten(after)[beyond(before)])
    assert [after[name] is before[name] for name in ("Wall", "Mug", "Label")] == [True, False, True]


def test_an_answer_that_moved_and_changed_its_tint_is_brought_back(known: Any) -> None:
    before, truth = stack(), over_wall(RED, MUG)

    def drifted(picture: Colour) -> Any:
        whole = truth[view(before)]
        way = np.array([[1.012, 0, 1.9], [0, 1.012, -1.4]])
        moved = cv2.warpAffine(whole, way, whole.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        grain = np.random.default_rng(1).standard_normal(whole.shape) * 1.5 / 255
        return (moved + np.array([6, -4, 3]) / 255 + grain).clip(0, 1)

    known(drifted)
    after = before.repaint("Mug", "make the mug red", engine="known")
    mug = canvas(after)
    assert np.abs(mug[..., 3] - MUG)[(MUG == 0) | (MUG == 1)].mean() < 0.004
    assert np.abs(mug[..., 3] - MUG)[(MUG > 0) & (MUG < 1)].mean() < 0.12
    assert 255 * np.abs(mug[..., :3] - RED)[MUG == 1].mean() < 3
    assert np.array_equal(flatten(before)[beyond(before)], flatten(after)[beyond(before)])


def test_what_was_added_comes_and_what_was_taken_away_goes(known: Any) -> None:
    before = stack()
    handle = (np.clip(6.5 - np.abs(np.hypot(X - 134, Y - 80) - 2), 0, 1) * (X > 130)).astype(np.float32)
    alpha = np.maximum(MUG, handle) * (Y > 60)  # a handle comes, the brim goes
    truth = over_wall(RED, alpha)
    known(lambda picture: truth[view(before)])
    mug = canvas(before.repaint("Mug", "with a handle, half full", engine="known"))
    assert np.abs(mug[..., 3] - alpha)[near(MUG > 0, REACH)].mean() < 0.01
    assert mug[80, 137, 3] > 0.95
    assert mug[55, 100, 3] == 0
    kept = canvas(before.repaint("Mug", "with a handle, half full", engine="known", keep_shape=True))
    assert np.array_equal(kept[..., 3], canvas(before)[..., 3])


def test_a_spot_that_does_not_touch_the_layer_does_not_come(known: Any) -> None:
    before, spot = stack(), disc(100, 118.5, 2.5)
    truth = over_wall(RED, np.maximum(MUG, spot))
    known(lambda picture: truth[view(before)])
    assert not canvas(before.repaint("Mug", "red", engine="known"))[116:121, :, 3].any()


def test_what_the_model_left_alone_keeps_its_bits(known: Any) -> None:
    before = stack()
    left = np.where((X < 100)[..., None], over_wall(RED, MUG), over_wall(BLUE, MUG))

    def noisy(picture: Colour) -> Any:
        return (left[view(before)] + np.random.default_rng(2).normal(0, 1 / 255, picture.shape)).clip(0, 1)

    known(noisy)
    after = before.repaint("Mug", "the left half red", engine="known")
    old, new = (levels(each) for each in (before, after))
    far = X > 106
    assert (new[far] == old[far]).all(-1).mean() > 0.999
    assert 255 * np.abs(canvas(after)[..., :3] - RED)[(MUG == 1) & (X < 94)].mean() < 2
    known(lambda picture: picture)
    same = before.repaint("Mug", "nothing", engine="known")
    assert np.array_equal(levels(same), levels(before))


def test_a_glass_stays_a_glass(known: Any) -> None:
    glass = 0.5 * MUG
    before, truth = stack(glass), over_wall(RED, glass)
    known(lambda picture: truth[view(before)])
    mug = canvas(before.repaint("Mug", "red glass", engine="known"))
    assert np.abs(mug[..., 3] - glass)[MUG == 1].mean() < 0.06
    assert 255 * np.abs(alone(before.repaint("Mug", "red glass", engine="known")) / 255 - truth).max() < 6
    kept = canvas(before.repaint("Mug", "red glass", engine="known", keep_shape=True))
    assert 255 * np.abs(kept[..., :3] - RED)[MUG == 1].mean() < 4


def test_a_background_has_no_shape_to_lose(known: Any) -> None:
    before = stack()
    engine = known(lambda picture: np.full_like(picture, 0.5))
    after = before.repaint("Wall", "grey", engine="known")
    assert engine.seen.shape == (*SIZE[::-1], 3)
    assert np.array_equal(after["Wall"].to_canvas(SIZE), np.full((*SIZE[::-1], 4), (128, 128, 128, 255)))
    assert after["Mug"] is before["Mug"]


def test_effects_opacity_group_and_what_lies_beyond_the_canvas_stay(known: Any) -> None:
    before = stack(opacity=0.6, blend_mode="multiply").group(["Mug", "Label"], name="Ad").opacity("Ad", value=0.5)
    before = before.move("Mug", x=-90).drop_shadow("Mug", x=4, y=4, blur=2)
    engine = known(lambda picture: picture * (1, 0.4, 0.4))
    after = before.repaint("Mug", "redder", engine="known")
    old, new = before["Mug"], after["Mug"]
    assert engine.seen[70, 5, 2] - engine.seen[70, 5, 0] > 0.4  # the mug itself, opaque, in front of the wall
    assert (new.opacity, new.blend_mode) == (0.6, "multiply")
    assert old.original
    assert new.original
    assert new.original.effects == old.original.effects
    hidden = Box(old.box.left, old.box.top, 0, old.box.bottom)
    past = [layer.pixels[hidden.within(layer.box)] for layer in (old, new) if layer.pixels is not None]
    inside = past[0][..., 3] == 255  # the shadow of what changed may differ
    assert np.array_equal(past[0][inside], past[1][inside])
    assert after["Ad"].opacity == 0.5
    assert np.array_equal(levels(after.undo()), levels(before))


def test_sixteen_bits(known: Any) -> None:
    before, truth = stack(depth=16), over_wall(RED, MUG)
    known(lambda picture: truth[view(before)])
    after = before.repaint("Mug", "red", engine="known")
    assert after.depth == 16
    assert np.abs(alone(after) - 255 * truth)[MUG == 1].max() < 0.01


def test_an_answer_at_another_size_is_fitted(known: Any) -> None:
    before, truth = stack(), over_wall(RED, MUG)
    known(lambda picture: cv2.resize(truth[view(before)], (416, 416), interpolation=cv2.INTER_CUBIC).clip(0, 1))
    mug = canvas(before.repaint("Mug", "red", engine="known"))
    assert 255 * np.abs(mug[..., :3] - RED)[MUG == 1].mean() < 3


def test_a_layer_that_is_gone_is_refused(known: Any) -> None:
    before = stack()
    known(lambda picture: over_wall(BLUE, 0 * MUG)[view(before)])
    with pytest.raises(StackError, match="nothing is left of layer 'Mug' in what 'away' gave"):
        before.repaint("Mug", "away", engine="known")


# --- what is refused


@pytest.mark.parametrize(
    ("layer", "fields", "message"),
    [
        ("Mugg", {}, r"no layer is called 'Mugg' \(did you mean 'Mug'"),
        ("Mug", {"words": "  "}, "repaint: the field 'words' is '  '"),
        ("Mug", {"steps": 0}, "repaint: the field 'steps' is 0"),
        ("Mug", {"seed": -1}, "repaint: the field 'seed' is -1"),
        ("Mug", {}, r"no weights: give model=.* Qwen/Qwen-Image-Edit-2509 \(20 billion parameters, Apache-2.0\)"),
        ("Mug", {"engine": "qwen"}, r"engine 'qwen' is unknown.*: say one of qwen-edit"),
        ("Mug", {"model": "/nowhere/at all"}, r"at all is not a folder: .*Apache-2.0"),
    ],
)
def test_what_is_refused(layer: str, fields: dict[str, Any], message: str) -> None:
    pytest.importorskip("diffusers")
    with pytest.raises(UnfuseError, match=message):
        stack().repaint(layer, **{"words": "red", **fields})


def test_locked_layers_groups_and_what_does_not_show_are_refused() -> None:
    with pytest.raises(StackError, match="layer 'Mug' is locked"):
        stack().lock("Mug").repaint("Mug", "red")
    with pytest.raises(StackError, match="layer 'Ad' is a group: repaint one of 'Mug', 'Label'"):
        stack().group(["Mug", "Label"], name="Ad").repaint("Ad", "red")
    with pytest.raises(StackError, match="shows nothing on the canvas"):
        stack().move("Mug", x=900).repaint("Mug", "red")
    with pytest.raises(StackError, match="repaint takes a while here: use the library or the command line"):
        allowed.check([{"op": "repaint", "layer": "Mug", "words": "red", "model": "/etc"}], set())


def test_without_the_extra_the_error_is_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    painter.load.cache_clear()
    with pytest.raises(MissingExtra, match=r"needs diffusers: pip install 'unfuse\[edit\]'"):
        stack().repaint("Mug", "red", model="anywhere")


def test_folders_that_are_no_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    with pytest.raises(EngineError, match=r"has no model_index.json that can be read"):
        stack().repaint("Mug", "red", model=str(tmp_path))
    with pytest.raises(EngineError, match="holds a QwenImageLayeredPipeline, and 'qwen-edit' runs a QwenImageEditPlus"):
        stack().repaint("Mug", "red", model=str(TINY))
    (tmp_path / "model_index.json").write_text('{"_class_name": "QwenImageEditPipeline"}')
    with pytest.raises(EngineError, match="lacks transformer, vae, text_encoder"):
        stack().repaint("Mug", "red", model=str(tmp_path))


# --- the published pipeline, on random weights


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the published layout: our tiny text encoder, a transformer and a VAE of random weights."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    folder: Path = tmp_path_factory.mktemp("edit")
    for part in ("tokenizer", "processor", "scheduler", "text_encoder"):
        shutil.copytree(TINY / part, folder / part)
    torch.manual_seed(0)
    small = {"num_layers": 1, "num_attention_heads": 1, "attention_head_dim": 16, "axes_dims_rope": (8, 4, 4)}
    net = diffusers.QwenImageTransformer2DModel(in_channels=64, out_channels=16, joint_attention_dim=32, **small)
    net.save_pretrained(folder / "transformer")
    config = json.loads((TINY / "vae/config.json").read_text())
    own = {name: value for name, value in config.items() if name[0] != "_" and name != "input_channels"}
    diffusers.AutoencoderKLQwenImage(**own).save_pretrained(folder / "vae")
    index = json.loads((TINY / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "QwenImageEditPlusPipeline"}))
    return folder


def test_no_pickle_is_read(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "pickled")
    (weights,) = (folder / "transformer").glob("*.safetensors")
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(EngineError, match="cannot be loaded as a QwenImageEditPlusPipeline"):
        stack().repaint("Mug", "red", model=str(folder))


def test_a_hub_name_is_not_asked_for_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    pytest.importorskip("diffusers")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EngineError, match="Nobody/Nothing is not in the cache, or not whole, and HF_HUB_OFFLINE"):
        stack().repaint("Mug", "red", model="Nobody/Nothing")


@pytest.fixture
def small_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline's bucket is a million pixels, which takes a CPU a minute even so: make it 96 x 96."""
    for name in ("edit", "edit_plus"):
        module = import_module(f"diffusers.pipelines.qwenimage.pipeline_qwenimage_{name}")
        real = module.calculate_dimensions
        monkeypatch.setattr(module, "calculate_dimensions", lambda area, ratio, real=real: real(96 * 96, ratio))


@pytest.mark.usefixtures("small_bucket")
def test_the_published_pipeline_paints_one_layer_and_nothing_else(checkpoint: Path) -> None:
    before = stack()
    options: dict[str, Any] = {"words": "make the mug red", "model": str(checkpoint), "steps": 2}
    after, again, other = (before.repaint("Mug", seed=seed, **options) for seed in (5, 5, 6))
    assert not np.array_equal(levels(after), levels(before))
    assert np.array_equal(levels(after), levels(again))
    assert not np.array_equal(levels(after), levels(other))
    said = before.repaint("Mug", seed=5, **{**options, "words": "a green cactus on the wall"})
    assert not np.array_equal(levels(said), levels(after))
    assert np.array_equal(flatten(before)[beyond(before)], flatten(after)[beyond(before)])
    assert [after[name] is before[name] for name in ("Wall", "Mug", "Label")] == [True, False, True]
    kept = before.repaint("Mug", seed=5, keep_shape=True, **options)
    assert np.array_equal(levels(kept)[..., 3], levels(before)[..., 3])

    (made,) = after.past[-1].edits  # what the history says makes it again
    whole = {"layer": "Mug", "engine": "qwen-edit", "seed": 5, "keep_shape": False, "op": "repaint", **options}
    assert made == whole
    replayed = recipe.run(before, recipe.checked([dict(made)]))
    assert np.array_equal(levels(replayed), levels(after))
    assert "'Mug': repainted by qwen-edit" in after.notes[-1]


@pytest.mark.usefixtures("small_bucket")
def test_the_older_pipeline_does_too(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "older")
    index = (folder / "model_index.json").read_text().replace("QwenImageEditPlusPipeline", "QwenImageEditPipeline")
    (folder / "model_index.json").write_text(index)
    before = stack()
    older, newer = (before.repaint("Mug", "red", model=str(each), steps=1) for each in (folder, checkpoint))
    assert not np.array_equal(levels(older), levels(before))
    assert not np.array_equal(levels(older), levels(newer))  # its prompt is another
    assert np.array_equal(flatten(before)[beyond(before)], flatten(older)[beyond(before)])


@pytest.mark.usefixtures("small_bucket")
def test_the_recipe_runs_on_the_command_line(checkpoint: Path, tmp_path: Path) -> None:
    from unfuse import cli

    stack().save(tmp_path / "in.zip")
    edit = {"op": "repaint", "layer": "Mug", "words": "red", "model": str(checkpoint), "steps": 1}
    (tmp_path / "recipe.json").write_text(json.dumps([edit]))
    with pytest.raises(SystemExit) as end:
        cli.main(["edit", *(str(tmp_path / name) for name in ("in.zip", "recipe.json")), "-o", str(tmp_path / "o.zip")])
    assert end.value.code == 0
    after = unfuse.load(tmp_path / "o.zip")
    assert np.array_equal(levels(after), levels(unfuse.edit(stack(), edit)))


def test_the_model_reads_the_picture_where_it_is(checkpoint: Path) -> None:
    """transformers 5 puts a picture's tokens in a row, unless it is told which they are."""
    torch = pytest.importorskip("torch")
    from PIL import Image

    engine = painter.load("qwen-edit", str(checkpoint))
    assert isinstance(engine, painter.QwenEdit)
    shown = Image.fromarray(quantise(over_wall(BLUE, MUG), 8))
    text = f"Picture 1: <|vision_start|>{painter.IMAGE_PAD}<|vision_end|> make the mug red"
    read = engine.pipe.processor(text=[text], images=[shown], padding=True, return_tensors="pt")
    encoder = engine.pipe.text_encoder
    picture = read["input_ids"] == encoder.config.image_token_id
    _, rows, columns = read["image_grid_thw"][0].tolist()
    assert int(picture.sum()) == rows * columns // 4 > 8
    with torch.no_grad():
        ours = encoder(**read).logits
        told = encoder(**read, mm_token_type_ids=picture.int()).logits
        in_a_row = encoder(**read, mm_token_type_ids=torch.zeros_like(picture).int()).logits
    assert torch.equal(ours, told)
    assert not torch.equal(ours, in_a_row)
