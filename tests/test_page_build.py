"""The page in the package is what its sources give: checked by hashes, so that nobody needs Node."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
WEB, PAGE = ROOT / "web", ROOT / "src" / "unfuse" / "server" / "page"
TOPS = ("index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts")


def files(folder: Path, below: str = ".") -> list[str]:
    return [path.relative_to(folder).as_posix() for path in (folder / below).rglob("*") if path.is_file()]


def digest(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 over files by name, as `web/vite.config.ts` writes it."""
    whole = hashlib.sha256()
    for name in sorted(names):
        data = (folder / name).read_bytes()
        whole.update(f"{name}\0{len(data)}\0".encode() + data)
    return whole.hexdigest()


def test_the_page_is_built_from_these_sources() -> None:
    said = json.loads((PAGE / "build.json").read_text())
    assert said["sources"] == digest(WEB, [*TOPS, *files(WEB, "src")]), "web/ was changed: run make page"
    assert said["built"] == digest(PAGE, set(files(PAGE)) - {"build.json"}), "the build was changed: run make page"


def test_the_page_is_light() -> None:
    names = set(files(PAGE)) - {"build.json"}
    assert sum(len(gzip.compress((PAGE / name).read_bytes())) for name in names) < 150_000


def test_the_page_loads_nothing_from_elsewhere() -> None:
    html = (PAGE / "index.html").read_text("utf-8")
    assert all(link.startswith("./assets/") for link in re.findall(r'(?:src|href)="([^"]+)"', html))
    assert not re.findall(r"<script>|<style|style=", html)  # the server's policy allows none
    for name in files(PAGE):
        text = (PAGE / name).read_text("utf-8")
        assert not re.findall(r"(?:fetch|import|src|url)\s*[(=]\s*[\"'`]?https?://[^\"'`)]+", text), name


def test_sources_stay_small() -> None:
    for name in files(WEB, "src"):
        assert len((WEB / name).read_text("utf-8").splitlines()) <= 300, name
