"""A checkpoint by its hub name: downloaded once into the usual cache, and found there afterwards.

Everything is huggingface_hub's: the cache and its place (`HF_HOME`), progress, connections that break off and go on,
offline mode (`HF_HUB_OFFLINE`), private names (`HF_TOKEN`). Ours is which files are wanted, that their size and the
room for them are said first, that large files are checked by their hash when they arrive, and errors that say what to
do. A download that was stopped keeps the files that are whole; huggingface_hub drops those under way, so that few are
under way at once.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from unfuse.errors import EngineError, require

NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[\w./-]+))?")
WANTED = ["*.json", "*.safetensors", "*.txt", "*.jinja"]  # configs, weights, vocabulary, templates
AT_ONCE = 2  # files; each is up to 10 GB, and is begun anew when the program is stopped meanwhile
SHA256 = re.compile(r"[0-9a-f]{64}")


def is_name(text: str) -> bool:
    """Whether a text may be a hub name: `Owner/Name`, or `Owner/Name@revision`."""
    return NAME.fullmatch(text) is not None


def to_stderr(line: str) -> None:
    """Tell whoever waits; of several processes under torchrun, the first one tells."""
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)


def download(name: str, say: Callable[[str], None] = to_stderr) -> Path:
    """The folder of a hub name's snapshot, downloaded if it is not in the cache; `say` is told how much that is.

    Raises EngineError where that cannot be: offline and not in the cache, an unknown name or revision, no connection,
    a full disk, a file that arrived damaged.
    """
    hub = require("huggingface_hub", "qwen", f"downloading {name}")
    found = NAME.fullmatch(name)
    assert found is not None
    repo, revision = found["repo"], found["revision"]
    here = cached(hub, repo, revision)
    if hub.constants.is_offline_mode():
        if here is None:
            raise EngineError(
                f"{name} is not in the cache, or not whole, and HF_HUB_OFFLINE forbids a download: unset it once, "
                "or give the folder of a downloaded checkpoint"
            )
        return here
    errors = hub.errors
    wanted: dict[str, Any] = {"repo_id": repo, "revision": revision, "allow_patterns": WANTED, "max_workers": AT_ONCE}
    try:
        if size := coming(hub, wanted):
            say(room(name, size, Path(hub.constants.HF_HUB_CACHE)))
        folder = Path(hub.snapshot_download(**wanted))
    except errors.GatedRepoError as error:
        raise EngineError(f"{name} asks for its terms to be accepted on its page, and for HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise EngineError(f"{repo} has no revision {revision!r}: give a branch, a tag or a commit of it") from error
    except errors.RepositoryNotFoundError as error:
        raise EngineError(
            f"{name} is no folder here and not on the hub, or is private there: check it, or set HF_TOKEN"
        ) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, ValueError, OSError) as error:
        raise EngineError(
            f"{name} cannot be downloaded ({error}): see to the connection and run the same again, whole files are kept"
        ) from error
    check_hashes(blobs(folder) - (set() if here is None else blobs(here)))
    return folder


def coming(hub: ModuleType, wanted: dict[str, Any]) -> int:
    """Bytes that are not here yet; 0 where the hub cannot be asked, of which the download itself then says why."""
    try:
        listed = hub.snapshot_download(**wanted, dry_run=True, tqdm_class=partial(hub.utils.tqdm, disable=True))
    except hub.errors.DryRunError:
        return 0
    return sum(file.file_size or 0 for file in listed if file.will_download)


def room(name: str, size: int, cache: Path) -> str:
    """What a download of so many bytes needs and where it goes; EngineError where there is no room for it."""
    there = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    line = f"{name}: {size / 1e9:.1f} GB to download into {cache}, where {free / 1e9:.1f} GB are free"
    if size > free:
        raise EngineError(f"{line}: free some, or let HF_HOME name a folder on a larger disk")
    return line


def cached(hub: ModuleType, repo: str, revision: str | None) -> Path | None:
    """The folder of a whole snapshot in the cache, or None."""
    try:
        return Path(hub.snapshot_download(repo, revision=revision, allow_patterns=WANTED, local_files_only=True))
    except hub.errors.LocalEntryNotFoundError:
        return None


def blobs(folder: Path) -> set[Path]:
    """The files behind the links of a snapshot."""
    return {path.resolve() for path in folder.rglob("*") if path.is_file()}


def check_hashes(files: set[Path]) -> None:
    """Read files of the cache and take away those that are not what their name says: large ones are named by sha256."""
    for file in sorted(files):
        if SHA256.fullmatch(file.name):
            with file.open("rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
            if found != file.name:
                file.unlink()
                raise EngineError(f"{file} arrived damaged and is taken away: run the same again to download it anew")
