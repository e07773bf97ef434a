from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")
pytest.importorskip("torch")

from unfuse.errors import EngineError
from unfuse.model import hub

CHECKPOINT = Path(__file__).parent / "data/qwen_layered_tiny/checkpoint"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


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
