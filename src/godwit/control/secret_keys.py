"""Keys of apps' secrets, made anew: one app's own, and the keyring's root keys under all of them.

    rotate_app    values ──former app key──▶ ──present one──▶  one transaction; versions stay
    rotate_root   another root key ▶ apps' keys wrapped again, a batch at a time ▶ the old one goes

Machines that run, and hosts' sealed copies, know neither: they keep the app key they were given
until their next update. What a root rotation leaves undone, `sweep` finishes at intervals.
"""

import asyncio
import logging
from dataclasses import dataclass, replace

from godwit.base import errors
from godwit.base.principal import Principal
from godwit.control import apps, audit, keyrings, secrets
from godwit.control.context import Context
from godwit.control.records import AppSecret, AppSecretKey
from godwit.control.rows import Rows
from godwit.wire import keyring

logger = logging.getLogger(__name__)

_BATCH = 100
_MOST_BATCHES = 1_000
_TRIES = 5
_EVERY_S = 60.0


@dataclass(frozen=True)
class Roots:
    """How far a rotation of the root key is.

    Attributes:
        ids: Root keys there still are, the oldest first; the newest wraps.
        rewrapped: Apps whose keys were wrapped again now.
    """

    ids: tuple[str, ...]
    rewrapped: int


class Sweeper:
    """Finishes rotations of the root key, whoever began them and whatever broke them off."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    async def run(self) -> None:
        """Sweep for ever."""
        while True:
            try:
                await sweep(self._ctx)
            except errors.Failure as failure:
                logger.warning("root keys are looked after later: %s", failure.message)
            await asyncio.sleep(_EVERY_S)


async def rotate_app(ctx: Context, who: Principal, app_name: str) -> secrets.Secrets:
    """Encrypt an app's secrets with another key; their versions and digests stay.

    Raises:
        Failure: `unavailable` when the keyring is away; `conflict` when they are being changed.
    """
    async with ctx.store.read() as rows:
        app = await apps.require(rows, who, "secrets:write", app_name)
    for _ in range(_TRIES):
        async with ctx.store.read() as rows:
            was = await rows.app_secrets.key(app.id)
            found = await rows.app_secrets.of_app(app.id)
        if was is None:
            raise errors.Failure("failed_precondition", f"app {app_name!r} has no secrets")
        key, resealed = await _resealed(ctx, was, found)
        async with ctx.store.write() as rows:
            if not await rows.app_secrets.replace_key(was, key):
                continue
            for row in resealed:
                await rows.app_secrets.put(row)
            await audit.record(
                rows,
                ctx.clock,
                who,
                "secrets.rotate",
                app.name,
                org_id=app.org_id,
                former=was.key_id,
                key=key.key_id,
            )
        return secrets.Secrets(key.version, resealed)
    raise errors.Failure(
        "conflict", f"the secrets of {app_name} are being changed by others", hint="try again"
    )


async def rotate_root(ctx: Context, who: Principal) -> Roots:
    """Have the keyring make another root key and wrap every app's keys with it.

    Raises:
        Failure: `permission_denied`; `unavailable` when the keyring is away;
            and what `keyrings.new_root` says where there are several.
    """
    who.require("keyring:rotate")
    if who.org_ids is not None:
        raise errors.Failure("permission_denied", "only the operator rotates the root key")
    hosts = await keyrings.several(ctx)
    made = await (keyrings.new_root(ctx, hosts) if hosts else ctx.keyring.new_root())
    async with ctx.store.write() as rows:
        await audit.record(
            rows, ctx.clock, who, "keyring.rotate", made.newest, org_id=None, roots=list(made.ids)
        )
    return await sweep(ctx)


async def sweep(ctx: Context) -> Roots:
    """Wrap with the newest root key what older ones wrap, then remove those; may run any time.

    Raises:
        Failure: `unavailable` when the keyring is away.
    """
    roots = await ctx.keyring.roots()
    rewrapped = 0
    for _ in range(_MOST_BATCHES):
        async with ctx.store.read() as rows:
            batch = await rows.app_secrets.wrapped_otherwise(roots.newest, _BATCH)
        if not batch:
            break
        rewrapped += await _rewrap(ctx, batch)
    if len(roots.ids) > 1 and await keyrings.agreed(ctx, await keyrings.several(ctx), roots):
        async with ctx.store.read() as rows:
            used = await rows.app_secrets.roots()
        roots = await ctx.keyring.retire_roots(keyring.RetireRoots(used=tuple(sorted(used))))
    return Roots(roots.ids, rewrapped)


async def _resealed(
    ctx: Context, was: AppSecretKey, found: list[AppSecret]
) -> tuple[AppSecretKey, list[AppSecret]]:
    now_ms = ctx.clock.now_ms()
    former = secrets.wrapped(was)
    renewed = await ctx.keyring.renew_key(keyring.RenewKey(key=former))
    answer = await ctx.keyring.reseal(
        keyring.Reseal(
            former=former, key=renewed, values=tuple(secrets.at_rest(row) for row in found)
        )
    )
    rows = [
        replace(row, key_id=renewed.key_id, data=one.sealed.data)
        for row, one in zip(found, answer.values, strict=True)
    ]
    return _with(was, renewed, now_ms), rows


async def _rewrap(ctx: Context, batch: list[AppSecretKey]) -> int:
    """Return how many keys were wrapped again; one that changed meanwhile is left for later."""
    asked = keyring.Rewrap(keys=tuple(secrets.wrapped(row) for row in batch))
    answer = await ctx.keyring.rewrap(asked)
    now_ms = ctx.clock.now_ms()
    async with ctx.store.write() as rows:
        return await _store(rows, batch, answer.keys, now_ms)


async def _store(
    rows: Rows, batch: list[AppSecretKey], keys: tuple[keyring.WrappedKey, ...], now_ms: int
) -> int:
    done = 0
    for was, key in zip(batch, keys, strict=True):
        done += await rows.app_secrets.replace_key(was, _with(was, key, now_ms))
    return done


def _with(was: AppSecretKey, key: keyring.WrappedKey, now_ms: int) -> AppSecretKey:
    return replace(
        was, key_id=key.key_id, root_id=key.root_id, data=key.data, updated_at_ms=now_ms
    )
