"""Local base images: built once from Debian packages, kept as OCI layouts in the cache.

    <directory>/<slug>-<recipe digest>/    one base: OCI layout and base.json
    <directory>/lock                       one builder at a time, also between processes
    <directory>/tmp-*/                     work in progress; removed by the next builder

They stand in for images of Docker Hub where that cannot be reached; who uses one says so
(`Base.sentence`). Called by `godwit images bootstrap` and by the builder.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from godwit.base import clock, errors, processes
from godwit.images import debian, layerpack, locks, ocilayout, recipes, reference
from godwit.wire.record import Record

Report = Callable[[str], None]

_CODEC: Final = "zstd"
_RECORD: Final = "base.json"


class _Record(Record):
    """`base.json`."""

    v: int = 1
    names: tuple[str, ...]
    built_at: str


@dataclass(frozen=True)
class Base:
    """A base image that is here.

    Attributes:
        names: Familiar references it answers to.
        built_at: RFC 3339.
        layout: Its OCI layout.
    """

    names: tuple[str, ...]
    built_at: str
    layout: ocilayout.Layout

    def sentence(self, name: str, reason: str) -> str:
        """Return what a build says when it uses this base."""
        return (
            f"base image {name}: {reason}, using the local base built from Debian packages "
            f"on {self.built_at[:10]}"
        )


class Bases:
    """The local bases of one host.

    Args:
        directory: `<cache>/bases`; made when needed.
        time: For the date they carry.
    """

    def __init__(self, directory: Path, *, time: clock.Clock | None = None) -> None:
        self._directory = directory
        self._clock = time or clock.SystemClock()

    def find(self, name: str) -> Base | None:
        """Return the base for a reference such as `python:3.11-slim`, if it was built."""
        recipe = self.recipe(name)
        return self._read(recipe) if recipe is not None else None

    def recipe(self, name: str) -> recipes.Recipe | None:
        """Return how the base for a reference is built, `None` when there is no such base."""
        try:
            wanted = reference.parse(name)
        except errors.Failure:
            return None
        return None if wanted.digest else recipes.by_name(wanted.familiar)

    async def ensure(self, name: str, report: Report) -> Base:
        """Return the base for a reference, built first if it is not here.

        Raises:
            Failure: `not_found` when there is no recipe, `unavailable`, `failed_precondition`.
        """
        recipe = self.recipe(name)
        if recipe is None:
            known = ", ".join(r.names[0] for r in recipes.ALL)
            raise errors.not_found(
                f"there is no local base image for {name}", hint=f"there is one for: {known}"
            )
        (base,) = await self.bootstrap([recipe], report)
        return base

    async def bootstrap(
        self, wanted: Sequence[recipes.Recipe] = recipes.ALL, report: Report = lambda _: None
    ) -> list[Base]:
        """Build the bases that are not here yet and return all that were asked for.

        Raises:
            Failure: `unavailable` when packages cannot be had, `failed_precondition`.
        """
        ready = [self._read(recipe) for recipe in wanted]
        if all(ready):
            return [base for base in ready if base is not None]
        if os.geteuid() != 0:
            raise errors.Failure("failed_precondition", "base images can be built only as root")
        self._directory.mkdir(parents=True, exist_ok=True)
        async with locks.held(
            self._directory / "lock", timeout_s=1800, what="building base images"
        ):
            for leftover in self._directory.glob("tmp-*"):
                await asyncio.to_thread(shutil.rmtree, leftover, ignore_errors=True)
            missing = [recipe for recipe in wanted if self._read(recipe) is None]
            if missing:
                await self._build(missing, report)
        built = [self._read(recipe) for recipe in wanted]
        return [base for base in built if base is not None]

    def _read(self, recipe: recipes.Recipe) -> Base | None:
        directory = self._directory / recipes.key(recipe)
        try:
            record = _Record.model_validate_json((directory / _RECORD).read_bytes())
            return Base(record.names, record.built_at, ocilayout.read(directory))
        except (OSError, ValidationError, errors.Failure):
            return None

    async def _build(self, missing: Sequence[recipes.Recipe], report: Report) -> None:
        async with self._workplace() as work:
            root = _Tree(work / "debian")
            report(f"installing Debian {recipes.SUITE} from packages")
            await debian.bootstrap(root.path)
            index = await asyncio.to_thread(debian.set_aside, root.path, work / "apt")
            await debian.clean(root.path)
            await asyncio.to_thread(debian.dress, root.path, recipes.DEBIAN)
            layer = await layerpack.pack(root.path, work / "debian.tar", codec=_CODEC)
            root = root.above(root.path, layer, f"mmdebstrap {recipes.SUITE}")
            self._finish(recipes.DEBIAN, root, work)
            for recipe in missing:
                if recipe.slug != recipes.DEBIAN.slug:
                    report(f"installing {', '.join(recipe.packages)} for {recipe.names[0]}")
                    await self._extend(recipe, root, index, work)

    async def _extend(
        self, recipe: recipes.Recipe, parent: "_Tree", index: debian.Index, work: Path
    ) -> None:
        tree = work / recipe.slug
        copy = ["cp", "--archive", "--reflink=auto", str(parent.path), str(tree)]
        await processes.run(copy, timeout_s=300)
        before = await asyncio.to_thread(layerpack.survey, tree)
        await debian.extend(tree, recipe.packages, index)
        await asyncio.to_thread(debian.dress, tree, recipe)
        for command in recipe.commands:
            await debian.run_inside(tree, command)
        await debian.clean(tree)
        layer = await layerpack.pack_changes(
            tree, before, work / f"{recipe.slug}.tar", codec=_CODEC
        )
        made = parent.above(tree, layer, f"apt-get install {' '.join(recipe.packages)}")
        self._finish(recipe, made, work)

    def _finish(self, recipe: recipes.Recipe, tree: "_Tree", work: Path) -> None:
        now = clock.rfc3339(self._clock.now_ms())
        made = work / f"layout-{recipe.slug}"
        ocilayout.write(
            made,
            tree.layers,
            config={"created": now, "config": recipe.config, "history": tree.history},
            names=recipe.names,
            annotations={"org.opencontainers.image.created": now},
        )
        record = _Record(names=recipe.names, built_at=now)
        (made / _RECORD).write_text(record.model_dump_json())
        for old in self._directory.glob(f"{recipe.slug}-*"):
            shutil.rmtree(old)
        made.rename(self._directory / recipes.key(recipe))

    @contextlib.asynccontextmanager
    async def _workplace(self) -> AsyncIterator[Path]:
        work = Path(tempfile.mkdtemp(prefix="tmp-", dir=self._directory))
        try:
            yield work
        finally:
            await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)


async def ensure(cache: Path, *, told: Report) -> list[Base]:
    """Build every base that is not there yet; what `godwit images bootstrap` does.

    Args:
        cache: `Settings.paths.cache`.
        told: Receives a sentence per step, and one per base.

    Raises:
        Failure: As `Bases.bootstrap`.
    """
    built = await Bases(cache / "bases").bootstrap(report=told)
    for base in built:
        told(f"{base.names[0]}: ready, built on {base.built_at[:10]}")
    return built


@dataclass(frozen=True)
class _Tree:
    """A tree on disk, the layers that make it, and how each was made."""

    path: Path
    layers: tuple[ocilayout.LayerBlob, ...] = ()
    history: tuple[dict[str, str], ...] = ()

    def above(self, path: Path, layer: ocilayout.LayerBlob, how: str) -> "_Tree":
        """Return a tree with one more layer."""
        return _Tree(path, (*self.layers, layer), (*self.history, {"created_by": how}))
