"""Base images for a build: from their registry, or the local stand-in where that is out of reach.

The rule: upstream is asked first, quickly and at the same time for all images; only when it
cannot be reached, or the build is told to stay offline, is a local base used, and the build
says so. An upstream that answers "no such image" is believed. Called by `buildah.py`.
"""

import asyncio
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from godwit.base import errors
from godwit.base.errors import Failure
from godwit.builder.storage import Storage
from godwit.images import auth, bases, pull, recipes, reference, registry

Report = Callable[[str], None]

_QUICKLY: Final = registry.Patience(connect_s=3.0, silence_s=4.0, attempts=1)
_UPSTREAM_S: Final = 6.0
_NAMED_LENGTH: Final = 200


@dataclass(frozen=True)
class _Upstream:
    found: pull.Found


@dataclass(frozen=True)
class _Local:
    reason: str


class Supply:
    """Puts the images a build needs into Buildah's storage.

    Args:
        storage: Where they go.
        local: The stand-ins.
        patience: For the first question to a registry.
        plain: Registries beside the platform's that speak plain HTTP, and may be on this host.
    """

    def __init__(
        self,
        storage: Storage,
        local: bases.Bases,
        *,
        patience: registry.Patience = _QUICKLY,
        plain: Collection[str] = (),
    ) -> None:
        self._plain = frozenset(plain)
        self._storage = storage
        self._local = local
        self._patience = patience

    async def provide(
        self,
        names: Sequence[str],
        *,
        own: str,
        credentials: Mapping[str, auth.Credentials],
        offline: bool,
        work: Path,
        report: Report,
    ) -> Mapping[str, str]:
        """Ensure images are in the storage; return names as written to ids.

        Args:
            names: As the Dockerfile has them.
            own: The platform's registry, the only one asked when offline.
            credentials: By registry; each is shown its own and nothing else.
            offline: Ask no other.
            work: For downloads.
            report: Told which base is used and why.

        Raises:
            Failure: `manifest_unknown`, `invalid_argument`, `unavailable`.
        """
        wanted = {name: reference.parse(name) for name in names}

        async def decide(name: str) -> _Upstream | _Local:
            plain = wanted[name].registry in (own, *self._plain)
            if offline and wanted[name].registry != own:
                return _Local("offline")
            if not plain and reference.is_of_the_host(wanted[name].registry):
                raise errors.invalid(
                    f"base image {name}: {wanted[name].registry} is an address of the host that"
                    " builds",
                    hint=f"the platform's registry is {own}; others need a public name",
                )
            return await self._ask(name, _of(wanted[name], credentials), insecure=plain)

        chosen = await asyncio.gather(*(decide(name) for name in names))
        ids = {}
        for name, choice in zip(names, chosen, strict=True):
            if isinstance(choice, _Local):
                ids[name] = await self._stand_in(name, wanted[name], choice.reason, report)
            else:
                shown = _of(wanted[name], credentials)
                ids[name] = await self._fetch(wanted[name], choice.found, shown, work, report)
        return ids

    async def _ask(
        self, name: str, credentials: auth.Credentials | None, *, insecure: bool
    ) -> _Upstream | _Local:
        try:
            async with asyncio.timeout(_UPSTREAM_S):
                found = await pull.find(
                    name, insecure=insecure, credentials=credentials, patience=self._patience
                )
        except TimeoutError:
            return _Local("upstream cannot be reached (no answer)")
        except Failure as failure:
            if failure.code != "unavailable":
                raise
            why = failure.message.rpartition(": ")[2][:_NAMED_LENGTH]
            return _Local(f"upstream cannot be reached ({why})")
        return _Upstream(found)

    async def _stand_in(
        self, name: str, wanted: reference.Reference, reason: str, report: Report
    ) -> str:
        if self._local.recipe(name) is None:
            known = ", ".join(recipe.names[0] for recipe in recipes.ALL)
            raise Failure(
                "unavailable",
                f"base image {name}: {reason}, and there is no local base for it",
                hint=f"local bases: {known}",
            )
        base = await self._local.ensure(name, report)
        report(base.sentence(name, reason))
        config = base.layout.manifest().config.digest
        source = f"oci:{base.layout.directory}:{base.names[0]}"
        return await self._storage.load(source, config, wanted)

    async def _fetch(
        self,
        wanted: reference.Reference,
        found: pull.Found,
        credentials: auth.Credentials | None,
        work: Path,
        report: Report,
    ) -> str:
        if await self._storage.has(found.config_digest):
            return found.config_digest.removeprefix("sha256:")
        report(f"base image {wanted.familiar}: pulling {found.digest}")
        with tempfile.TemporaryDirectory(dir=work) as directory:
            await pull.fetch(found, Path(directory), credentials=credentials)
            return await self._storage.load(f"dir:{directory}", found.config_digest, wanted)


def _of(
    image: reference.Reference, credentials: Mapping[str, auth.Credentials]
) -> auth.Credentials | None:
    return credentials.get(image.registry.lower())


def check(names: Sequence[str]) -> None:
    """Refuse names that are no image references before anything is asked.

    Raises:
        Failure: `invalid_argument`.
    """
    for name in names:
        try:
            reference.parse(name)
        except Failure as failure:
            raise errors.invalid(
                f"the Dockerfile needs the image {name!r}: {failure.message}", hint=failure.hint
            ) from failure
