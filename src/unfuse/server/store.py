"""The disk: stacks and jobs in SQLite, their files in folders of their own.

A row is written when its files are on the disk, and files are removed when no row speaks of them any more: whenever the
server ends, what the database says is there. Every question is asked for an owner, and another owner's stack is as
unknown as one that never was.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from unfuse.errors import UnfuseError
from unfuse.server import shelf
from unfuse.server.child import NO_ROOM
from unfuse.server.options import ServerError

SCHEMA = """
create table if not exists stacks (
    id text primary key, owner text not null, name text not null, version integer not null, project text not null,
    size integer not null, about text not null, created real not null, changed real not null
);
create index if not exists stacks_of on stacks (owner, changed);
create table if not exists jobs (
    id text primary key, owner text not null, kind text not null, state text not null, stack text, name text not null,
    request text not null, error text, key text, fingerprint text, created real not null, finished real
);
create unique index if not exists jobs_by_key on jobs (owner, key) where key is not null;
create table if not exists pictures (
    stack text not null references stacks (id) on delete cascade, name text not null, size integer not null,
    primary key (stack, name)
);
"""
DONE = ("done", "failed", "cancelled")
CACHE_BYTES = 256 << 20  # pictures and exports kept of one stack


class NotFound(UnfuseError):
    """There is nothing of that name, for whoever asks."""


class Stale(UnfuseError):
    """A stack is not, or no longer, what the request was made for."""


class DiskFull(UnfuseError):
    """There is no room for more; nothing was changed."""


class QuotaExceeded(UnfuseError):
    """A token has as much as it may have."""


@dataclass(frozen=True)
class Row:
    """A stack as the database has it."""

    id: str
    owner: str
    name: str
    version: int
    project: str
    size: int
    about: dict[str, Any]
    created: float
    changed: float


class Store:
    """All that is kept, under one folder."""

    def __init__(self, folder: Path, keep_free: int) -> None:
        self.folder, self.keep_free = folder, keep_free
        self.lock = alone(folder)
        for name in ("stacks", "jobs"):
            (folder / name).mkdir(exist_ok=True, mode=0o700)
        shutil.rmtree(folder / "new", ignore_errors=True)
        (folder / "new").mkdir(mode=0o700)
        self.db = sqlite3.connect(folder / "unfuse.db", isolation_level=None, check_same_thread=False)
        self.db.row_factory = sqlite3.Row
        for line in ("journal_mode = wal", "synchronous = full", "foreign_keys = on"):
            self.db.execute(f"pragma {line}")
        self.db.executescript(SCHEMA)
        self.sweep()

    # --- stacks

    def add(self, owner: str, name: str, saved: shelf.Saved, source: Path) -> Row:
        """Take a new stack in: `source` is the folder that holds its project, which becomes the stack's."""
        number, now = f"s_{secrets.token_hex(10)}", time.time()
        target = self.stack_folder(number)
        os.rename(source, target)
        shelf.sync(target.parent)
        row = (number, owner, name, 1, saved.sha256, saved.size, json.dumps(saved.about), now, now)
        self.execute("insert into stacks values (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        return self.stack(owner, number)

    def change(self, row: Row, saved: shelf.Saved) -> Row:
        """Put another project in a stack's place; its file is in the stack's folder already."""
        told = (saved.sha256, saved.size, json.dumps(saved.about), time.time(), row.id, row.version)
        changed = self.execute(
            "update stacks set project = ?, size = ?, about = ?, changed = ?, version = version + 1 "
            "where id = ? and version = ?",
            told,
        )
        if not changed:
            raise Stale(f"stack {row.id} was changed at the same time: get it again")
        if saved.sha256 != row.project:
            (self.stack_folder(row.id) / f"{row.project}.zip").unlink(missing_ok=True)
        return self.stack(row.owner, row.id)

    def stack(self, owner: str, number: str) -> Row:
        """A stack of an owner. Raises NotFound."""
        found = self.db.execute("select * from stacks where id = ? and owner = ?", (number, owner)).fetchone()
        if found is None:
            raise NotFound(f"there is no stack {number!r}")
        return _row(found)

    def stacks(self, owner: str) -> list[dict[str, Any]]:
        """All stacks of an owner in short, the last changed first."""
        inside = ", ".join(
            f"coalesce(json_extract(about, '$.{name}'), 0) as {name}" for name in ("width", "height", "count")
        )
        query = f"select id, name, version, project, created, changed, {inside} from stacks where owner = ?"
        return [dict(found) for found in self.db.execute(f"{query} order by changed desc, id", (owner,))]

    def remove(self, row: Row) -> None:
        """Forget a stack, then its files."""
        self.execute("delete from stacks where id = ?", (row.id,))
        shutil.rmtree(self.stack_folder(row.id), ignore_errors=True)

    def stack_folder(self, number: str) -> Path:
        """Where a stack's files are. The number is one that we made."""
        return self.folder / "stacks" / number

    def job_folder(self, number: str) -> Path:
        """Where a job's files are."""
        return self.folder / "jobs" / number

    def new_folder(self) -> Path:
        """A folder for what is not in the database yet; it goes when the server starts again."""
        place = self.folder / "new" / secrets.token_hex(10)
        place.mkdir(mode=0o700)
        return place

    def add_picture(self, row: Row, name: str, size: int) -> None:
        """Remember a picture that recipes of a stack may name."""
        self.execute("insert or ignore into pictures values (?, ?, ?)", (row.id, name, size))

    def pictures(self, row: Row) -> set[str]:
        """The pictures that recipes of a stack may name."""
        return {name for (name,) in self.db.execute("select name from pictures where stack = ?", (row.id,))}

    # --- jobs

    def add_job(self, job: dict[str, Any]) -> None:
        """Write a new job down."""
        names = ("id", "owner", "kind", "state", "stack", "name", "request", "key", "fingerprint", "created")
        marks = ", ".join("?" * len(names))
        values = [json.dumps(job[name]) if name == "request" else job[name] for name in names]
        self.execute(f"insert into jobs ({', '.join(names)}) values ({marks})", values)

    def job_state(self, number: str, **changes: Any) -> None:
        """Write down what became of a job."""
        pairs = {name: json.dumps(value) if name == "error" else value for name, value in changes.items()}
        self.execute(
            f"update jobs set {', '.join(f'{name} = ?' for name in pairs)} where id = ?", (*pairs.values(), number)
        )

    def jobs(self, unfinished: bool = False) -> list[dict[str, Any]]:
        """All jobs, or those that were not finished, the oldest first."""
        where = "where state in ('queued', 'running')" if unfinished else ""
        rows = self.db.execute(f"select * from jobs {where} order by created").fetchall()
        return [
            dict(row)
            | {"request": json.loads(row["request"]), "error": json.loads(row["error"]) if row["error"] else None}
            for row in rows
        ]

    def job(self, owner: str, number: str) -> dict[str, Any]:
        """A job of an owner. Raises NotFound."""
        found = self.db.execute("select * from jobs where id = ? and owner = ?", (number, owner)).fetchone()
        if found is None:
            raise NotFound(f"there is no job {number!r}")
        error = json.loads(found["error"]) if found["error"] else None
        return dict(found) | {"request": json.loads(found["request"]), "error": error}

    def job_by_key(self, owner: str, key: str) -> dict[str, Any] | None:
        """The job that was made with an idempotency key."""
        found = self.db.execute("select id from jobs where owner = ? and key = ?", (owner, key)).fetchone()
        return self.job(owner, found["id"]) if found else None

    def remove_job(self, number: str) -> None:
        """Forget a job, then its files."""
        self.execute("delete from jobs where id = ?", (number,))
        shutil.rmtree(self.job_folder(number), ignore_errors=True)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write all of it, or nothing."""
        self.execute("begin immediate")
        try:
            yield
            self.execute("commit")
        except BaseException:
            self.db.rollback()
            raise

    # --- room

    def check_room(self) -> None:
        """Raise DiskFull where the disk has less left than is to be kept free."""
        if (free := shutil.disk_usage(self.folder).free) < self.keep_free:
            raise DiskFull(
                f"the server's disk has {free >> 20} MB left and keeps {self.keep_free >> 20} MB free: "
                "nothing was changed; delete stacks, or give it room"
            )

    def check_quota(self, owner: str, most: int, most_bytes: float) -> None:
        """Raise QuotaExceeded where an owner has as many stacks, or as many bytes, as there may be."""
        query = "select count(*), coalesce(sum(size), 0) from stacks where owner = ?"
        count, size = self.db.execute(query, (owner,)).fetchone()
        query = "select coalesce(sum(p.size), 0) from pictures p join stacks s on s.id = p.stack where s.owner = ?"
        size += self.db.execute(query, (owner,)).fetchone()[0]
        if count >= most or size >= most_bytes:
            raise QuotaExceeded(
                f"{count} stacks with {size / 1e6:.0f} MB are kept for you, the limits are {most} and "
                f"{most_bytes / 1e6:.0f} MB: delete some"
            )

    def sweep(self, keep_days: float | None = None) -> None:
        """Remove what is older than it is kept, and files that no row speaks of."""
        if keep_days is not None:
            before = time.time() - keep_days * 86400
            self.execute("delete from stacks where changed < ?", (before,))
            self.execute("delete from jobs where finished < ?", (before,))
        for table in ("stacks", "jobs"):
            known = {number for (number,) in self.db.execute(f"select id from {table}")}
            for path in (self.folder / table).iterdir():
                if path.name not in known:
                    shutil.rmtree(path, ignore_errors=True)
        for number, project in self.db.execute("select id, project from stacks").fetchall():
            for path in self.stack_folder(number).glob("*.zip"):
                if path.name != f"{project}.zip":
                    path.unlink(missing_ok=True)
            self.trim(number)

    def trim(self, number: str) -> None:
        """Remove the pictures and exports of a stack that were asked for longest ago."""
        files = [(path.stat(), path) for path in (self.stack_folder(number) / "cache").glob("*.*")]
        total = sum(stat.st_size for stat, _ in files)
        for stat, path in sorted(files, key=lambda pair: pair[0].st_mtime):
            if total <= CACHE_BYTES:
                break
            path.unlink(missing_ok=True)
            total -= stat.st_size

    def counts(self) -> dict[str, int]:
        """How many stacks there are, and bytes of them."""
        count, size = self.db.execute("select count(*), coalesce(sum(size), 0) from stacks").fetchone()
        return {"stacks": count, "bytes": size}

    def execute(self, query: str, values: Any = ()) -> int:
        """Change the database; how many rows it changed. A full disk is an error in words."""
        try:
            return self.db.execute(query, values).rowcount
        except sqlite3.OperationalError as error:
            if "full" in str(error) or "disk I/O" in str(error):
                raise DiskFull(NO_ROOM) from error
            raise

    def close(self) -> None:
        """Write everything to the main file."""
        self.db.close()
        self.lock.close()


def alone(folder: Path) -> IO[str]:
    """A file that is ours while we run. Raises ServerError where another server works in the folder."""
    lock = (folder / "lock").open("w")
    try:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # a system without such locks
        pass
    except OSError as error:
        lock.close()
        raise ServerError(f"--data {folder} is in use by another server: name another folder") from error
    return lock


def _row(found: sqlite3.Row) -> Row:
    return Row(**{**dict(found), "about": json.loads(found["about"])})
