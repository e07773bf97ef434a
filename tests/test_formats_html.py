"""HTML: one file, nothing from elsewhere, nothing that a name could do, and every layer in its place."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from stacks import HARD_NAMES, everything, noise

from unfuse import formats
from unfuse.errors import FormatError
from unfuse.formats.names import clean
from unfuse.layers import Box, Layer, LayerStack
from unfuse.pixels import quantise
from unfuse.pixels import read as read_picture

ATTACKS = (
    "<script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    '" autofocus onfocus="alert(1)',
    "--><svg onload=alert(1)>",
    "</script><script>alert(1)</script>",
    "${about} $hash $$",
    "javascript:alert(1)",
    "]]><iframe srcdoc='<script>alert(1)</script>'>",
    "&lt;script&gt;",
)


class Page(HTMLParser):
    """The elements of a page with their attributes, the text of its scripts, and all names in the list."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.names: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        tag, fields = self.elements[-1] if self.elements else ("", {})
        if tag == "script" and data.strip():
            self.scripts.append(data)
        if fields.get("class") == "name" and data.strip():
            self.names.append(data)

    def of(self, tag: str) -> list[dict[str, str]]:
        return [fields for name, fields in self.elements if name == tag]


def page(stack: LayerStack, path: Path) -> Page:
    formats.write(stack, path)
    return Page(path.read_text("utf-8"))


def with_names(names: tuple[str, ...]) -> LayerStack:
    layers = [Layer(name, "object", Box(0, 0, 4, 4), noise(0, 4, 4, 8)) for name in names]
    return LayerStack((8, 8), (*layers, Layer.group(names[0], [layers[1].replace(id="in")])))


def test_names_do_nothing(tmp_path: Path) -> None:
    plain = page(with_names(("a",) * len(ATTACKS)), tmp_path / "a.html")
    attacked = page(with_names(ATTACKS), tmp_path / "b.html")
    assert [(tag, set(fields)) for tag, fields in attacked.elements] == [
        (tag, set(fields)) for tag, fields in plain.elements
    ]
    assert attacked.scripts == plain.scripts
    values = [value for _, fields in attacked.elements for key, value in fields.items() if key not in ("alt", "title")]
    assert not [value for value in values if "alert" in value and not value.startswith("Solo ")]
    titles = [fields["title"] for fields in attacked.of("span") if "title" in fields]
    assert titles == [ATTACKS[0], ATTACKS[1], *reversed(ATTACKS)]


def test_only_its_own_script_may_run_and_nothing_is_fetched(tmp_path: Path) -> None:
    shown = page(with_names(ATTACKS), tmp_path / "a.html")
    (policy,) = [fields["content"] for fields in shown.of("meta") if fields.get("http-equiv")]
    (script,) = shown.scripts
    assert f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy
    links = [fields[key] for _, fields in shown.elements for key in ("src", "href", "action", "data") if key in fields]
    assert {link.partition(",")[0] for link in links} == {"data:image/png;base64", "data:"}
    assert not re.search(
        r"https?://|url\(|@import|fetch\(|XMLHttp|import\(|eval\(|innerHTML", (tmp_path / "a.html").read_text()
    )


def test_every_name_is_said(tmp_path: Path) -> None:
    names = tuple(name for name in HARD_NAMES if name.strip())
    shown = page(with_names(names), tmp_path / "a.html")
    spans = [fields["title"] for fields in shown.of("span") if "title" in fields]
    assert spans == [clean(name) for name in (names[0], names[1], *reversed(names))]


def test_layers_lie_where_they_were(tmp_path: Path) -> None:
    stack = everything()
    shown = page(stack, tmp_path / "a.html")
    pictures = {fields["id"]: fields for tag, fields in shown.elements if fields.get("id", "").startswith("layer")}
    layers = list(stack.walk())
    assert len(pictures) == len(layers)
    for index, layer in enumerate(layers):
        fields = pictures[f"layer{index}"]
        style = dict(part.split(":") for part in fields["style"].split(";"))
        assert (float(style["opacity"]), style["mix-blend-mode"]) == (layer.opacity, layer.blend_mode)
        assert ("off" in fields.get("class", "")) == (not layer.visible)
        if layer.pixels is None:
            continue
        pixels = quantise(read_picture(b64decode(fields["src"].partition(",")[2])).pixels, 8)
        np.testing.assert_array_equal(pixels, layer.pixels)
        left, top, wide, high = (
            round(float(style[key].rstrip("%")) / 100 * side, 3)
            for key, side in zip(("left", "top", "width", "height"), stack.size * 2, strict=True)
        )
        np.testing.assert_array_equal([left, top, left + wide, top + high], layer.box)
        assert fields["alt"] == layer.name


def test_every_layer_has_its_switch_and_its_solo_button(tmp_path: Path) -> None:
    stack = everything()
    shown = page(stack, tmp_path / "a.html")
    boxes = [fields for fields in shown.of("input") if "data-layer" in fields]
    buttons = [fields for fields in shown.of("button") if "data-layer" in fields]
    layers = list(stack.walk())
    assert sorted(box["data-layer"] for box in boxes) == sorted(f"layer{index}" for index in range(len(layers)))
    assert [box["data-layer"] for box in boxes] == [button["data-layer"] for button in buttons]
    assert {box["data-layer"] for box in boxes if "checked" not in box} == {
        f"layer{index}" for index, layer in enumerate(layers) if not layer.visible
    }
    assert all(button["type"] == "button" and button["aria-label"].startswith("Solo ") for button in buttons)


def test_it_cannot_be_read_and_sixteen_bits_are_said(tmp_path: Path) -> None:
    assert formats.write(everything(16), tmp_path / "a.html") == ("HTML has 8 bits a channel: 16 were rounded",)
    with pytest.raises(FormatError, match="HTML files cannot be read as layers"):
        formats.read(tmp_path / "a.html")
