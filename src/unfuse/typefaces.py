"""Typefaces: which there are, what they can write, and which of them looks most like given letters.

Looked for in a folder of one's own, in those of the system, and in the package: Inter (SIL Open Font License 1.1) for
Latin, Greek and Cyrillic in all weights. Texts are shaped by HarfBuzz and ordered by FriBiDi, through Pillow's raqm.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unfuse.errors import StackError, nearest

if TYPE_CHECKING:
    from PIL import ImageFont

SUFFIXES = (".ttf", ".otf", ".ttc")
IN_FILE = 16  # typefaces of a collection that are looked at
WEIGHTS = {
    **{"thin": 100, "hairline": 100, "extralight": 200, "ultralight": 200, "light": 300, "medium": 500},
    **{"semibold": 600, "demibold": 600, "demi": 600, "bold": 700, "extrabold": 800, "ultrabold": 800},
    **{"black": 900, "heavy": 900},
}
TALL = 48  # pixels: how high letters are compared
COMPARED = 16  # characters of a line that are compared
NOWHERE = chr(0x10FFFD)  # a character that no typeface has


@dataclass(frozen=True)
class Typeface:
    """One face of a font file. weight: as its style is called; a variable one takes any from 100 to 900."""

    path: str
    index: int
    family: str
    style: str
    weight: int
    is_variable: bool

    def at(self, size: float, weight: int) -> ImageFont.FreeTypeFont:
        """The face at a size in pixels, and at a weight where it has several."""
        from PIL import ImageFont

        font = ImageFont.truetype(self.path, size, self.index)
        if self.is_variable:
            axes = font.get_variation_axes()
            weights = [_is_weight(axis) for axis in axes]
            font.set_variation_by_axes(
                [
                    min(max(weight, axis["minimum"] or 0), axis["maximum"] or 0) if it else axis["default"] or 0
                    for axis, it in zip(axes, weights, strict=True)
                ]
            )
        return font

    def missing(self, text: str) -> str:
        """The characters of a text that the face has no glyph for, each once."""
        return "".join(sorted({x for x in text if not x.isspace() and not _has(self, x)}))


def bundled() -> Typeface:
    """The face that comes with the package."""
    return Typeface(str(files("unfuse").joinpath("fonts", "Inter.ttf")), 0, "Inter", "Regular", 400, True)


@lru_cache(maxsize=8)
def within(folder: str) -> tuple[Typeface, ...]:
    """The typefaces in a folder and the folders in it."""
    paths = sorted(Path(folder).rglob("*")) if Path(folder).is_dir() else []
    return tuple(face for path in paths if path.suffix.lower() in SUFFIXES for face in _faces(path))


def own(folder: str | None) -> tuple[Typeface, ...]:
    """The typefaces in a folder that somebody named. Raises StackError where there is none in it, or no folder."""
    if folder and not within(folder):
        raise StackError(
            f"the folder of fonts {folder!r} is not there, or holds none: give one with .ttf or .otf files"
        )
    return within(folder) if folder else ()


def system() -> Iterator[Typeface]:
    """The typefaces that are installed on this machine."""
    home = Path.home()
    places = [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), home / ".local/share/fonts", home / ".fonts"]
    places += [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    places += [Path(os.environ[name]) / rest for name, rest in WINDOWS if name in os.environ]
    for place in places:
        yield from within(str(place))


WINDOWS = (("WINDIR", "Fonts"), ("LOCALAPPDATA", "Microsoft/Windows/Fonts"))


def named(name: str, text: str, folder: str | None = None) -> tuple[Typeface, ...]:
    """The faces of a family, or of a font file, that can write a text.

    Raises StackError where there is no such family or file, and where characters are missing, which it names.
    """
    if name.lower().endswith(SUFFIXES):
        found = list(_faces(Path(name))) if Path(name).is_file() else []
        if not found:
            raise StackError(f"the font file {name!r} is not there, or is none: give a .ttf, .otf or .ttc file")
    else:
        faces = [*own(folder), *system(), bundled()]
        found = [face for face in faces if face.family.lower() == name.lower()]
        if not found:
            families = sorted({face.family for face in faces})
            raise StackError(
                f"no font is called {name!r}{nearest(name, families)}: give one of {', '.join(families[:20])}"
                f"{' ...' if len(families) > 20 else ''}, or a font file"
            )
    if not (able := [face for face in found if not face.missing(text)]):
        raise _without(found[0].missing(text), f"the font {found[0].family!r}")
    return tuple(able)


def able(text: str, folder: str | None = None) -> tuple[Typeface, ...]:
    """The faces that can write a text: those of a folder where one can, else the system's and the package's.

    Raises StackError where none can, and where the folder holds no font.
    """
    for faces in (own(folder), (*system(), bundled())):
        if found := tuple(face for face in faces if not face.missing(text)):
            return found
    raise _without(bundled().missing(text), "no font here")


def nearest_to(family: str, weight: int, text: str) -> Typeface:
    """The upright face of a family and weight that can write a text, or what stands in for it.

    Raises StackError where no face here can write it.
    """
    try:
        faces = named(family, text)
    except StackError:
        faces = able(text)
    wanted = family or "Inter"
    return min(faces, key=lambda x: (x.family != wanted, _is_other(x), abs(x.weight - weight), x.family, x.style))


def family_and_weight(name: str) -> tuple[str, int]:
    """The family and the weight that a PostScript name such as `OpenSans-SemiBold` says."""
    base, _, style = name.partition("-")
    plain = re.sub(r"(PS)?MT$", "", base)
    installed = {face.family.replace(" ", "").lower(): face.family for face in (*system(), bundled())}
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain)
    return installed.get(plain.lower(), spaced) or name, _weight(style)


def closest(faces: Iterable[Typeface], string: str, letters: NDArray[Any], weight: int) -> tuple[Typeface, int, float]:
    """The face whose `string` looks most like `letters`, ink `h w` of 0 to 1, its weight, and how like they are.

    Compared is what both cover over what one covers, at equal height, and how wide they are.
    """
    faces = list(faces)
    if not string or not letters.any():
        return _plainest(faces, weight), weight, 0.0
    rows, columns = np.flatnonzero(letters.any(axis=1)), np.flatnonzero(letters.any(axis=0))
    truth = _sized(letters[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32))
    best = (_plainest(faces, weight), weight, 0.0)
    for face in faces:
        if _is_other(face) or face.missing(string):
            continue
        steps = (-200, -100, 0, 100, 200) if face.is_variable else (0,)
        for step in steps:
            asked = min(900, max(100, weight + step)) if face.is_variable else face.weight
            score = _alike(truth, face, string, asked)
            if score > best[2] + 1e-3:
                best = face, asked, score
    return best


def check_shaping(text: str) -> None:
    """Raise StackError for a text that must be shaped or ordered where nothing here can do it."""
    from PIL import features

    if features.check("raqm"):
        return
    for character in text:
        if unicodedata.bidirectional(character) in ("R", "AL", "AN", "NSM") or unicodedata.category(character) == "Mc":
            raise StackError(
                f"{character!r} belongs to a script that must be shaped, and this Pillow cannot do it: install Pillow "
                "from PyPI, and FriBiDi (Debian: libfribidi0, macOS: brew install fribidi)"
            )


def _faces(path: Path) -> Iterator[Typeface]:
    from PIL import ImageFont

    for index in range(IN_FILE if path.suffix.lower() == ".ttc" else 1):
        try:
            font = ImageFont.truetype(str(path), 16, index)
        except OSError:
            return
        family, style = (str(name or "") for name in font.getname())
        try:
            axes = font.get_variation_axes()
        except (OSError, NotImplementedError):
            axes = []
        yield Typeface(str(path), index, family, style, _weight(style), any(_is_weight(axis) for axis in axes))


def _is_weight(axis: Any) -> bool:
    return bytes(axis["name"] or b"").lower() == b"weight"


def _weight(style: str) -> int:
    """The weight that the name of a style says."""
    plain = re.sub(r"[\s_-]", "", style.lower())
    named = [name for name in WEIGHTS if name in plain]
    return WEIGHTS[max(named, key=len)] if named else 400


def _is_other(face: Typeface) -> bool:
    """Whether a face is slanted, or for typewriting: only taken where it is asked for."""
    return bool(re.search("italic|oblique|mono", f"{face.family} {face.style}", re.IGNORECASE))


@lru_cache(maxsize=1 << 16)
def _has(face: Typeface, character: str) -> bool:
    """Whether a face has a glyph for a character: it looks other than one that no face has."""
    if unicodedata.category(character) in ("Cf", "Cc"):
        return True
    return _picture(face, character) != _picture(face, NOWHERE)


@lru_cache(maxsize=1 << 12)
def _picture(face: Typeface, character: str) -> tuple[float, bytes]:
    from PIL import ImageFont

    font = _plain(face.path, face.index)
    assert isinstance(font, ImageFont.FreeTypeFont)
    try:
        return font.getlength(character), bytes(font.getmask(character))
    except OSError:
        return 0.0, b""


@lru_cache(maxsize=256)
def _plain(path: str, index: int) -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(path, 24, index, layout_engine=ImageFont.Layout.BASIC)


def _without(characters: str, who: str) -> StackError:
    listed = " ".join(characters)
    if who != "no font here":
        return StackError(f"{who} has no {listed}: take another, or leave font= out for the closest that has")
    return StackError(
        f"{who} can write {listed}: install one that can (for Chinese, Japanese and Korean Noto Sans CJK, Debian: "
        "fonts-noto-cjk), or give one with font= or folder="
    )


def _plainest(faces: list[Typeface], weight: int) -> Typeface:
    """What to take where nothing is to compare: upright, near in weight, the package's where that can."""
    return min(
        faces,
        key=lambda face: (
            _is_other(face),
            face.family != "Inter",
            0 if face.is_variable else abs(face.weight - weight),
            face.family,
        ),
    )


def _sized(letters: NDArray[np.float32]) -> NDArray[np.float32]:
    """Letters as high as they are compared, in proportion."""
    import cv2

    height, width = letters.shape
    size = max(1, round(width * TALL / height)), TALL
    return np.asarray(cv2.resize(letters, size, interpolation=cv2.INTER_AREA), np.float32)


def _alike(truth: NDArray[np.float32], face: Typeface, string: str, weight: int) -> float:
    """How much of two pieces of writing is shared, 0 to 1."""
    import cv2

    font = face.at(TALL * 1.4, weight)
    mask, _ = font.getmask2(string, "L")
    if 0 in mask.size:
        return 0.0
    drawn = np.asarray(mask, np.float32).reshape(mask.size[1], mask.size[0]) / 255
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    drawn = drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    wide = drawn.shape[1] / drawn.shape[0] * TALL / truth.shape[1]
    drawn = np.asarray(cv2.resize(drawn, truth.shape[1::-1], interpolation=cv2.INTER_AREA), np.float32)
    shared = float(np.minimum(truth, drawn).sum() / max(float(np.maximum(truth, drawn).sum()), 1e-6))
    return shared * float(min(wide, 1 / wide))
