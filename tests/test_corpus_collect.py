"""A corpus from a folder of files: what comes out, that nothing is lost on the way, and that it is always the same."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unfuse import formats
from unfuse.composite import flatten
from unfuse.corpus import collect, rules, sources
from unfuse.corpus.intake import IntakeParams, Source, look
from unfuse.corpus.records import Records
from unfuse.corpus.rules import RuleParams
from unfuse.errors import FormatError, MissingExtra
from unfuse.layers import Box, Layer, LayerStack

PSD = Path(__file__).parent / "data" / "psd"
PARAMS = IntakeParams(RuleParams(side=128))


def design(seed: int, size: tuple[int, int] = (160, 120)) -> LayerStack:
    """A ground, two boxes under a group with an opacity, a multiplied shade, something hidden."""
    rng = np.random.default_rng(seed)

    def noise(name: str, where: Box, **fields: Any) -> Layer:
        coarse = rng.integers(0, 256, (4, 4, 3), np.uint8)
        pixels = np.full((where.height, where.width, 4), 255, np.uint8)
        rows, columns = (np.arange(n) * 4 // n for n in (where.height, where.width))
        pixels[..., :3] = coarse[rows][:, columns]
        return Layer(name, "object", where, pixels, **fields)

    boxes = [noise(f"box {i}", Box(10 + 60 * i, 20, 60 + 60 * i, 70)) for i in range(2)]
    ground = noise("ground", Box(0, 0, *size))
    shade = noise("shade", Box(30, 60, 120, 110), blend_mode="multiply")
    hidden = noise("hidden", Box(0, 0, 40, 40), visible=False)
    return LayerStack(size, (ground, Layer.group("pair", boxes, opacity=0.8), shade, hidden))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photoshop files of others, designs in three formats of ours, and what is broken or too small."""
    root = tmp_path_factory.mktemp("files")
    for path in PSD.glob("*.psd"):
        shutil.copy(path, root)
    (root / "more").mkdir()
    for seed, name in enumerate(("a.psd", "b.psb", "c.zip", "folder")):
        formats.write(design(seed), root / "more" / name)
    formats.write(design(0), root / "more" / "again.psd")
    formats.write(design(9, (90, 20)), root / "more" / "small.psd")
    (root / "broken.psd").write_bytes((root / "mask.psd").read_bytes()[:9000])
    (root / "bomb.psd").write_bytes(
        b"8BPS" + bytes([0, 1, 0, 0, 0, 0, 0, 0, 0, 3]) + b"\0\0\x75\x30" * 2 + b"\0\x08\0\x03"
    )
    (root / "more" / ".hidden.psd").write_bytes(b"")
    (root / "more" / "a.json").write_text('{"caption": "A plan", "license": "CC0-1.0"}')
    (root / "table.csv").write_text("file,license,author\nmask.psd,MIT,Someone\nmore/a.psd,MIT,Someone else\n")
    return root


def made(folder: Path, out: Path, workers: int = 1, params: IntakeParams = PARAMS) -> dict[str, Any]:
    found = sources.find(folder, {"license": "BSD-3-Clause", "source": "tests"}, folder / "table.csv")
    return collect.collect(folder, found, out, params, workers=workers)


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def corpus(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus") / "out"
    made(folder, out)
    return out


def rows(out: Path) -> dict[str, dict[str, Any]]:
    lines = (out / "files.jsonl").read_text("utf-8").splitlines()
    return {row["file"]: row for row in map(json.loads, lines)}


def test_what_becomes_of_each_file(corpus: Path) -> None:
    found = {
        file: (row["status"], row["why"] if row["status"] == "dropped" else "") for file, row in rows(corpus).items()
    }
    assert found == {
        "32bit5x5.psd": ("error", ""),
        "bomb.psd": ("error", ""),
        "broken.psd": ("error", ""),
        "clipping-mask.psd": ("kept", ""),
        "hidden-groups.psd": ("kept", ""),
        "layer_params.psd": ("dropped", "effects"),
        "mask.psd": ("kept", ""),
        "more/a.psd": ("kept", ""),
        "more/again.psd": ("dropped", "similar"),
        "more/b.psb": ("kept", ""),
        "more/c.zip": ("kept", ""),
        "more/folder": ("kept", ""),
        "more/small.psd": ("dropped", "small"),
        "semi-transparent-layers.psd": ("kept", ""),
    }
    assert "30000x30000 pixels, the limit is 200,000,000" in rows(corpus)["bomb.psd"]["why"]
    assert "32 bits a channel" in rows(corpus)["32bit5x5.psd"]["why"]
    assert rows(corpus)["more/again.psd"]["like"] == "more/a.psd"
    assert rows(corpus)["more/a.psd"]["counts"] == {"hidden": 1, "groups": 1, "opacity": 1, "blend": 1}


def test_counts_add_up(corpus: Path) -> None:
    index = json.loads((corpus / "index.json").read_text())
    counts = index["counts"]
    assert counts["files"] == 14 == counts["kept"] + counts["errors"] + sum(counts["dropped"].values())
    records = Records.open(corpus)
    assert len(records) == counts["kept"] == index["records"]
    assert sum(row.layers for row in records.rows) == counts["layers"]
    assert index["made"]["rules"]["rules"] == sorted(rules.RULES)
    page = (corpus / "report.html").read_text("utf-8")
    assert all(f"left out: {why}" in page for why in ("effects", "similar", "small"))
    assert page.count("<img") >= counts["kept"]
    assert "http" not in page.replace("http-equiv", "")


def test_records_put_together_are_their_pictures_and_the_file(corpus: Path, folder: Path) -> None:
    for record in Records.open(corpus):
        np.testing.assert_array_equal(flatten(record.stack), record.picture)
        assert max(record.size) <= 128 or min(record.size) < 128
        stack = formats.read(folder / record.about["file"])
        flat = np.asarray(stack.flatten().resize(record.size), np.float32) / 255
        picture = record.picture.astype(np.float32) / 255
        assert np.abs(flat[..., :3] * flat[..., 3:] - picture[..., :3] * picture[..., 3:]).mean() * 255 < 4


def test_licence_and_caption_come_from_what_is_nearest(corpus: Path) -> None:
    about = {record.about["file"]: record for record in Records.open(corpus)}
    plan, mask, other = about["more/a.psd"], about["mask.psd"], about["more/b.psb"]
    assert (plan.caption, plan.about["license"], plan.about["author"]) == ("A plan", "CC0-1.0", "Someone else")
    assert (mask.about["license"], mask.about["author"], mask.about["source"]) == ("MIT", "Someone", "tests")
    assert other.about["license"] == "BSD-3-Clause"
    assert other.caption.startswith("A wide design of 4 layers")


def test_two_workers_make_the_same_as_one(folder: Path, corpus: Path, tmp_path: Path) -> None:
    made(folder, tmp_path, workers=2)
    assert tree(tmp_path) == tree(corpus)


def test_going_on_does_only_what_is_new(folder: Path, corpus: Path, tmp_path: Path) -> None:
    copy, out = tmp_path / "files", tmp_path / "out"
    shutil.copytree(folder, copy)
    (copy / "more" / "c.zip").rename(tmp_path / "later.zip")
    made(copy, out)
    first = {path: path.stat().st_mtime_ns for path in (out / "done").rglob("*.json")}
    (tmp_path / "later.zip").rename(copy / "more" / "c.zip")
    made(copy, out)
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert tree(out) == tree(corpus)
    shutil.rmtree(out / "shards")  # the records in them have to be made anew
    made(copy, out)
    assert tree(out) == tree(corpus)


def test_other_rules_make_other_records(folder: Path, tmp_path: Path) -> None:
    chosen = rules.without(["blend", "similar", "effects"], side=128, most=3, least=1)
    made(folder, tmp_path, params=IntakeParams(chosen))
    found = rows(tmp_path)
    assert found["more/a.psd"]["why"] == found["more/again.psd"]["why"] == "blend"
    assert found["layer_params.psd"]["status"] == "kept"
    assert {row["why"] for row in found.values() if row["status"] == "dropped"} >= {"blend", "small"}
    assert all(row["after"] <= 3 for row in found.values() if row["status"] == "kept")


COMMAND = [sys.executable, "-m", "unfuse.cli", "corpus", "psd", "--workers", "2"]


FILES = 16  # so many that a run can be stopped between the first and the last


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files, and the corpus that an undisturbed run makes of them."""
    root = tmp_path_factory.mktemp("straight")
    (root / "files").mkdir()
    for seed in range(FILES):
        formats.write(design(100 + seed, (480, 360)), root / "files" / f"{seed:02}.psd")
    subprocess.run([*COMMAND, str(root / "files"), "-o", str(root / "out")], check=True, capture_output=True)
    return root


def hears() -> None:
    """Hear Ctrl-C even where the tests run in the background of a shell, which makes its jobs deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_lost_when_a_run_is_stopped(how: signal.Signals, straight: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*COMMAND, str(straight / "files"), "-o", str(out)]
    for _ in range(5):  # on a busy machine it may be done before anybody looks: then once more
        shutil.rmtree(out, ignore_errors=True)
        run = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, preexec_fn=hears)
        while run.poll() is None and len(list((out / "done").rglob("*.json"))) < 1:
            time.sleep(0.01)
        if run.poll() is None:
            os.killpg(run.pid, how)
        run.communicate()
        if run.returncode != 0:
            break
    assert run.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 128 + signal.SIGINT)
    assert not (out / "index.json").exists()
    done = {path: path.stat().st_mtime_ns for path in (out / "done").rglob("*.json")}
    assert 1 <= len(done) < FILES
    subprocess.run(command, check=True, capture_output=True)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert tree(out) == tree(straight / "out")
    assert len(Records.open(out)) == FILES


def deadly(source: Source) -> dict[str, Any]:
    """Work that kills its own process at one file."""
    if source.file == "7":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"file": source.file, "status": "kept"}


def test_a_file_that_kills_its_worker_costs_no_other() -> None:
    found = list(collect._here(deadly, 2)([Source(str(i)) for i in range(12)]))
    assert sorted(int(row["file"]) for row in found) == list(range(12))
    assert [row["file"] for row in found if row["status"] == "error"] == ["7"]
    assert next(row["why"] for row in found if row["status"] == "error").startswith("7 killed its worker")


def test_looks_of_one_picture_are_near_and_of_others_far() -> None:
    looks = [look(flatten(design(seed)).astype(np.uint8)) for seed in range(8)]
    noisy = np.clip(flatten(design(0)).astype(int) + np.random.default_rng(0).integers(-3, 4, (120, 160, 4)), 0, 255)
    near = look(noisy.astype(np.uint8))

    def distance(a: str, b: str) -> int:
        return (int(a, 16) ^ int(b, 16)).bit_count()

    assert distance(looks[0], near) <= collect.DISTANCE
    assert min(distance(a, b) for i, a in enumerate(looks) for b in looks[:i]) > 3 * collect.DISTANCE


def test_what_cannot_be_read_is_refused_before_any_work(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="there is no such folder"):
        sources.find(tmp_path / "none", {})
    with pytest.raises(FormatError, match=r"holds no layered files: give a folder with .zip, .psd, .psb"):
        sources.find(tmp_path, {})
    (tmp_path / "t.csv").write_text("file,license\nnowhere.psd,MIT\n")
    with pytest.raises(FormatError, match=r"names 'nowhere.psd', which is not in"):
        sources.find(folder, {}, tmp_path / "t.csv")
    (tmp_path / "t.json").write_text('{"mask.psd": 3}')
    with pytest.raises(FormatError, match="cannot be read as a table"):
        sources.find(folder, {}, tmp_path / "t.json")
    shutil.copy(PSD / "mask.psd", tmp_path)
    (tmp_path / "mask.json").write_text("[]")
    with pytest.raises(FormatError, match="a sidecar is one JSON object"):
        sources.find(tmp_path, {})


def test_ray_makes_the_same_or_says_its_cure(folder: Path, corpus: Path, tmp_path: Path) -> None:
    found = sources.find(folder, {"license": "BSD-3-Clause", "source": "tests"}, folder / "table.csv")
    if importlib.util.find_spec("ray") is None:
        with pytest.raises(MissingExtra, match=r"--ray needs ray: pip install 'unfuse\[ray\]'"):
            collect.collect(folder, found, tmp_path, PARAMS, ray="local")
        return
    ray: Any = importlib.import_module("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        collect.collect(folder, found, tmp_path, PARAMS, ray="local")
    finally:
        ray.shutdown()
    assert tree(tmp_path) == tree(corpus)
