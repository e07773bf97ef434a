"""What layers say: another text in the place of the old one, set in the typeface that comes closest."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unfuse import affine, reading, typefaces, typeset
from unfuse.boxes import Box
from unfuse.edits.op import Op
from unfuse.errors import StackError, nearest
from unfuse.fields import Color, Name, Selector, Weight, Words
from unfuse.layers import DEPTHS, Layer, LayerStack, Original, Pixels
from unfuse.oklab import rgb_of
from unfuse.pixels import quantise, to_float
from unfuse.render import original, remade
from unfuse.selection import candidates, editable, one
from unfuse.textblock import Align, TextBlock, TextLine
from unfuse.typefaces import Typeface

LIKE = 1.25  # lines whose sizes differ by more are set each in its own
TURNED = 0.05  # degrees
TALL = "\u0590"  # from here on letters may reach farther up and down: Hebrew, Arabic, Devanagari, Chinese and so on
AIR = 0.1  # of the em: what stays free between lines of them
ROOM = 0.2  # of its height: how far around a line its softest pixels may lie


@dataclass(frozen=True)
class Wanted:
    """What an edit asks for; None for what the old text has."""

    font: str | None
    folder: str | None
    weight: int | None
    color: str | None
    align: Align | None


def replace_text(
    stack: LayerStack,
    layer: Selector,
    text: Words,
    *,
    part: Name | None = None,
    font: Name | None = None,
    folder: Name | None = None,
    weight: Weight | None = None,
    color: Color | None = None,
    align: Literal["left", "center", "right"] | None = None,
) -> LayerStack:
    """Set another text in place of a layer's: same box, colour, alignment, angle and effects, smaller where it must be.

    `part` are whole lines of it, where not all are to change. `font` is a family or a font file, by default the closest
    of `folder`, of those installed, and of Inter, which unfuse brings along; a note says which.
    """
    old = editable(stack, one(stack, layer))
    if old.text is None or old.pixels is None:
        saying = [each for each in stack.walk() if each.text]
        raise StackError(
            f"layer {old.name!r} says nothing that was read: the layers that do are {candidates(saying)}; decompose "
            "reads where the extra is installed (pip install 'unfuse[text]')"
        )
    text = text.replace("\t", " ")
    if control := sorted({x for x in text if unicodedata.category(x) in ("Cc", "Cs") and x not in "\r\n"}):
        raise StackError(f"the text {text!r} has what is no letter: {control!r}; write it without")
    typefaces.check_shaping(text)
    source = original(old)
    said = old.text.transformed(affine.inverse(source.transform))
    jobs = _jobs(old, said, text, part)
    wanted = Wanted(font, folder, weight, color, align)
    pixels, box, kept, notes = source.pixels, source.box, list(said.lines), []
    longest = max((line for lines, _, _ in jobs for line in lines), key=lambda line: len(line.string))
    face = _face(source, longest, text, wanted)
    for lines, flush, string in jobs:
        kept = [line for line in kept if line not in lines]
        pixels, box, new, how = _set(Original(box, pixels), lines, kept, flush, string, wanted, face)
        kept += new
        notes.append(f"{old.name!r}: {how}")
    ordered = tuple(sorted(kept, key=lambda line: (line.quad[0][1], line.quad[0][0])))
    now = TextBlock(ordered, align or said.align).transformed(source.transform)
    cropped = Layer(old.name, old.kind, box, pixels).crop_to_content()
    looks = () if color else source.looks
    made = remade(old, box=cropped.box, pixels=cropped.pixels, looks=looks)
    assert made.pixels is not None
    made = made.replace(text=reading.colored(now, made.pixels, made.box))
    ends = tuple(f" for {_plain(TextBlock(lines).string)!r}" for lines, _, _ in jobs) if part else ""
    others = (x for x in stack.notes if not (x.startswith(f"{old.name!r}: set in ") and x.endswith(ends)))
    return stack.replace_layer(old.id, made).replace(notes=(*others, *dict.fromkeys(notes)))


Job = tuple[tuple[TextLine, ...], Align, str]  # lines, at which edge they are flush, and what they are to say


def _jobs(layer: Layer, said: TextBlock, text: str, part: str | None) -> list[Job]:
    """Which lines are to say what."""
    paragraphs = said.paragraphs
    if part is not None:
        return _by_line(_found(layer, paragraphs, part), text)
    strings = [text] if len(paragraphs) == 1 else re.split(r"\n[^\S\n]*\n\s*", text.strip())
    if len(strings) != len(paragraphs):
        listed = ", ".join(repr(_plain(each.string)) for each in paragraphs)
        raise StackError(
            f"layer {layer.name!r} says {len(paragraphs)} texts, {listed}: name one with part=, or give as many, with "
            "an empty line between"
        )
    return [job for each, string in zip(paragraphs, strings, strict=True) for job in _by_line(each, string)]


def _found(layer: Layer, paragraphs: Sequence[TextBlock], part: str) -> TextBlock:
    """The lines that read as `part`."""
    runs = [
        TextBlock(each.lines[i:j], each.align)
        for each in paragraphs
        for i in range(len(each.lines))
        for j in range(i + 1, len(each.lines) + 1)
    ]
    found = [run for run in runs if _key(run.string) == _key(part)]
    if len(found) != 1:
        strings = [_plain(run.string) for run in (found or [*paragraphs, *runs])]
        many = f"{len(found)} times" if found else f"nowhere{nearest(part, strings)}"
        raise StackError(
            f"layer {layer.name!r} says {part!r} {many}: part= is one or more whole lines, such as {strings[0]!r}"
        )
    return found[0]


def _by_line(paragraph: TextBlock, text: str) -> list[Job]:
    """One job; where lines differ in size or colour, one for each, if there are words enough."""
    lines = paragraph.lines
    sizes, colors = [line.size for line in lines], np.array([line.color for line in lines])
    if max(sizes) < LIKE * min(sizes) and np.ptp(colors, axis=0).max() < 40:
        return [(lines, paragraph.align, text)]
    strings = [each for each in text.split("\n") if each.strip()]
    if len(strings) == 1:
        strings = _dealt(typeset.pieces(strings[0]), [len(line.string) for line in lines])
    if len(strings) != len(lines):
        return [(lines, paragraph.align, text)]
    return [((line,), paragraph.align, string) for line, string in zip(lines, strings, strict=True)]


def _dealt(pieces: list[str], lengths: list[int]) -> list[str]:
    """Words dealt to lines in the proportions of their lengths; fewer lines where words are fewer."""
    if len(pieces) < len(lengths):
        return ["".join(pieces)]
    ends, total = np.cumsum([len(piece) for piece in pieces]), sum(len(piece) for piece in pieces)
    cuts, start = [0], 0.0
    for number, length in enumerate(lengths[:-1]):
        start += length / sum(lengths) * total
        low, high = cuts[-1] + 1, len(pieces) - (len(lengths) - number - 1)
        cuts.append(min(range(low, high + 1), key=lambda cut: abs(ends[cut - 1] - start)))
    cuts.append(len(pieces))
    return ["".join(pieces[i:j]).strip() for i, j in pairwise(cuts)]


def _set(
    source: Original,
    lines: Sequence[TextLine],
    others: Sequence[TextLine],
    flush: Align,
    text: str,
    wanted: Wanted,
    set_in: tuple[Typeface, int],
) -> tuple[Pixels, Box, list[TextLine], str]:
    """A text in place of lines: the new untouched pixels, their box, the new lines, and how it was set."""
    main = max(lines, key=lambda line: len(line.string))
    old = _letters(source, lines, others)
    alpha = to_float(source.pixels[..., 3]) * old
    face, weight = set_in
    style = _style(lines, main, face, weight, wanted.align or flush, text)
    level = affine.about(*main.origin, affine.turn(-main.angle))
    placed = typeset.fit(text, style, _place([line.transformed(level) for line in lines]))
    area, ink = typeset.draw(placed, face, weight)
    back = affine.about(*main.origin, affine.turn(main.angle))
    if abs(main.angle) > TURNED:
        area, turned = affine.resample(ink[..., None], area, back)
        ink = np.clip(turned[..., 0], 0, 1)
    ink = ink * (float(np.percentile(alpha[alpha > 0], 95)) if alpha.any() else 1.0)
    box = source.box.union(area)
    whole = np.zeros((box.height, box.width, 4), np.float32)
    whole[source.box.within(box)] = to_float(source.pixels)
    whole[source.box.within(box)][..., 3] *= ~old
    _lay(whole[area.within(box)], ink, _colors(source, alpha, area, wanted.color))
    untouched = np.zeros((box.height, box.width, 4), source.pixels.dtype)
    untouched[source.box.within(box)] = source.pixels
    changed = np.zeros((box.height, box.width), bool)
    changed[source.box.within(box)] = old
    changed[area.within(box)] |= ink > 0
    depth: Any = DEPTHS[source.pixels.dtype]
    levels: Any = np.where(changed[..., None], quantise(whole, depth), untouched)
    new = [_line(each, style).transformed(back) for each in placed]
    how = f"set in {face.family}, weight {weight}, {new[0].size:.0f} pixels, for {_plain(text)!r}"
    return levels, box, new, how


def _face(source: Original, line: TextLine, text: str, wanted: Wanted) -> tuple[Typeface, int]:
    """The typeface and the weight: what was asked for, else what looks most like the old letters."""
    if wanted.font is not None:
        faces = typefaces.named(wanted.font, text, wanted.folder)
    else:
        faces = typefaces.able(text, wanted.folder)
    corners = np.array(line.quad) - (source.box.left, source.box.top)
    letters = to_float(reading.upright(source.pixels[..., 3:], corners))[..., 0]
    string = line.string if len(line.string) <= 2 * typefaces.COMPARED else ""
    face, weight, _ = typefaces.closest(faces, string, letters, line.weight)
    if wanted.weight is not None:
        upright = [each for each in faces if each.family == face.family]
        face = min(upright, key=lambda each: (each.style != face.style, abs(each.weight - wanted.weight)))  # type: ignore[operator]
        weight = wanted.weight if face.is_variable else face.weight
    return face, weight


def _style(
    lines: Sequence[TextLine], main: TextLine, face: Typeface, weight: int, align: Align, text: str
) -> typeset.Style:
    """Letters as high as the old ones, lines as far apart; farther where a script is taller than Latin."""
    size = main.size
    if not face.missing(main.string):
        left, top, right, bottom = typeset.bounds(face, weight, main.string)
        size = main.height / max(bottom - top, 1e-3)
        by_width = main.width / max(right - left, 1e-3)  # says it better where it is the same face
        size = by_width if abs(by_width / size - 1) < 0.06 else size
    first, last = lines[0].origin, lines[-1].origin
    apart = np.hypot(last[0] - first[0], last[1] - first[1])
    level = [line.transformed(affine.about(*main.origin, affine.turn(-main.angle))).origin[1] for line in lines]
    pitch = (level[-1] - level[0]) / (len(lines) - 1) / size if len(lines) > 1 and apart else 1.2
    if max(text) >= TALL:
        _, top, _, bottom = typeset.bounds(face, weight, _plain(text))
        pitch = max(pitch, bottom - top + AIR)
    return typeset.Style(face, weight, size, max(pitch, 0.7), align)


def _place(lines: Sequence[TextLine]) -> typeset.Place:
    """Where level lines are: how wide, and from the top of the first one's capitals to the last baseline."""
    xs = [x for line in lines for x, _ in line.quad]
    first, last = lines[0], lines[-1]
    high = reading.IDEOGRAPH if any(map(reading.is_ideograph, first.string)) else reading.CAP
    top, bottom = first.origin[1] - high * first.size, last.origin[1]
    return typeset.Place(min(xs), max(xs), bottom - top, (top + bottom) / 2)


def _letters(source: Original, lines: Sequence[TextLine], others: Sequence[TextLine]) -> NDArray[np.bool_]:
    """Which pixels `h w` of a layer are those lines: what lies in their quads, and what mostly does."""
    import cv2

    alpha = source.pixels[..., 3]
    inside = _covered(source.box, lines, ROOM) & ~_covered(source.box, others, 0)
    strong = (alpha > np.iinfo(alpha.dtype).max // 4).astype(np.uint8)
    count, label = cv2.connectedComponents(strong)
    share = np.bincount(label[inside], minlength=count) / np.maximum(np.bincount(label.ravel(), minlength=count), 1)
    share[0] = 0
    return np.asarray(inside | ((share > 0.5)[label] & ~_covered(source.box, others, 0)))


def _covered(box: Box, lines: Sequence[TextLine], room: float) -> NDArray[np.bool_]:
    """Which pixels of a box lie in the quads of lines, or so many of their heights around."""
    import cv2

    cover = np.zeros((box.height, box.width), np.uint8)
    for line in lines:
        corners = reading.roomy(np.array(line.quad), room) - (box.left, box.top)
        cv2.fillConvexPoly(cover, np.round(corners).astype(np.int32), 1)
    return cover.astype(bool)


def _colors(source: Original, alpha: NDArray[Any], area: Box, asked: str | None) -> NDArray[np.float32]:
    """`h w 3` in 0 to 1 for new letters over an area: the colour asked for, else the old letters'."""
    if asked is not None:
        return np.broadcast_to(np.asarray(rgb_of(asked), np.float32), (area.height, area.width, 3))
    if not alpha.any():
        return np.zeros((area.height, area.width, 3), np.float32)
    return typeset.shade(to_float(source.pixels)[..., :3], alpha, source.box)(area)


def _lay(below: NDArray[np.float32], ink: NDArray[Any], colors: NDArray[np.float32]) -> None:
    """Put ink `h w` of colours `h w 3` over straight-alpha pixels `h w 4`, in place."""
    alpha = ink + below[..., 3] * (1 - ink)
    mixed = ink[..., None] * colors + ((1 - ink) * below[..., 3])[..., None] * below[..., :3]
    np.divide(mixed, alpha[..., None], out=mixed, where=alpha[..., None] > 1e-6)
    below[..., :3] = np.where(alpha[..., None] > 1e-6, mixed, colors)
    below[..., 3] = alpha


def _line(line: typeset.SetLine, style: typeset.Style) -> TextLine:
    left, top, right, bottom = line.ink
    return TextLine(
        line.string,
        ((left, top), (right, top), (right, bottom), (left, bottom)),
        line.size,
        baseline=(line.y - top) / max(bottom - top, 1e-6),
        weight=style.weight,
        font=style.face.family,
    )


def _plain(string: str) -> str:
    return " ".join(string.split())


def _key(string: str) -> str:
    return "".join(string.split()).casefold()


OPS = (Op.of(replace_text),)
