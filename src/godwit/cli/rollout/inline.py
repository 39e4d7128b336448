"""What a config names beside itself put into it: the platform never sees the user's disk.

`[[files]]` with a `local_path` get its content, `machine_config` with the name of a file the JSON
in it. Called before a config is sent.
"""

import base64
from pathlib import Path
from typing import Any

from godwit.appconfig import files, raw
from godwit.base import errors

MOST_BYTES = 256 << 10
"""Of all files of a config together: a release keeps them, and every machine's config has them."""

Document = dict[str, Any]


def definition(loaded: files.Loaded) -> Document:
    """Return what a checked config says, complete in itself.

    Raises:
        Failure: A file it names cannot be read, or they are too large.
    """
    document = dict(loaded.document)
    reader = _Reader(loaded)
    if document.get("files"):
        document["files"] = [
            reader.file(index, dict(one)) for index, one in enumerate(document["files"])
        ]
    for path in (("machine_config",), ("experimental", "machine_config")):
        _put_machine_config(document, path, reader)
    return document


class _Reader:
    """Reads the files of one config, and counts."""

    def __init__(self, loaded: files.Loaded) -> None:
        self._name = loaded.name
        self._beside = loaded.path.parent
        self._bytes = 0

    def file(self, index: int, section: Document) -> Document:
        """Return a section of `[[files]]` with its content in it."""
        local = section.pop("local_path", None)
        if not local:
            return section
        section.pop("secret_name", None)
        content = self.read(local, f"files[{index}].local_path")
        section["raw_value"] = base64.b64encode(content).decode()
        return section

    def read(self, name: str, place: str) -> bytes:
        """Return a file's content."""
        path = self._beside / Path(name).expanduser()
        try:
            size = path.stat().st_size
            content = path.read_bytes() if self._bytes + size <= MOST_BYTES else b""
        except OSError as error:
            raise errors.invalid(
                f"{self._name}: {place}: cannot read {path}: {error.strerror}"
            ) from error
        self._bytes += size
        if self._bytes > MOST_BYTES:
            raise errors.invalid(
                f"{self._name}: {place}: the config's files have more than "
                f"{MOST_BYTES >> 10} KB together",
                hint="put large files into the image",
            )
        return content


def _put_machine_config(document: Document, path: tuple[str, ...], reader: _Reader) -> None:
    here = document
    for key in path[:-1]:
        if not isinstance(here.get(key), dict):
            return
        here[key] = dict(here[key])
        here = here[key]
    named = here.get(path[-1])
    if not named or raw.is_inline(named):
        return
    place = ".".join(path)
    text = reader.read(named, place).decode("utf-8", errors="replace")
    wrong = _wrong_with(text)
    if wrong:
        raise errors.invalid(f"{place}: {named}: {wrong}")
    here[path[-1]] = text


def _wrong_with(text: str) -> str:
    if not raw.is_inline(text):
        return "expected a JSON object"
    try:
        raw.parse(text)
    except ValueError as error:
        return str(error)
    return ""
