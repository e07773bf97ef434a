"""What can go wrong, in words a user can act on.

Every message names the value that was wrong, the values that are allowed and the cure. Commands print the message
as one line and exit with code 2; the library raises.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class UnfuseError(Exception):
    """Base of all errors that unfuse raises on purpose."""


class PictureError(UnfuseError):
    """A picture cannot be read or written: not a picture, broken, too large, unknown format."""


class StackError(UnfuseError):
    """A layer stack is inconsistent, or a layer that was asked for is not in it."""


class FormatError(UnfuseError):
    """A file format is unknown, cannot hold what it is given, or a file of it is broken."""


class EngineError(UnfuseError):
    """An engine is unknown, its weights are missing or broken, or it cannot do what it is asked."""


class MissingExtra(UnfuseError):
    """An optional dependency is not installed; the message is the pip line."""


class Cancelled(UnfuseError):
    """The work was stopped by whoever asked for it; nothing was written."""


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency, or raise `MissingExtra` with the pip line that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(f"{purpose} needs {module}: pip install 'unfuse[{extra}]'") from error


def one_of(what: str, value: str, allowed: Iterable[str]) -> str:
    """`value` if it is allowed, else a StackError that names the nearest and all that are."""
    names = tuple(allowed)
    if value not in names:
        raise StackError(f"{what} is {value!r}{nearest(value, names)}: it must be one of {', '.join(names)}")
    return value


def nearest(value: object, names: Iterable[str]) -> str:
    """What a message adds for the name that is nearest to `value`, such as " (did you mean 'x'?)"; or nothing."""
    near = difflib.get_close_matches(str(value), list(names), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
