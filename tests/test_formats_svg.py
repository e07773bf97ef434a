"""SVG: there and back, in resvg and in a browser's words, drawings of Inkscape's, and hostile files."""

from __future__ import annotations

import math
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from lxml import etree
from stacks import assert_same_layers, everything, noise, png, renamed, soft, stacks

from unfuse import formats
from unfuse.composite import flatten, residual
from unfuse.errors import FormatError, MissingExtra
from unfuse.formats.names import clean
from unfuse.formats.svg_reader import NAMESPACES
from unfuse.layers import BLEND_MODES, Box, Layer, LayerStack, Original, Pixels
from unfuse.pixels import quantise
from unfuse.pixels import read as read_picture
from unfuse.textblock import TextBlock, TextLine

FOREIGN = Path(__file__).parent / "data" / "foreign"
NOT_IN_SVG = ("id", "kind")
SVG = "{http://www.w3.org/2000/svg}"


def resvg(path: Path, **options: Any) -> Pixels:
    """What resvg shows of a file, `h w 4` uint8."""
    module = pytest.importorskip("resvg_py")
    return quantise(read_picture(bytes(module.svg_to_bytes(path.read_text("utf-8"), **options))).pixels, 8)


@settings(max_examples=25, deadline=None)
@given(stack=stacks())
def test_layers_come_back_to_the_bit(stack: LayerStack, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("stacks") / "a.svg"
    stack = renamed(stack, clean)
    notes = formats.write(stack, path)
    assert notes == (("SVG has 8 bits a channel: 16 were rounded",) if stack.depth == 16 else ())
    back = formats.read(path)
    assert (back.size, back.notes) == (stack.size, ())
    if stack.depth == 8:
        assert_same_layers(back.layers, stack.layers, ignore=NOT_IN_SVG)


@pytest.mark.parametrize("transparent", [False, True])
def test_resvg_composes_our_layers_as_we_do(tmp_path: Path, transparent: bool) -> None:
    stack = everything(8, transparent)
    formats.write(stack, tmp_path / "a.svg")
    np.testing.assert_allclose(premultiplied(resvg(tmp_path / "a.svg")), premultiplied(flatten(stack)), atol=2.2)


@pytest.mark.parametrize("mode", BLEND_MODES)
def test_every_blend_mode_is_the_standards(tmp_path: Path, mode: str) -> None:
    disc = Layer("a", "object", Box(20, 10, 100, 70), soft(80, 60, (230, 140, 60)), blend_mode=mode, opacity=0.7)
    stack = LayerStack((120, 80), (everything()[0], disc))
    formats.write(stack, tmp_path / "a.svg")
    difference = np.abs(resvg(tmp_path / "a.svg").astype(int) - flatten(stack))
    assert difference.max() <= (5 if mode in ("color", "saturation") else 2)  # resvg composes these in 8 bits


def premultiplied(pixels: Pixels) -> Any:
    return np.concatenate([pixels[..., :3] * (pixels[..., 3:] / 255), pixels[..., 3:]], axis=2)


# ---- text


def line(string: str, x: float, y: float, width: float, angle: float = 0, **fields: Any) -> TextLine:
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    quad = tuple((x + u * c - v * s, y + u * s + v * c) for u, v in ((0, 0), (width, 0), (width, 12), (0, 12)))
    return TextLine(string, quad, 16, **fields)  # type: ignore[arg-type]


WORDS = TextBlock(
    (line('<b>"Hello" & ä</b>', 10, 8, 90, color=(250, 240, 0), weight=700), line("背景", 12, 30, 30, 20))
)
TEXT = Layer("Words", "text", Box(10, 5, 110, 65), soft(100, 60, (250, 240, 0)), text=WORDS)


def test_text_is_live_and_lies_where_it_was(tmp_path: Path) -> None:
    stack = everything().replace(layers=(everything()[0], TEXT))
    assert formats.write(stack, tmp_path / "a.svg") == ()
    first, second = etree.parse(tmp_path / "a.svg").iter(f"{SVG}text")
    assert (first.text, second.text) == ('<b>"Hello" & ä</b>', "背景")
    assert (first.get("fill"), first.get("font-weight"), first.get("textLength")) == ("#faf000", "700", "90.000")
    assert second.get("transform") == "translate(7.896 41.276) rotate(20.000)"


@pytest.mark.skipif(not Path("/usr/share/fonts/truetype/dejavu").is_dir(), reason="DejaVu is not installed")
def test_an_independent_reader_draws_the_text_in_its_place(tmp_path: Path) -> None:
    text = TEXT.replace(text=TextBlock((line("HHHHHHHH", 20, 20, 80, color=(255, 0, 0), font="DejaVu Sans"),)))
    formats.write(LayerStack((120, 80), (text,)), tmp_path / "a.svg")
    ink = Layer.from_canvas("ink", "text", resvg(tmp_path / "a.svg", font_dirs=["/usr/share/fonts/truetype/dejavu"]))
    assert ink.pixels is not None
    assert np.abs(np.subtract(ink.box, (20, 20, 100, 32))).max() <= 2
    assert tuple(ink.pixels[ink.pixels[..., 3] == 255][0]) == (255, 0, 0, 255)


def test_the_picture_of_a_text_can_be_had_instead(tmp_path: Path) -> None:
    stack = LayerStack((120, 80), (TEXT,))
    formats.write(stack, tmp_path / "a.svg", text="picture")
    assert_same_layers(formats.read(tmp_path / "a.svg").layers, stack.layers, ignore=(*NOT_IN_SVG, "text"))
    with pytest.raises(FormatError, match="text is 'both': it must be one of live, picture"):
        formats.write(stack, tmp_path / "a.svg", text="both")
    with pytest.raises(FormatError, match="'colour' is not an option of SVG files: they have text"):
        formats.write(stack, tmp_path / "a.svg", colour="red")


def test_text_that_cannot_live_stays_a_picture_and_says_so(tmp_path: Path) -> None:
    mirrored = TEXT.replace(name="mirror", id="m", text=WORDS.transformed((-1, 0, 120, 0, 1, 0)))
    assert TEXT.pixels is not None
    made = Original(TEXT.box, TEXT.pixels, effects=({"op": "outline", "width": 2},))
    effect = TEXT.replace(name="glow", id="g", original=made)
    notes = formats.write(LayerStack((120, 80), (mirrored, effect)), tmp_path / "a.svg")
    assert notes == (
        "the text of 'mirror' is mirrored: it stays a picture",
        "the text of 'glow' has effects: it stays a picture",
    )
    assert len(formats.read(tmp_path / "a.svg")) == 2


# ---- drawings of others


def test_layers_of_inkscape_come_in_as_pixels() -> None:
    pytest.importorskip("resvg_py")
    stack = formats.read(FOREIGN / "lens.svg")
    assert (stack.size, stack.dpi) == ((500, 500), 96)
    assert [layer.name for layer in stack] == ["1a", "ombre", "3", "4", "1", "2"]
    assert stack.notes == ("drawings came in as pixels: '1a', 'ombre', '3', '4', '1', '2'",)
    shown = resvg(FOREIGN / "lens.svg")
    assert np.abs(premultiplied(shown) - premultiplied(flatten(stack))).max() <= 3  # each layer is rounded by itself


def test_what_stands_beside_layers_is_not_lost() -> None:
    pytest.importorskip("resvg_py")
    stack = formats.read(FOREIGN / "volley_ball.svg")
    assert [layer.name for layer in stack] == ["Destra", "Sinistra", "Sopra", "Ricalco"]
    assert stack.notes == ("drawings came in as pixels: 'Destra', 'Sinistra', 'Sopra', 'Ricalco' with text",)


def document(inside: str, head: str = 'width="8" height="8"') -> str:
    spaces = "".join(f' xmlns:{key}="{NAMESPACES[key]}"' for key in ("xlink", "inkscape"))
    return f'<svg xmlns="http://www.w3.org/2000/svg"{spaces} {head}>{inside}</svg>'


def layer(inside: str, name: str = "a", fields: str = "") -> str:
    return f'<g inkscape:groupmode="layer" inkscape:label="{name}" {fields}>{inside}</g>'


RECT = '<rect x="2" y="3" width="4" height="2" fill="#ff0000" {}/>'


def test_groups_and_shapes_become_layers_as_they_lie(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    inside = (
        '<defs><linearGradient id="x"/></defs>'
        + RECT.format("") + RECT.format('transform="translate(-2 0)"')
        + f'<g id="see" style="opacity:50%;mix-blend-mode:multiply">{RECT.format("")}</g>'
        + f'<g id="not" display="none">{RECT.format("")}</g>'
        + layer(layer(RECT.format(""), "in") + RECT.format('id="beside"'), "out", 'opacity=".25" transform="scale(.5)"')
        + layer(layer(RECT.format(""), "dark", 'style="mix-blend-mode:darken"'), "through")
        + layer("", "empty") + layer('<rect x="90" width="9" height="9"/>', "away")
        + f'<g id="odd" style="mix-blend-mode:plus-lighter">{RECT.format("")}</g><foreignObject/>'
    )  # fmt: skip
    (tmp_path / "a.svg").write_text(document(inside))
    stack = formats.read(tmp_path / "a.svg")
    assert [(x.name, x.opacity, x.blend_mode, x.visible) for x in stack.walk()] == [
        ("2 shapes", 1, "normal", True),
        ("see", 0.5, "multiply", True),
        ("not", 1, "normal", False),
        ("out", 0.25, "normal", True),
        ("in", 1, "normal", True),
        ("beside", 1, "normal", True),
        ("dark", 1, "darken", True),
        ("odd", 1, "normal", True),
    ]
    assert stack[0].box == Box(0, 3, 6, 5)
    assert stack["see"].pixels is not None
    assert stack["see"].pixels.tolist() == [[[255, 0, 0, 255]] * 4] * 2
    assert stack["in"].box == Box(1, 1, 3, 3)
    assert stack.notes == (
        "'foreignObject' is a foreignObject, which cannot be drawn: it was left out",
        "'odd' has the blend mode plus-lighter: it became normal",
        "group 'through' lets blend modes through to what lies below it: it was taken apart",
        "'away' shows nothing on the canvas: it was left out",
        "drawings came in as pixels: '2 shapes', 'see', 'not', 'in', 'beside', 'dark', 'odd'",
    )


@pytest.mark.parametrize(
    ("head", "size"),
    [
        ('width="1in" height="25.4mm"', (96, 96)),
        ('width="100%" height="100%" viewBox="0 0 30 20"', (30, 20)),
        ('viewBox="-5,-5,10,12.4"', (10, 12)),
        ('width="72pt" height="2pc"', (96, 32)),
    ],
)
def test_sizes_are_pixels_at_96_an_inch(tmp_path: Path, head: str, size: tuple[int, int]) -> None:
    pytest.importorskip("resvg_py")
    (tmp_path / "a.svg").write_text(document(RECT.format(""), head))
    assert formats.read(tmp_path / "a.svg").size == size


def test_drawings_need_resvg_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.svg").write_text(document(RECT.format("")))
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(MissingExtra, match=r"pip install 'unfuse\[svg\]'"):
        formats.read(tmp_path / "a.svg")
    formats.write(everything(), tmp_path / "b.svg")  # our own needs nothing
    assert residual(formats.read(tmp_path / "b.svg"), flatten(everything())).max == 0


# ---- hostile files


def test_nothing_is_read_but_the_file_itself(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    (tmp_path / "secret.png").write_bytes(png(np.full((8, 8, 4), 255, np.uint8)))
    links = [str(tmp_path / "secret.png"), (tmp_path / "secret.png").as_uri(), "secret.png", "http://127.0.0.1/a.png"]
    nested = b64encode(document(f'<image width="8" height="8" xlink:href="{links[0]}"/>').encode()).decode()
    links.append(f"data:image/svg+xml;base64,{nested}")
    images = "".join(
        f'<image width="8" height="8" xlink:href="{x}"/><image width="8" height="8" href="{x}"/>' for x in links
    )
    filters = f'<filter id="f"><feImage xlink:href="{links[0]}"/></filter><rect width="8" height="8" filter="url(#f)"/>'
    (tmp_path / "a.svg").write_text(document(images + filters))
    stack = formats.read(tmp_path / "a.svg")
    assert len(stack) == 0
    assert len([note for note in stack.notes if "is a link to" in note]) == 11


def uses(levels: int) -> str:
    """A picture of ten pictures, of ten pictures, of ten pictures ..."""
    ten = [f'<use xlink:href="#u{i}"/>' * 10 for i in range(levels)]
    rows = "".join(f'<g id="u{i + 1}">{inside}</g>' for i, inside in enumerate(ten))
    return document(f'<defs><rect id="u0" width="1" height="1"/>{rows}</defs><use xlink:href="#u{levels}"/>')


def embedded(data: bytes) -> str:
    return f'<image width="8" height="8" xlink:href="data:image/png;base64,{b64encode(data).decode()}"/>'


HOSTILE = {
    "empty": ("", "is empty"),
    "not XML": ("<svg", "not XML"),
    "other XML": ("<html/>", "not an SVG: it begins with html"),
    "no size": (document("", ""), "does not say how large"),
    "no pixels": (document("", 'width="0" height="9"'), "larger than 0"),
    "infinite": (document("", 'width="1e999" height="9"'), "less than 1e7"),
    "too large": (document("", 'width="99999" height="99999"'), "99999x99999 pixels, the limit is 4,000,000"),
    "entities": ('<!DOCTYPE svg [<!ENTITY e "ha">]>' + document("<text>&e;</text>"), "declares entities"),
    "encoding": ('<?xml version="1.0" encoding="UTF-7"?>' + document(""), "encoding is utf-7: save it as UTF-8"),
    "deep": (document("<g>" * 3000 + "</g>" * 3000), "not XML that can be read .*: save or download it again"),
    "many": (document("<g><path d='M0 0'/></g>" * 1001), "has 1001 layers, the limit is 1000"),
    "not a picture": (document(embedded(b"hello")), "not a picture"),
    "uses of uses": (uses(9), "cannot be drawn"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    pytest.importorskip("resvg_py")
    text, message = HOSTILE[name]
    (tmp_path / "a.svg").write_text(text)
    with pytest.raises(FormatError, match=message) as caught:
        formats.read(tmp_path / "a.svg", limit_megapixels=4)
    assert "\n" not in str(caught.value)


def test_pictures_in_it_are_looked_up_before_they_are_decoded(tmp_path: Path) -> None:
    large = embedded(png(np.zeros((3000, 3000, 4), np.uint8)))
    (tmp_path / "a.svg").write_text(document(large * 4))
    with pytest.raises(FormatError, match="pictures of more than 32,000,000 pixels in it, the limit"):
        formats.read(tmp_path / "a.svg", limit_megapixels=4)


def test_names_are_text(tmp_path: Path) -> None:
    name = '"><script>alert(1)</script>\0'
    stack = LayerStack((4, 4), (Layer(name, "object", Box(0, 0, 4, 4), noise(0, 4, 4, 8)),))
    formats.write(stack, tmp_path / "a.svg")
    tags = {str(element.tag).removeprefix(SVG) for element in etree.parse(tmp_path / "a.svg").iter()}
    assert tags == {"svg", "g", "title", "image"}
    assert formats.read(tmp_path / "a.svg")[0].name == name.replace("\0", "\ufffd")


def test_tabs_and_line_breaks_are_spaces_in_names_and_text(tmp_path: Path) -> None:
    assert clean("a\tb\r\nc\rd\x1fe\x85f\0g\x7fh\ud800i") == "a b c d e f\ufffdg\ufffdh\ufffdi"
    line = TextLine("Cod\t5.00", ((0.0, 0.0), (9.0, 0.0), (9.0, 4.0), (0.0, 4.0)), 4.0)
    layer = Layer("Fish\tmenu", "text", Box(0, 0, 9, 4), noise(0, 9, 4, 8), text=TextBlock((line,)))
    formats.write(LayerStack((9, 4), (layer,)), tmp_path / "a.svg")
    (text,) = etree.parse(tmp_path / "a.svg").iter(f"{SVG}text")
    assert text.text == "Cod 5.00"
    assert formats.read(tmp_path / "a.svg")[0].name == "Fish menu"
