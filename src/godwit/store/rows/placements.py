"""Where machines live, the last that was heard of them, and the configs they have had."""

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from godwit.control.records import MachineChange, MachineVersion, Placement
from godwit.store.rows.base import Rows
from godwit.store.tables import APPS, HOSTS, MACHINE_VERSIONS, PLACEMENTS, STANDBYS

_ALIVE = PLACEMENTS.c.destroyed_at_ms.is_(None)
_ACCEPTED = PLACEMENTS.c.status == "accepted"
_UNWANTED = _ALIVE & (PLACEMENTS.c.destroy_wanted | (PLACEMENTS.c.status == "abandoned"))


def _after(
    column: sa.Column[int],
    at_ms: int | sa.BindParameter[int],
    machine_id: str | sa.BindParameter[str],
) -> sa.ColumnElement[bool]:
    """Tell whether a row comes after a place in the order of a time, then the id."""
    return (column > at_ms) | ((column == at_ms) & (PLACEMENTS.c.machine_id > machine_id))


_OF_APP = (
    PLACEMENTS.select()
    .where(
        PLACEMENTS.c.app_id == sa.bindparam("app_id"),
        _ACCEPTED,
        _after(PLACEMENTS.c.created_at_ms, sa.bindparam("at_ms"), sa.bindparam("machine_id")),
    )
    .order_by(PLACEMENTS.c.created_at_ms, PLACEMENTS.c.machine_id)
    .limit(sa.bindparam("limit", type_=sa.Integer))
)
_ALIVE_OF_APP = _OF_APP.where(_ALIVE)
_COUNTS = (
    sa.select(PLACEMENTS.c.app_id, sa.func.count())
    .where(PLACEMENTS.c.app_id.in_(sa.bindparam("app_ids", expanding=True)), _ACCEPTED, _ALIVE)
    .group_by(PLACEMENTS.c.app_id)
)


class PlacementTable(Rows):
    """See `control.machine_rows.PlacementRows`."""

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

    async def of_app(
        self, app_id: str, *, destroyed: bool, after: tuple[int, str], limit: int
    ) -> list[Placement]:
        """Return an app's accepted machines by age after one, destroyed ones too when asked."""
        query = _OF_APP if destroyed else _ALIVE_OF_APP
        at_ms, machine_id = after
        return await self._all(
            query, Placement, app_id=app_id, at_ms=at_ms, machine_id=machine_id, limit=limit
        )

    async def of_org(
        self, org_id: str, *, destroyed: bool, after: tuple[int, str], limit: int
    ) -> list[tuple[Placement, str]]:
        """Return an organization's accepted machines by last change after one, with their app."""
        table = PLACEMENTS
        query = (
            sa.select(table, APPS.c.name.label("app_name"))
            .join(APPS, APPS.c.id == table.c.app_id)
            .where(table.c.org_id == org_id, _ACCEPTED, _after(table.c.changed_at_ms, *after))
        )
        if not destroyed:
            query = query.where(_ALIVE)
        ordered = query.order_by(table.c.changed_at_ms, table.c.machine_id).limit(limit)
        found = []
        for row in (await self._connection.execute(ordered)).mappings():
            values = dict(row)
            app_name = str(values.pop("app_name"))
            found.append((Placement(**values), app_name))
        return found

    async def counts(self, app_ids: Collection[str]) -> dict[str, int]:
        """Return how many living machines each of these apps has."""
        found = await self._connection.execute(_COUNTS, {"app_ids": list(app_ids)})
        return {str(app_id): int(count) for app_id, count in found}

    async def has_more(self, org_id: str, than: int) -> bool:
        """Tell whether an organization has more living machines, those being made included."""
        some = (
            sa.select(PLACEMENTS.c.machine_id)
            .where(PLACEMENTS.c.org_id == org_id, PLACEMENTS.c.status != "abandoned", _ALIVE)
            .limit(than + 1)
            .subquery()
        )
        return int(await self._scalar(sa.select(sa.func.count()).select_from(some)) or 0) > than

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

    async def on_host(self, host_id: str, after: str, limit: int) -> list[Placement]:
        """Return a host's living machines by id, after an id; those offered to it too."""
        table = PLACEMENTS
        query = table.select().where(
            table.c.host_id == host_id, _ALIVE, table.c.machine_id > after
        )
        return await self._all(query.order_by(table.c.machine_id).limit(limit), Placement)

    async def counts_on_hosts(self) -> dict[str, int]:
        """Return how many living machines each host has."""
        query = (
            sa.select(PLACEMENTS.c.host_id, sa.func.count())
            .where(_ACCEPTED, _ALIVE, PLACEMENTS.c.host_id.is_not(None))
            .group_by(PLACEMENTS.c.host_id)
        )
        return {str(host): int(count) for host, count in await self._connection.execute(query)}

    async def zones_of(self, app_id: str, region: str) -> dict[str, int]:
        """Return how many living machines of an app each zone of a region has."""
        query = (
            sa.select(HOSTS.c.zone, sa.func.count())
            .join(PLACEMENTS, PLACEMENTS.c.host_id == HOSTS.c.id)
            .where(PLACEMENTS.c.app_id == app_id, HOSTS.c.region == region, _ALIVE)
            .where(PLACEMENTS.c.status != "abandoned")
            .group_by(HOSTS.c.zone)
        )
        return {str(zone): int(count) for zone, count in await self._connection.execute(query)}

    async def apps_on(self, host_id: str) -> list[str]:
        """Return the apps that have living machines on a host."""
        query = (
            sa.select(PLACEMENTS.c.app_id)
            .distinct()
            .where(PLACEMENTS.c.host_id == host_id, _ACCEPTED, _ALIVE)
        )
        return [str(app_id) for app_id in (await self._connection.execute(query)).scalars()]

    async def alive(self, after: str, limit: int) -> list[Placement]:
        """Return living machines by id, after an id."""
        query = PLACEMENTS.select().where(_ALIVE, PLACEMENTS.c.machine_id > after)
        return await self._all(query.order_by(PLACEMENTS.c.machine_id).limit(limit), Placement)

    async def forget_destroyed(self, before_ms: int, limit: int) -> int:
        """Remove machines destroyed before a time, with their versions; return how many."""
        query = (
            sa.select(PLACEMENTS.c.machine_id)
            .where(PLACEMENTS.c.destroyed_at_ms < before_ms)
            .limit(limit)
        )
        ids = list((await self._connection.execute(query)).scalars())
        for table in (STANDBYS, MACHINE_VERSIONS, PLACEMENTS):
            await self._connection.execute(table.delete().where(table.c.machine_id.in_(ids)))
        return len(ids)

    async def renew_offer(self, machine_id: str, at_ms: int) -> bool:
        """Begin an offer's time anew; tell whether it was still one."""
        statement = PLACEMENTS.update().where(
            PLACEMENTS.c.machine_id == machine_id, PLACEMENTS.c.status == "offered"
        )
        renewed = statement.values(created_at_ms=at_ms, updated_at_ms=at_ms)
        return await self._connection.change(renewed) == 1

    async def assign(self, machine_id: str, host_id: str, region: str, at_ms: int) -> bool:
        """Note which host it is offered to; tell whether it was still offered."""
        return await self._settle(machine_id, host_id=host_id, region=region, updated_at_ms=at_ms)

    async def accept(self, machine_id: str, host_id: str, region: str, at_ms: int) -> bool:
        """Note that a host has it; tell whether it was still offered."""
        return await self._settle(
            machine_id, status="accepted", host_id=host_id, region=region, updated_at_ms=at_ms
        )

    async def abandon(self, machine_id: str) -> bool:
        """Give it up, due to be destroyed at once; tell whether it was still offered."""
        return await self._settle(machine_id, status="abandoned", updated_at_ms=0)

    async def _settle(self, machine_id: str, **values: Any) -> bool:
        """Change an offer that is still open; tell whether it was."""
        statement = PLACEMENTS.update().where(
            PLACEMENTS.c.machine_id == machine_id, PLACEMENTS.c.status == "offered"
        )
        return await self._connection.change(statement.values(**values)) == 1

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
                changed_at_ms=at_ms,
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
                    changed_at_ms=sa.case(
                        (_newer_than(change.epoch, change.revision), at_ms),
                        else_=PLACEMENTS.c.changed_at_ms,
                    ),
                )
            )

    async def mark_destroyed(self, machine_id: str, at_ms: int) -> None:
        """Note that its host has it no more."""
        at = sa.func.coalesce(PLACEMENTS.c.destroyed_at_ms, at_ms)
        await self._update(
            machine_id,
            destroyed_at_ms=at,
            state="destroyed",
            updated_at_ms=at_ms,
            changed_at_ms=at_ms,
        )

    async def want_destroyed(self, app_id: str, at_ms: int) -> None:
        """Have every living machine of an app destroyed."""
        statement = PLACEMENTS.update().where(PLACEMENTS.c.app_id == app_id, _ALIVE)
        await self._connection.execute(statement.values(destroy_wanted=True, updated_at_ms=at_ms))

    async def want_gone(self, machine_id: str) -> None:
        """Have a machine destroyed, as soon as its host answers."""
        await self._update(machine_id, destroy_wanted=True, updated_at_ms=0)

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
        for table in (STANDBYS, MACHINE_VERSIONS, PLACEMENTS):
            await self._connection.execute(table.delete().where(table.c.machine_id == machine_id))

    async def add_version(self, row: MachineVersion) -> None:
        """Keep a config a machine has had."""
        await self._insert(MACHINE_VERSIONS, row)

    async def version(self, machine_id: str, version: str) -> MachineVersion | None:
        """Return one config a machine has had."""
        table = MACHINE_VERSIONS
        query = table.select().where(table.c.machine_id == machine_id, table.c.version == version)
        return await self._one(query, MachineVersion)

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


def _newer_than(epoch: int, revision: int) -> sa.ColumnElement[bool]:
    """Tell whether what comes with these says more than the row was told."""
    return (PLACEMENTS.c.epoch < epoch) | (
        (PLACEMENTS.c.epoch == epoch) & (PLACEMENTS.c.revision < revision)
    )
