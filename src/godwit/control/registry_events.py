"""What the platform's registry tells of: every push of a manifest leaves an audit row.

The registry posts its notifications (distribution 2.8, "notifications") to the API with a
password that only it and control know. It asks again until it is answered, so a row may be there
twice; the event's id tells.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from godwit.base import errors, log, principal
from godwit.control import audit
from godwit.control.context import Context

USER = "registry"
_MOST_EVENTS = 1_000


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Target(_Part):
    repository: str = ""
    tag: str = ""
    digest: str = ""


class _Actor(_Part):
    name: str = ""


class _Event(_Part):
    id: str = ""
    action: str = ""
    target: _Target = _Target()
    actor: _Actor = _Actor()


class _Envelope(_Part):
    events: list[_Event] = []


def password(secret: str) -> str:
    """Return what the registry shows, made from the secret it shares with control."""
    return hashlib.sha256(f"godwit registry events\0{secret}".encode()).hexdigest()


def is_registry(ctx: Context, user: str, given: str) -> bool:
    """Tell whether a request comes from the platform's registry."""
    known = ctx.options.registry_secret
    expected = password(known).encode()
    return bool(known) and user == USER and hmac.compare_digest(expected, given.encode())


async def take(ctx: Context, document: Any) -> int:
    """Write a row for each push in a notification; return how many.

    Raises:
        Failure: `invalid_argument` when it is no notification.
    """
    try:
        envelope = _Envelope.model_validate(document)
    except ValidationError as error:
        raise errors.invalid("this is no notification of a registry") from error
    pushes = [one for one in envelope.events[:_MOST_EVENTS] if one.action == "push"]
    if pushes:
        await _record(ctx, pushes)
    return len(pushes)


async def _record(ctx: Context, pushes: Sequence[_Event]) -> None:
    async with ctx.store.write() as rows:
        for one in pushes:
            app = await rows.apps.by_name(one.target.repository.partition("/")[0])
            who = principal.component("registry").model_copy(
                update={"subject": one.actor.name or "component:registry"}
            )
            with log.bound(org_id=app.org_id if app else None):
                await audit.record(
                    rows,
                    ctx.clock,
                    who,
                    "images.push",
                    f"{one.target.repository}:{one.target.tag or one.target.digest}"[:200],
                    org_id=app.org_id if app else None,
                    digest=one.target.digest,
                    event=one.id,
                )
