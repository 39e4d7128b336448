"""Network policies, all of an app in one row."""

import sqlalchemy as sa

from godwit.control.records import AppNetworkPolicies, PoliciesOnHost
from godwit.store.rows.base import Rows
from godwit.store.tables import NETWORK_POLICIES, PLACEMENTS


class NetworkPolicyTable(Rows):
    """See `control.rows.NetworkPolicyRows`."""

    async def of_app(self, app_id: str) -> AppNetworkPolicies | None:
        """Return an app's policies; `None` while it has never had any."""
        query = NETWORK_POLICIES.select().where(NETWORK_POLICIES.c.app_id == app_id)
        return await self._one(query, AppNetworkPolicies)

    async def put(self, row: AppNetworkPolicies) -> None:
        """Replace an app's policies."""
        statement = NETWORK_POLICIES.update().where(NETWORK_POLICIES.c.app_id == row.app_id)
        changed = statement.values(version=row.version, policies=row.policies)
        if await self._connection.change(changed) == 0:
            await self._insert(NETWORK_POLICIES, row)

    async def forget(self, app_id: str) -> None:
        """Forget an app's."""
        await self._connection.execute(
            NETWORK_POLICIES.delete().where(NETWORK_POLICIES.c.app_id == app_id)
        )

    async def on_hosts(self) -> list[PoliciesOnHost]:
        """Return which hosts have living machines of apps that have, or had, policies."""
        query = (
            sa.select(PLACEMENTS.c.host_id, NETWORK_POLICIES.c.app_id, NETWORK_POLICIES.c.version)
            .distinct()
            .select_from(
                NETWORK_POLICIES.join(PLACEMENTS, PLACEMENTS.c.app_id == NETWORK_POLICIES.c.app_id)
            )
            .where(
                PLACEMENTS.c.host_id.is_not(None),
                PLACEMENTS.c.status == "accepted",
                PLACEMENTS.c.destroyed_at_ms.is_(None),
            )
        )
        ordered = query.order_by(PLACEMENTS.c.host_id, NETWORK_POLICIES.c.app_id)
        return await self._all(ordered, PoliciesOnHost)
