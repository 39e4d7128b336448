"""Whose an image at rest is: where its bytes came from, and whether anybody may have them.

Control has asked an image's registry, with the credentials of the asker's organization alone,
before a machine reaches a host; so a name (registry and repository) stands for a right. A digest
does not: somebody who knows the manifest of another's private image can serve it from a registry
of his own. So an image here is used only under names from which it was once fetched whole, or if
it was once fetched with no credentials at all; under another name it has to be fetched again
first. Called by `store.py`.

    <image's directory>/rights.json    missing for images of release 0.1: good for every name
"""

import contextlib
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from godwit.wire import host_rpc
from godwit.wire.record import Record

_FILE: Final = "rights.json"
_MOST_NAMES: Final = 256


class Rights(Record):
    """`rights.json`.

    Attributes:
        public: It was given to somebody who showed no credentials.
        names: `registry/repository` it was fetched from.
    """

    v: int = 1
    public: bool = False
    names: tuple[str, ...] = ()


def of_pull(image: host_rpc.ImageRef, token: str | None) -> Rights:
    """Return what a pull that succeeded shows."""
    return Rights(public=not token, names=(_name(image),))


def cover(directory: Path, image: host_rpc.ImageRef) -> bool:
    """Tell whether an image here may be used under a name without being fetched again."""
    known = _read(directory)
    return known is None or known.public or _name(image) in known.names


def add(directory: Path, shown: Rights) -> None:
    """Note what another pull has shown; the oldest names go when there are very many."""
    known = _read(directory)
    if known is None:
        return
    names = dict.fromkeys((*known.names, *shown.names))
    write(directory, Rights(public=known.public or shown.public, names=(*names,)[-_MOST_NAMES:]))


def write(directory: Path, found: Rights) -> None:
    """Write the file, whole or not at all."""
    scratch = directory / f"{_FILE}.new"
    scratch.write_text(found.model_dump_json())
    scratch.replace(directory / _FILE)


def _name(image: host_rpc.ImageRef) -> str:
    return f"{image.registry.lower()}/{image.repository}"


def _read(directory: Path) -> Rights | None:
    with contextlib.suppress(FileNotFoundError):
        try:
            return Rights.model_validate_json((directory / _FILE).read_bytes())
        except ValidationError:
            # A torn file: nothing is known of it, so everybody has to fetch it again.
            return Rights()
    return None
