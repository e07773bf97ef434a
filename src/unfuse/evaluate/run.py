"""Score an engine, or a folder of predictions, over a folder of designs with true layers.

For each design: the layers, the trivial baselines beside them, all measures, a row of figures and a card for the page.
Then means over designs with bootstrap intervals. The answer is `report.json` and, of the same, `index.html`.

The order-aware metric and the hidden colour error are taken with the short side brought to 512 pixels (LayerD's Crello
protocol); recomposition, boundary error and edits at native size, edits with a short side of at most 1024: layers that
are shrunk one by one do not flatten to the shrunk picture, and 50 dB is all that edits could reach then.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unfuse import __version__, engines
from unfuse.decomposition import MOST, decompose
from unfuse.errors import FormatError, UnfuseError
from unfuse.evaluate import baselines, measures, report
from unfuse.evaluate.consistency import BASELINE, EDITS, Edited, consistency
from unfuse.evaluate.designs import Design, brought_to, fitted, read_designs, read_layers, read_seconds, shrunk
from unfuse.evaluate.metric import MERGES, WORST, Rgba, compare
from unfuse.evaluate.statistics import summarise
from unfuse.layers import to_8_bit
from unfuse.saving import replacing

COPY, COLOURS = "picture as background", "k-means colours"
SHARP = 1024  # pixels of the short side, at most, at which edits are made
FILES = ("report.json", "index.html")
Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What a run is made with; it stands in the report.

    layers: how many an engine is asked for, "truth" for as many as the design has. seed: of the engine, the k-means and
    the bootstrap. short: pixels of the short side. resamples: of the bootstrap.
    """

    engine: str = "embedded"
    layers: int | Literal["truth", "auto"] = "truth"
    steps: int | None = None
    seed: int = 0
    short: int = 512
    resamples: int = 2000

    def __post_init__(self) -> None:
        if isinstance(self.layers, str) and self.layers not in ("truth", "auto"):
            raise UnfuseError(f"layers={self.layers!r}: say 'truth', 'auto' or a number from 1 to {MOST}")
        for name in ("short", "resamples"):
            if getattr(self, name) < 1:
                raise UnfuseError(f"{name}={getattr(self, name)}: say 1 or more")


@dataclass(frozen=True, eq=False)
class Answer:
    """The layers that a method gives for a design, bottom to top; none where it failed."""

    stack: list[Rgba]
    seconds: float | None = None


def evaluate(
    designs: Path,
    out: Path,
    settings: Settings,
    predictions: Path | None = None,
    on_design: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score every design, write the report into the folder `out` (made if need be), and return what report.json holds.

    predictions: a folder of them (see `designs`); the engine is not used then. on_design: told how many of how many
    designs are done. Raises FormatError for folders that are not what they should be, before any work is done.
    """
    found = read_designs(designs)
    if predictions is not None and not any((predictions / design.id).is_dir() for design in found):
        raise FormatError(f"{predictions} has no folder for any design of {designs}, such as {found[0].id}")
    if out.exists() and (not out.is_dir() or any(file.name not in FILES for file in out.iterdir())):
        raise FormatError(f"{out} holds other things than a report: choose another folder")
    method = settings.engine if predictions is None else predictions.resolve().name
    about = {"method": method, "designs": designs.resolve().name, "count": len(found), "unfuse": __version__}
    about |= {"settings": asdict(settings), **provenance(settings, predictions)}
    rows, cards = list[Row](), list[tuple[float, str]]()
    for done, design in enumerate(found, start=1):
        row, card = score_design(design, method, settings, predictions)
        rows.append(row)
        cards.append((worth(row["methods"][method]), card))
        if on_design is not None:
            on_design(done, len(found))
    summary = summarise(rows, settings.resamples, settings.seed)
    result = {"about": about, "summary": summary, "designs": rows}
    page = report.page(result, [card for _, card in sorted(cards, key=lambda pair: pair[0])])
    out.mkdir(parents=True, exist_ok=True)
    for name, text in zip(FILES, (json.dumps(result, indent=1, ensure_ascii=False) + "\n", page), strict=True):
        with replacing(out / name) as file:
            file.write(text.encode())
    return result


def provenance(settings: Settings, predictions: Path | None) -> dict[str, Any]:
    """What made the layers."""
    if predictions is not None:
        return {"made_by": "a folder of predictions"}
    engine = engines.load(settings.engine)
    steps = engine.default_steps if settings.steps is None else settings.steps
    return {"made_by": f"engine {settings.engine}", "steps": steps, "weights_sha256": engine.weights_sha256}


def score_design(design: Design, method: str, settings: Settings, predictions: Path | None) -> tuple[Row, str]:
    """One design: its row of the report, by method, and its card on the page."""
    truth, picture = design.layers(), design.picture()
    size = picture.shape[1], picture.shape[0]
    answers = {
        method: predicted(design, len(truth), settings) if predictions is None else stored(predictions / design.id),
        COPY: Answer(baselines.picture_as_background(picture, len(truth))),
        COLOURS: Answer(baselines.colours(picture, len(truth), settings.seed)),
    }
    target, sharp = shrunk(size, settings.short), shrunk(size, SHARP)
    small_truth = [brought_to(layer, target) for layer in truth]
    small = {name: [brought_to(layer, target) for layer in answer.stack] for name, answer in answers.items()}
    scores = {name: score(answers[name], small[name], truth, small_truth, picture) for name in answers}
    shown = brought_to(answers[COPY].stack[0], target)
    usable = {name: stack or [shown] for name, stack in small.items()}  # without layers there is still the picture
    pairs = {name: measures.match(stack, small_truth) for name, stack in usable.items()}
    native = {name: fitted(answer.stack or answers[COPY].stack[:1], size) for name, answer in answers.items()}
    for name, stack in usable.items():
        scores[name]["hidden_colour"] = measures.hidden_colour_error(stack, small_truth, pairs[name])
        scores[name]["boundary"] = measures.boundary_error(native[name], truth, pairs[name])
    edited = {method: (fitted(native[method], sharp), pairs[method])}
    edited[COPY] = fitted(native[COPY][:1], sharp), pairs[COPY]  # the empty ones only take time
    edits, worst = score_edits(fitted(truth, sharp), edited, method)
    scores[BASELINE] = {}
    for name in (method, COPY, BASELINE):
        scores[name] |= edit_means(edits, name)
    row = {"id": design.id, "template": design.template, "size": size, "true_layers": len(truth)}
    row |= {"methods": scores, "edits": edits}
    return row, report.card(row, method, shown, small[method], small_truth, worst)


def predicted(design: Design, count: int, settings: Settings) -> Answer:
    """What the engine finds, and the seconds that it took from file to stack."""
    most = min(MOST, engines.load(settings.engine).max_layers)
    asked = min(count, most) if settings.layers == "truth" else settings.layers
    began = time.perf_counter()
    file = design.folder / "image.png"
    stack = decompose(file, asked, engine=settings.engine, steps=settings.steps, seed=settings.seed)
    seconds = time.perf_counter() - began
    return Answer([to_8_bit(layer.to_canvas(stack.size)) for layer in stack], seconds)


def stored(folder: Path) -> Answer:
    """What a folder of predictions holds for a design; nothing where it holds none."""
    return Answer(read_layers(folder), read_seconds(folder))


def score(
    answer: Answer,
    small: Sequence[Rgba],
    truth: Sequence[Rgba],
    small_truth: Sequence[Rgba],
    picture: NDArray[np.uint8],
) -> Row:
    """One method on one design. None says that there was nothing to measure.

    `skipped` is what the papers leave out: fewer than two layers on either side. `failed` is stricter: fewer than two
    layers that show something, or another size than the picture; then the worst score is given, not none.
    """
    hollow = measures.empty(answer.stack)
    error = measures.recomposition(answer.stack, picture)
    failed = hollow.count(False) < 2 or error is None
    levels = compare(small, small_truth) if small else []
    skipped = min(len(small), len(truth)) < 2
    repeats = measures.duplicate(small)
    row: Row = {"layers": len(small), "skipped": skipped, "failed": failed, "seconds": answer.seconds}
    row |= {
        "empty": float(np.mean(hollow)) if hollow else 1.0,
        "duplicate": float(np.mean(repeats)) if repeats else None,
    }
    row |= {"recomposition_max": error and error.max, "recomposition_mean": error and error.mean}
    for key in WORST._fields:
        found = [getattr(level, key) for level in levels]
        row[f"lenient_{key}"] = None if skipped else found
        row[f"strict_{key}"] = [getattr(WORST, key)] * (MERGES + 1) if failed else found
    return row


def score_edits(
    truth: Sequence[Rgba], methods: dict[str, tuple[list[Rgba], list[int | None]]], method: str
) -> tuple[list[Row], Edited | None]:
    """Every edit as a row, and the one that `method` did worst."""
    rows, worst = list[Row](), None
    for edited in consistency(truth, methods):
        matched = {name: pairs[edited.layer] for name, (_, pairs) in methods.items()}
        row: Row = {"layer": edited.layer, "edit": edited.edit, "matched": matched}
        rows.append(row | {"psnr": edited.psnr, "kept": edited.kept})
        if worst is None or edited.psnr[method] < worst.psnr[method]:
            worst = edited
    return rows, worst


def edit_means(edits: Sequence[Row], name: str) -> Row:
    """Means over the edits of a design: all, what should not change, each kind, and which part beats the baseline."""

    def mean(values: list[float]) -> float | None:
        return float(np.mean(values)) if values else None

    means = {"edit": mean([row["psnr"][name] for row in edits])}
    means["edit_kept"] = mean([row["kept"][name] for row in edits if row["kept"][name] is not None])
    means |= {f"edit_{kind}": mean([row["psnr"][name] for row in edits if row["edit"] == kind]) for kind in EDITS}
    if name == BASELINE:
        return means
    baseline = mean([row["psnr"][BASELINE] for row in edits])
    ours = means["edit"]
    won = None if ours is None or baseline is None else float(ours > baseline)
    return means | {"edit_wins": won, "edit_unmatched": mean([float(row["matched"][name] is None) for row in edits])}


def worth(row: Row) -> float:
    """What the page is sorted by: the strict similarity before any merge; failures come first."""
    return float(row["strict_alpha_iou"][0] + 1 - row["strict_rgb_l1"][0]) / 2
