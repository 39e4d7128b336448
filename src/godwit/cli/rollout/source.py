"""Where a deploy's image comes from: a reference, or a build of the directory.

`--image` beats `[build] image`, which beats everything else; `[build] dockerfile` and
`build-target` beat their flags, `--build-arg` beats `[build.args]` (spec/config-cli.md §1.2).
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from godwit.appconfig import containers, files
from godwit.appconfig.model import Build
from godwit.base import errors
from godwit.builder import context
from godwit.cli.rollout import remote_file
from godwit.cli.rollout.progress import Progress
from godwit.client import failures
from godwit.client.api import Api
from godwit.client.builds import BuildOptions

_NAMES = ("Dockerfile", "Containerfile", "dockerfile")


@dataclass(frozen=True)
class Source:
    """What the command line said of the image."""

    directory: Path
    image: str | None = None
    dockerfile: str | None = None
    ignorefile: str | None = None
    args: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    labels: dict[str, str] = field(default_factory=dict)
    target: str | None = None
    label: str | None = None
    no_cache: bool = False
    offline: bool = False
    force: bool = False
    warn_bytes: int = context.WARN_BYTES


async def obtain(
    api: Api, app: str, loaded: files.Loaded, source: Source, progress: Progress
) -> str:
    """Return the reference of the image to run, building it if there is none yet.

    Raises:
        Failure: There is nothing to build, or the build failed.
    """
    build = _section(loaded)
    image = source.image or build.image or _of_container(loaded, build, source)
    if image:
        return image
    async with _dockerfile(source, loaded.path.parent, build) as dockerfile:
        options, packed = _prepared(loaded, build, source, dockerfile)
    progress.step(f"Build the image of {app}")
    progress.state(f"sending {packed.described()}")
    too_large = packed.warning(source.warn_bytes)
    if too_large:
        progress.note(too_large)
    try:
        reference = await _built(api, app, packed, options, progress)
    except failures.ApiFailure as refused:
        if refused.status != httpx.codes.PRECONDITION_FAILED or options.force:
            raise
        raise errors.Failure(
            refused.code,
            refused.message,
            hint="build elsewhere and deploy with --image, or accept it with --force-host-build",
        ) from refused
    finally:
        packed._tar.close()  # noqa: SLF001 - it has no close of its own
    progress.state(reference)
    return reference


def _of_container(loaded: files.Loaded, build: Build, source: Source) -> str:
    """Return the image that a container names, where there is nothing to build for it."""
    if build.dockerfile or source.dockerfile or _found(source.directory) is not None:
        return ""
    return containers.image_of(loaded.checked())


async def _built(
    api: Api, app: str, packed: context.Packed, options: BuildOptions, progress: Progress
) -> str:
    reference = ""
    async with contextlib.aclosing(api.builds.build(app, packed.stream(), options)) as events:
        async for event in events:
            if event.type == "image":
                reference = pinned(event.reference, event.digest)
            elif event.type == "notice":
                progress.note(event.message)
            else:
                progress.line(event.line or event.message)
    return reference


def pinned(reference: str, digest: str) -> str:
    """Return a reference that means this image for ever."""
    return reference if not digest or "@" in reference else f"{reference}@{digest}"


def _section(loaded: files.Loaded) -> Build:
    build = loaded.checked().build
    return build if build is not None else Build.model_validate({})


def _prepared(
    loaded: files.Loaded, build: Build, source: Source, dockerfile: Path
) -> tuple[BuildOptions, context.Packed]:
    ignorefile = _ignorefile(source, loaded.path.parent, build)
    packed = context.pack(source.directory, dockerfile, ignorefile)
    options = BuildOptions(
        dockerfile=packed.dockerfile,
        target=build.build_target or source.target or "",
        args={**build.args, **source.args},
        secrets=source.secrets,
        labels=source.labels,
        label=source.label or "",
        no_cache=source.no_cache,
        offline=source.offline,
        force=source.force,
    )
    return options, packed


@contextlib.asynccontextmanager
async def _dockerfile(source: Source, beside: Path, build: Build) -> AsyncIterator[Path]:
    """Give the Dockerfile's path: what the file says, else the flag, else what is there."""
    named = build.dockerfile or source.dockerfile
    if not named:
        yield default_dockerfile(source.directory)
    elif remote_file.is_address(named):
        async with remote_file.fetched(named) as path:
            yield path
    else:
        path = (beside if build.dockerfile else source.directory) / named
        if not path.is_file():
            raise errors.not_found(f"there is no Dockerfile at {path}")
        yield path


def default_dockerfile(directory: Path) -> Path:
    """Return the Dockerfile of a directory.

    Raises:
        Failure: There is none.
    """
    found = _found(directory)
    if found is not None:
        return found
    raise errors.not_found(
        f"there is no Dockerfile in {directory}",
        hint="write one, point at one with --dockerfile, or deploy an image with --image",
    )


def _found(directory: Path) -> Path | None:
    paths = (directory / name for name in _NAMES)
    return next((path for path in paths if path.is_file()), None)


def _ignorefile(source: Source, beside: Path, build: Build) -> Path | None:
    named = (
        beside / build.ignorefile
        if build.ignorefile
        else source.directory / source.ignorefile
        if source.ignorefile
        else None
    )
    if named is not None and not named.is_file():
        raise errors.not_found(f"there is no ignore file at {named}")
    return named
