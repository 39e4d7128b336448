"""What hosts ask of control: fresh tokens for images, and secrets newer than their copy.

They also tell it where and by which keys they are to be known in the mesh, and what their machines
did to themselves, for the audit.

A host is known by the subject its request came on, which the bus vouches for; it gets only what
concerns machines that live on it.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from godwit.base import errors, ids, log
from godwit.base.principal import component, machine
from godwit.control import audit, join_rules, members, registry, secrets
from godwit.control.context import Context
from godwit.control.records import App, AuditRow, Host
from godwit.control.rows import Rows
from godwit.wire import guest_api

logger = logging.getLogger(__name__)

Handler = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


_LONGEST_RELEASE = 64


class HostRequests:
    """Answers hosts."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    def handlers(self) -> Mapping[str, Handler]:
        """Return every verb that hosts may ask, and its handler."""
        return {
            "pull_token": self.pull_token,
            "secrets": self.secrets,
            "mesh_keys": self.mesh_keys,
            "endpoints": self.endpoints,
            "release": self.release,
            guest_api.DEED: self.deed,
        }

    async def pull_token(self, host_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return what opens the registry of an image for a machine's app.

        Raises:
            Failure: `not_found` (no such machine on that host), `permission_denied` (the image
                is another organization's), `invalid_argument`.
        """
        machine_id, reference = body.get("machine_id"), body.get("reference")
        if not isinstance(machine_id, str) or not isinstance(reference, str) or not reference:
            raise errors.invalid("a pull token is for one machine_id and one reference")
        app = await app_of(self._ctx, host_id, machine_id)
        return {"token": await registry.pull_token(self._ctx, app, reference)}

    async def secrets(self, host_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the newest secrets of a machine's app, sealed for its host.

        Raises:
            Failure: `not_found` (no such machine on that host), `invalid_argument`, `unavailable`
                (the keyring is away).
        """
        machine_id = body.get("machine_id")
        if not isinstance(machine_id, str):
            raise errors.invalid("secrets are for one machine_id")
        app = await app_of(self._ctx, host_id, machine_id)
        sealed = await secrets.for_host(self._ctx, app.id, host_id)
        return {"secrets": None if sealed is None else sealed.model_dump(mode="json")}

    async def release(self, host_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """Note which release of Godwit a host runs.

        Raises:
            Failure: `invalid_argument`.
        """
        told = body.get("release")
        if not isinstance(told, str) or not 0 < len(told) <= _LONGEST_RELEASE:
            raise errors.invalid("a host tells its release in a few characters")
        async with self._ctx.store.write() as rows:
            await rows.hosts.set_release(host_id, told)
        return {}

    async def deed(self, host_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """Write down what a machine did to itself; one that is not that host's is passed over.

        Raises:
            Failure: `permission_denied` (the host was removed).
        """
        told = guest_api.Deed.model_validate(body)
        async with self._ctx.store.write() as rows:
            if await rows.hosts.removed({host_id}):
                raise errors.Failure("permission_denied", f"host {host_id} was removed")
            row = await rows.placements.get(told.machine_id)
            if row is None or row.host_id != host_id:
                logger.warning(
                    "host %s tells of machine %s, not its own", host_id, told.machine_id
                )
                return {}
            app = await rows.apps.by_id(row.app_id)
            name = {} if app is None else {"app": app.name}
            deed = AuditRow(
                id=f"aud_{told.id.lower()}",
                at_ms=told.at_ms,
                principal=machine(told.machine_id, row.org_id).subject,
                org_id=row.org_id,
                action=f"machines.{told.verb}",
                target=told.machine_id,
                detail={**name, **told.detail},
            )
            await audit.take(rows, deed)
        return {}

    async def mesh_keys(self, host_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """Have everybody know a host in the mesh by these keys.

        Raises:
            Failure: `not_found` (no such host), `invalid_argument`, `already_exists`.
        """
        key, next_key = body.get("key"), body.get("next_key")
        if not isinstance(key, str) or not isinstance(next_key, str):
            raise errors.invalid("a host tells its key in the mesh and the next one")

        async def change(rows: Rows, host: Host) -> Host:
            return await members.set_mesh_keys(rows, host, key, next_key)

        await self._change_member(host_id, "hosts.mesh_keys", change)
        return {}

    async def endpoints(self, host_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """Have everybody look for a host's WireGuard there.

        Raises:
            Failure: `not_found` (no such host), `invalid_argument`.
        """
        told = body.get("endpoints")
        if not isinstance(told, list) or not told or not all(isinstance(e, str) for e in told):
            raise errors.invalid("a host tells a list of its endpoints")
        join_rules.check_endpoints(told)

        async def change(rows: Rows, host: Host) -> Host:
            return await members.set_endpoints(rows, host, told)

        await self._change_member(host_id, "hosts.endpoints", change, endpoints=told)
        return {}

    async def _change_member(
        self,
        host_id: str,
        action: str,
        change: Callable[[Rows, Host], Awaitable[Host]],
        **detail: Any,
    ) -> None:
        """Change what others know of a host, at its own word; which leaves a row in the audit.

        Raises:
            Failure: `not_found`, and what the change says.
        """
        async with self._ctx.store.write() as rows:
            host = await rows.hosts.get(host_id)
            if host is None or host.state == "removed":
                raise errors.not_found(f"host {host_id} is no member")
            if await change(rows, host) != host:
                who = component(f"host-{host_id}")
                await audit.record(
                    rows, self._ctx.clock, who, action, host_id, org_id=None, **detail
                )
        self._ctx.facts_wanted.set()


async def app_of(ctx: Context, host_id: str, machine_id: str) -> App:
    """Return the app of a machine that lives on that host.

    Raises:
        Failure: `not_found`.
    """
    async with ctx.store.read() as rows:
        if await rows.hosts.removed({host_id}):
            raise errors.Failure("permission_denied", f"host {host_id} was removed")
        found = await rows.placements.get(machine_id) if ids.is_machine_id(machine_id) else None
        if found is None or found.host_id != host_id or found.destroyed_at_ms is not None:
            raise errors.not_found(f"machine {machine_id} is not on host {host_id}")
        log.bind(**found.about)
        app = await rows.apps.by_id(found.app_id)
    if app is None:
        raise errors.not_found(f"the app of machine {machine_id} is gone")
    return app
