"""The queue and the disk: fair turns, workers that die, servers that are killed, disks that are full."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unfuse
from unfuse import recipe

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from serving import Running, picture_of, png

from unfuse.server.cluster import Replica, pack, unpack
from unfuse.server.jobs import Job, fair
from unfuse.server.shelf import Saved, load
from unfuse.server.store import DiskFull, NotFound, QuotaExceeded, Stale, Store

PICTURE = png(picture_of())
SLOW: dict[str, Any] = {"engine": "slow", "steps": 900, "layers": 2}  # 45 s


def job(owner: str, created: float) -> Job:
    return Job(f"j_{owner}{created}", owner, "decomposition", "", {}, created)


def test_turns_are_fair() -> None:
    many = [job("alice", n) for n in range(5)]
    one, two = job("bob", 10), job("carol", 11)
    order = fair([*many, one, two], {})
    assert order == [many[0], one, two, *many[1:]]
    assert fair([*many, one, two], {"bob": 5.0, "carol": 3.0, "alice": 9.0}) == [two, one, *many]
    assert fair([*many[:2], one], {"alice": 1.0}) == [one, *many[:2]]
    assert fair([], {}) == []


@pytest.fixture
def server(tmp_path: Path) -> Any:
    running = Running(tmp_path / "data", "--engine", "slow", "--queue-each", "2", "--stacks-each", "3")
    yield running
    running.stop()


def running_state(server: Running, number: str) -> Any:
    """The job's state when it is under way."""
    return next(state for state in server.events(number) if state["step"] > 1 or state["state"] in ("done", "failed"))


def test_a_full_queue_a_dying_worker_and_quotas(server: Running) -> None:
    first = server.decompose(PICTURE, **SLOW).json["id"]
    assert running_state(server, first)["state"] == "running"
    waiting = [server.decompose(PICTURE, layers=2).json for _ in range(2)]
    assert [each["place"] for each in waiting] == [0, 1]
    full = server.decompose(PICTURE)
    assert (full.status, full.error) == (429, "QueueFull")
    assert int(full.headers["retry-after"]) > 0
    assert server.ask("DELETE", f"/v1/jobs/{waiting[0]['id']}").json["state"] == "cancelled"
    assert server.get(f"/v1/jobs/{waiting[1]['id']}").json["place"] == 0
    server.ask("DELETE", f"/v1/jobs/{first}")
    assert server.finished(waiting[1]["id"])["state"] == "done"

    dead = server.finished(server.decompose(PICTURE, engine="slow", prompt="die", layers=2).json["id"])
    assert (dead["state"], dead["error"]["type"]) == ("failed", "WorkerDied")
    assert "killed, as a system does that runs out of memory" in dead["error"]["message"]
    hoard = server.finished(server.decompose(PICTURE, engine="slow", prompt="hoard", layers=2).json["id"])
    assert (hoard["state"], hoard["error"]["type"]) == ("failed", "MemoryError")
    assert "unfuse_worker_starts_total 2" in server.get("/metrics").body.decode()

    server.stack(layers=2)
    server.stack(layers=2)
    most = server.decompose(PICTURE)
    assert (most.status, most.error) == (403, "QuotaExceeded")
    gone = server.get("/v1/stacks").json[0]["id"]
    assert server.ask("DELETE", f"/v1/stacks/{gone}").status == 204
    assert server.decompose(PICTURE).status == 202


def test_a_stack_is_not_edited_while_it_is_split(server: Running) -> None:
    stack = server.stack(layers=2)
    base, layer = f"/v1/stacks/{stack['id']}", stack["layers"][0]["id"]
    split = server.post(f"{base}/layers/{layer}/split", {"engine": "slow", "steps": 900, "layers": 2}).json["id"]
    edit = {"edits": [{"op": "hide", "layer": 0}]}
    busy = server.post(f"{base}/edits", edit)
    assert (busy.status, busy.error) == (409, "Conflict")
    assert server.ask("DELETE", f"/v1/jobs/{split}").json["state"] == "cancelled"
    assert server.post(f"{base}/edits", edit).status == 200


def test_a_server_that_is_killed_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    options = ("--engine", "slow")
    server = Running(tmp_path / "data", *options)
    stack = server.stack(layers=3)
    stack = server.post(f"/v1/stacks/{stack['id']}/edits", {"edits": [{"op": "move", "layer": 1, "x": 5}]}).json
    shown = {entry["id"]: server.get(entry["url"]).body for entry in stack["layers"]}
    keyed: dict[str, Any] = {"file": ("file", "a.png", PICTURE, {"layers": 2}), "idempotency_key": "once"}
    running = server.decompose(PICTURE, **SLOW).json["id"]
    assert running_state(server, running)["state"] == "running"
    queued = server.ask("POST", "/v1/decompositions", **keyed).json["id"]
    server.kill()

    server = Running(tmp_path / "data", *options)  # the first kill: what ran is run again
    assert server.get(f"/v1/stacks/{stack['id']}").json == stack
    assert {entry["id"]: server.get(entry["url"]).body for entry in stack["layers"]} == shown
    assert server.ask("POST", "/v1/decompositions", **keyed).json["id"] == queued
    assert running_state(server, running)["state"] == "running"
    server.kill()

    server = Running(tmp_path / "data", *options)  # the second one: it has failed, and says why
    failed = server.get(f"/v1/jobs/{running}").json
    assert (failed["state"], failed["error"]["type"]) == ("failed", "ServerEnded")
    assert "the server ended 2 times" in failed["error"]["message"]
    assert server.finished(queued)["state"] == "done"
    assert server.post(f"/v1/stacks/{stack['id']}/undo").json["position"] == 0
    second = [
        sys.executable,
        "-m",
        "unfuse.cli",
        "serve",
        "--port",
        "0",
        "--data",
        str(tmp_path / "data"),
        "--no-browser",
    ]
    ended = subprocess.run(second, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, "in use by another server" in ended.stderr) == (2, True)
    server.stop()
    assert not list((tmp_path / "data" / "new").iterdir())


def test_a_full_disk_is_an_error_and_never_a_broken_project(tmp_path: Path) -> None:
    server = Running(tmp_path / "data", before="ulimit -f 260")  # kB of a file
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 4), dtype=np.uint8)
    noise[..., 3] = 255
    full = server.decompose(png(noise))
    assert (full.status, full.error) == (507, "DiskFull")
    part = server.stack(png(noise[:180, :180]), layers=1)
    base = f"/v1/stacks/{part['id']}"
    other = server.ask("POST", f"{base}/pictures", file=("file", "a.png", png(noise[180:360, :180]), {})).json[
        "picture"
    ]
    refused = server.post(f"{base}/edits", {"edits": [{"op": "replace_picture", "layer": 0, "picture": other}]})
    assert (refused.status, refused.error) == (507, "DiskFull")  # the old layer and the new one are too much
    assert server.get(base).json == part
    assert server.get(f"{base}/export/zip").status == 200
    failed = server.finished(server.decompose(png(noise[:180, :180]), layers=16).json["id"])
    assert (failed["state"], failed["error"]["type"]) == ("failed", "DiskFull")
    assert [row["id"] for row in server.get("/v1/stacks").json] == [part["id"]]
    server.stop()
    folder = tmp_path / "data" / "stacks" / part["id"]
    assert len(list(folder.glob("*.zip"))) == 1
    assert not list(folder.glob("new-*"))
    assert str(tmp_path).encode() not in refused.body


def test_room_is_kept_on_the_disk(tmp_path: Path) -> None:
    server = Running(tmp_path / "data", "--keep-free", "1000000000")
    answer = server.decompose(PICTURE)
    assert (answer.status, answer.error) == (507, "DiskFull")
    assert server.get("/readyz").status == 503
    server.stop()


# --- the store


def saved(folder: Path, text: bytes = b"zip") -> Saved:
    """A project of three bytes, as far as the store is concerned."""
    name = f"{text.hex():0>64}"
    (folder / f"{name}.zip").write_bytes(text)
    return Saved(name, len(text), {"layers": [], "width": 1, "height": 1})


def test_the_store_forgets_what_is_old_and_what_nobody_speaks_of(tmp_path: Path) -> None:
    store = Store(tmp_path, 0)
    folder = store.new_folder()
    row = store.add("alice", "one", saved(folder), folder)
    place = store.stack_folder(row.id)
    stray = store.folder / "stacks" / "s_stray"
    stray.mkdir()
    (place / "new-7.zip").write_bytes(b"half")
    changed = store.change(row, saved(place, b"other"))
    with pytest.raises(Stale):
        store.change(row, saved(place, b"third"))
    with pytest.raises(NotFound):
        store.stack("bob", row.id)
    with pytest.raises(QuotaExceeded, match="1 stacks with 0 MB are kept for you, the limits are 1 and"):
        store.check_quota("alice", 1, 1e9)
    store.check_quota("bob", 1, 1e9)
    store.close()

    store = Store(tmp_path, 0)
    assert [path.name for path in place.glob("*.zip")] == [f"{changed.project}.zip"]
    assert not stray.exists()
    assert store.stack("alice", row.id) == changed
    store.sweep(keep_days=1)
    assert [each["project"] for each in store.stacks("alice")] == [changed.project]
    store.execute("update stacks set changed = ?", (time.time() - 2 * 86400,))
    store.sweep(keep_days=1)
    assert store.stacks("alice") == []
    assert not place.exists()
    store.keep_free = 1 << 60
    with pytest.raises(DiskFull, match="nothing was changed"):
        store.check_room()
    store.close()


def add_and_fail(store: Store, folder: Path, project: Saved) -> None:
    """Add a stack, and ask for one that is not there before that is done."""
    with store.together():
        store.add("alice", "one", project, folder)
        store.stack("alice", "s_other")


def test_what_is_written_together_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path, 0)
    folder = store.new_folder()
    project = saved(folder)
    with pytest.raises(NotFound):
        add_and_fail(store, folder, project)
    assert store.stacks("alice") == []
    store.sweep()
    assert not list((tmp_path / "stacks").iterdir())
    store.close()


def test_the_cache_of_a_stack_is_trimmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unfuse.server import store as module

    monkeypatch.setattr(module, "CACHE_BYTES", 250)
    store = Store(tmp_path, 0)
    folder = store.new_folder()
    row = store.add("alice", "one", saved(folder), folder)
    cache = store.stack_folder(row.id) / "cache"
    cache.mkdir()
    for number in range(4):
        (cache / f"{number}.png").write_bytes(bytes(100))
        os.utime(cache / f"{number}.png", (number, number))
    store.trim(row.id)
    assert sorted(path.name for path in cache.iterdir()) == ["2.png", "3.png"]
    store.close()


def test_jobs_are_told_as_json(tmp_path: Path) -> None:
    told = job("alice", 1.0).told()
    assert json.loads(json.dumps(told)) == told
    assert told["state"] == "queued"


# --- a replica of a cluster, without the cluster


def replica_job(folder: Path, steps: int) -> dict[str, Any]:
    """A job, with its picture in a folder."""
    (folder / "original.png").write_bytes(PICTURE)
    options = {"engine": "fake", "layers": 3, "prompt": "", "steps": steps, "seed": 0}
    picture = {"sha256": hashlib.sha256(PICTURE).hexdigest(), "dpi": 72.0}
    return {"job": "j_1", "kind": "decomposition", "max_pixels": 10**6, "options": options, "picture": picture}


def test_a_replica_answers_with_the_files_that_it_made(tmp_path: Path) -> None:
    job = replica_job(tmp_path, steps=3)

    async def run() -> list[dict[str, Any]]:
        return [news async for news in Replica(("fake",)).run(job, pack(tmp_path))]

    news = asyncio.run(run())
    assert [each["step"] for each in news if "step" in each] == [1, 2, 3]
    result = news[-1]["result"]
    unpack(tmp_path, news[-1]["files"])
    back = load(tmp_path, result["sha256"], 10**6)
    here = unfuse.decompose(PICTURE, 3, engine="fake", steps=3)
    assert recipe.fingerprint(back) == recipe.fingerprint(here)
    assert back.provenance == here.provenance


def test_a_replica_stops_when_nobody_listens(tmp_path: Path) -> None:
    job = replica_job(tmp_path, steps=10**9)

    async def run() -> int:
        news = Replica(("fake",)).run(job, pack(tmp_path))
        steps = 0
        async for each in news:
            steps += "step" in each
            if steps == 3:
                break
        await news.aclose()  # type: ignore[attr-defined]
        return steps

    assert asyncio.run(run()) == 3
