"""What a fresh database gets: the first organization, the operator and its token, this host."""

from dataclasses import dataclass, replace

from godwit.base import ids, principal
from godwit.control import audit, members, tokens
from godwit.control.context import Context
from godwit.control.records import Host, Organization, User
from godwit.control.rows import Rows

FIRST_ORGANIZATION = "personal"
_OPERATOR = "operator@localhost"
_TOKEN = "operator"  # noqa: S105 - a name, not a secret
_ME = principal.component("control")


@dataclass(frozen=True)
class Seed:
    """What this server says of itself.

    Attributes:
        host: `None` on one that joined, of whom the cluster knows.
    """

    operator_secret: str
    host: Host | None


async def ensure(ctx: Context, seed: Seed) -> None:
    """Ensure that organization, operator, token and host are there."""
    now_ms = ctx.clock.now_ms()
    async with ctx.store.write() as rows:
        if await rows.organizations.by_slug(FIRST_ORGANIZATION) is None:
            await _add_organization(ctx, rows)
        user = await rows.users.by_email(_OPERATOR)
        if user is None:
            user = User(
                id=ids.tagged("usr"), email=_OPERATOR, name="Operator", created_at_ms=now_ms
            )
            await rows.users.add(user)
        await tokens.adopt(ctx, rows, name=_TOKEN, secret=seed.operator_secret, user_id=user.id)
        if seed.host is not None:
            await members.put(rows, replace(seed.host, created_at_ms=now_ms))
    ctx.facts_wanted.set()


async def _add_organization(ctx: Context, rows: Rows) -> None:
    made = Organization(
        id=ids.tagged("org"),
        number=await rows.meta.next_number("organizations"),
        slug=FIRST_ORGANIZATION,
        name="Personal",
        created_at_ms=ctx.clock.now_ms(),
    )
    await rows.organizations.add(made)
    await audit.record(rows, ctx.clock, _ME, "organizations.create", made.slug, org_id=made.id)
