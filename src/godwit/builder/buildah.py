"""Builds on the host with Buildah: context to image, image to the platform's registry.

The order of a build: unpack the context, read the Dockerfile, provide the base images, build,
save, push. A build on the host is not isolated from it; who may build is control's decision.
Made in the composition root of control.
"""

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from godwit.base import clock, errors, processes
from godwit.base.errors import Failure
from godwit.base.tasks import Tasks
from godwit.builder import context, dockerfile, ignore, jail, packed, storage, supply
from godwit.builder.ports import BuildEvent, BuildImage, BuildLog, BuildNotice, BuildRequest
from godwit.images import bases, flatten, layers, publish, reference
from godwit.images.auth import Credentials

_LIMITS: Final = layers.Limits(max_bytes=10 << 30, max_entries=1_000_000, max_ratio=300)
_NOISE: Final = ("(UNHANDLED LOGLEVEL)", "subprocess exited with status")
_SAID: Final = 50
_FASTEST: Final = 1
"""Compression level unless told: the registry is near, so time counts more than size."""
_HIDDEN: Final = "***"
_MIN_SECRET: Final = 4


@dataclass(frozen=True)
class RunSettings:
    """What RUN steps may use of this host's own settings; nothing of it stays in an image.

    Attributes:
        proxies: `HTTP_PROXY` and its kin, as Buildah hands them to RUN steps.
        mounts: Path in the image to a file of the host, mounted read-only: a package index
            configuration (`/etc/pip.conf`), a bundle of certificates.
    """

    proxies: Mapping[str, str]
    mounts: Mapping[str, Path]


class BuildahBuilder:
    """Builds one context after the other, or several at once; implements `ports.Builder`.

    Args:
        directory: `<cache>/builder`.
        run: `<run>/builder`.
        local: Local base images.
        settings: For RUN steps.
        resolvers: Name servers for RUN steps; those of this host when empty.
        cache: Bounds of what is kept between builds.
        time: For deadlines and ages.
    """

    def __init__(
        self,
        directory: Path,
        run: Path,
        local: bases.Bases,
        *,
        settings: RunSettings | None = None,
        resolvers: tuple[str, ...] = (),
        cache: storage.CacheBounds | None = None,
        time: clock.Clock | None = None,
    ) -> None:
        self._packed = packed.PackedLayers(directory / "packed")
        self._storage = storage.Storage(
            directory, run, cache=cache, time=time, also_tidy=self._packed.tidy
        )
        self._supply = supply.Supply(self._storage, local)
        self._settings = settings or RunSettings({}, {})
        self._jails = jail.Jails(run, resolvers, self._settings.proxies)
        self._clock = time or clock.SystemClock()

    async def build(self, request: BuildRequest) -> AsyncGenerator[BuildEvent]:
        """Yield what happens; the last event is the `BuildImage`. See `ports.Builder`."""
        deadline = self._clock.monotonic() + request.timeout_s
        target = reference.parse(request.reference)
        with _disk_errors():
            async with contextlib.aclosing(self._build(request, target, deadline)) as events:
                async for event in events:
                    yield event

    async def _build(
        self, request: BuildRequest, target: reference.Reference, deadline: float
    ) -> AsyncGenerator[BuildEvent]:
        async with self._storage.build_place() as work:
            place = await self._unpack(request, work)
            needed = place.parsed.images(request.target)
            supply.check(needed)
            ids: dict[str, str] = {}

            async def provide(report: supply.Report) -> None:
                ids.update(
                    await self._supply.provide(
                        needed,
                        own=target.registry,
                        credentials=_shown_to(request, target.registry),
                        offline=request.offline,
                        work=work,
                        report=report,
                    )
                )

            async with contextlib.aclosing(_live(provide)) as notices:
                async for notice in notices:
                    yield BuildNotice(notice)
            async with self._jails.enter() as here:
                if here.notice:
                    yield BuildNotice(here.notice)
                steps = self._steps(request, place, ids, deadline, here)
                async with contextlib.aclosing(steps) as lines:
                    async for line in lines:
                        yield BuildLog(line)
            image = await asyncio.to_thread(place.image_file.read_text)
            digest = await self._push(request, image.strip(), work, deadline)
        yield BuildImage(request.reference, digest)

    async def _unpack(self, request: BuildRequest, work: Path) -> "_Place":
        archive = request.context
        docker_name, rules_name = request.dockerfile, request.ignorefile
        if archive.is_dir():
            packed = await asyncio.to_thread(
                context.pack,
                archive,
                archive / docker_name,
                archive / rules_name if rules_name else None,
            )
            archive = work / "context.tar"
            await asyncio.to_thread(packed.save, archive)
            docker_name, rules_name = packed.dockerfile, packed.ignorefile
        tree = work / "context"
        tree.mkdir(mode=0o700)
        file = layers.LayerFile(archive, "the build context")
        await flatten.flatten([file], tree, limits=_LIMITS, timeout_s=600, ordinary=True)
        return await asyncio.to_thread(_read, tree, docker_name, rules_name, request, work)

    async def _steps(
        self,
        request: BuildRequest,
        place: "_Place",
        ids: Mapping[str, str],
        deadline: float,
        here: jail.Jail,
    ) -> AsyncGenerator[str]:
        arguments, environment = self._arguments(request, place, ids, here)
        said: list[str] = []
        lines = self._storage.stream(
            *arguments,
            timeout_s=self._left(deadline),
            env=environment,
            work=place.work,
            prefix=here.prefix,
        )
        try:
            async with contextlib.aclosing(lines):
                async for line in lines:
                    shown = _shown(line, request, ids)
                    said = [*said[-_SAID:], shown]
                    if not shown.startswith("Error: ") and not any(n in shown for n in _NOISE):
                        yield shown
        except processes.ProgramFailed as error:
            raise storage.failure(error, said) from error

    def _arguments(
        self, request: BuildRequest, place: "_Place", ids: Mapping[str, str], here: jail.Jail
    ) -> tuple[list[str], dict[str, str]]:
        environment = here.proxies(self._settings.proxies)
        found = ["build", *self._storage.build_flags(), "--pull=never", "--identity-label=false"]
        found += ["--no-cache"] if request.no_cache else ["--layers"]
        found += [f"--file={place.dockerfile}", f"--ignorefile={place.ignorefile}"]
        found += [f"--iidfile={place.image_file}"]
        found += [f"--dns={address}" for address in here.resolvers or ("none",)]
        if request.target:
            found.append(f"--target={request.target}")
        # Never by the environment, which this Buildah reads them from as well: a program of the
        # host would take LD_PRELOAD, GODEBUG and the like from whoever may build. Nor by a file,
        # which only newer releases of Buildah take: who is on the host sees them meanwhile.
        found += [f"--build-arg={name}={value}" for name, value in request.args.items()]
        found += [f"--label={name}={value}" for name, value in request.labels.items()]
        found += [f"--build-context={name}=docker-image://{ids[name]}" for name in ids]
        found += [f"--secret=id={name},src={path}" for name, path in place.secrets.items()]
        found += [f"--volume={at}:{path}:ro" for path, at in self._settings.mounts.items()]
        return [*found, str(place.tree)], environment

    async def _push(self, request: BuildRequest, image: str, work: Path, deadline: float) -> str:
        level = _FASTEST if request.compression_level is None else request.compression_level
        plain = await self._storage.save(image, work / "plain", timeout_s=self._left(deadline))
        layout = await asyncio.to_thread(
            lambda: self._packed.image(
                plain,
                work / "image",
                packed.Packing(request.compression, level),
            )
        )
        try:
            async with asyncio.timeout(self._left(deadline)):
                return await publish.push(
                    layout,
                    request.reference,
                    credentials=request.credentials,
                    # The platform's own, wherever it listens: as `supply` asks it for bases.
                    insecure=True,
                    limit_bytes=request.push_limit_bytes,
                )
        except TimeoutError as error:
            raise Failure(
                "deadline_exceeded", f"pushing {request.reference} took longer than it may"
            ) from error

    def _left(self, deadline: float) -> float:
        return max(1.0, deadline - self._clock.monotonic())


@dataclass(frozen=True)
class _Place:
    """A context unpacked, with what Buildah is to be told about it."""

    work: Path
    tree: Path
    parsed: dockerfile.Dockerfile
    dockerfile: Path
    ignorefile: Path
    image_file: Path
    secrets: Mapping[str, Path]


def _read(
    tree: Path, docker_name: str, rules_name: str, request: BuildRequest, work: Path
) -> _Place:
    text = _text(tree, docker_name)
    if text is None:
        raise errors.invalid(f"the build context has no file {docker_name}")
    usual = (f"{docker_name}.dockerignore", ".dockerignore")
    names = (rules_name,) if rules_name else usual
    rules_name = next((name for name in names if _text(tree, name) is not None), "")
    rules = ignore.parse(_text(tree, rules_name) or "", rules_name) if rules_name else None
    hidden = {context.OUTSIDE}
    if rules is not None:
        _prune(tree, rules, {docker_name, rules_name})
        hidden |= {name for name in (docker_name, rules_name) if rules.ignores(name)}
    place = _Place(
        work=work,
        tree=tree,
        parsed=dockerfile.parse(text, request.args),
        dockerfile=work / "Dockerfile",
        ignorefile=work / "ignore",
        image_file=work / "image-id",
        secrets={name: work / f"secret-{at}" for at, name in enumerate(request.secrets)},
    )
    place.dockerfile.write_text(text)
    place.ignorefile.write_text("".join(f"/{name}\n" for name in sorted(hidden)))
    for name, path in place.secrets.items():
        path.touch(mode=0o600)
        path.write_text(request.secrets[name])
    place.parsed.target(request.target)
    return place


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Failure(
                "insufficient_capacity", "the disk is full: the build does not fit"
            ) from error
        raise


def _shown_to(request: BuildRequest, own: str) -> Mapping[str, Credentials]:
    """Return what each registry is shown: the platform's its token, others what is for them."""
    mine = {own: request.credentials} if request.credentials else {}
    return {**request.registries, **mine}


def _text(tree: Path, name: str) -> str | None:
    """Return a file of the context; a link out of the context is no file of it."""
    path = Path(os.path.normpath(tree / name))
    if not path.is_relative_to(tree) or not path.resolve().is_relative_to(tree.resolve()):
        return None
    return path.read_text(errors="replace") if path.is_file() else None


def _prune(tree: Path, rules: ignore.Ignore, always: set[str]) -> None:
    """Remove what the ignore file names, for contexts that were packed without regard to it."""
    for directory, names, files in os.walk(tree, topdown=False):
        for name in (*files, *names):
            path = Path(directory, name)
            relative = path.relative_to(tree).as_posix()
            if relative in always or not rules.ignores(relative):
                continue
            if path.is_dir() and not path.is_symlink():
                with contextlib.suppress(OSError):
                    path.rmdir()
            else:
                path.unlink()


def _shown(line: str, request: BuildRequest, ids: Mapping[str, str]) -> str:
    for name, image in ids.items():
        line = line.replace(image, name)
    for value in request.secrets.values():
        if len(value) >= _MIN_SECRET:
            line = line.replace(value, _HIDDEN)
    return line


async def _live(
    work: Callable[[supply.Report], Awaitable[None]],
) -> AsyncGenerator[str]:
    """Yield what a piece of work reports while it goes on."""
    reported: asyncio.Queue[str | None] = asyncio.Queue()
    failed: list[Failure] = []

    async def body() -> None:
        try:
            await work(reported.put_nowait)
        except Failure as failure:
            failed.append(failure)
        finally:
            reported.put_nowait(None)

    async with Tasks("builder") as tasks:
        task = tasks.spawn(body(), name="provide")
        while (sentence := await reported.get()) is not None:
            yield sentence
        await task
    for failure in failed:
        raise failure
