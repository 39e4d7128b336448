"""Organizations, networks, users and tokens."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from godwit.control.records import Network, Organization, Token, User
from godwit.store.rows.base import Rows
from godwit.store.tables import NETWORKS, ORGANIZATIONS, TOKEN_ORGANIZATIONS, TOKENS, USERS

_TOKENS: sa.Select[Any] = (
    sa.select(TOKENS, TOKEN_ORGANIZATIONS.c.org_id)
    .join(TOKEN_ORGANIZATIONS, TOKEN_ORGANIZATIONS.c.token_id == TOKENS.c.id, isouter=True)
    .order_by(TOKENS.c.created_at_ms, TOKENS.c.id, TOKEN_ORGANIZATIONS.c.org_id)
)
_TOKEN_BY_HASH = _TOKENS.where(TOKENS.c.hash == sa.bindparam("hash"))


_LIVING = ORGANIZATIONS.c.slug != ORGANIZATIONS.c.id
"""An id is no slug: what was deleted keeps its row under a name that none can have."""


class OrganizationTable(Rows):
    """See `control.rows.OrganizationRows`."""

    async def add(self, row: Organization) -> None:
        """Add one."""
        await self._insert(ORGANIZATIONS, row)

    async def by_slug(self, slug: str) -> Organization | None:
        """Return a living one by its slug."""
        query = ORGANIZATIONS.select().where(ORGANIZATIONS.c.slug == slug, _LIVING)
        return await self._one(query, Organization)

    async def by_ids(self, ids: Collection[str] | None) -> list[Organization]:
        """Return the living among these, or all for `None`, by slug."""
        query = ORGANIZATIONS.select().where(_LIVING).order_by(ORGANIZATIONS.c.slug)
        if ids is not None:
            query = query.where(ORGANIZATIONS.c.id.in_(ids))
        return await self._all(query, Organization)

    async def count(self) -> int:
        """Return how many live."""
        query = sa.select(sa.func.count()).select_from(ORGANIZATIONS).where(_LIVING)
        return int(await self._scalar(query))

    async def set_replays_across_networks(self, org_id: str, allowed: bool) -> None:
        """Say whether its apps may replay requests into any of its networks."""
        statement = ORGANIZATIONS.update().where(ORGANIZATIONS.c.id == org_id)
        await self._connection.execute(statement.values(replays_across_networks=allowed))

    async def bury(self, org_id: str) -> None:
        """Let one's slug go, and with it the organization."""
        statement = ORGANIZATIONS.update().where(ORGANIZATIONS.c.id == org_id)
        await self._connection.execute(statement.values(slug=ORGANIZATIONS.c.id))


class NetworkTable(Rows):
    """See `control.rows.NetworkRows`."""

    async def add(self, row: Network) -> None:
        """Add one."""
        await self._insert(NETWORKS, row)

    async def by_name(self, org_id: str, name: str) -> Network | None:
        """Return an organization's network."""
        query = NETWORKS.select().where(NETWORKS.c.org_id == org_id, NETWORKS.c.name == name)
        return await self._one(query, Network)

    async def next_address(self, network_id: str) -> int:
        """Return the count of a new private address, from 1, never given out before."""
        statement = (
            NETWORKS.update()
            .where(NETWORKS.c.id == network_id)
            .values(addresses_given=NETWORKS.c.addresses_given + 1)
            .returning(NETWORKS.c.addresses_given)
        )
        return int((await self._connection.execute(statement)).scalar_one())


class UserTable(Rows):
    """See `control.rows.UserRows`."""

    async def add(self, row: User) -> None:
        """Add one."""
        await self._insert(USERS, row)

    async def by_email(self, email: str) -> User | None:
        """Return one by address."""
        return await self._one(USERS.select().where(USERS.c.email == email), User)


class TokenTable(Rows):
    """See `control.rows.TokenRows`."""

    async def add(self, row: Token) -> None:
        """Add one."""
        values: dict[str, Any] = {
            column.name: getattr(row, column.name)
            for column in TOKENS.columns
            if column.name not in ("everywhere", "scopes")
        }
        values |= {"everywhere": row.org_ids is None, "scopes": sorted(row.scopes)}
        await self._connection.execute(TOKENS.insert().values(**values))
        members = [{"token_id": row.id, "org_id": org_id} for org_id in row.org_ids or ()]
        if members:
            await self._connection.execute(TOKEN_ORGANIZATIONS.insert(), members)

    async def by_hash(self, digest: str) -> Token | None:
        """Return the token whose secret has this SHA-256."""
        found = await self._tokens(_TOKEN_BY_HASH, hash=digest)
        return found[0] if found else None

    async def by_id(self, token_id: str) -> Token | None:
        """Return one."""
        found = await self._tokens(_TOKENS.where(TOKENS.c.id == token_id))
        return found[0] if found else None

    async def visible(self, org_ids: Collection[str] | None) -> list[Token]:
        """Return the tokens that act only in these organizations; all for `None`."""
        if org_ids is None:
            return await self._tokens(_TOKENS)
        members = TOKEN_ORGANIZATIONS
        theirs = sa.select(members.c.token_id).where(members.c.org_id.in_(org_ids))
        foreign = sa.select(members.c.token_id).where(members.c.org_id.not_in(org_ids))
        only_theirs = TOKENS.c.id.in_(theirs) & TOKENS.c.id.not_in(foreign)
        return await self._tokens(_TOKENS.where(TOKENS.c.everywhere.is_(False), only_theirs))

    async def set_scopes(self, token_id: str, scopes: Sequence[str]) -> None:
        """Change what one may do."""
        statement = TOKENS.update().where(TOKENS.c.id == token_id)
        await self._connection.execute(statement.values(scopes=list(scopes)))

    async def revoke(self, token_id: str, at_ms: int) -> None:
        """Mark one as of no more use."""
        statement = TOKENS.update().where(
            TOKENS.c.id == token_id, TOKENS.c.revoked_at_ms.is_(None)
        )
        await self._connection.execute(statement.values(revoked_at_ms=at_ms))

    async def _tokens(self, query: sa.Select[Any], **parameters: Any) -> list[Token]:
        found: dict[str, Token] = {}
        for row in (await self._connection.execute(query, parameters)).mappings():
            values = dict(row)
            org_id, everywhere = values.pop("org_id"), values.pop("everywhere")
            values["scopes"] = tuple(values["scopes"])
            if values["app_ids"] is not None:
                values["app_ids"] = tuple(values["app_ids"])
            token = found.get(values["id"]) or Token(**values, org_ids=None if everywhere else ())
            if org_id is not None:
                token = replace(token, org_ids=(*(token.org_ids or ()), org_id))
            found[token.id] = token
        return list(found.values())
