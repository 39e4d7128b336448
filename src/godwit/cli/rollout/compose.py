"""`[build.compose]`: the compose file beside the config becomes its `machine_config`.

Called before a config is sent and its image is built, as `inline` is; see `appconfig.compose` for
what becomes of what.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from godwit.appconfig import compose, containers, files, raw
from godwit.base import errors
from godwit.cli.rollout.progress import Progress
from godwit.cli.rollout.source import Source, default_dockerfile

Document = dict[str, Any]
_NAMED = "machine_config"


def applied(
    loaded: files.Loaded, source: Source, environ: Mapping[str, str], progress: Progress
) -> tuple[files.Loaded, Source]:
    """Return a config with containers in place of its compose file, and where it is built from.

    Raises:
        Failure: There is no such file, or it asks for what cannot be.
    """
    build = loaded.checked().build
    if build is None or build.compose is None:
        return loaded, source
    path = _file(loaded.path.parent, build.compose.file)
    made = compose.convert(
        path.name,
        _read(path, path.name).decode("utf-8", errors="replace"),
        environ=environ,
        read_file=lambda name: _beside(path, name),
    )
    if made.ignored:
        progress.note(f"{path.name}: no effect have {', '.join(made.ignored)}")
    document, source = _document(loaded, made, path, source)
    changed = files.understand(loaded.path, document)
    changed.checked()
    return changed, source


def _document(
    loaded: files.Loaded, made: compose.Converted, path: Path, source: Source
) -> tuple[Document, Source]:
    document = dict(loaded.document)
    base = raw.base(loaded.checked())
    document[_NAMED] = json.dumps({**base, **made.machine_config})
    if document.get("experimental"):
        # It would win, and is in the base.
        kept = {key: one for key, one in document["experimental"].items() if key != _NAMED}
        document["experimental"] = kept
    section = dict(document.get("build") or {})
    section.pop("compose", None)
    if made.build is not None:
        document["container"] = made.container
        directory = path.parent / made.build.context
        dockerfile = directory / made.build.dockerfile
        if not made.build.dockerfile:
            dockerfile = default_dockerfile(directory)
        section["dockerfile"] = os.path.relpath(dockerfile, loaded.path.parent)
        section["args"] = {**made.build.args, **section.get("args", {})}
        if made.build.target:
            section.setdefault("build-target", made.build.target)
        source = replace(source, directory=directory)
    elif not section.get("image"):
        chosen = files.understand(loaded.path, {**document, "build": section}).checked()
        section["image"] = containers.image_of(chosen)
    document["build"] = section
    return document, source


def _file(directory: Path, named: str | None) -> Path:
    if named:
        return directory / named
    for name in compose.FILES:
        if (directory / name).is_file():
            return directory / name
    raise errors.not_found(
        f"there is no compose file in {directory}",
        hint=f"[build.compose] looks for {', '.join(compose.FILES)}; name another with `file`",
    )


def _beside(path: Path, name: str) -> bytes | None:
    found = path.parent / Path(name).expanduser()
    return None if found.is_dir() else _read(found, path.name)


def _read(path: Path, for_whom: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise errors.invalid(f"{for_whom}: cannot read {path}: {error.strerror}") from error
