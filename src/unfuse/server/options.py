"""What `unfuse serve` can be told, checked once at the door."""

from __future__ import annotations

import hashlib
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from unfuse import engines
from unfuse.errors import UnfuseError

LOCAL = "local"  # the owner of everything on a server without tokens
SHORTEST_TOKEN = 16


class ServerError(UnfuseError):
    """The server cannot be started as it was asked to."""


@dataclass(frozen=True)
class Options:
    """Where the server listens, who may use it, where it keeps things, and how much of everything there may be."""

    host: str = "127.0.0.1"
    port: int = 8017
    tokens: tuple[str, ...] = ()
    names: tuple[str, ...] = ()  # further values of the Host header that are this server
    data: Path = Path("unfuse-data")
    engines: tuple[str, ...] = ("embedded",)
    devices: tuple[str, ...] = ("",)  # a worker each; a name is what CUDA_VISIBLE_DEVICES says in it
    benches: int = 1
    ray: bool = False  # jobs run on a cluster, on so many replicas with so many GPUs each
    replicas: int = 1
    replica_gpus: float = 0
    queue: int = 32  # jobs that wait, of all tokens
    queue_each: int = 8  # and of one
    stacks_each: int = 500
    gigabytes_each: float = 10.0
    keep_days: float = 30.0
    keep_free_megabytes: int = 500  # of the disk
    upload_megabytes: int = 64
    upload_seconds: int = 300
    megapixels: float = 50.0
    memory_megabytes: int = 6144  # of a process that decodes or edits
    decode_seconds: int = 60
    edit_seconds: int = 120
    job_seconds: int = 3600

    def __post_init__(self) -> None:
        if not self.tokens and not self.loopback:
            raise ServerError(
                f"--host {self.host} can be reached from other machines: say who may use it with --token-file FILE, "
                "--token TOKEN or UNFUSE_TOKEN; or stay on 127.0.0.1"
            )
        if short := [token for token in self.tokens if len(token) < SHORTEST_TOKEN or not token.isascii()]:
            raise ServerError(
                f"a token has {len(short[0])} characters: give at least {SHORTEST_TOKEN}, in ASCII, such as the output "
                "of: python -c 'import secrets; print(secrets.token_urlsafe())'"
            )
        if not 0 <= self.port <= 65535:
            raise ServerError(f"--port {self.port}: say 0 to 65535, 0 for any that is free")
        for name in self.engines:
            if name.partition(":")[0] not in engines.TABLE:
                raise ServerError(f"--engine {name} is unknown: say one of {', '.join(engines.TABLE)}")
        for name in (
            "benches",
            "replicas",
            "queue",
            "queue_each",
            "stacks_each",
            "gigabytes_each",
            "keep_days",
            "megapixels",
        ):
            if not getattr(self, name) > 0:
                raise ServerError(f"--{name.replace('_', '-')} {getattr(self, name)}: it must be above 0")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def max_pixels(self) -> int:
        """Of a canvas."""
        return int(self.megapixels * 1e6)

    @property
    def owners(self) -> dict[str, str]:
        """Each token's owner: what the disk and the logs know of it."""
        return {token: owner_of(token) for token in self.tokens}


def owner_of(token: str) -> str:
    """A name for a token that does not give the token away."""
    return hashlib.sha256(b"owner " + token.encode()).hexdigest()[:16]


def tokens(given: list[str], file: Path | None) -> tuple[str, ...]:
    """The tokens of --token and UNFUSE_TOKEN, and of --token-file, one a line."""
    listed = [token.strip() for token in given]
    if file is not None:
        try:
            lines = file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ServerError(f"--token-file {file} cannot be read ({error})") from error
        listed += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not listed:
            raise ServerError(f"--token-file {file} holds no token: write one a line")
    return tuple(dict.fromkeys(token for token in listed if token))


def private_folder(path: Path) -> Path:
    """The folder, made for its owner alone where it is not there."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError("it cannot be written to")
    except OSError as error:
        raise ServerError(f"--data {path} cannot be used ({error.strerror or error}): name another folder") from error
    return path.resolve()
