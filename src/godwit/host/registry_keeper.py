"""Takes out of the platform's registry what control says nobody needs.

Implements `control.ports.Warehouse`; made in control's composition root. The steps of one
collection; each may be repeated, and a crash after any leaves a registry that works or that
`recover` (at control's start) makes work:

    delete manifests     by the registry's API; again a look whether they were pushed anew
    take no writes       run/registry.yml says so; the registry is ended and its supervisor
                         starts it again: pulls go on after a fraction of a second
    collect the garbage  docker-registry's own program; it dies with this process
    clear links          to content that is gone, which that program leaves behind
    take writes          as before

Pushes are refused while no writes are taken; control sees to it that none of its own is on.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence

from godwit.base import errors, private_files, processes
from godwit.base.settings import Settings
from godwit.host import components, running
from godwit.images import auth, collection, registry, registry_disk

logger = logging.getLogger(__name__)

_RESTART_S = 60.0
_COLLECT_S = 900.0
_POLL_S = 0.05


class RegistryKeeper:
    """The registry of one host, its disk and its process.

    Args:
        settings: Where both are.
        sign: Returns a token that allows deleting in a repository.
    """

    def __init__(self, settings: Settings, sign: Callable[[str], str]) -> None:
        self._settings = settings
        self._sign = sign
        self._root = settings.paths.data / "registry"
        self._config = settings.paths.run / "registry.yml"
        self._marker = settings.paths.run / "registry.no-writes"
        self._busy = asyncio.Lock()

    async def contents(self) -> registry_disk.Contents:
        """Return what is in the registry."""
        return await asyncio.to_thread(registry_disk.contents, self._root)

    async def taken(self, repositories: Iterable[str]) -> int:
        """Return how many bytes some repositories take, those below their names included."""
        return await asyncio.to_thread(registry_disk.taken, self._root, list(repositories))

    def space(self) -> collection.Space:
        """Return how full the registry's disk is."""
        # The registry makes its folder with the first push.
        found = os.statvfs(self._root if self._root.exists() else self._root.parent)
        return collection.Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)

    async def recover(self) -> None:
        """Have the registry take writes, whatever a collection that was cut off left."""
        if self._marker.exists():
            logger.warning("a collection of the registry was cut off; it takes writes again")
            await self._restart(read_only=False)
            self._marker.unlink()

    async def collect(self, images: Sequence[registry_disk.Pushed], keep: Collection[str]) -> None:
        """Ensure images are gone, and all content that nothing names.

        Args:
            images: Those that go, unless they were pushed anew meanwhile.
            keep: Repositories that stay, however empty.

        Raises:
            Failure: `unavailable`, `deadline_exceeded`: it is to be done again; the registry
                takes writes.
        """
        async with self._busy:
            for image in images:
                await self._delete(image)
            async with self._without_writes():
                await self._collect_garbage()
                await asyncio.to_thread(registry_disk.clear_links, self._root, keep)

    async def _delete(self, image: registry_disk.Pushed) -> None:
        pushed_at_ms = await asyncio.to_thread(
            registry_disk.pushed_at_ms, self._root, image.repository, image.digest
        )
        if pushed_at_ms is None or pushed_at_ms > image.pushed_at_ms:
            return
        credentials = auth.Credentials(token=self._sign(image.repository))
        async with registry.RegistryClient(
            self._settings.listen.registry, credentials=credentials, insecure=True
        ) as client:
            await client.delete_manifest(image.repository, image.digest)

    @contextlib.asynccontextmanager
    async def _without_writes(self) -> AsyncIterator[None]:
        self._marker.touch()
        try:
            await self._restart(read_only=True)
            yield
        finally:
            await self._restart(read_only=False)
            self._marker.unlink()

    async def _restart(self, *, read_only: bool) -> None:
        """Have the registry run with or without writes; returns once it answers so.

        Raises:
            Failure: `unavailable` when it did not come back.
        """
        wanted = components.registry_config(self._settings, read_only=read_only)
        private_files.write(self._config, wanted)
        pid_file = self._settings.paths.run / "pids" / "registry.json"
        try:
            async with asyncio.timeout(_RESTART_S):
                # One that is just being started may have read the former configuration.
                while (former := running.read(pid_file)) is None:
                    await asyncio.sleep(_POLL_S)
                former.signal(signal.SIGTERM)
                while running.read(pid_file) in (None, former) or not await self._answers():
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise errors.Failure(
                "unavailable",
                f"the registry did not come back within {_RESTART_S:g} s",
                hint=f"its log: {self._settings.paths.data / 'log' / 'registry.log'}",
            ) from error

    async def _answers(self) -> bool:
        host, _, port = self._settings.listen.registry.rpartition(":")
        try:
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except OSError:
            return False
        writer.close()
        return True

    async def _collect_garbage(self) -> None:
        command = ["docker-registry", "garbage-collect", str(self._config)]
        try:
            # Alone it would go on under a registry that takes writes again.
            await processes.run(
                ["setpriv", "--pdeathsig", "KILL", "--", *command], timeout_s=_COLLECT_S
            )
        except processes.ProgramFailed as error:
            code: errors.Code = "deadline_exceeded" if "no answer" in error.reason else "internal"
            raise errors.Failure(code, f"the registry's garbage stays: {error}") from error
