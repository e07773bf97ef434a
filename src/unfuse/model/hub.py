"""A checkpoint by its hub name: downloaded once into the usual cache, and found there afterwards.

Everything is huggingface_hub's: the cache and its place (`HF_HOME`), downloads that go on where they stopped, progress,
offline mode (`HF_HUB_OFFLINE`), private names (`HF_TOKEN`). Ours is which files are wanted, that large files are
checked by their hash when they arrive, and errors that say what to do.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from types import ModuleType

from unfuse.errors import EngineError, require

NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[\w./-]+))?")
WANTED = ["*.json", "*.safetensors", "*.txt", "*.jinja"]  # configs, weights, vocabulary, templates
SHA256 = re.compile(r"[0-9a-f]{64}")


def is_name(text: str) -> bool:
    """Whether a text may be a hub name: `Owner/Name`, or `Owner/Name@revision`."""
    return NAME.fullmatch(text) is not None


def download(name: str) -> Path:
    """The folder of a hub name's snapshot, downloaded if it is not in the cache.

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
    try:
        folder = Path(hub.snapshot_download(repo, revision=revision, allow_patterns=WANTED))
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
            f"{name} cannot be downloaded ({error}): run the same again, it goes on where it was"
        ) from error
    check_hashes(blobs(folder) - (set() if here is None else blobs(here)))
    return folder


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
