"""The report on how a corpus was made: one HTML page with pictures that needs nothing else."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from unfuse.corpus.intake import IntakeParams
from unfuse.corpus.rules import FINDERS, LIMITS, RULES

KEPT_SHOWN, DROPPED_SHOWN, LEFT_SHOWN, ERRORS_SHOWN = 36, 18, 24, 60
Heavy = Callable[[str], dict[str, Any]]  # the pictures of a key's row
Rows = Sequence[dict[str, Any]]

STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #777; --bar: #4a7dbd; --was: #9994 }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1180px; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem }
h3 { font-size: 1rem; margin: 1.2rem 0 .2rem } p { max-width: 80ch; margin: .3rem 0 } .dim { color: var(--dim) }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .22rem 1.2rem .22rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
td.n, th.n { text-align: right }
.row { display: flex; flex-wrap: wrap; gap: .7rem; padding: .4rem 0 }
figure { margin: 0; width: 128px } figcaption { font-size: .75rem; color: var(--dim); overflow-wrap: anywhere }
figure img { display: block; max-width: 128px; max-height: 128px; border: 1px solid var(--line);
  background: repeating-conic-gradient(#d6d6d6 0 25%, #f6f6f6 0 50%) 0 0 / 16px 16px }
.left img { background: repeating-conic-gradient(#666 0 25%, #888 0 50%) 0 0 / 16px 16px }
svg text { font: 11px system-ui, sans-serif; fill: currentColor }
"""


def page(rows: Rows, params: IntakeParams, heavy: Heavy) -> str:
    """The whole page for the rows of all files, in their order."""
    kept = [row for row in rows if row["status"] == "kept"]
    errors = [row for row in rows if row["status"] == "error"]
    chosen = params.rules
    facts = [f"{len(rows)} files", f"{len(kept)} records", f"{sum(row['after'] for row in kept)} layers"]
    facts += [f"{chosen.least} to {chosen.most} layers each", f"longer side {chosen.side or 'as in the file'}"]
    facts += [f"captions: {params.captioner}"]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>Corpus: {len(kept)} records</title><style>{STYLE}</style>"
        f"<h1>Corpus: {len(kept)} records</h1><p class=dim>{escape(' · '.join(facts))}</p>"
        f"<h2>Files</h2>{_files(rows)}<h2>Layers, by rule</h2>{_layers(rows, params)}"
        f"<h2>Layers in a record</h2>{_histogram(rows)}"
        f"<h2>Records</h2>{_figures(_some(kept, KEPT_SHOWN), heavy)}"
        f"<h2>Files left out, and why</h2>{_dropped(rows, heavy)}"
        f"<h2>Layers left out, and why</h2>{_left(rows, heavy)}"
        f"<h2>Errors</h2>{_errors(errors)}</html>\n"
    )


def _some(rows: Rows, most: int) -> Rows:
    """At most so many rows, drawn by a hash of their file, so that a folder's first ones do not stand for all."""
    drawn = sorted(rows, key=lambda row: hashlib.sha256(row["file"].encode()).digest())[:most]
    return sorted(drawn, key=lambda row: str(row["file"]))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    heads = "".join(f"<th{' class=n' if i else ''}>{cell}</th>" for i, cell in enumerate(head[:-1]))
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=n' if i else ''}>{cell}</td>" for i, cell in enumerate(row[:-1]))
        + f"<td class=dim>{row[-1]}</td></tr>"
        for row in rows
    )
    return f"<table><thead><tr>{heads}<th>{head[-1]}</th></tr></thead><tbody>{body}</tbody></table>"


def _files(rows: Rows) -> str:
    about = {**RULES, **LIMITS}
    dropped = Counter(row["why"] for row in rows if row["status"] == "dropped")
    count = Counter(row["status"] for row in rows)
    lines = [["files found", str(len(rows)), ""], ["kept", str(count["kept"]), ""]]
    lines += [[f"left out: {why}", str(n), escape(about[why])] for why, n in dropped.most_common()]
    lines += [["errors", str(count["error"]), "could not be read; listed below"]]
    return _table(("", "files", ""), lines)


def _layers(rows: Rows, params: IntakeParams) -> str:
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(row["counts"])
    kept = [row for row in rows if row["status"] == "kept"]
    lines = [
        ["layers in all files", str(sum(row["before"] for row in rows)), "rasters; groups count as what is in them"]
    ]
    lines += [["of these in files that were kept", str(sum(row["before"] for row in kept)), ""]]
    about = {**RULES, "opacity": "opacities put into alpha"}
    for rule in ("hidden", "groups", "opacity", "blend", *FINDERS, "merge"):
        off = " (off)" if rule in RULES and rule not in params.rules.rules else ""
        lines.append([f"{rule}{off}", str(counts[rule]), escape(about[rule])])
    lines += [["layers in records", str(sum(row["after"] for row in kept)), ""]]
    return _table(("", "layers", ""), lines)


def _histogram(rows: Rows) -> str:
    """Bars of how many kept files had, and have, so many layers."""
    kept = [row for row in rows if row["status"] == "kept"]
    most = max([max(row["after"], min(row["before"], 40)) for row in kept], default=1)
    now, was = Counter(row["after"] for row in kept), Counter(min(row["before"], 40) for row in kept)
    high = max([*now.values(), *was.values(), 1])
    step, tall = 24, 140
    bars = []
    for n in range(1, most + 1):
        for counts, colour, shift in ((was, "var(--was)", 0), (now, "var(--bar)", 9)):
            height = tall * counts[n] / high
            bars.append(
                f"<rect x={n * step + shift} y={tall - height + 14:.1f} width=9 height={height:.1f} fill='{colour}'>"
                f"<title>{counts[n]} files with {n} layers</title></rect>"
            )
        bars.append(f"<text x={n * step + 9} y={tall + 28} text-anchor=middle>{n}{'+' * (n == 40)}</text>")
    return (
        "<p class=dim>Grey: layers in the file. Blue: layers in the record. "
        f"The highest bar is {high} files.</p><svg width={(most + 2) * step} height={tall + 34}>{''.join(bars)}</svg>"
    )


def _figures(rows: Rows, heavy: Heavy) -> str:
    return f"<div class=row>{''.join(_figure(_picture(row, heavy), _caption(row)) for row in rows)}</div>"


def _picture(row: dict[str, Any], heavy: Heavy) -> str:
    return str(heavy(row["key"])["picture"] or "")


def _caption(row: dict[str, Any]) -> str:
    layers = f"{row['before']} → {row['after']} layers" if row["status"] == "kept" else f"{row['before']} layers"
    said = [row["file"], layers]
    said += [f"off by {row['error']:.2g} levels"] if row["error"] else []
    said += [f"like {row['like']}"] if "like" in row else []
    return " · ".join(said)


def _figure(data: str, caption: str) -> str:
    text = escape(caption, quote=True)
    image = f"<img src='data:image/webp;base64,{data}' alt='{text}'>" if data else ""
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"


def _dropped(rows: Rows, heavy: Heavy) -> str:
    about = {**RULES, **LIMITS}
    parts = []
    for why in about:
        found = [row for row in rows if row["status"] == "dropped" and row["why"] == why]
        if found:
            parts.append(f"<h3>{why}: {len(found)} files</h3><p class=dim>{escape(about[why])}</p>")
            parts.append(_figures(_some(found, DROPPED_SHOWN), heavy))
    return "".join(parts) or "<p>None.</p>"


def _left(rows: Rows, heavy: Heavy) -> str:
    parts = []
    for rule in FINDERS:
        found = [row for row in rows if row["counts"].get(rule)]
        if not found:
            continue
        layers = [
            (name, data, row["file"])
            for row in _some(found, LEFT_SHOWN)
            for other, name, data in heavy(row["key"])["left"] or ()
            if other == rule
        ]
        parts.append(f"<h3>{rule}: {sum(row['counts'][rule] for row in found)} layers</h3>")
        parts.append(f"<p class=dim>{escape(RULES[rule])}</p><div class='row left'>")
        parts += [_figure(data, f"{name} · {file}") for name, data, file in layers[:LEFT_SHOWN]]
        parts.append("</div>")
    return "".join(parts) or "<p>None.</p>"


def _errors(errors: Rows) -> str:
    if not errors:
        return "<p>None.</p>"
    lines = [[escape(row["file"]), escape(row["why"])] for row in errors[:ERRORS_SHOWN]]
    rest = f"<p>and {len(errors) - ERRORS_SHOWN} more; all are in files.jsonl</p>" if len(lines) < len(errors) else ""
    return _table(("file", "what was wrong"), lines) + rest
