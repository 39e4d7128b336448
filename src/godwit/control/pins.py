"""Tells hosts which images releases need, so that none goes that an app may be rolled back to.

A host is told of the newest releases of the apps that have machines there. It keeps what it was
told across restarts, so a host that is away loses nothing; it is told again when the list
changes, and once an hour in any case.
"""

import logging

from godwit.base import errors, principal
from godwit.control.context import Context
from godwit.images import reference
from godwit.wire import host_images

logger = logging.getLogger(__name__)

_ME = principal.component("control")
_AGAIN_MS = 3_600_000
_MOST = 4_000
"""A list of so many fits into one message of the bus."""


class Pins:
    """What each host was told last."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._told: dict[str, tuple[host_images.Pins, int]] = {}

    async def tell(self) -> None:
        """Tell every host whose list has changed."""
        async with self._ctx.store.read() as rows:
            hosts = [host.id for host in await rows.hosts.all()]
        for host_id in hosts:
            pins = await self._of(host_id)
            now_ms = self._ctx.clock.now_ms()
            told, at_ms = self._told.get(host_id, (None, 0))
            if pins == told and now_ms - at_ms < _AGAIN_MS:
                continue
            try:
                await self._ctx.hosts.call(
                    host_id, "images.pin", pins, _ME, self._ctx.options.ask_s
                )
            except errors.Failure as failure:
                logger.debug("host %s is told its pins later: %s", host_id, failure.message)
            else:
                self._told[host_id] = (pins, now_ms)

    async def _of(self, host_id: str) -> host_images.Pins:
        async with self._ctx.store.read() as rows:
            apps = await rows.placements.apps_on(host_id)
            references = await rows.releases.images(apps, self._ctx.options.kept_releases)
        if len(references) > _MOST:
            logger.warning(
                "host %s is told of %d of %d images of releases", host_id, _MOST, len(references)
            )
        return pinned(references[:_MOST])


def pinned(references: list[str]) -> host_images.Pins:
    """Return what holds the images that releases name: by digest, else by what was written."""
    digests: set[str] = set()
    others: set[str] = set()
    for text in references:
        try:
            digest = reference.parse(text).digest
        except errors.Failure:
            continue
        (digests if digest else others).add(digest or text)
    return host_images.Pins(digests=tuple(sorted(digests)), references=tuple(sorted(others)))
