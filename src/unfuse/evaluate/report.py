"""The report as one HTML page that needs nothing else: figures, then every design with pictures, worst first."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from html import escape
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unfuse.evaluate.consistency import BASELINE, EDITS, Edited
from unfuse.evaluate.metric import Rgba

SIDE = 220  # pixels of a picture on the page, its longer side
SQUARE = 8  # pixels of the board behind what is transparent

# Of each figure: what it is called, which way is better, how it is written.
FIGURES: dict[str, tuple[str, str, str]] = {
    "edit": ("Edit consistency, dB", "↑", ".1f"),
    **{f"edit_{kind}": (f"&emsp;{kind}", "↑", ".1f") for kind in EDITS},
    "edit_kept": ("&emsp;what should not change, dB", "↑", ".1f"),
    "edit_wins": ("&emsp;designs won against the last column", "↑", ".0%"),
    "edit_unmatched": ("&emsp;edits for which it has no layer", "↓", ".0%"),
    "boundary": ("Boundary error, alpha within 3 px of an edge", "↓", ".3f"),
    "hidden_colour": ("Hidden colour error, levels", "↓", ".1f"),
    "recomposition_mean": ("Recomposition error, mean, levels", "↓", ".3f"),
    "empty": ("Empty layers", "↓", ".1%"),
    "duplicate": ("Duplicate layers", "↓", ".1%"),
    "layers": ("Layers", "", ".1f"),
    "seconds": ("Seconds", "↓", ".2f"),
}
COUNTS = {"recomposition_max": "Recomposition error, largest of all, levels", "failures": "Failures, of all designs"}
LEVELS = {
    "strict_rgb_l1": "RGB L1, failures count as 1",
    "strict_alpha_iou": "Alpha soft IoU, failures count as 0",
    "lenient_rgb_l1": "RGB L1, as in papers: fewer than two layers are left out",
    "lenient_alpha_iou": "Alpha soft IoU, as in papers",
}

STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #777; --bad: #c33 }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1180px; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
p { max-width: 75ch } .dim, small { color: var(--dim) }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th:first-child, td:first-child { text-align: left } th { font-weight: 600; vertical-align: bottom }
article { border-top: 1px solid var(--line); margin-top: 1.4rem; padding-top: .8rem }
h3 { font-size: 1rem; margin: 0 } .failed { color: var(--bad) }
.row { display: flex; flex-wrap: wrap; gap: .6rem; padding: .4rem 0 }
figure { margin: 0; flex: none } figure img { display: block; max-height: 190px; width: auto; border-radius: 3px }
figcaption { font-size: .8rem; color: var(--dim); max-width: 210px }
"""


def page(result: dict[str, Any], cards: Iterable[str]) -> str:
    """The whole page of a report; `cards` are the designs, in their order on the page."""
    about, summary = result["about"], result["summary"]
    settings = about["settings"]
    facts = [about["made_by"], f"{about['count']} designs of {about['designs']}", f"unfuse {about['unfuse']}"]
    if "steps" in about:
        facts += [f"layers asked for: {settings['layers']}", f"steps {about['steps']}"]
        facts += [f"weights {about['weights_sha256'][:12]}"] if about["weights_sha256"] else []
    facts += [f"seed {settings['seed']}", f"short side {settings['short']} px", f"{settings['resamples']} resamples"]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{escape(about['method'])}: evaluation</title><style>{STYLE}</style>"
        f"<h1>{escape(about['method'])}</h1><p class=dim>{escape(' · '.join(facts))}</p>"
        "<p>Means over designs with 95 % bootstrap intervals. The columns to the right of the first are what takes no "
        "skill, and, for edits, what a perfect selection and inpainting do on the flat picture; that selection is the "
        "truth's, which nobody has. Errors are in levels of 255 unless said otherwise; arrows: what is better.</p>"
        f"<h2>All measures</h2>{_figures(summary)}"
        f"<h2>Order-aware alignment, after 0 to 5 merges</h2>{_levels(summary)}"
        "<p class=dim>Merges edit the truth too, so the columns to the right flatter everyone. Not comparable with "
        "tables of other data.</p>"
        f"<h2>By kind of design</h2>{_templates(result)}"
        f"<h2>Designs, worst first</h2>{''.join(cards)}</html>\n"
    )


def card(
    row: dict[str, Any],
    method: str,
    picture: Rgba,
    pred: Sequence[Rgba],
    truth: Sequence[Rgba],
    worst: Edited | None,
) -> str:
    """A design: its figures, the picture and the predicted layers, the true layers, and the edit that went worst."""
    mine = row["methods"][method]
    found = [("picture", picture), *((f"{method} {i}", layer) for i, layer in enumerate(pred))]
    says = [f"RGB L1 {mine['strict_rgb_l1'][0]:.3f}", f"alpha IoU {mine['strict_alpha_iou'][0]:.3f}"]
    for key in ("edit", "boundary", "hidden_colour", "seconds"):
        name, _, form = FIGURES[key]
        says += [] if mine[key] is None else [f"{name.split(',')[0].lower()} {mine[key]:{form}}"]
    failed = " <span class=failed>failure</span>" if mine["failed"] else ""
    rows = [found, [(f"truth {i}", layer) for i, layer in enumerate(truth)]]
    if worst is not None:
        ways = {"truth": worst.target, method: worst.pictures[method], BASELINE: worst.pictures[BASELINE]}
        named = f"{worst.edit} layer {worst.layer}: "
        rows.append(
            [
                (f"{named}{way}" + (f", {worst.psnr[way]:.1f} dB" if way in worst.psnr else ""), _levels_of(shown))
                for way, shown in ways.items()
            ]
        )
    pictures = "".join(f"<div class=row>{''.join(_figure(*each) for each in line)}</div>" for line in rows)
    return f"<article><h3>{escape(row['id'])}{failed}</h3><small>{escape(' · '.join(says))}</small>{pictures}</article>"


def sentence(result: dict[str, Any]) -> str:
    """The result in a line."""
    about, summary = result["about"], result["summary"]
    mine = summary[about["method"]]

    def told(key: str, form: str) -> str:
        found = mine[key]
        mean, low, high = (np.ravel(found[name])[0] for name in ("mean", "low", "high"))
        return f"{mean:{form}} ({low:{form}} to {high:{form}})"

    baseline = summary[BASELINE]["edit"]["mean"]
    return (
        f"{about['method']}, {about['count']} designs, {mine['failures']} failures: "
        f"RGB L1 {told('strict_rgb_l1', '.3f')}, alpha IoU {told('strict_alpha_iou', '.3f')}, "
        f"edits {told('edit', '.1f')} dB where the flat picture with the true mask has {baseline:.1f} dB"
    )


# --- tables ----------------------------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    heads = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class=wide><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"


def _figures(summary: dict[str, Any]) -> str:
    rows = [
        [f"{name} <small>{better}</small>", *(_interval(mine.get(key), form) for mine in summary.values())]
        for key, (name, better, form) in FIGURES.items()
    ]
    rows += [[name, *(_plain(mine.get(key)) for mine in summary.values())] for key, name in COUNTS.items()]
    return _table(["", *(escape(name) for name in summary)], rows)


def _interval(found: dict[str, Any] | None, form: str) -> str:
    if found is None:
        return ""
    return f"{found['mean']:{form}}<br><small>{found['low']:{form}} to {found['high']:{form}}</small>"


def _plain(value: int | None) -> str:
    return "" if value is None else str(value)


def _levels(summary: dict[str, Any]) -> str:
    rows = []
    for key, name in LEVELS.items():
        for method, mine in summary.items():
            if found := mine.get(key):
                cells = [
                    f"{mean:.4f}<br><small>{low:.3f} to {high:.3f}</small>"
                    for mean, low, high in zip(found["mean"], found["low"], found["high"], strict=True)
                ]
                rows.append([f"{name}<br><small>{escape(method)}, {found['count']} designs</small>", *cells])
    return _table(["", *(f"{merges} merges" for merges in range(6))], rows)


def _templates(result: dict[str, Any]) -> str:
    method = result["about"]["method"]
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in result["designs"]:
        kinds.setdefault(row["template"] or "not said", []).append(row["methods"])
    columns: list[tuple[str, str, Callable[[dict[str, Any]], float | None]]] = [
        ("RGB L1", ".3f", lambda row: float(row[method]["strict_rgb_l1"][0])),
        ("Alpha IoU", ".3f", lambda row: float(row[method]["strict_alpha_iou"][0])),
        ("Edit, dB", ".1f", lambda row: row[method]["edit"]),
        (f"{BASELINE}, dB", ".1f", lambda row: row[BASELINE]["edit"]),
        ("Boundary", ".3f", lambda row: row[method]["boundary"]),
        ("Hidden colour", ".1f", lambda row: row[method]["hidden_colour"]),
    ]
    rows = []
    for kind, members in sorted(kinds.items()):
        cells = [escape(kind), str(len(members))]
        for _, form, pick in columns:
            values = [value for value in map(pick, members) if value is not None]
            cells.append(f"{np.mean(values):{form}}" if values else "")
        rows.append(cells)
    return _table(["", "designs", *(name for name, _, _ in columns)], rows)


# --- pictures --------------------------------------------------------------------------------------------------------


def _figure(caption: str, pixels: Rgba) -> str:
    file = BytesIO()
    _on_board(pixels).save(file, "WEBP", quality=80)
    data = base64.b64encode(file.getvalue()).decode()
    text = escape(caption, quote=True)
    return f"<figure><img src='data:image/webp;base64,{data}' alt='{text}'><figcaption>{text}</figcaption></figure>"


def _on_board(pixels: Rgba) -> Image.Image:
    """Small, over the squares that say: nothing is here."""
    small = Image.fromarray(pixels)
    small.thumbnail((SIDE, SIDE))
    y, x = np.indices((small.height, small.width)) // SQUARE
    board = Image.fromarray(np.where((x + y) % 2, 214, 246).astype(np.uint8)).convert("RGBA")
    return Image.alpha_composite(board, small).convert("RGB")


def _levels_of(planes: NDArray[np.float32]) -> Rgba:
    """`h w 3` in 0..1 as opaque `h w 4` levels."""
    levels = np.floor(planes.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    return np.dstack((levels, np.full(levels.shape[:2], 255, np.uint8)))
