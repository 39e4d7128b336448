"""Where machines live, the last that was heard of them, and the configs they have had."""

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from godwit.control.records import MachineChange, MachineVersion, Placement, PlacementStatus
from godwit.store.rows.base import Rows
from godwit.store.tables import MACHINE_VERSIONS, PLACEMENTS

_ALIVE = PLACEMENTS.c.destroyed_at_ms.is_(None)
_ACCEPTED = PLACEMENTS.c.status == "accepted"
_UNWANTED = _ALIVE & (PLACEMENTS.c.destroy_wanted | (PLACEMENTS.c.status == "abandoned"))


class PlacementTable(Rows):
    """See `control.rows.PlacementRows`."""

    async def add(self, row: Placement) -> None:
        """Add one."""
        await self._insert(PLACEMENTS, row)

    async def get(self, machine_id: str) -> Placement | None:
        """Return one."""
        query = PLACEMENTS.select().where(PLACEMENTS.c.machine_id == machine_id)
        return await self._one(query, Placement)

    async def alive_by_name(self, app_id: str, name: str) -> Placement | None:
        """Return the app's living machine of that name."""
        query = PLACEMENTS.select().where(
            PLACEMENTS.c.app_id == app_id,
            PLACEMENTS.c.name == name,
            _ALIVE,
            PLACEMENTS.c.status != "abandoned",
        )
        return await self._one(query, Placement)

    async def of_app(self, app_id: str, *, destroyed: bool, limit: int) -> list[Placement]:
        """Return an app's accepted machines by age, destroyed ones too when asked."""
        query = PLACEMENTS.select().where(PLACEMENTS.c.app_id == app_id, _ACCEPTED)
        if not destroyed:
            query = query.where(_ALIVE)
        # The newest survive the limit; the answer is oldest first.
        newest = query.order_by(PLACEMENTS.c.created_at_ms.desc()).limit(limit)
        return list(reversed(await self._all(newest, Placement)))

    async def counts(self, app_ids: Collection[str]) -> dict[str, int]:
        """Return how many living machines each of these apps has."""
        query = (
            sa.select(PLACEMENTS.c.app_id, sa.func.count())
            .where(PLACEMENTS.c.app_id.in_(app_ids), _ACCEPTED, _ALIVE)
            .group_by(PLACEMENTS.c.app_id)
        )
        found = await self._connection.execute(query)
        return {str(app_id): int(count) for app_id, count in found}

    async def hosts_of(self, app_id: str, since_ms: int) -> list[str]:
        """Return the hosts that have machines of an app, or had after a time."""
        return await self._hosts(
            (PLACEMENTS.c.app_id == app_id)
            & _ACCEPTED
            & (_ALIVE | (PLACEMENTS.c.destroyed_at_ms > since_ms))
        )

    async def hosts_of_org(self, org_id: str) -> list[str]:
        """Return the hosts that have or had machines of an organization."""
        return await self._hosts((PLACEMENTS.c.org_id == org_id) & _ACCEPTED)

    async def assign(self, machine_id: str, host_id: str, region: str, at_ms: int) -> None:
        """Note which host it is offered to."""
        await self._update(machine_id, host_id=host_id, region=region, updated_at_ms=at_ms)

    async def set_status(self, machine_id: str, status: PlacementStatus, at_ms: int) -> None:
        """Change how far the offer is."""
        await self._update(machine_id, status=status, updated_at_ms=at_ms)

    async def record_view(self, machine_id: str, view: dict[str, Any], at_ms: int) -> None:
        """Keep an owner's view if it is newer than the one kept, and what it says of now."""
        epoch, revision = view["epoch"], view["revision"]
        table, this = PLACEMENTS, PLACEMENTS.c.machine_id == machine_id
        newer = sa.or_(
            table.c.view_epoch < epoch,
            sa.and_(table.c.view_epoch == epoch, table.c.view_revision <= revision),
        )
        kept = {"view": view, "view_epoch": epoch, "view_revision": revision}
        await self._connection.execute(
            table.update().where(this, newer).values(updated_at_ms=at_ms, **kept)
        )
        gone = view["state"] == "destroyed"
        at = sa.func.coalesce(table.c.destroyed_at_ms, at_ms)
        await self._connection.execute(
            table.update()
            .where(this, _not_newer_than(epoch, revision))
            .values(
                state=view["state"],
                instance_id=view["instance_id"],
                epoch=epoch,
                revision=revision,
                destroyed_at_ms=at if gone else table.c.destroyed_at_ms,
            )
        )

    async def apply(self, changes: Sequence[MachineChange], at_ms: int) -> None:
        """Keep what facts say, unless something newer was heard."""
        for change in changes:
            at = sa.func.coalesce(PLACEMENTS.c.destroyed_at_ms, at_ms)
            statement = PLACEMENTS.update().where(
                PLACEMENTS.c.machine_id == change.machine_id,
                PLACEMENTS.c.host_id == change.host_id,
                _not_newer_than(change.epoch, change.revision),
            )
            await self._connection.execute(
                statement.values(
                    state=change.state,
                    instance_id=change.instance_id,
                    epoch=change.epoch,
                    revision=change.revision,
                    destroyed_at_ms=at if change.destroyed else PLACEMENTS.c.destroyed_at_ms,
                )
            )

    async def mark_destroyed(self, machine_id: str, at_ms: int) -> None:
        """Note that its host has it no more."""
        at = sa.func.coalesce(PLACEMENTS.c.destroyed_at_ms, at_ms)
        await self._update(machine_id, destroyed_at_ms=at, state="destroyed", updated_at_ms=at_ms)

    async def want_destroyed(self, app_id: str, at_ms: int) -> None:
        """Have every living machine of an app destroyed."""
        statement = PLACEMENTS.update().where(PLACEMENTS.c.app_id == app_id, _ALIVE)
        await self._connection.execute(statement.values(destroy_wanted=True, updated_at_ms=at_ms))

    async def stale_offers(self, before_ms: int, limit: int) -> list[Placement]:
        """Return offers nobody took before a time."""
        query = PLACEMENTS.select().where(
            PLACEMENTS.c.status == "offered", PLACEMENTS.c.created_at_ms < before_ms
        )
        return await self._all(query.order_by(PLACEMENTS.c.created_at_ms).limit(limit), Placement)

    async def unwanted(self, before_ms: int, limit: int) -> list[Placement]:
        """Return what is abandoned or to be destroyed, least recently tried first."""
        query = PLACEMENTS.select().where(_UNWANTED, PLACEMENTS.c.updated_at_ms <= before_ms)
        return await self._all(query.order_by(PLACEMENTS.c.updated_at_ms).limit(limit), Placement)

    async def touch(self, machine_id: str, at_ms: int) -> None:
        """Note that it was tried now."""
        await self._update(machine_id, updated_at_ms=at_ms)

    async def remove(self, machine_id: str) -> None:
        """Forget one that never was."""
        for table in (MACHINE_VERSIONS, PLACEMENTS):
            await self._connection.execute(table.delete().where(table.c.machine_id == machine_id))

    async def add_version(self, row: MachineVersion) -> None:
        """Keep a config a machine has had."""
        await self._insert(MACHINE_VERSIONS, row)

    async def versions(self, machine_id: str, limit: int) -> list[MachineVersion]:
        """Return a machine's configs, newest first."""
        table = MACHINE_VERSIONS
        query = table.select().where(table.c.machine_id == machine_id)
        newest = query.order_by(table.c.created_at_ms.desc(), table.c.version.desc())
        return await self._all(newest.limit(limit), MachineVersion)

    async def _update(self, machine_id: str, **values: Any) -> None:
        statement = PLACEMENTS.update().where(PLACEMENTS.c.machine_id == machine_id)
        await self._connection.execute(statement.values(**values))

    async def _hosts(self, where: sa.ColumnElement[bool]) -> list[str]:
        query = (
            sa.select(PLACEMENTS.c.host_id)
            .distinct()
            .where(where, PLACEMENTS.c.host_id.is_not(None))
        )
        return [str(host) for host in (await self._connection.execute(query)).scalars()]


def _not_newer_than(epoch: int, revision: int) -> sa.ColumnElement[bool]:
    return (PLACEMENTS.c.epoch < epoch) | (
        (PLACEMENTS.c.epoch == epoch) & (PLACEMENTS.c.revision <= revision)
    )
