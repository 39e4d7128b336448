"""What flags change in a config for one deploy, and the values flags have."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from godwit.appconfig import files
from godwit.base import durations, errors

Document = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """The `--vm-…` flags; `None` for those that were not given."""

    size: str | None = None
    cpus: int | None = None
    cpu_kind: str | None = None
    memory: str | None = None

    def given(self) -> dict[str, Any]:
        """Return the flags that were given, as keys of `[[vm]]`."""
        values = {
            "size": self.size,
            "cpus": self.cpus,
            "cpu_kind": self.cpu_kind,
            "memory": self.memory,
        }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Overrides:
    """What a deploy changes in its config.

    Attributes:
        files: Sections of `[[files]]`; each takes the place of those with its guest path.
    """

    app: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    primary_region: str | None = None
    size: Size = field(default_factory=Size)
    files: list[Document] = field(default_factory=list)
    host_dedication_id: str | None = None


def apply(loaded: files.Loaded, changes: Overrides) -> files.Loaded:
    """Return the config with the changes in it, checked again.

    Raises:
        Failure: The file or what came of it has mistakes.
    """
    loaded.checked()
    document = dict(loaded.document)
    if changes.app:
        document["app"] = changes.app
    if changes.env:
        document["env"] = {**document.get("env", {}), **changes.env}
    if changes.primary_region:
        document["primary_region"] = changes.primary_region
    if changes.host_dedication_id:
        document["host_dedication_id"] = changes.host_dedication_id
    if changes.files:
        replaced = {one["guest_path"] for one in changes.files}
        kept = [one for one in document.get("files", []) if one.get("guest_path") not in replaced]
        document["files"] = [*kept, *changes.files]
    given = changes.size.given()
    if given:
        sections = document.get("vm") or [{}]
        document["vm"] = [{**_without_memory(one, given), **given} for one in sections]
    text = loaded.path.read_text(encoding="utf-8") if loaded.path.is_file() else ""
    changed = files.understand(loaded.path, document, text)
    changed.checked()
    return changed


def _without_memory(section: Document, given: Document) -> Document:
    """Return a `[[vm]]` whose memory does not outlive the size it went with."""
    dropped = {"memory", "memory_mb"} if {"size", "memory"} & given.keys() else set()
    return {key: value for key, value in section.items() if key not in dropped}


def pairs(given: Sequence[str] | None, flag: str) -> dict[str, str]:
    """Return `NAME=VALUE` arguments as a map.

    Raises:
        Failure: One has no `=` or no name.
    """
    found = {}
    for one in given or ():
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise errors.invalid(f'{flag} {one}: expected NAME=VALUE, got "{one}"')
        found[name] = value
    return found


def guest_files(
    directory: Path,
    local: Sequence[str] | None,
    literal: Sequence[str] | None,
    secret: Sequence[str] | None,
) -> list[Document]:
    """Return what the `--file-…` flags say, as sections of `[[files]]`.

    Raises:
        Failure: One has no `=` or no path.
    """
    return [
        *(
            {"guest_path": path, "local_path": str(directory / Path(value).expanduser())}
            for path, value in pairs(local, "--file-local").items()
        ),
        *(
            {"guest_path": path, "raw_value": base64.b64encode(value.encode()).decode()}
            for path, value in pairs(literal, "--file-literal").items()
        ),
        *(
            {"guest_path": path, "secret_name": value}
            for path, value in pairs(secret, "--file-secret").items()
        ),
    ]


def with_content(sections: Sequence[Document]) -> list[Document]:
    """Return sections that `guest_files` made as the `files` of one machine's config.

    Raises:
        Failure: A file cannot be read.
    """
    made = []
    for one in sections:
        local = one.get("local_path")
        if local is None:
            made.append(one)
            continue
        try:
            content = Path(local).read_bytes()
        except OSError as error:
            raise errors.invalid(f"--file-local: cannot read {local}: {error.strerror}") from error
        encoded = base64.b64encode(content).decode()
        made.append({"guest_path": one["guest_path"], "raw_value": encoded})
    return made


def seconds(text: str, flag: str) -> float:
    """Return a Go duration, or a bare number of seconds, in seconds.

    Raises:
        Failure: It is neither.
    """
    try:
        return float(text) if text.isdecimal() else durations.seconds(durations.parse(text))
    except ValueError as error:
        raise errors.invalid(f"{flag}: {error}") from error


def without_file(directory: Path, app: str, definition: Document | None) -> files.Loaded:
    """Return a config for an app that has no file here: its last release's, or an empty one."""
    return files.understand(directory / files.NAMES[0], {**(definition or {}), "app": app})
