"""Which machines have which value of a secret: by the version each machine's owner tells."""

from dataclasses import dataclass
from typing import Literal

from godwit.base.principal import Principal
from godwit.control import listing, secrets
from godwit.control.context import Context
from godwit.control.records import AppSecret

State = Literal["deployed", "staged", "partial"]
_MOST_PAGES = 100


@dataclass(frozen=True)
class Status:
    """A secret; `deployed` when every machine has this value, `staged` when none has."""

    secret: AppSecret
    status: State


@dataclass(frozen=True)
class Statuses:
    """An app's secrets by name, at a version."""

    version: int
    secrets: list[Status]


async def of_app(ctx: Context, who: Principal, app_name: str) -> Statuses:
    """Return an app's secrets and how far each has come."""
    found = await secrets.listed(ctx, who, app_name)
    have = await _versions(ctx, who, app_name) if found.secrets else []
    return Statuses(
        found.version, [Status(row, _state(row.version, have)) for row in found.secrets]
    )


def _state(version: int, have: list[int]) -> State:
    reached = sum(one >= version for one in have)
    if not reached:
        return "staged"
    return "deployed" if reached == len(have) else "partial"


async def _versions(ctx: Context, who: Principal, app_name: str) -> list[int]:
    """Return the version of its secrets that each machine of an app has."""
    reader = who.model_copy(update={"scopes": who.scopes | {"machines:read"}})
    have: list[int] = []
    after = listing.BEGINNING
    for _ in range(_MOST_PAGES):
        page = await listing.of_app(ctx, reader, app_name, listing.Filter(), after=after)
        have += [one.view.secrets_version for one in page.machines]
        if page.next is None:
            break
        after = page.next
    return have
