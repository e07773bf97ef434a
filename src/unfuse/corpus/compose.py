"""The composer: endless designs with true layers, drawn from the parts pack.

One call draws one design at one size: a background, what decorates it, objects that overlap and cast shadows, things
that drift above them, and text. Every layer is `h w 4` float32, straight alpha, full canvas; put together bottom to top
they are the picture, before the noise that pictures collect on their way (`weather`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ImageFont

from unfuse.corpus import draw
from unfuse.corpus.draw import Colour, Rgba, Rng, Size
from unfuse.corpus.pack import Pack as Pack
from unfuse.layers import Kind

WORDS = (  # noqa: SIM905 - as prose it can be read, as a list of a hundred quoted words it cannot
    "summer sale new fresh coffee music live tonight happy birthday big deal today only free entry open daily join us "
    "best city market organic fruit travel guide winter spring autumn festival design studio class yoga run night "
    "party invite save the date love story home garden kids play school science space ocean green energy tech code "
    "build future hello world dream team start now read more order shop menu classic special price from street food "
    "burger pizza salad tea cake bread wine craft beer jazz rock soul disco film cinema art gallery photo book club "
    "workshop weekend holiday gift card black friday extra bonus limited edition premium quality since 1998 no 1"
).split()
SYMBOLS = ["-50%", "$19.90", "9:30", "2026", "24/7", "+", "&", "No. 7", "100%", "€5", "@studio", "#now", "!", "A-Z"]


SCENES = 0.12  # of the designs have a scene for their objects
SOLIDS = 0.1  # of the objects are solids in a material
SOLID = 160  # pixels of a solid's side
STYLES = {"plain": 0.26, "shadow": 0.26, "sticker": 0.14, "floor": 0.14, "photo-card": 0.08, "collage": 0.12}
RAISED = 0.15  # of the large lines of text are solid letters in a material
READABLE = 0.22  # difference of luminance to what lies below
BLUR = 0.2, (0.3, 0.8)  # of the pictures so many, with a standard deviation in pixels from here to there
NOISE = 0.25, (0.003, 0.02)  # likewise, with one of levels in 0..1
JPEG = 0.5, (35, 96)  # likewise, at a quality from here to before there


@dataclass(frozen=True, eq=False)
class Drawn:
    """One true layer: `h w 4` float32, straight alpha, full canvas."""

    rgba: Rgba
    kind: Kind
    name: str


def compose(pack: Pack, rng: Rng, size: Size) -> list[Drawn]:
    """One design at `size` (height, width): true layers bottom to top, the first one opaque."""
    hue = float(rng.random())
    layers = [Drawn(background(pack, rng, size, hue), "background", "background")]
    layers += [Drawn(d, "decoration", "shape") for d in decorations(rng, size, hue)]
    layers += objects(pack, rng, size)
    if rng.random() < 0.3:
        layers.append(Drawn(drifting(rng, size, hue), "decoration", "drift"))
    for text, plate in texts(pack, rng, size, hue, layers):
        if plate is not None:
            layers.append(Drawn(plate, "decoration", "plate"))
        layers.append(Drawn(text, "text", "text"))
    return [layer for layer in layers if layer.kind == "background" or layer.rgba[..., 3].mean() > 2e-4]


def flat(layers: list[Drawn]) -> NDArray[np.float32]:
    """`h w 3`: the layers put together."""
    out = np.zeros((*layers[0].rgba.shape[:2], 3), np.float32)
    for layer in layers:
        alpha = layer.rgba[..., 3:]
        out = layer.rgba[..., :3] * alpha + out * (1 - alpha)
    return out


def weather(picture: NDArray[np.float32], rng: Rng) -> NDArray[np.float32]:
    """What pictures collect on their way: blur, sensor noise, JPEG. `h w 3` in and out."""
    out = picture
    if rng.random() < BLUR[0]:
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(*BLUR[1]))
    if rng.random() < NOISE[0]:
        out = out + rng.normal(0, rng.uniform(*NOISE[1]), out.shape).astype(np.float32)
    levels = (np.clip(out, 0, 1) * 255 + 0.5).astype(np.uint8)
    if rng.random() < JPEG[0]:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(*JPEG[1]))]
        levels = cv2.imdecode(cv2.imencode(".jpg", levels, quality)[1], cv2.IMREAD_COLOR)
    return levels.astype(np.float32) / 255.0


# --- what stands in a design -----------------------------------------------------------------------------------------


def background(pack: Pack, rng: Rng, size: Size, hue: float) -> Rgba:
    """A photograph, a plain colour, clouds of two colours or a gradient; perhaps with a pattern or hills. Opaque."""
    pick = rng.random()
    if pick < 0.32 and pack.photos:
        colour = draw.cover(pack.image(str(rng.choice(pack.photos))), size, rng)
    elif pick < 0.5:
        colour = draw.solid(size, draw.random_colour(rng, hue))[..., :3]
    elif pick < 0.56:
        noise = draw.cloud_noise(size, rng)[..., None]
        first, second = np.asarray(draw.random_colour(rng, hue)), np.asarray(draw.random_colour(rng))
        colour = (first * (1 - noise) + second * noise).astype(np.float32)
    else:
        near = None if rng.random() < 0.2 else hue
        colour = draw.gradient(size, draw.random_colour(rng, hue), draw.random_colour(rng, near), rng)
    out = draw.solid(size, (0, 0, 0))
    out[..., :3] = colour
    if pick >= 0.32 and rng.random() < 0.3:
        out = draw.over(draw.pattern(size, draw.random_colour(rng, hue), rng), out)
    if pick >= 0.32 and rng.random() < 0.12:
        for top in sorted(rng.uniform(0.45, 0.9, int(rng.integers(1, 4)))):
            out = draw.over(draw.hills(size, draw.random_colour(rng, hue), top, rng), out)
    out[..., 3] = 1
    return out


def decorations(rng: Rng, size: Size, hue: float) -> list[Rgba]:
    """Panels, bands, circles, blobs, veils and glass: what lies between the background and the objects."""
    count = int(rng.choice([0, 1, 1, 2, 3]))
    return [decoration(rng, size, hue) for _ in range(count)]


def decoration(rng: Rng, size: Size, hue: float) -> Rgba:
    """One of them."""
    h, w = size
    colour = draw.random_colour(rng, hue if rng.random() < 0.5 else None)
    if rng.random() < 0.25:
        colour = (1.0, 1.0, 1.0)
    pick = rng.random()
    if pick < 0.42:
        bw, bh = rng.uniform(0.2, 0.9) * w, rng.uniform(0.12, 0.8) * h
        x, y = rng.uniform(-0.1 * w, w - 0.7 * bw), rng.uniform(-0.1 * h, h - 0.7 * bh)
        if rng.random() < 0.5:
            x, y = (w - bw) / 2, (h - bh) / 2 * rng.uniform(0.6, 1.4)
        radius = rng.choice([0.0, rng.uniform(0.02, 0.12), 0.5]) * min(bw, bh)
        alpha = draw.rounded_box(size, (x, y, x + bw, y + bh), radius)
        if rng.random() < 0.25:
            return glass(rng, alpha)
        layer = shaded(rng, size, colour, alpha * (1.0 if rng.random() < 0.75 else rng.uniform(0.35, 0.9)))
    elif pick < 0.68:
        centre, radius = (rng.uniform(0, w), rng.uniform(0, h)), rng.uniform(0.08, 0.45) * max(size)
        wobble = float(rng.choice([0.0, 0.0, 0.25, -1.0]))
        alpha = draw.blob(size, centre, radius, rng, wobble)
        layer = shaded(rng, size, colour, alpha * (1.0 if rng.random() < 0.8 else rng.uniform(0.35, 0.9)))
    elif pick < 0.8:
        return veil(rng, size)
    elif pick < 0.9:
        first, second = sorted(rng.uniform(0, 1, 2))
        box = (0, first * h, w, second * h) if rng.random() < 0.5 else (first * w, 0, second * w, h)
        layer = shaded(rng, size, colour, draw.rounded_box(size, box, 0))
    else:
        return draw.confetti(size, rng) if rng.random() < 0.5 else draw.hills(size, colour, rng.uniform(0.5, 0.9), rng)
    if rng.random() < 0.3:
        reach = 0.012 * max(size)
        layer = draw.with_shadow(layer, (0, reach), reach * 1.5, rng.uniform(0.15, 0.5), (0, 0, 0))
    return layer


def shaded(rng: Rng, size: Size, colour: Colour, alpha: draw.Plane) -> Rgba:
    """A shape in one colour, now and then in a gradient or with a pattern."""
    layer = draw.solid(size, colour, alpha)
    if rng.random() < 0.25:
        layer[..., :3] = draw.gradient(size, colour, draw.random_colour(rng), rng)
    if rng.random() < 0.12:
        ink = draw.pattern(size, draw.random_colour(rng), rng)
        layer[..., :3] = draw.over(ink, draw.solid(size, colour))[..., :3]
    return layer


def glass(rng: Rng, alpha: draw.Plane) -> Rgba:
    """A translucent plate with a brighter rim."""
    white = float(rng.choice([0.05, 0.95]))
    strength = rng.uniform(0.2, 0.65)
    rim = np.clip(cv2.morphologyEx(alpha, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)), 0, 1) * 0.5
    return draw.solid(alpha.shape, (white, white, white), np.clip(alpha * strength + rim * (rng.random() < 0.6), 0, 1))


def veil(rng: Rng, size: Size) -> Rgba:
    """A gradient from a dark or light tone to nothing, as posters lay over photographs."""
    ys, xs = draw.grid(size)
    axis = ys / size[0] if rng.random() < 0.7 else xs / size[1]
    t = np.clip((axis - rng.uniform(0, 0.3)) / rng.uniform(0.3, 0.8), 0, 1)
    if rng.random() < 0.5:
        t = 1 - t
    tone = float(rng.choice([0.0, 0.0, 1.0]))
    return draw.solid(size, (tone, tone, tone), (t * rng.uniform(0.4, 0.9)).astype(np.float32))


def objects(pack: Pack, rng: Rng, size: Size) -> list[Drawn]:
    """Up to five parts; stickers share an outline, product shots a floor, all of them overlap now and then.

    Or a scene: a drawing that is made up of layers by itself.
    """
    h, w = size
    if pack.scenes and rng.random() < SCENES:
        return scene(pack, rng, size)
    count = int(rng.choice([0, 1, 1, 2, 2, 3, 4, 5]))
    style = str(rng.choice(list(STYLES), p=list(STYLES.values())))
    if style == "collage":
        count = int(rng.integers(3, 7))
    scale = rng.uniform(0.28, 0.75) / (1 + 0.22 * max(0, count - 1))
    heart = (rng.uniform(0.3, 0.7) * w, rng.uniform(0.35, 0.65) * h)
    spread = rng.uniform(0.12, 0.42)
    drawn = []
    for _ in range(count):
        centre = (heart[0] + rng.normal(0, spread) * w, heart[1] + rng.normal(0, spread) * h)
        centre = (float(np.clip(centre[0], 0.05 * w, 0.95 * w)), float(np.clip(centre[1], 0.05 * h, 0.95 * h)))
        if count == 1:
            centre = heart
        long_side = max(10.0, scale * rng.uniform(0.6, 1.4) * max(size))
        part = part_of(style, pack, rng)
        if rng.random() < 0.5:
            part = part[:, ::-1]
        angle = float(rng.normal(0, 12) if rng.random() < 0.7 else 0)
        drawn.append(Drawn(styled(rng, draw.place(part, size, centre, long_side, angle), style), "object", "object"))
    return drawn


def part_of(style: str, pack: Pack, rng: Rng) -> NDArray[np.uint8]:
    """What a style places: things, instant photographs, or in a collage both and cut paper."""
    pick = rng.random()
    if style == "photo-card" or (style == "collage" and pick < 0.3):
        return photo_card(pack, rng)
    return paper(pack, rng) if style == "collage" and pick < 0.7 else thing(pack, rng)


def thing(pack: Pack, rng: Rng) -> NDArray[np.uint8]:
    """A part of the pack, now and then a solid shape in a material."""
    if pack.matcaps and rng.random() < SOLIDS:
        return solid_part(pack, rng)
    return pack.image(str(rng.choice(pack.objects)))


def solid_part(pack: Pack, rng: Rng) -> NDArray[np.uint8]:
    """A ball, a pebble or a badge with a round edge, lit as a matcap says: `h w 4` uint8."""
    wobble = float(rng.choice([0.0, 0.12, 0.3, -1.0]))
    mask = draw.blob((SOLID, SOLID), (SOLID / 2, SOLID / 2), 0.3 * SOLID, rng, wobble)
    return draw.lit(mask, matcap(pack, rng), float(rng.uniform(0.06, 0.5)) * SOLID / 2)


def matcap(pack: Pack, rng: Rng) -> NDArray[np.uint8]:
    """A material, `h w 3`: how a ball of it looks."""
    return pack.image(str(rng.choice(pack.matcaps)))[..., :3]


def scene(pack: Pack, rng: Rng, size: Size) -> list[Drawn]:
    """The layers of a drawing, all at one place, each an object; perhaps with a shadow under the lowest."""
    h, w = size
    files = pack.scenes[int(rng.integers(len(pack.scenes)))]
    long_side, angle = rng.uniform(0.45, 0.95) * max(size), float(rng.normal(0, 4))
    centre = (rng.uniform(0.35, 0.65) * w, rng.uniform(0.35, 0.65) * h)
    mirrored = rng.random() < 0.5
    drawn = []
    for i, file in enumerate(files):
        part = pack.image(file)[:, ::-1] if mirrored else pack.image(file)
        layer = draw.place(part, size, centre, long_side, -angle if mirrored else angle)
        if i == 0 and rng.random() < 0.3:
            layer = styled(rng, layer, "shadow")
        drawn.append(Drawn(layer, "object", "object"))
    return drawn


def styled(rng: Rng, layer: Rgba, style: str) -> Rgba:
    """An object with the outline and the shadow of a style."""
    unit = 0.01 * max(layer.shape[:2])
    if style == "sticker":
        layer = draw.with_outline(layer, unit * rng.uniform(0.6, 1.8), (1, 1, 1))
    if style in ("sticker", "shadow", "photo-card", "collage"):
        offset = (rng.uniform(-1, 1) * unit * 1.5, rng.uniform(0, 2) * unit)
        return draw.with_shadow(layer, offset, unit * rng.uniform(0.5, 2.5), rng.uniform(0.2, 0.6), (0, 0, 0))
    return draw.floor_shadow(layer, rng.uniform(0.25, 0.7), rng) if style == "floor" else layer


def photo_card(pack: Pack, rng: Rng) -> NDArray[np.uint8]:
    """An instant photograph with a white border."""
    h, w = int(rng.integers(150, 220)), int(rng.integers(150, 220))
    card = np.full((h, w, 4), 255, np.uint8)
    card[..., :3] = int(rng.integers(225, 256))
    edge, foot = int(w * rng.uniform(0.04, 0.09)), int(h * rng.uniform(0.05, 0.2))
    inner = (h - edge - foot, w - 2 * edge)
    if pack.photos and rng.random() < 0.8:
        colour = draw.cover(pack.image(str(rng.choice(pack.photos))), inner, rng)
    else:
        colour = draw.gradient(inner, draw.random_colour(rng), draw.random_colour(rng), rng)
    card[edge : edge + inner[0], edge : edge + inner[1], :3] = (colour * 255).astype(np.uint8)
    return card


def paper(pack: Pack, rng: Rng) -> NDArray[np.uint8]:
    """A piece cut from a photograph or from printed paper, square, round or by free hand: `h w 4`."""
    h, w = (int(side) for side in rng.integers(110, 220, 2))
    if pack.photos and rng.random() < 0.5:
        colour = draw.cover(pack.image(str(rng.choice(pack.photos))), (h, w), rng)
    else:
        colour = shaded(rng, (h, w), draw.random_colour(rng), np.ones((h, w), np.float32))[..., :3]
    if rng.random() < 0.6:
        alpha = draw.rounded_box((h, w), (1, 1, w - 1, h - 1), float(rng.choice([0, 0, 0.1, 0.5])) * min(h, w))
    else:
        alpha = draw.blob((h, w), (w / 2, h / 2), 0.4 * min(h, w), rng, float(rng.choice([0, 0.3])))
    return (np.dstack([colour, alpha]) * 255 + 0.5).astype(np.uint8)


def drifting(rng: Rng, size: Size, hue: float) -> Rgba:
    """What lies above the objects: smoke, confetti, a badge, grass in the foreground."""
    pick = rng.random()
    if pick < 0.5:
        return draw.smoke(size, rng)
    if pick < 0.72:
        return draw.confetti(size, rng)
    if pick < 0.85:
        h, w = size
        centre = (rng.uniform(0.15, 0.85) * w, rng.uniform(0.15, 0.85) * h)
        alpha = draw.blob(size, centre, rng.uniform(0.06, 0.14) * max(size), rng, float(rng.choice([0.0, -1.0])))
        return draw.solid(size, draw.random_colour(rng), alpha)
    return draw.hills(size, draw.random_colour(rng, hue), rng.uniform(0.8, 0.95), rng)


# --- text ------------------------------------------------------------------------------------------------------------


def texts(pack: Pack, rng: Rng, size: Size, hue: float, layers: list[Drawn]) -> list[tuple[Rgba, Rgba | None]]:
    """Up to four blocks, each with the plate it may stand on (or None)."""
    if not pack.fonts:
        return []
    below = flat(layers)
    blocks: list[tuple[Rgba, Rgba | None]] = []
    taken: list[tuple[float, float]] = []
    for i in range(int(rng.choice([0, 1, 2, 2, 3, 4]))):
        share = rng.uniform(0.07, 0.17) if i == 0 else rng.uniform(0.035, 0.075)
        y = float(rng.uniform(0.08, 0.92))
        if any(abs(y - t) < 0.09 + share / 2 for t, _ in taken):
            continue
        taken.append((y, share))
        blocks.append(text_block(pack, rng, size, hue, below, share, y))
    return blocks


def text_block(
    pack: Pack, rng: Rng, size: Size, hue: float, below: NDArray[np.float32], share: float, y: float
) -> tuple[Rgba, Rgba | None]:
    """Lines around the height `y` (0..1) in letters `share` of the shorter side high, and their plate or None."""
    h, w = size
    wide = bool(pack.wide_fonts) and rng.random() < 0.1
    font_size = max(7, int(share * min(h, w)))
    font = pack.typeface(str(rng.choice(pack.wide_fonts if wide else pack.fonts)), font_size)
    lines = wrapped(rng, font, 0.92 * w, wide, small=share < 0.06)
    align = str(rng.choice(["center", "center", "left", "right"]))
    x = {"left": 0.06, "center": 0.5 + rng.normal(0, 0.05), "right": 0.94}[align] * w
    mask = draw.text_mask(size, lines, font, (x, y * h), align, 1.15)
    if rng.random() < 0.12:
        turn = cv2.getRotationMatrix2D((x, y * h), float(rng.normal(0, 12)), 1)
        mask = cv2.warpAffine(mask, turn, (w, h))
    plate = None
    if (mask > 0.2).any() and share < 0.09 and rng.random() < 0.3:
        plate = plate_under(rng, mask, font_size, hue)
        below = draw.over(plate, np.dstack([below, np.ones(size, np.float32)]))[..., :3]
    if pack.matcaps and font_size > 20 and rng.random() < RAISED:
        raised = draw.lit(mask, matcap(pack, rng), font_size * rng.uniform(0.04, 0.12))
        inside = mask > 0.3
        if inside.any() and abs(tone(raised[inside][:, :3] / 255) - tone(below[inside])) > READABLE:
            return np.asarray(raised / np.float32(255), np.float32), plate
    return dressed(rng, size, mask, ink_for(rng, mask, below, hue), font_size), plate


def tone(colours: NDArray[np.floating[Any]]) -> float:
    """The mean luminance of `n 3`."""
    return draw.luminance(colours.mean(0))


def plate_under(rng: Rng, mask: draw.Plane, font_size: int, hue: float) -> Rgba:
    """A plain box, its corners square or round, around what the mask shows."""
    rows, columns = np.where(mask > 0.2)
    pad = font_size * rng.uniform(0.3, 0.8)
    box = (columns.min() - 1.6 * pad, rows.min() - pad, columns.max() + 1.6 * pad, rows.max() + pad)
    alpha = draw.rounded_box(mask.shape, box, float(rng.choice([0, 0.3, 0.5])) * (box[3] - box[1]))
    return draw.solid(mask.shape, draw.random_colour(rng, hue), alpha)


def wrapped(rng: Rng, font: ImageFont.FreeTypeFont, room: float, wide: bool, small: bool) -> list[str]:
    """One to three lines of words that fit into `room` pixels."""
    lines = []
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        if wide:
            words = ["".join(chr(int(c)) for c in rng.choice(COMMON_HAN, int(rng.integers(2, 8))))]
        else:
            words = [str(rng.choice(WORDS)) for _ in range(int(rng.integers(1, 6 if small else 4)))]
            if rng.random() < 0.3:
                words[-1] = str(rng.choice(SYMBOLS))
        line = " ".join(words)
        case = rng.random()
        line = line.upper() if case < 0.35 else line.title() if case < 0.75 else line
        while font.getlength(line) > room and len(line) > 1:
            line = line[:-1]
        lines.append(line.strip() or "A")
    return lines


COMMON_HAN = [
    ord(c)
    for c in (
        "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种"
        "面而方后多定行学法所民得经十三之进着等部度家电力里如水化高自二理起小物现实加量都两体制机当使点从业本"
        "去把性好应开它合还因由其些然前外天政四日那社义事平形相全表间样与关各重新线内数正心反你明看原又么利比"
        "或但质气第向道命此变条只没结解问意建月公无系军很情者最立代想已通并提直题党程展五果料象员革位入常文总"
        "次品式活设及管特件长求老头基资边流路级少图山统接知较将组见计别她手角期根论运农指几九区强放决西被干做"
        "必战先回则任取据处队南给色光门即保治北造百规热领七海口东导器压志世金增争济阶油思术极交受联什认六共权"
        "收证改清己美再采转更单风切打白教速花带安场身车例真务具万每目至达走积示议声报斗完类八离华名确才科张信"
        "马节话米整空元况今集温传土许步群广石记需段研界拉林律叫且究观越织装影算低持音众书布复容儿须际商非验连"
        "断深难近矿千周委素技备半办青省列习响约支般史感劳便团往酸历市克何除消构府称太准精值号率族维划选标写存"
        "候毛亲快效斯院查江型眼王按格养易置派层片始却专状育厂京识适属圆包火住调满县局照参红细引听该铁价严"
    )
]


def ink_for(rng: Rng, mask: draw.Plane, below: NDArray[np.float32], hue: float) -> Colour:
    """A colour that can be read on what lies below."""
    inside = below[mask > 0.3]
    ground = tone(inside) if inside.size else 0.5
    for _ in range(12):
        ink = (
            (1.0, 1.0, 1.0)
            if rng.random() < 0.25
            else (0.05, 0.05, 0.08)
            if rng.random() < 0.25
            else draw.random_colour(rng, hue if rng.random() < 0.4 else None)
        )
        if abs(draw.luminance(ink) - ground) > READABLE:
            return ink
    return (1.0, 1.0, 1.0) if ground < 0.5 else (0.0, 0.0, 0.0)


def dressed(rng: Rng, size: Size, mask: draw.Plane, ink: Colour, font_size: int) -> Rgba:
    """Plain ink, or with a gradient, an outline, a shadow."""
    layer = draw.solid(size, ink, mask)
    if rng.random() < 0.12:
        layer[..., :3] = draw.gradient(size, ink, draw.random_colour(rng), rng)
    if font_size > 14 and rng.random() < 0.14:
        rim = draw.stroke(mask, max(1.0, font_size * rng.uniform(0.03, 0.08)))
        tone = 0.0 if draw.luminance(ink) > 0.5 else 1.0
        layer = draw.over(layer, draw.solid(size, (tone, tone, tone), rim))
    if rng.random() < 0.2:
        reach = max(0.6, font_size * 0.05)
        layer = draw.with_shadow(layer, (reach, reach), reach * rng.uniform(0.4, 1.5), rng.uniform(0.3, 0.7), (0, 0, 0))
    return layer
