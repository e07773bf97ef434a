"""The pages in docs/tasks do what they say: every command and every piece of Python on them runs, and what was asked
arrives. Commands on all other pages are known to the command line.
"""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from PIL import Image, features
from stacks import SRGB, everything
from test_words import RED, written
from test_words import stack as spoken

import unfuse
from unfuse import cli, formats, oklab, reading
from unfuse.layers import Box, Layer, LayerStack
from unfuse.pixels import to_float

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs"))
make_tasks: Any = importlib.import_module("make_tasks")  # a script, not a part of the package

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
VERBS = ("DESIGNS", "STAGE")  # pages say them for what is to be filled in; the command line takes them for verbs


# --- what is typed


def typed(page: Path) -> Iterator[str]:
    """Every command of ours on a page, between fences, as it is typed."""
    for block in re.findall(r"^```\w*\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(
                r" \| | && |; ", line.removeprefix("$ ").partition("  #")[0].partition(" > ")[0].removesuffix(" &")
            ):
                if part.startswith("unfuse "):
                    yield part


def check(arguments: list[str]) -> None:
    """Raise UsageError where the command line would."""
    command: Any = typer.main.get_command(cli.app)
    context = command.make_context("unfuse", list(arguments))
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("page", [x for x in PAGES if list(typed(x))], ids=lambda x: x.relative_to(ROOT).as_posix())
def test_every_command_in_the_docs_is_one(page: Path) -> None:
    wrong = {}
    for line in typed(page):
        try:
            check([word.lower() if word in VERBS else word for word in shlex.split(line)[1:]])
        except cli.UsageError as error:
            wrong[line] = str(error)
    assert not wrong


def test_a_wrong_command_would_be_seen() -> None:
    with pytest.raises(cli.UsageError, match="--colour"):
        check(["edit", "a.zip", "b.yaml", "--colour", "red"])


def test_links_of_the_pages_lead_somewhere() -> None:
    pages = sorted((ROOT / "docs" / "tasks").glob("*.md"))
    assert {page.stem for page in pages} == set(make_tasks.PAGES)
    for page in pages:
        text = page.read_text("utf-8")
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) + re.findall(r'src="([^"]+)"', text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


# --- what the pages do


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of docs/tasks in which everything on the pages has been done."""
    if not reading.is_available():
        pytest.skip("reading needs rapidocr: pip install '.[text]'")
    if not features.check("fribidi"):
        pytest.skip("FriBiDi is not installed: Arabic cannot be set")
    place: Path = make_tasks.copied(tmp_path_factory.mktemp("tasks"))
    make_tasks.work(place)
    return place


def shown(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGBA"))


def outside(box: Box, room: int, size: tuple[int, int]) -> NDArray[np.bool_]:
    beyond = np.ones(size[::-1], bool)
    beyond[max(0, box.top - room) : box.bottom + room, max(0, box.left - room) : box.right + room] = False
    return beyond


def test_the_start_is_the_picture(folder: Path) -> None:
    stack = unfuse.load(folder / "offer.zip")
    assert [layer.name for layer in stack] == ["Wall", "Headline", "Subline", "Badge", "Sticker", "Product"]
    assert np.abs(np.asarray(stack.flatten()).astype(int) - shown(folder / "offer.jpg")).max() <= 1


def test_the_colour_arrives(folder: Path) -> None:
    stack = unfuse.load(folder / "offer.zip")
    disc = unfuse.edit(stack, {"op": "recolor", "layer": "Disc", "color": "#1f7a4d"})["Disc"].pixels
    assert disc is not None
    weight = disc[..., 3:].astype(np.float32)
    mean = (oklab.from_rgb(to_float(disc)[..., :3]) * weight).sum(axis=(0, 1)) / weight.sum()
    assert np.abs(mean - oklab.lab_of("#1f7a4d")).max() < 0.01
    beyond = outside(stack["Disc"].box, 0, stack.size)
    assert (shown(folder / "colour.png")[beyond] == shown(folder / "offer.jpg")[beyond]).all()


def test_only_the_hat_changes(folder: Path) -> None:
    before, after = shown(folder / "../../examples/poster.jpg").astype(int), shown(folder / "hat.png").astype(int)
    hat, face = (slice(480, 540), slice(430, 600)), (slice(700, 800), slice(450, 560))
    assert (after[hat][..., 0].mean() > 180) & (before[hat][..., 0].mean() < 80)
    assert (np.abs(after[face] - before[face]).max(axis=-1) > 2).mean() < 0.03  # edges with a touch of green


def test_every_product_has_the_shadow(folder: Path) -> None:
    asked = {"op": "drop_shadow", "x": 20, "y": 14, "blur": 10, "color": "#4a2a10", "opacity": 0.6}
    product = unfuse.load(folder / "product.zip")["Bottle"]
    assert product.original
    assert [dict(effect) for effect in product.original.effects] == [asked]
    wall = unfuse.load(folder / "offer.zip").heal("Wall", under="Product", reach=40)["Wall"].to_canvas((1080, 1080))
    for name, right in (("jar", 715), ("tin", 700)):
        place = slice(700, 800), slice(right, right + 4)  # beside the product, in its shadow
        assert shown(folder / f"products/{name}.png")[place].mean() < wall[place].mean() - 8, name


def test_the_languages_are_there(folder: Path) -> None:
    assert sorted(path.name for path in (folder / "languages").iterdir()) == ["ar.png", "de.png", "fr.png", "zh.png"]
    whole = shown(folder / "../../examples/poster.jpg")
    for path in (folder / "languages").iterdir():
        assert (shown(path)[450:] == whole[450:]).all()
        assert (shown(path)[:450] != whole[:450]).any()


def test_the_sticker_is_gone(folder: Path) -> None:
    assert "Sticker" not in unfuse.load(folder / "sticker.zip")
    place = shown(folder / "sticker.png")[540:740, 90:290, :3].astype(int)
    assert np.abs(place - np.median(place, axis=(0, 1))).max() < 12  # nothing but the wall


def test_ten_sizes(folder: Path) -> None:
    rows = [line.split(",")[:2] for line in (folder / "sizes.csv").read_text().splitlines()[1:]]
    from unfuse.variants import PRESETS

    for name, canvas in rows:
        size = PRESETS.get(canvas) or tuple(map(int, canvas.split("x")))
        made = shown(folder / f"sizes/{name}.png")
        assert made.shape[1::-1] == size
        assert made[..., 3].min() == 255


# --- the table of formats

FEATURES = (
    *("names", "groups", "opacity", "blend modes", "hidden layers", "locks", "beyond the canvas"),
    *("effects and looks", "undo and redo", "profile", "resolution", "16 bits"),
)
COLUMNS = (".zip", ".psd", ".tiff", ".ora", ".svg", ".pptx")


def table() -> dict[str, list[str]]:
    page = (ROOT / "docs" / "tasks" / "designer.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows}


def block(name: str, box: tuple[int, int, int, int], color: tuple[int, int, int], **fields: Any) -> Layer:
    place = Box(*box)
    return Layer(name, "object", place, np.full((place.height, place.width, 4), (*color, 255), np.uint8), **fields)


def all_of_it(mode: str) -> LayerStack:
    """A stack in which everything in the table occurs."""
    inside = (block("In", (50, 50, 70, 70), (200, 0, 9)), block("Over", (55, 55, 75, 75), (20, 0, 9)))
    layers = (
        block("Wall", (0, 0, 120, 80), (200, 220, 240)),
        block("Soft", (-5, 5, 30, 30), (9, 200, 9), opacity=0.4),
        block("Hidden", (5, 5, 30, 30), (9, 9, 200), visible=False),
        Layer.group("Group", inside),
        block("Blend", (80, 10, 110, 40), (100, 30, 200), blend_mode=mode),
        block("Locked", (90, 60, 100, 70), (1, 2, 3), locked=True),
    )
    return LayerStack((120, 80), layers, icc=SRGB, dpi=150.0).outline("Blend", width=2)


@pytest.mark.parametrize("suffix", COLUMNS)
def test_the_table_of_formats_is_true(suffix: str, tmp_path: Path) -> None:
    def back(stack: LayerStack, name: str) -> LayerStack:
        formats.write(stack, tmp_path / f"{name}{suffix}")
        return unfuse.load(tmp_path / f"{name}{suffix}")

    made, mixed = all_of_it("normal"), all_of_it("multiply")
    found, blended = back(made, "a"), back(mixed, "b")
    assert np.abs(np.asarray(found.flatten()).astype(int) - np.asarray(made.flatten())).max() <= 1
    layers = {layer.name: layer for layer in found.walk()}
    survives = {
        "names": [x.name for x in found.walk()] == [x.name for x in made.walk()],
        "groups": len(layers["Group"].layers) == 2 if "Group" in layers else False,
        "opacity": abs(layers["Soft"].opacity - 0.4) < 1 / 510,
        "blend modes": "Blend" in blended and blended["Blend"].blend_mode == "multiply",
        "hidden layers": not layers["Hidden"].visible,
        "locks": layers["Locked"].locked,
        "beyond the canvas": layers["Soft"].box.left == -5,
        "effects and looks": layers["Blend"].original is not None,
        "undo and redo": len(found.past) == len(made.past),
        "profile": found.icc == SRGB,
        "resolution": found.dpi == 150,
        "16 bits": back(everything(16), "c").depth == 16,
    }
    said = {feature: table()[feature][COLUMNS.index(suffix)].startswith("yes") for feature in FEATURES}
    assert survives == said


@pytest.mark.parametrize("suffix", COLUMNS)
def test_the_table_is_true_of_text(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    options = {"text": "live"} if "text" in formats.find(path).options else {}
    formats.write(spoken(written([("Summer", 200, 70, 48, RED)])), path, **options)
    said = [layer.text.string for layer in unfuse.load(path).walk() if layer.text]
    cell = table()["live text"][COLUMNS.index(suffix)]
    assert said == ([] if cell.startswith("no") else ["Summer"]), cell
