"""Which database the platform lives in: the setting, and what a move wrote down.

Read by control at its start and by `godwit control move-database`; the rows themselves are carried
by `godwit.store.moving`. A URL may hold a password: whatever is shown is what `place` says of it.
"""

import contextlib
import os
import re
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from godwit.base import errors, private_files

SQLITE = "sqlite"
"""Stands for the SQLite file in the data directory, where a URL is expected."""
_FORM = (
    "it reads postgresql://USER:PASSWORD@HOST:PORT/DATABASE; / : @ ? # % in a password are written"
    " %2F %3A %40 %3F %23 %25"
)
# Narrow: a password with a character that ends it early must not pass for a host or a name.
_NAME = re.compile(r"[^/@:?#]+")
_HOST = r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%a-z]+\])(?::[0-9]+)?"
_HOSTS = re.compile(rf"/[^@:?#]*|{_HOST}(?:,{_HOST})*")
_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    v: int = 1


class Residence(_Record):
    """`database.json`: where a move by command carried the platform.

    Attributes:
        url: A URL, or `sqlite`.
        moved_from: The place it was carried from.
    """

    url: str
    moved_from: str


class Request(_Record):
    """`move.json`: a move that is wanted, or was cut off on its way.

    Attributes:
        id: A ULID: tells what this move left in a database from what others did.
    """

    id: str
    to: str


class Outcome(_Record):
    """`moved.json`: how the last move ended.

    Attributes:
        id: The request's.
        moved: Whether the platform lives in the new database now.
        place: Where that is.
        sentence: Why not, when it does not.
        rows: How many rows of each table were carried.
    """

    id: str
    moved: bool
    place: str = ""
    sentence: str = ""
    hint: str = ""
    rows: dict[str, int] = {}


R = TypeVar("R", bound=_Record)


class Files:
    """Where control keeps its database, and what is said about it."""

    def __init__(self, directory: Path) -> None:
        self.database = directory / "control.db"
        self.residence = directory / "database.json"
        self.request = directory / "move.json"
        self.outcome = directory / "moved.json"


def is_url(text: str) -> bool:
    """Tell whether this names a PostgreSQL database."""
    return text.partition("://")[0] in _SCHEMES and "://" in text


def place(url: str) -> str:
    """Return what a database may be called wherever people read; never its password or user.

    Raises:
        Failure: `invalid_argument` for what names no database.
    """
    if url == SQLITE:
        return "SQLite in the data directory"
    if not is_url(url):
        raise errors.invalid(
            "the database is neither `sqlite` nor a postgresql:// URL", hint=_FORM
        )
    try:
        # The scheme's own rules do not matter, those of every URL do.
        parts = urlsplit("scheme:" + url.partition(":")[2])
        asked = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    except ValueError:
        raise _malformed() from None
    at = parts.netloc.rpartition("@")[2] or asked.get("host", "localhost")
    name = unquote(parts.path.removeprefix("/")) or asked.get("dbname", "")
    if parts.fragment or not _NAME.fullmatch(name) or not _HOSTS.fullmatch(at):
        raise _malformed()
    port = asked.get("port", "5432")
    alone = at.startswith("/") or "," in at or ":" in at.rpartition("]")[2]
    return f"PostgreSQL database {name} at {at if alone else f'{at}:{port}'}"


def _malformed() -> errors.Failure:
    return errors.invalid("the database's URL is malformed", hint=_FORM)


def choose(files: Files, setting: str) -> str:
    """Return the URL of the platform's database, or `sqlite`.

    What a move wrote down goes before the setting, as long as the setting is empty, names the
    same database, or still names the one that the platform was carried from.

    Raises:
        Failure: `failed_precondition` when the setting names another one.
    """
    moved = read(files.residence, Residence)
    if moved is None:
        return setting or SQLITE
    here = place(moved.url)
    if setting and place(setting) == here:
        # With the setting's user and password: that is where people change them.
        return setting
    if setting and place(setting) != moved.moved_from:
        raise errors.Failure(
            "failed_precondition",
            f"the platform was moved to {here}, but control.database names {place(setting)}",
            hint="take control.database back, or move with `godwit control move-database`",
        )
    return moved.url


def read(path: Path, kind: type[R]) -> R | None:
    """Return what a file says; `None` without the file.

    Raises:
        Failure: `failed_precondition` when it cannot be understood.
    """
    try:
        return kind.model_validate_json(path.read_text())
    except FileNotFoundError:
        return None
    except ValidationError:
        # Without its cause, which repeats what is in the file.
        raise errors.Failure(
            "failed_precondition", f"{path} is not what this release writes"
        ) from None


def write(path: Path, record: _Record) -> None:
    """Write a file for its owner alone, whole or not at all, and have it on the disk."""
    private_files.write(path, record.model_dump_json(indent=2))
    _sync(path.parent)


def remove(path: Path) -> None:
    """Remove a file, if it is there, for good."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        _sync(path.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
