"""Buildah as a program: its storage, its settings, its command line, what it says on failure.

Everything it uses is in one directory of ours, so that nothing of the host's own container
settings, credentials or images plays a part:

    <directory>/storage/    images and the layer cache
    <directory>/conf/       registries, policy and engine settings
    <directory>/packed/     compressed layers (`packed.py`)
    <directory>/work/       one directory per running build
    <directory>/cache-looked-at   when the cache was last held against its bounds
    <directory>/in-use      held shared by builds, alone by whoever tidies

Buildah never talks to a registry here: bases are loaded from directories, results are saved to
one. Called by `buildah.py` and `bases.py`.
"""

import asyncio
import contextlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from godwit.base import clock, processes
from godwit.base.errors import Failure
from godwit.images import locks, ocilayout, reference

logger = logging.getLogger(__name__)

_REGISTRIES: Final = (
    'unqualified-search-registries = ["docker.io"]\nshort-name-mode = "disabled"\n'
)
_POLICY: Final = '{"default": [{"type": "insecureAcceptAnything"}]}\n'
_STEP: Final = re.compile(r'building at STEP "(?P<step>.*?)": (?P<why>.*)', re.DOTALL)
_PROGRAM: Final = "buildah"
_QUICK_S: Final = 120.0
_LOAD_S: Final = 900.0
_MOST_HALVINGS: Final = 16
_LOOK_EVERY_MS: Final = 3_600_000


class Storage:
    """One directory of images and layers, and the program that works in it.

    Args:
        directory: Kept between builds; not on an overlay file system if that can be helped.
        run: Emptied at boot, such as below `/run`.
        min_free_bytes: When less is free, the layer cache is dropped before a build.
        cache: Bounds of the layer cache; looked at once an hour, when no build runs.
        time: For ages.
        also_tidy: Called when no build runs; blocks for the disk.
    """

    def __init__(
        self,
        directory: Path,
        run: Path,
        *,
        min_free_bytes: int = 5 << 30,
        cache: "CacheBounds | None" = None,
        time: clock.Clock | None = None,
        also_tidy: Callable[[], None] = lambda: None,
    ) -> None:
        self._also_tidy = also_tidy
        self._cache = cache or CacheBounds()
        self._clock = time or clock.SystemClock()
        self._directory = directory
        self._run = run
        self._min_free_bytes = min_free_bytes

    @contextlib.asynccontextmanager
    async def build_place(self) -> AsyncIterator[Path]:
        """Give a directory for one build, tidying first when no other build runs.

        Raises:
            Failure: `failed_precondition` when Buildah is not installed.
        """
        self._prepare()
        lock = self._directory / "in-use"
        if (alone := locks.try_lock(lock)) is not None:
            try:
                await self._tidy()
            finally:
                os.close(alone)
        async with locks.held(lock, timeout_s=_LOAD_S, what="tidying up", shared=True):
            work = Path(tempfile.mkdtemp(dir=self._directory / "work"))
            try:
                yield work
            finally:
                await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)

    async def has(self, config_digest: str) -> bool:
        """Tell whether an image is in the storage, by the digest of its config."""
        wanted = config_digest.removeprefix("sha256:")
        found = await self.run("images", "--all", "--quiet", "--no-trunc")
        return any(line.removeprefix("sha256:") == wanted for line in found.splitlines())

    async def load(self, source: str, config_digest: str, name: reference.Reference) -> str:
        """Ensure an image is in the storage and return its id.

        Args:
            source: In the words of Buildah: `oci:/dir:ref` or `dir:/dir`.
            config_digest: Says which image it is.
            name: What the storage shall call it; seen in annotations of what is built on it.
        """
        image = config_digest.removeprefix("sha256:")
        if not await self.has(config_digest):
            await self.run("pull", "--quiet", *self._policy(), source, timeout_s=_LOAD_S)
            before = (await self.run("images", "--no-trunc", "--format", _NAMES)).splitlines()
            await self.run("tag", image, str(name.with_digest("")) if name.tag else _pinned(name))
            for line in before:
                found, _, given = line.partition(" ")
                if found.removeprefix("sha256:") == image and given.startswith("localhost/"):
                    await self.run("rmi", given)
        return image

    async def save(self, image: str, into: Path, *, timeout_s: float) -> ocilayout.Layout:
        """Write an image into a directory that does not exist, its layers plain."""
        loose = into.with_name(f"{into.name}-loose")
        # Of Buildah's formats this one alone leaves layers as they lie in the storage.
        await self.run(
            "push",
            "--quiet",
            *self._policy(),
            "--format=oci",
            "--disable-compression",
            image,
            f"dir:{loose}",
            timeout_s=timeout_s,
        )
        return await asyncio.to_thread(ocilayout.from_loose, loose, into)

    async def run(self, *arguments: str, timeout_s: float = _QUICK_S) -> str:
        """Run Buildah to its end and return what it printed.

        Raises:
            Failure: As `failure`.
        """
        try:
            done = await processes.run(
                [*self._command(), *arguments], timeout_s=timeout_s, env=self._environment({})
            )
        except processes.ProgramFailed as error:
            raise failure(error, error.stderr.splitlines()) from error
        return done.stdout.decode(errors="replace")

    def stream(
        self,
        *arguments: str,
        timeout_s: float,
        env: Mapping[str, str],
        work: Path,
        prefix: Sequence[str] = (),
    ) -> AsyncGenerator[str]:
        """Run Buildah and yield the lines it prints; see `processes.stream`."""
        return processes.stream(
            [*prefix, *self._command(), *arguments],
            timeout_s=timeout_s,
            cwd=str(work),
            env={**env, **self._environment({"TMPDIR": str(work)})},
            grace_s=10.0,
        )

    def build_flags(self) -> list[str]:
        """Return what every build is told."""
        return ["--isolation=chroot", "--format=oci", "--force-rm", *self._policy()]

    def _command(self) -> list[str]:
        driver = "vfs" if _file_system(self._directory) == "overlay" else "overlay"
        options = ["--storage-opt=overlay.skip_mount_home=true"] if driver == "overlay" else []
        return [
            _PROGRAM,
            f"--root={self._directory / 'storage'}",
            f"--runroot={self._run}",
            f"--storage-driver={driver}",
            f"--registries-conf={self._directory / 'conf' / 'registries.conf'}",
            f"--registries-conf-dir={self._directory / 'conf' / 'none'}",
            *options,
        ]

    def _policy(self) -> list[str]:
        return [f"--signature-policy={self._directory / 'conf' / 'policy.json'}"]

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        conf = self._directory / "conf"
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(conf),
            "XDG_RUNTIME_DIR": str(self._run),
            "TMPDIR": str(self._directory / "work"),
            "CONTAINERS_CONF": str(conf / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(conf / "storage.conf"),
            "LC_ALL": "C.UTF-8",
            **more,
        }

    def _prepare(self) -> None:
        if shutil.which(_PROGRAM) is None:
            raise Failure(
                "failed_precondition",
                "Buildah is not installed on this host",
                hint="install it: apt-get install buildah",
            )
        conf = self._directory / "conf"
        for path in (conf / "none", self._directory / "work", self._run):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        (conf / "registries.conf").write_text(_REGISTRIES)
        (conf / "policy.json").write_text(_POLICY)
        (conf / "containers.conf").write_text("")
        (conf / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{self._directory / "storage"}"\n'
            f'runroot = "{self._run}"\n'
        )

    async def _tidy(self) -> None:
        """Remove what builds that were killed left behind; keep the layer cache within bounds."""
        for leftover in (self._directory / "work").iterdir():
            await asyncio.to_thread(shutil.rmtree, leftover, ignore_errors=True)
        await asyncio.to_thread(self._also_tidy)
        await self.run("rm", "--all")
        free = os.statvfs(self._directory)
        if free.f_bavail * free.f_frsize < self._min_free_bytes:
            await self.run("rmi", "--all", "--force", timeout_s=_LOAD_S)
            return
        looked = self._directory / "cache-looked-at"
        now_ms = self._clock.now_ms()
        if not looked.exists() or now_ms - looked.stat().st_mtime * 1_000 > _LOOK_EVERY_MS:
            await self._shrink(now_ms // 1_000)
            looked.touch()

    async def _shrink(self, now_s: int) -> None:
        """Remove steps that are too old, then the older half again and again while too large."""
        steps = await self._cached()
        old = [
            one for one in steps if not one.named and now_s - one.made_s > self._cache.most_age_s
        ]
        await self._drop(old)
        for _ in range(_MOST_HALVINGS):
            size = await asyncio.to_thread(taken, self._directory / "storage")
            left = await self._cached()
            if size <= self._cache.most_bytes or not left:
                return
            await self._drop(left[: (len(left) + 1) // 2])

    async def _cached(self) -> list["CachedStep"]:
        """Return everything in the storage, the oldest first."""
        found = json.loads(await self.run("images", "--all", "--json") or "[]")
        steps = [CachedStep(one["id"], int(one["created"]), bool(one["names"])) for one in found]
        return sorted(steps, key=lambda one: (one.made_s, one.image))

    async def _drop(self, steps: Sequence["CachedStep"]) -> None:
        if steps:
            images = [one.image for one in steps]
            try:
                await self.run("rmi", "--force", *images, timeout_s=_LOAD_S)
            except Failure as failure:
                # A build goes on with a cache that is too large; the next hour tries again.
                logger.warning("the layer cache stays as it is: %s", failure.message)


@dataclass(frozen=True)
class CachedStep:
    """An image in the storage: a base when it has a name, else what a step left."""

    image: str
    made_s: int
    named: bool


@dataclass(frozen=True)
class CacheBounds:
    """How much is kept between builds, and how long."""

    most_bytes: int = 20 << 30
    most_age_s: int = 30 * 86_400


def taken(directory: Path) -> int:
    """Return how much of the disk is written below a directory."""
    total = 0
    for parent, _, files in os.walk(directory):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(parent) / name).lstat().st_blocks * 512
    return total


_FULL: Final = ("no space left on device", "to file: io: read/write on closed pipe")
"""What Buildah says when its disk is full; the second when a layer's temporary file is cut."""
_NAMES: Final = "{{.ID}} {{.Name}}:{{.Tag}}"


def failure(error: processes.ProgramFailed, said: Sequence[str]) -> Failure:
    """Return what a person has to know of a run of Buildah that failed."""
    if error.reason.startswith("no answer"):
        return Failure("deadline_exceeded", "the build took longer than it may")
    if error.reason == "not installed":
        return Failure("failed_precondition", "Buildah is not installed on this host")
    last = next((line for line in reversed(said) if line.startswith("Error: ")), "")
    text = last.removeprefix("Error: ") or (said[-1] if said else error.reason)
    if any(sign in line for line in (*said, text) for sign in _FULL):
        return Failure("insufficient_capacity", "the disk is full: the build does not fit")
    if match := _STEP.search(text):
        step, why = match["step"].strip(), match["why"].partition("&imagebuilder")[0].strip()
        return Failure("failed_precondition", f"the build failed at {step!r}: {why}")
    return Failure("failed_precondition", f"the build failed: {text}")


def _pinned(name: reference.Reference) -> str:
    return f"{name.registry}/{name.repository}:{name.digest.replace(':', '-')[:19]}"


def _file_system(path: Path) -> str:
    """Return the type of the file system that a path is on."""
    best, kind = "", ""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        mounted = left.split()[4]
        if path.is_relative_to(mounted) and len(mounted) >= len(best):
            best, kind = mounted, right.split()[0]
    return kind
