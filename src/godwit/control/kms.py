"""Apps' secret keys: made or imported, used, removed; they never leave the keyring in the clear.

    make ──keyring seals──▶ kms_keys ──sealed, with a text──▶ keyring ──▶ ciphertext, signature, …

A key's type never changes. Making and removing one makes a version of the app's secrets, as a
change of a secret does. What seals the keys outlives rotations of the app's key: hosts never have
it. The types are in `keyring.kms`.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar, get_args

from godwit.base import errors
from godwit.base.principal import Principal
from godwit.control import apps, audit, secrets
from godwit.control.context import Context
from godwit.control.records import App, AppSecretKey, KmsKey
from godwit.control.rows import Rows
from godwit.wire import keyring
from godwit.wire.kms import KeyType
from godwit.wire.secrets import to_bytes, to_text

T = TypeVar("T")

TYPES: tuple[KeyType, ...] = get_args(KeyType)
MOST_KEYS = 500
LONGEST_KEY = 4_096
LONGEST_TEXT = 65_536
_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
"""Of the public client; names are file names and parts of lists there."""
_TRIES = 5


@dataclass(frozen=True)
class NewKey:
    """What a caller wants.

    Attributes:
        value: The key to import; `None` generates one.
    """

    name: str
    type: KeyType
    value: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Use:
    """What is to be done with a key.

    Attributes:
        associated_data: Bound to a ciphertext, not in it.
        signature: For `verify`.
    """

    what: keyring.KmsUse
    text: bytes = field(repr=False)
    associated_data: bytes = field(default=b"", repr=False)
    signature: bytes = field(default=b"", repr=False)


async def listed(
    ctx: Context,
    who: Principal,
    app_name: str,
    *,
    types: frozenset[KeyType] = frozenset(),
    least: int | None = None,
) -> list[KmsKey]:
    """Return an app's keys by name: those of some types, or all.

    Raises:
        Failure: `failed_precondition` when the app's secrets are older than version `least`.
    """
    async with ctx.store.read() as rows:
        app = await apps.require(rows, who, "secrets:read", app_name)
        await secrets.require_version(rows, app, least)
        found = await rows.kms_keys.of_app(app.id)
    return [row for row in found if not types or row.type in types]


async def get(
    ctx: Context, who: Principal, app_name: str, name: str, *, least: int | None = None
) -> KmsKey:
    """Return one key.

    Raises:
        Failure: `not_found`; `failed_precondition` as in `listed`.
    """
    async with ctx.store.read() as rows:
        app = await apps.require(rows, who, "secrets:read", app_name)
        await secrets.require_version(rows, app, least)
        return await _require(rows, app, name)


async def make(ctx: Context, who: Principal, app_name: str, wanted: NewKey) -> tuple[KmsKey, int]:
    """Make a key, or another in the place of one of that name; return it and the version.

    Raises:
        Failure: `invalid_argument` when there is one of another type, or what is imported is no
            key; `unavailable` when the keyring is away; `conflict` when others change the app's
            secrets all the time.
    """
    _check(wanted)

    async def attempt() -> tuple[KmsKey, int] | None:
        async with ctx.store.read() as rows:
            app = await apps.require(rows, who, "secrets:write", app_name)
            was = await rows.app_secrets.key(app.id)
        key = was or await secrets.first_key(ctx, app)
        row = await _sealed(ctx, app, key, wanted)
        async with ctx.store.write() as rows:
            app = await apps.require(rows, who, "secrets:write", app_name)
            version = await _next_version(ctx, rows, was, key)
            if version is None:
                return None
            await _require_room(rows, app, wanted)
            await rows.kms_keys.put(row)
            how = "generate" if wanted.value is None else "import"
            await _record(ctx, rows, who, (how, row, version))
            made = await rows.kms_keys.get(app.id, row.name)
        return made or row, version

    return await _tried(app_name, attempt)


async def delete(ctx: Context, who: Principal, app_name: str, name: str) -> int:
    """Forget a key; nothing it encrypted can be read ever after. Return the version.

    Raises:
        Failure: `not_found`; `conflict`.
    """

    async def attempt() -> int | None:
        async with ctx.store.write() as rows:
            app = await apps.require(rows, who, "secrets:write", app_name)
            row = await _require(rows, app, name)
            was = await rows.app_secrets.key(app.id)
            version = None if was is None else await _next_version(ctx, rows, was, was)
            if version is not None:
                await rows.kms_keys.remove(app.id, name)
                await _record(ctx, rows, who, ("delete", row, version))
        return version

    return await _tried(app_name, attempt)


async def use(ctx: Context, who: Principal, app_name: str, name: str, wanted: Use) -> bytes:
    """Return what a key makes of a text; nothing for a signature that is right.

    Raises:
        Failure: `not_found`; `invalid_argument` when the key's type does not do that, a signature
            is wrong or a text was not encrypted with it; `unavailable` when the keyring is away.
    """
    for place, given in (("text", wanted.text), ("associated_data", wanted.associated_data)):
        # A ciphertext is longer than its text by what is beside it.
        if len(given) > LONGEST_TEXT + 128:
            raise errors.invalid(
                f"{place}: has {len(given)} bytes, {LONGEST_TEXT} are the most",
                hint="encrypt a key of your own with this one, and the data with that",
            )
    async with ctx.store.read() as rows:
        app = await apps.require(rows, who, "secrets:use", app_name)
        row = await _require(rows, app, name)
        key = await rows.app_secrets.key(app.id)
    if key is None:
        raise errors.Failure("internal", f"app {app_name!r} has a secret key that nothing seals")
    asked = keyring.UseKms(
        key=secrets.wrapped(key),
        name=row.name,
        type=row.type,
        data=row.data,
        use=wanted.what,
        text=to_text(wanted.text),
        associated_data=to_text(wanted.associated_data),
        signature=to_text(wanted.signature),
    )
    return to_bytes((await ctx.keyring.use_kms(asked)).output)


def _check(wanted: NewKey) -> None:
    if not _NAME.fullmatch(wanted.name):
        raise errors.invalid(
            f"{wanted.name[:64]!r} is no name for a secret key",
            hint="letters, digits, _ and -, at most 255",
        )
    if wanted.value is not None and len(wanted.value) > LONGEST_KEY:
        raise errors.invalid(f"value: has {len(wanted.value)} bytes, {LONGEST_KEY} are the most")


async def _require(rows: Rows, app: App, name: str) -> KmsKey:
    found = await rows.kms_keys.get(app.id, name)
    if found is None:
        raise errors.not_found(
            f"app {app.name!r} has no secret key {name!r}",
            hint="list them with `godwit secrets keys list`",
        )
    return found


async def _require_room(rows: Rows, app: App, wanted: NewKey) -> None:
    """Return if a key of that name and type may be there.

    Raises:
        Failure: `invalid_argument`.
    """
    present = await rows.kms_keys.of_app(app.id)
    same = next((row for row in present if row.name == wanted.name), None)
    if same is not None and same.type != wanted.type:
        raise errors.invalid(
            f"type: key {wanted.name!r} is of type {same.type}, and stays so",
            hint="take another name, as NAMEv2, or delete it first",
        )
    if same is None and len(present) >= MOST_KEYS:
        raise errors.invalid(f"an app has at most {MOST_KEYS} secret keys")


async def _sealed(ctx: Context, app: App, key: AppSecretKey, wanted: NewKey) -> KmsKey:
    asked = keyring.MakeKms(
        key=secrets.wrapped(key),
        name=wanted.name,
        type=wanted.type,
        value=None if wanted.value is None else to_text(wanted.value),
    )
    made = await ctx.keyring.make_kms(asked)
    now_ms = ctx.clock.now_ms()
    return KmsKey(
        app_id=app.id,
        name=wanted.name,
        org_id=app.org_id,
        type=wanted.type,
        data=made.data,
        public_key=made.public_key,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
    )


async def _next_version(
    ctx: Context, rows: Rows, was: AppSecretKey | None, key: AppSecretKey
) -> int | None:
    """Make a version of an app's secrets; `None` when they are not what they were any more."""
    renewed = replace(key, version=key.version + 1, updated_at_ms=ctx.clock.now_ms())
    if was is None:
        same = await rows.app_secrets.add_key(renewed)
    else:
        same = await rows.app_secrets.replace_key(was, renewed)
    return renewed.version if same else None


async def _record(ctx: Context, rows: Rows, who: Principal, done: tuple[str, KmsKey, int]) -> None:
    how, row, version = done
    app = await rows.apps.by_id(row.app_id)
    await audit.record(
        rows,
        ctx.clock,
        who,
        f"secretkeys.{how}",
        row.app_id if app is None else app.name,
        org_id=row.org_id,
        name=row.name,
        type=row.type,
        version=version,
    )


async def _tried(app_name: str, attempt: Callable[[], Awaitable[T | None]]) -> T:
    for _ in range(_TRIES):
        done = await attempt()
        if done is not None:
            return done
    raise errors.Failure(
        "conflict", f"the secrets of {app_name} are being changed by others", hint="try again"
    )
