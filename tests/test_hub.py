from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hub_server import COMMIT, REPO, Hub, serving

pytest.importorskip("huggingface_hub")
pytest.importorskip("torch")

from unfuse.errors import EngineError
from unfuse.model import hub

CHECKPOINT = Path(__file__).parent / "data/qwen_layered_tiny/checkpoint"
SHARD = "transformer/diffusion_pytorch_model-00002-of-00003.safetensors"


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("Qwen/Qwen-Image-Layered", True),
        ("Qwen/Qwen-Image-Layered@refs/pr/1", True),
        ("checkpoint", False),
        ("./a/b", False),
        ("../b", False),
        ("~/b", False),
        ("/a/b", False),
        ("a/b/c", False),
        ("", False),
    ],
)
def test_names(text: str, is_one: bool) -> None:
    assert hub.is_name(text) is is_one


def prepare(home: Path) -> Path:
    """The cache as a finished download of Owner/Layered leaves it: files under their hashes, links to them."""
    repo = home / "hub/models--Owner--Layered"
    snapshot = repo / "snapshots" / COMMIT
    (repo / "blobs").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(COMMIT)
    for file in (path for path in CHECKPOINT.rglob("*") if path.is_file()):
        blob = repo / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blob)
        link = snapshot / file.relative_to(CHECKPOINT)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return snapshot


def offline(home: Path, *names: str) -> str:
    """What a fresh process without the network says of engines of these names: a folder or an error each."""
    code = "import sys; from unfuse.engines import load; from unfuse.errors import EngineError\n"
    code += "for name in sys.argv[1:]:\n try: print(load(name).folder)\n except EngineError as error: print(error)"
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code, *names], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_offline_the_cache_is_used_or_the_cure_is_said(tmp_path: Path) -> None:
    snapshot = prepare(tmp_path)
    names = ("Owner/Layered", "Owner/Layered@main", f"Owner/Layered@{COMMIT}", "Owner/Layered@v2", "Owner/Nothing")
    *found, other, nothing = offline(tmp_path, *(f"qwen:{name}" for name in names)).splitlines()
    assert found == [str(snapshot)] * 3
    assert other.startswith("Owner/Layered@v2 is not in the cache, or not whole, and HF_HUB_OFFLINE forbids")
    assert nothing.startswith("Owner/Nothing is not in the cache")


def test_a_damaged_file_is_taken_away(tmp_path: Path) -> None:
    good, damaged, small = (tmp_path / name for name in (hashlib.sha256(b"good").hexdigest(), "a" * 64, "b" * 40))
    for file in (good, damaged, small):
        file.write_bytes(b"good")
    hub.check_hashes({good, small})
    with pytest.raises(EngineError, match="arrived damaged"):
        hub.check_hashes({good, damaged, small})
    assert sorted(tmp_path.iterdir()) == sorted([good, small])


# --- a hub on this machine


def download(server: Hub, home: Path, name: str = REPO) -> tuple[Path | None, str]:
    """What a fresh process downloads from it: the folder, or None; and what is said."""
    code = "import sys; from unfuse.model import hub; from unfuse.errors import EngineError\n"
    code += "try: print(hub.download(sys.argv[1]))\nexcept EngineError as error: sys.exit(str(error))"
    here = {"HF_HOME": str(home), "HF_ENDPOINT": server.address, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    environment = {**os.environ, **here, "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-c", code, name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", check=False)
    return (None if done.returncode else Path(done.stdout.strip())), done.stderr


def same(folder: Path | None) -> bool:
    """Whether a folder holds the checkpoint, all that is wanted of it."""
    assert folder is not None
    files = {path.relative_to(CHECKPOINT) for path in CHECKPOINT.rglob("*") if path.is_file()}
    return all((folder / file).read_bytes() == (CHECKPOINT / file).read_bytes() for file in files)


def test_a_download_says_its_size_and_is_there_the_next_time(tmp_path: Path) -> None:
    with serving(CHECKPOINT) as server:
        folder, said = download(server, tmp_path)
        assert same(folder)
        size = sum(map(len, server.content.values()))
        assert f"{REPO}: {size / 1e9:.1f} GB to download into {tmp_path / 'hub'}, where" in said
        assert "Fetching" in said  # progress
        assert set(server.asked.values()) == {1}
        folder, said = download(server, tmp_path)
        assert same(folder)
        assert "to download" not in said
        assert set(server.asked.values()) == {1}


def test_a_connection_that_breaks_off_goes_on_in_the_middle(tmp_path: Path) -> None:
    with serving(CHECKPOINT) as server:
        large = "transformer/large.safetensors"  # the client writes pieces of 10 MB
        server.content[large] = np.random.default_rng(0).bytes(24_000_000)
        server.faults[large] = "cut"
        folder, _ = download(server, tmp_path)
        assert folder is not None
        assert (folder / large).read_bytes() == server.content[large]
        assert server.asked[large] == 2
        assert server.ranges[large] > 0


def test_a_download_that_ends_early_keeps_the_files_that_are_whole(tmp_path: Path) -> None:
    with serving(CHECKPOINT) as server:
        server.faults[SHARD] = "gone"
        folder, said = download(server, tmp_path)
        assert folder is None
        assert "run the same again, whole files are kept" in said
        before = server.asked.copy()
        server.faults.clear()
        assert same(download(server, tmp_path)[0])
        assert server.asked[SHARD] == before[SHARD] + 1
        assert {name for name in server.content if before[name] and server.asked[name] > before[name]} == {SHARD}


@pytest.mark.skipif(sys.platform == "win32", reason="links, which say the hashes, need a privilege there")
def test_a_file_that_arrives_damaged_is_taken_away_and_comes_anew(tmp_path: Path) -> None:
    with serving(CHECKPOINT) as server:
        server.faults[SHARD] = "damaged"
        folder, said = download(server, tmp_path)
        assert folder is None
        assert "arrived damaged and is taken away: run the same again" in said
        assert same(download(server, tmp_path)[0])
        assert server.asked[SHARD] == 2


def test_what_the_hub_does_not_have_is_told(tmp_path: Path) -> None:
    with serving(CHECKPOINT) as server:
        folder, said = download(server, tmp_path, f"{REPO}@v2")
        assert folder is None
        assert f"{REPO} has no revision 'v2': give a branch, a tag or a commit" in said
        folder, said = download(server, tmp_path, "Owner/Nothing")
        assert folder is None
        assert "Owner/Nothing is no folder here and not on the hub, or is private there" in said


def test_room_is_asked_for_first(tmp_path: Path) -> None:
    assert hub.room("a/b", 10**9, tmp_path / "not/yet").startswith("a/b: 1.0 GB to download into ")
    with pytest.raises(EngineError, match="GB are free: free some, or let HF_HOME name a folder on a larger disk"):
        hub.room("a/b", 10**18, tmp_path)
