"""The evaluation against known answers: the metric's golden cases, stacks whose errors can be counted by hand, and a
whole run over designs that the test draws."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from unfuse import cli
from unfuse.errors import FormatError
from unfuse.evaluate import baselines, consistency, measures
from unfuse.evaluate.designs import brought_to, fitted, read_designs, read_layers, shrunk
from unfuse.evaluate.metric import Rgba, Score, align, compare
from unfuse.evaluate.run import COLOURS, COPY, Settings, evaluate
from unfuse.evaluate.statistics import bootstrap, interval

GOLDEN = Path(__file__).parent / "data" / "metric"
KNOWN: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_text())["cases"]
WIDTH, HEIGHT = 96, 64


def plain(colour: tuple[int, int, int], box: tuple[int, int, int, int], alpha: int = 255) -> Rgba:
    """A rectangle (left, top, right, bottom) of one colour on a transparent canvas."""
    layer = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    left, top, right, bottom = box
    layer[top:bottom, left:right] = (*colour, alpha)
    return layer


WHOLE = (0, 0, WIDTH, HEIGHT)
LEFT, RIGHT = (10, 10, 40, 50), (30, 20, 80, 40)


@pytest.fixture
def truth() -> list[Rgba]:
    return [plain((200, 220, 240), WHOLE), plain((220, 40, 30), LEFT), plain((20, 60, 200), RIGHT, 160)]


def as_picture(stack: list[Rgba]) -> NDArray[np.uint8]:
    return measures.flatten(stack)


# --- the metric ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KNOWN)
def test_the_metric_equals_the_original(name: str) -> None:
    scores = compare(read_layers(GOLDEN / name / "pred"), read_layers(GOLDEN / name / "truth"))
    for key in Score._fields:
        found, expected = [getattr(score, key) for score in scores], KNOWN[name][key]
        assert found == pytest.approx(expected, abs=1e-6), key


def test_the_same_is_perfect_and_nothing_is_worst(truth: list[Rgba]) -> None:
    assert compare(truth, truth) == [Score(0.0, 1.0)] * 6
    black, white = plain((0, 0, 0), (0, 0, 40, 64)), plain((255, 255, 255), (40, 0, WIDTH, 64))
    assert compare([black], [white])[0] == Score(pytest.approx(1), 0.0)  # type: ignore[arg-type]


def test_a_merge_brings_back_a_layer_that_was_cut_in_two() -> None:
    ground, red = plain((200, 220, 240), WHOLE), plain((220, 40, 30), LEFT)
    cover = plain((20, 60, 200), (0, 30, WIDTH, 60))
    upper, lower = red.copy(), red.copy()
    upper[30:] = 0
    lower[:29] = 0  # the halves overlap by a row, so that they are two groups
    scores = compare([ground, upper, lower, cover], [ground, red, cover])
    assert scores[0].alpha_iou < 1
    assert scores[1:] == [Score(0.0, 1.0)] * 5


def test_the_path_takes_the_diagonal_of_equals() -> None:
    assert align(np.zeros((3, 3))) == [(0, 0), (1, 1), (2, 2)]
    assert align(np.zeros((3, 2))) == [(0, 0), (1, 0), (2, 1)]
    assert align(np.array([[0.0, 1, 1], [1, 1, 0]])) == [(0, 0), (0, 1), (1, 2)]


# --- measures --------------------------------------------------------------------------------------------------------


def test_recomposition_is_counted_in_levels(truth: list[Rgba]) -> None:
    picture = as_picture(truth)
    assert measures.recomposition(truth, picture) == (0, 0.0)
    picture[0, 0, 1] -= 7
    assert measures.recomposition(truth, picture) == pytest.approx((7, 7 / picture.size))
    assert measures.recomposition([], picture) is None
    assert measures.recomposition(truth, picture[:-1]) is None


def test_flatten_rounds_once_half_up() -> None:
    half = [plain((0, 0, 0), WHOLE), plain((255, 255, 255), WHOLE, 51), plain((255, 255, 255), WHOLE, 51)]
    assert np.unique(measures.flatten(half)).tolist() == [92]  # 255 * (1 - 0.8 * 0.8) = 91.8, not 51 + 41 = 91


def test_empty_and_duplicate_layers_are_found(truth: list[Rgba]) -> None:
    ghost = plain((9, 9, 9), (0, 0, 2, 1))
    other = plain((30, 220, 40), LEFT)  # the same alpha, another colour
    stack = [*truth, np.zeros_like(ghost), ghost, truth[1].copy(), other]
    assert measures.empty(stack) == [False, False, False, True, True, False, False]
    assert measures.duplicate(stack) == [False, False, False, False, False, True, False]


def test_match_never_takes_the_bottom_for_what_is_above(truth: list[Rgba]) -> None:
    assert measures.match([truth[0], truth[2], truth[1]], truth) == [0, 2, 1]
    assert measures.match([plain((0, 0, 0), WHOLE)], truth) == [0, None, None]
    assert measures.match([], truth) == [None, None, None]


def test_hidden_colour_is_judged_only_where_the_truth_is_covered(truth: list[Rgba]) -> None:
    pairs = measures.match(truth, truth)
    assert measures.hidden_colour_error(truth, truth, pairs) == 0
    bad = [layer.copy() for layer in truth]
    bad[0][10:50, 10:40, 0] -= 30  # all of it under the red layer
    error = measures.hidden_colour_error(bad, truth, pairs)
    red, blue = 30 * 40, 50 * 20
    both = 10 * 20  # the ground lies under both, the red layer under the blue one
    assert error == pytest.approx(30 * red / (3 * (red + blue - both + both)), rel=1e-5)
    bad[0] = truth[0].copy()
    bad[0][60:, :, 0] -= 30  # where nothing covers it
    assert measures.hidden_colour_error(bad, truth, pairs) == 0
    assert measures.hidden_colour_error(truth[:1], truth[:1], [0]) is None


def test_what_cannot_be_uncovered_counts_as_the_picture(truth: list[Rgba]) -> None:
    two = [truth[0], plain((220, 40, 30), LEFT)]
    copy = baselines.picture_as_background(as_picture(two), 2)
    error = measures.hidden_colour_error(copy, two, measures.match(copy, two))
    assert error == pytest.approx((20 + 180 + 210) / 3, rel=1e-5)


def test_boundary_error_of_a_layer_that_is_moved_by_a_pixel(truth: list[Rgba]) -> None:
    one = [truth[0], truth[1]]
    assert measures.boundary_error(one, one, [0, 1]) == 0
    moved = [truth[0], np.roll(truth[1], 1, axis=1)]
    band = np.count_nonzero(measures.edge_band(truth[1][..., 3].copy()))
    assert measures.boundary_error(moved, one, [0, 1]) == pytest.approx(2 * 40 / band)
    inside = 30 * 40 - 24 * 34
    assert measures.boundary_error(one, one, [0, None]) == pytest.approx(inside / band)


def test_the_band_is_six_pixels_wide_and_leaves_out_the_border_of_the_canvas() -> None:
    alpha = plain((0, 0, 0), (0, 0, 48, HEIGHT))[..., 3].copy()
    band = measures.edge_band(alpha)
    assert np.flatnonzero(band[32]).tolist() == list(range(45, 51))
    assert not band[:, :45].any()


# --- edit consistency ------------------------------------------------------------------------------------------------


def edits_of(pred: list[Rgba], truth: list[Rgba]) -> list[consistency.Edited]:
    return list(consistency.consistency(truth, {"ours": (pred, measures.match(pred, truth))}))


def test_true_layers_edit_perfectly(truth: list[Rgba]) -> None:
    edits = edits_of(truth, truth)
    assert [(x.layer, x.edit) for x in edits] == [(i, edit) for i in (1, 2) for edit in consistency.EDITS]
    assert {x.psnr["ours"] for x in edits} == {60.0}
    assert {x.kept["ours"] for x in edits} == {60.0}
    assert min(x.psnr[consistency.BASELINE] for x in edits) < 40


def test_the_edits_do_what_they_say() -> None:
    stack = [plain((200, 220, 240), WHOLE), plain((220, 40, 30), LEFT)]
    edits = {x.edit: np.floor(x.target * 255 + 0.5).astype(np.uint8) for x in edits_of(stack, stack)}
    moved = [stack[0], plain((220, 40, 30), (10 + 12, 10 + 8, 40 + 12, 50 + 8))]  # an eighth of 96 and of 64
    assert (edits["move"] == as_picture(moved)).all()
    assert (edits["remove"] == stack[0][..., :3]).all()
    tinted = [stack[0], plain((110, 148, 143), LEFT)]  # half way to (0, 255, 255)
    assert (np.abs(edits["recolor"].astype(int) - as_picture(tinted)) <= 1).all()
    larger = np.abs(edits["scale"].astype(int) - stack[0][..., :3]).sum(-1) > 0
    assert np.count_nonzero(larger) == pytest.approx(30 * 40 * 1.25**2, rel=0.06)


def test_without_a_layer_the_picture_stays(truth: list[Rgba]) -> None:
    copy = baselines.picture_as_background(as_picture(truth), 3)
    for edited in edits_of(copy, truth):
        assert np.abs(edited.pictures["ours"] * 255 - as_picture(truth)).max() < 1e-3
        assert edited.psnr["ours"] < 30
        assert edited.kept["ours"] is not None
        assert edited.kept["ours"] > 55


def test_a_background_that_kept_the_object_leaves_a_ghost(truth: list[Rgba]) -> None:
    stack = truth[:2]
    ghost = [stack[0].copy(), stack[1]]
    ghost[0][10:50, 10:40, :3] = stack[1][10:50, 10:40, :3]
    by_edit = {x.edit: x for x in edits_of(ghost, stack)}
    assert by_edit["remove"].psnr["ours"] < 20
    assert by_edit["move"].psnr["ours"] < 20
    assert by_edit["recolor"].psnr["ours"] == 60  # nothing hidden comes to light
    assert by_edit["remove"].kept["ours"] == 60


def test_the_flat_baseline_fills_a_flat_ground_and_gives_a_new_colour_in_place() -> None:
    stack = [plain((200, 220, 240), WHOLE), plain((220, 40, 30), LEFT)]
    for edited in edits_of(stack, stack):
        assert edited.psnr[consistency.BASELINE] > 50, edited.edit  # a plain ground is easy to fill
        assert edited.edit != "recolor" or edited.psnr[consistency.BASELINE] == 60


def test_psnr_is_what_it_is() -> None:
    a = np.zeros((8, 8, 3), np.float32)
    b = a.copy()
    b[:4] = 0.1
    half = np.zeros((8, 8), np.uint8)
    half[:4] = 1
    assert consistency.psnr(a, b, half) == pytest.approx(20, abs=1e-3)
    assert consistency.psnr(a, b) == pytest.approx(20 + 10 * np.log10(2), abs=1e-3)
    assert consistency.psnr(a, b, 1 - half) == 60


# --- baselines, sizes, statistics ------------------------------------------------------------------------------------


def test_the_baselines_recompose_exactly(truth: list[Rgba]) -> None:
    picture = as_picture(truth)
    for stack in (baselines.picture_as_background(picture, 3), baselines.colours(picture, 3, seed=0)):
        assert len(stack) == 3
        assert measures.recomposition(stack, picture) == (0, 0.0)
    again = baselines.colours(picture, 3, seed=0)
    assert all((a == b).all() for a, b in zip(stack, again, strict=True))


def test_shrinking_averages_premultiplied_values() -> None:
    layer = np.zeros((2, 2, 4), np.uint8)
    layer[0, 0] = (200, 100, 50, 255)
    layer[1, 1] = (255, 255, 255, 0)  # colour that nobody sees
    assert brought_to(layer, (1, 1)).tolist() == [[[200, 100, 50, 64]]]
    assert brought_to(layer, (2, 2))[1, 1].tolist() == [0, 0, 0, 0]
    assert fitted([layer], (2, 2))[0] is layer
    assert shrunk((96, 64), 32) == (48, 32)
    assert shrunk((96, 64), 512) == (96, 64)
    assert shrunk((1000, 3), 1) == (333, 1)


def test_the_bootstrap_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(5).normal(10, 2, (400, 1)) * np.array([1.0, 2.0])
    low, high = bootstrap(values, 2000, seed=0)
    error = 1.96 * values.std(axis=0) / 20  # the normal approximation, good for 400 values
    assert low == pytest.approx(values.mean(axis=0) - error, abs=0.05 * error.max() + 0.02)
    assert high == pytest.approx(values.mean(axis=0) + error, abs=0.05 * error.max() + 0.02)
    assert bootstrap(values, 100, seed=1) == bootstrap(values, 100, seed=1)


def test_what_could_not_be_measured_is_not_counted() -> None:
    assert interval([None, None], 10, 0) is None
    assert interval([3.0, None], 10, 0) == {"mean": 3.0, "low": 3.0, "high": 3.0, "count": 1}


# --- a whole run -----------------------------------------------------------------------------------------------------


@pytest.fixture
def designs(tmp_path: Path, truth: list[Rgba]) -> Path:
    """Three designs: the same scene with other colours, one of them of two layers only."""
    folder = tmp_path / "designs"
    for number in range(3):
        place = folder / f"d{number}"
        place.mkdir(parents=True)
        stack = [np.ascontiguousarray(np.roll(layer, 9 * number, axis=1)) for layer in truth[: 2 + (number > 0)]]
        for i, layer in enumerate(stack):
            Image.fromarray(layer).save(place / f"{i:02d}.webp", lossless=True, exact=True)
        Image.fromarray(as_picture(stack)).save(place / "image.png")
        (place / "meta.json").write_text(json.dumps({"template": "scene" if number else "card"}))
    return folder


def write(stack: list[Rgba], place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for i, layer in enumerate(stack):
        Image.fromarray(layer).save(place / f"{i}.png")


def test_true_layers_score_full_marks(designs: Path, tmp_path: Path) -> None:
    for design in read_designs(designs):
        write(design.layers(), tmp_path / "perfect" / design.id)
        (tmp_path / "perfect" / design.id / "seconds.txt").write_text("0.5\n")
    told: list[tuple[int, int]] = []
    result = evaluate(designs, tmp_path / "report", Settings(), tmp_path / "perfect", lambda *x: told.append(x))
    assert told == [(1, 3), (2, 3), (3, 3)]
    mine = result["summary"]["perfect"]
    assert (mine["failures"], mine["skipped"], mine["recomposition_max"]) == (0, 0, 0)
    assert mine["strict_rgb_l1"]["mean"] == [0] * 6
    assert mine["strict_alpha_iou"]["mean"] == [1] * 6
    perfect = {"edit": 60, "edit_kept": 60, "boundary": 0, "hidden_colour": 0, "empty": 0, "duplicate": 0}
    assert {name: mine[name]["mean"] for name in perfect} == perfect
    assert mine["seconds"] == {"mean": 0.5, "low": 0.5, "high": 0.5, "count": 3}
    wins = [row["methods"]["perfect"]["edit_wins"] for row in result["designs"]]
    assert wins[1:] == [1, 1]  # on the first, with its plain ground, the flat picture does as well
    copy = result["summary"][COPY]
    assert copy["failures"] == 3
    assert copy["strict_alpha_iou"]["mean"] == [0] * 6
    assert copy["lenient_alpha_iou"]["mean"][0] > 0
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == json.loads(json.dumps(result))


def test_failures_count_in_the_strict_scores_and_come_first(designs: Path, tmp_path: Path) -> None:
    found = read_designs(designs)
    write(found[0].layers(), tmp_path / "some" / "d0")
    write([*found[1].layers()[:1], np.zeros((HEIGHT, WIDTH, 4), np.uint8)], tmp_path / "some" / "d1")  # d2 is missing
    result = evaluate(designs, tmp_path / "report", Settings(), tmp_path / "some")
    mine = result["summary"]["some"]
    assert (mine["failures"], mine["skipped"]) == (2, 1)
    assert mine["strict_rgb_l1"]["mean"] == pytest.approx([2 / 3] * 6)
    assert mine["strict_alpha_iou"]["mean"] == pytest.approx([1 / 3] * 6)
    assert mine["lenient_alpha_iou"]["count"] == 2
    page = (tmp_path / "report" / "index.html").read_text()
    order = re.findall(r"<h3>(d\d)", page)
    assert set(order[:2]) == {"d1", "d2"}
    assert order[2] == "d0"


def test_an_engine_is_run_and_the_page_needs_nothing_else(designs: Path, tmp_path: Path) -> None:
    result = evaluate(designs, tmp_path / "report", Settings(engine="fake", steps=2, seed=7))
    assert result["about"]["steps"] == 2
    assert result["about"]["settings"]["seed"] == 7
    assert [row["methods"]["fake"]["layers"] for row in result["designs"]] == [2, 3, 3]
    assert result["summary"]["fake"]["seconds"]["mean"] > 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert not re.findall(r"(?:src|href)=['\"](?!data:)", page)
    for name in ("fake", COPY, COLOURS, consistency.BASELINE, "d0", "d1", "d2"):
        assert name in page
    assert str(tmp_path) not in page + json.dumps(result)  # a report is for sharing


def test_wrong_folders_are_refused_before_any_work(designs: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    for source, out, predictions, message in (
        (tmp_path / "missing", tmp_path / "r", None, "there is no such folder"),
        (tmp_path / "none", tmp_path / "r", None, "holds no designs"),
        (designs, tmp_path / "full", None, "choose another folder"),
        (designs, tmp_path / "r", tmp_path / "none", "has no folder for any design"),
    ):
        with pytest.raises(FormatError, match=message):
            evaluate(source, out, Settings(engine="fake"), predictions)
    assert not (tmp_path / "r").exists()
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"


def test_the_command(designs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for extra, code in ((["--steps", "1"], 0), (["--json"], 0), (["-n", "many"], 2), (["--short", "0"], 2)):
        with pytest.raises(SystemExit) as end:
            cli.main(["evaluate", str(designs), "--engine", "fake", "-o", str(tmp_path / "report"), *extra])
        said = capfd.readouterr()
        assert end.value.code == code, said.err
        if code:
            assert said.err.count("\n") == 1
        elif "--json" in extra:
            assert json.loads(said.out)["summary"]["fake"]["failures"] == 0
        else:
            assert said.out == f"{tmp_path / 'report' / 'index.html'}\n"
            assert said.err.startswith("fake, 3 designs, 0 failures: RGB L1 ")


def test_a_broken_design_is_named(designs: Path, tmp_path: Path) -> None:
    Image.new("RGBA", (5, 5)).save(designs / "d1" / "01.webp")
    with pytest.raises(FormatError, match="d1: its layers have the sizes"):
        evaluate(designs, tmp_path / "r", Settings(engine="fake"))
    assert not (tmp_path / "r").exists()
