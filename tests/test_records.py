"""Records: what goes in comes out, a stream is a fixed order, parts share nothing, batches put together again."""

from __future__ import annotations

import hashlib
import itertools
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from unfuse.composite import flatten
from unfuse.corpus import records, shards
from unfuse.corpus.records import Record, Records
from unfuse.errors import FormatError
from unfuse.layers import Box, Kind, Layer, LayerStack


def design(seed: int, size: tuple[int, int] = (60, 40), count: int = 3, opaque: bool = True) -> Record:
    """A background and some boxes of noise, translucent in part."""
    rng = np.random.default_rng(seed)
    layers = []
    for i in range(count):
        box = Box(0, 0, *size) if i == 0 else Box(5 * i, 3 * i, 5 * i + 20, 3 * i + 15)
        pixels = rng.integers(0, 256, (box.height, box.width, 4), np.uint8)
        if i == 0 and opaque:
            pixels[..., 3] = 255
        kind: Kind = "background" if i == 0 else "object"
        layers.append(Layer(f"layer {i}", kind, box, pixels))
    stack = LayerStack(size, tuple(layers))
    key = hashlib.sha256(str(seed).encode()).hexdigest()[:16]
    return Record(key, flatten(stack).astype(np.uint8), tuple(layers), f"design {seed}", {"license": "CC0-1.0"})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    sizes = [(60, 40), (40, 60), (48, 48)]
    shards.write_records(root, [design(i, sizes[i % 3], 2 + i % 4) for i in range(30)], shard_bytes=60_000)
    return root


def test_a_record_comes_back_to_the_bit() -> None:
    record = design(1, opaque=False)
    again = records.unpack(records.pack(record))
    assert records.pack(again) == records.pack(record)
    assert (again.key, again.caption, again.about) == (record.key, record.caption, record.about)
    np.testing.assert_array_equal(again.picture, record.picture)
    for one, other in zip(again.layers, record.layers, strict=True):
        assert (one.name, one.kind, one.box) == (other.name, other.kind, other.box)
        assert one.pixels is not None
        assert other.pixels is not None
        np.testing.assert_array_equal(one.pixels, other.pixels)  # colour under alpha 0 too
    np.testing.assert_array_equal(flatten(again.stack), again.picture)


def test_shards_are_plain_tars_that_hold_every_record_once(corpus: Path) -> None:
    keys: list[str] = []
    for path in sorted((corpus / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            names = tar.getnames()
        keys += [key for key, _ in itertools.groupby(name.partition(".")[0] for name in names)]
    assert len(set(keys)) == len(keys) == 30
    assert [row.key for row in Records.open(corpus).rows] == keys
    assert len(Records.open(corpus).shards) > 3


def test_any_record_is_read_by_its_place(corpus: Path) -> None:
    opened = Records.open(corpus)
    for number in (29, 0, 17):
        assert opened[number].caption == f"design {number}"
        assert (opened.rows[number].layers, opened.rows[number].size) == (
            len(opened[number].layers),
            opened[number].size,
        )


def test_the_order_follows_from_the_seed_and_stays_within_shards(corpus: Path) -> None:
    opened = Records.open(corpus)
    order = opened.order(seed=3)
    assert sorted(order) == list(range(30))
    assert list(order) == list(opened.order(seed=3))
    assert list(order) != list(opened.order(seed=4))
    assert list(order) != list(opened.order(seed=3, epoch=1))
    visited = [shard for shard, _ in itertools.groupby(opened.rows[number].shard for number in order)]
    assert len(visited) == len(set(visited)) == len(opened.shards)


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_parts_hold_every_record_once(corpus: Path, parts: int) -> None:
    opened = Records.open(corpus)
    found = [[record.key for record in opened.stream(1, 2, part, parts)] for part in range(parts)]
    assert sorted(itertools.chain(*found)) == sorted(row.key for row in opened.rows)
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_splits_share_nothing(corpus: Path) -> None:
    train, valid = (Records.open(corpus, split) for split in ("train", "valid"))
    assert not {row.key for row in train.rows} & {row.key for row in valid.rows}
    assert len(train) + len(valid) == 30
    assert len(valid) < len(train)
    keys = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(4000)]
    held = records.held_out(keys)
    assert 150 < len(held) < 250
    assert held > records.held_out(keys[:3000])
    assert [len(records.held_out(keys[:count])) for count in (0, 1, 2)] == [0, 0, 1]


@pytest.mark.parametrize("opaque", [True, False])
def test_a_batch_put_together_is_its_picture(tmp_path: Path, opaque: bool) -> None:
    shards.write_records(tmp_path, [design(i, (60, 40), 2 + i, opaque) for i in range(4)])
    arrays = records.batch(tmp_path, "train", seed=1, step=5, count=4, side=64)
    picture, slots, counts = arrays["picture"], arrays["slots"], arrays["counts"]
    assert picture.shape == (4, 48, 80, 3)
    for i in range(4):
        assert not slots[i, counts[i] :].any()
        assert slots[i, : counts[i]].any((1, 2, 3)).all()
        whole: NDArray[np.float32] = records.flattened(slots[i].astype(np.float32) / 255)
        assert np.abs(whole * 255 - picture[i]).max() <= 0.51
    again = records.batch(tmp_path, "train", seed=1, step=5, count=4, side=64)
    assert all(np.array_equal(again[name], arrays[name]) for name in arrays)
    assert not np.array_equal(records.batch(tmp_path, "train", 1, 6, 4, 64)["slots"][..., 0], slots[..., 0])


def test_batches_leave_out_what_has_too_many_layers(corpus: Path) -> None:
    for step in range(5):
        assert records.batch(corpus, "all", 0, step, 3, 32, most=3)["counts"].max() <= 3
    with pytest.raises(FormatError, match="more than 1 layers: build it with --max-layers 1"):
        records.batch(corpus, "all", 0, 0, 3, 32, most=1)


def test_writing_again_writes_nothing_new_and_takes_away_what_is_gone(tmp_path: Path) -> None:
    designs = [design(i) for i in range(6)]
    shards.write_records(tmp_path, designs, shard_bytes=40_000)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("records-*")}
    shards.write_records(tmp_path, designs, shard_bytes=40_000)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("records-*")} == before
    shards.write_records(tmp_path, designs[:2], shard_bytes=40_000)
    assert [record.caption for record in Records.open(tmp_path)] == ["design 0", "design 1"]
    assert len(list(tmp_path.rglob("records-*.tar"))) == len(Records.open(tmp_path).shards)


def test_what_is_no_corpus_is_refused(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(FormatError, match=r"is not a corpus .*make one with 'unfuse corpus psd"):
        Records.open(tmp_path)
    with pytest.raises(FormatError, match="split 'test' is unknown: say one of train, valid, all"):
        Records.open(corpus, "test")
    with pytest.raises(FormatError, match="part 2 of 2 does not exist"):
        Records.open(corpus).stream(part=2, parts=2)
    with pytest.raises(FormatError, match="a record is broken"):
        records.unpack(b"\0" * 2048)
