"""Apps' secrets: set, listed, given to hosts. Control keeps what only the keyring can open.

    set ──keyring seals──▶ app_secrets, version n+1 ──with the next machine offer or update──▶ host

Every change of any secret makes a version of all. Values are in memory here for as long as a
request takes; what users see of them afterwards are keyed digests. Re-encryption and the root keys
are in `secret_keys`.
"""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from godwit.base import errors
from godwit.base.principal import Principal
from godwit.control import apps, audit, handed, machine_config
from godwit.control.context import Context
from godwit.control.records import App, AppSecret, AppSecretKey
from godwit.control.rows import Rows
from godwit.wire import guest, keyring
from godwit.wire.secrets import HostSecrets, Owner, SealedValue, to_bytes, to_text

LONGEST_VALUE = 65_536
MOST_BYTES = 131_072
"""Names and values of an app together: sealed, they travel with a machine over the bus."""
MOST_SECRETS = 500
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,254}")
_SEALED_BESIDE = 28
_AROUND_ONE = 12
"""What stands around a variable in JSON, and what base64 is rounded up by."""
_TRIES = 5


@dataclass(frozen=True)
class Values:
    """What a caller sets; `None` removes."""

    values: Mapping[str, bytes | None] = field(repr=False)


@dataclass(frozen=True)
class Secrets:
    """An app's secrets at a version, without their values.

    Attributes:
        shown: Values, where they were asked for.
        changed: Whether the request that led here changed any.
    """

    version: int
    secrets: list[AppSecret]
    shown: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    changed: bool = True


async def change(ctx: Context, who: Principal, app_name: str, wanted: Values) -> Secrets:
    """Set and remove secrets in one step; machines get them with their next update.

    A value that is what it was, and the removal of what is not there, change nothing.

    Raises:
        Failure: `invalid_argument` naming what is wrong, never a value; `unavailable` when the
            keyring is away; `conflict` when others change the same secrets all the time.
    """
    _check(wanted.values)
    async with ctx.store.read() as rows:
        app = await apps.require(rows, who, "secrets:write", app_name)
    for _ in range(_TRIES):
        async with ctx.store.read() as rows:
            key = await rows.app_secrets.key(app.id)
            present = {row.name: row for row in await rows.app_secrets.of_app(app.id)}
        made = await _sealed(ctx, app, key, present, wanted.values)
        if made is None:
            return Secrets(key.version if key else 0, list(present.values()), changed=False)
        done = await _commit(ctx, who, app, key, made)
        if done is not None:
            return done
    raise errors.Failure(
        "conflict", f"the secrets of {app_name} are being changed by others", hint="try again"
    )


async def listed(
    ctx: Context, who: Principal, app_name: str, *, values: bool = False, least: int | None = None
) -> Secrets:
    """Return an app's secrets by name; their values only to who may read those.

    Args:
        ctx: Control.
        who: Needs `secrets:read`, and `secrets:read_values` for values, which is audited.
        app_name: Whose.
        values: Whether values are shown.
        least: Refuse to answer with an older version.

    Raises:
        Failure: `failed_precondition` when there is no such version yet.
    """
    async with ctx.store.read() as rows:
        app = await apps.require(rows, who, "secrets:read", app_name)
        if values:
            who.require("secrets:read_values", app.org_id, app_id=app.id)
        key = await rows.app_secrets.key(app.id)
        found = await rows.app_secrets.of_app(app.id)
    version = key.version if key else 0
    _require_version(app, version, least)
    if not values or key is None:
        return Secrets(version, found)
    return Secrets(version, found, await _revealed(ctx, who, app, key, found))


async def get(
    ctx: Context, who: Principal, app_name: str, name: str, *, value: bool = False
) -> Secrets:
    """Return one secret, alone in the list.

    Raises:
        Failure: `not_found`.
    """
    async with ctx.store.read() as rows:
        app = await apps.require(rows, who, "secrets:read", app_name)
        if value:
            who.require("secrets:read_values", app.org_id, app_id=app.id)
        key = await rows.app_secrets.key(app.id)
        found = [row for row in await rows.app_secrets.of_app(app.id) if row.name == name]
    if key is None or not found:
        raise errors.not_found(
            f"app {app_name!r} has no secret {name!r}", hint="list them with `godwit secrets list`"
        )
    shown = await _revealed(ctx, who, app, key, found) if value else {}
    return Secrets(key.version, found, shown)


async def version(rows: Rows, app: App) -> int:
    """Return the version of an app's secrets; 0 when it never had any."""
    key = await rows.app_secrets.key(app.id)
    return key.version if key else 0


async def check_machine(
    ctx: Context, app: App, config: machine_config.MachineConfig, least: int | None
) -> None:
    """Return if an app's secrets have what a machine's config and its caller ask for.

    Raises:
        Failure: `failed_precondition` when they are older than `least`; `invalid_argument` when a
            file or process is to have a secret that is not there, or all that a start hands to
            the machine is too much.
    """
    files = itertools.chain(config.files, *(one.files for one in config.containers))
    asked = {file.secret_name for file in files if file.secret_name}
    named = itertools.chain(
        *(one.secrets for one in config.processes), *(one.secrets for one in config.containers)
    )
    asked |= {one.name or one.env_var for one in named}
    may_be_much = handed.most_bytes(config, _Largest()) > guest.MOST_SPEC_BYTES
    if not asked and least is None and not may_be_much:
        return
    async with ctx.store.read() as rows:
        present = await version(rows, app)
        found = await rows.app_secrets.of_app(app.id) if asked or may_be_much else []
    _require_version(app, present, least)
    missing = sorted(asked - {row.name for row in found})
    if missing:
        raise errors.invalid(
            f"config: app {app.name!r} has no secret {', '.join(missing)}",
            hint="set it first, for files in base64: `godwit secrets set --stage NAME=-`",
        )
    handed.check(config, handed.Known({row.name: _length(row) for row in found}))


class _Largest:
    """Secrets as large as an app's can be."""

    def whole(self) -> int:
        """Return what the environment with all of them takes."""
        return MOST_BYTES // 3 * 4 + MOST_SECRETS * _AROUND_ONE

    def one(self, _: str) -> int:
        """Return what the value of one takes."""
        return -(-LONGEST_VALUE // 3) * 4


async def require_version(rows: Rows, app: App, least: int | None) -> None:
    """Return if an app's secrets are as new as that.

    Raises:
        Failure: `failed_precondition`.
    """
    if least:
        _require_version(app, await version(rows, app), least)


async def for_host(ctx: Context, app_id: str, host_id: str) -> HostSecrets | None:
    """Return an app's newest secrets, which only that host can open; `None` when it has none.

    Raises:
        Failure: `unavailable` when the keyring is away; `failed_precondition` when the host never
            said what to seal to.
    """
    async with ctx.store.read() as rows:
        key = await rows.app_secrets.key(app_id)
        if key is None:
            return None
        found = await rows.app_secrets.of_app(app_id)
        host = await rows.hosts.get(host_id)
    if host is None or not host.sealing_key:
        raise errors.Failure(
            "failed_precondition",
            f"host {host_id} has no key that secrets could be sealed to",
            hint="start Godwit on that host again: it makes one",
        )
    sealed = await ctx.keyring.for_host(
        keyring.ForHost(key=wrapped(key), host_key=host.sealing_key)
    )
    return HostSecrets(
        owner=Owner(org_id=key.org_id, app_id=app_id),
        version=key.version,
        key=sealed,
        values=tuple(at_rest(row) for row in found),
    )


def wrapped(key: AppSecretKey) -> keyring.WrappedKey:
    """Return an app's keys as the keyring takes them."""
    return keyring.WrappedKey(
        owner=Owner(org_id=key.org_id, app_id=key.app_id),
        key_id=key.key_id,
        root_id=key.root_id,
        data=key.data,
    )


def at_rest(row: AppSecret) -> SealedValue:
    """Return a secret as the keyring and hosts take it."""
    return SealedValue(name=row.name, version=row.version, data=row.data)


def _require_version(app: App, present: int, least: int | None) -> None:
    if least is not None and least > present:
        raise errors.Failure(
            "failed_precondition",
            f"the secrets of app {app.name!r} are at version {present}, version {least} is not"
            " there",
            hint="ask for a version that a change of secrets has returned",
        )


def _check(values: Mapping[str, bytes | None]) -> None:
    """Refuse what no environment can hold and no host could be sent.

    Raises:
        Failure: `invalid_argument`.
    """
    if not values:
        raise errors.invalid("values: give at least one secret")
    for name, value in values.items():
        if not _NAME.fullmatch(name):
            raise errors.invalid(
                f"values: {name[:64]!r} is no name for a secret",
                hint="letters, digits, _, . and -, beginning with a letter or _, at most 255",
            )
        if value is None:
            continue
        if len(value) > LONGEST_VALUE:
            raise errors.invalid(
                f"values.{name}: has {len(value)} bytes, {LONGEST_VALUE} are the most"
            )
        if b"\0" in value:
            raise errors.invalid(
                f"values.{name}: holds a NUL byte, which no environment variable can",
                hint="give it in base64 and have a file written from it: files with secret_name",
            )


def _length(row: AppSecret) -> int:
    """Return how long a value is in the clear."""
    return len(to_bytes(row.data)) - _SEALED_BESIDE


def _check_sum(rows: list[AppSecret]) -> None:
    taken = sum(len(row.name) + _length(row) for row in rows)
    if taken > MOST_BYTES:
        raise errors.invalid(
            f"values: the app's secrets would take {taken} bytes, {MOST_BYTES} are the most",
            hint="remove some with `godwit secrets unset`",
        )
    if len(rows) > MOST_SECRETS:
        raise errors.invalid(f"values: an app has at most {MOST_SECRETS} secrets")


@dataclass(frozen=True)
class _Made:
    """A change that is ready to be stored."""

    key: AppSecretKey
    put: list[AppSecret]
    gone: list[str]
    whole: list[AppSecret]


async def _sealed(
    ctx: Context,
    app: App,
    key: AppSecretKey | None,
    present: Mapping[str, AppSecret],
    values: Mapping[str, bytes | None],
) -> _Made | None:
    """Return the change, `None` when nothing would be another."""
    now_ms = ctx.clock.now_ms()
    gone = [name for name, value in values.items() if value is None and name in present]
    given = {name: value for name, value in values.items() if value is not None}
    if not gone and not given:
        return None
    next_key = replace(key or await first_key(ctx, app), updated_at_ms=now_ms)
    next_key = replace(next_key, version=next_key.version + 1)
    plain = tuple(
        keyring.PlainValue(name=name, version=next_key.version, value=to_text(value))
        for name, value in given.items()
    )
    sealed = keyring.Sealed(values=())
    if plain:
        sealed = await ctx.keyring.seal(keyring.Seal(key=wrapped(next_key), values=plain))
    put = [
        _row(app, next_key, one, now_ms)
        for one in sealed.values
        if one.sealed.name not in present or present[one.sealed.name].digest != one.digest
    ]
    if not put and not gone:
        return None
    whole = {name: row for name, row in present.items() if name not in gone}
    whole |= {row.name: row for row in put}
    _check_sum(list(whole.values()))
    return _Made(next_key, put, gone, [whole[name] for name in sorted(whole)])


async def first_key(ctx: Context, app: App) -> AppSecretKey:
    """Return keys for an app that has none yet, for version 0 of its secrets; not stored.

    Raises:
        Failure: `unavailable` when the keyring is away.
    """
    now_ms = ctx.clock.now_ms()
    made = await ctx.keyring.new_key(keyring.NewKey(owner=Owner(org_id=app.org_id, app_id=app.id)))
    return AppSecretKey(
        app_id=app.id,
        org_id=app.org_id,
        version=0,
        key_id=made.key_id,
        root_id=made.root_id,
        data=made.data,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
    )


def _row(app: App, key: AppSecretKey, one: keyring.DigestedValue, now_ms: int) -> AppSecret:
    return AppSecret(
        app_id=app.id,
        name=one.sealed.name,
        org_id=app.org_id,
        version=one.sealed.version,
        key_id=key.key_id,
        data=one.sealed.data,
        digest=one.digest,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
    )


async def _commit(
    ctx: Context, who: Principal, app: App, was: AppSecretKey | None, made: _Made
) -> Secrets | None:
    """Store a change; `None` when the secrets are not what it was made from any more."""
    async with ctx.store.write() as rows:
        # The app may have been deleted meanwhile.
        await apps.require(rows, who, "secrets:write", app.name)
        if was is None:
            same = await rows.app_secrets.add_key(made.key)
        else:
            same = await rows.app_secrets.replace_key(was, made.key)
        if not same:
            return None
        for row in made.put:
            await rows.app_secrets.put(row)
        for name in made.gone:
            await rows.app_secrets.remove(app.id, name)
        await audit.record(
            rows,
            ctx.clock,
            who,
            "secrets.change",
            app.name,
            org_id=app.org_id,
            set=[row.name for row in made.put],
            removed=made.gone,
            version=made.key.version,
        )
        return Secrets(made.key.version, await rows.app_secrets.of_app(app.id))


async def _revealed(
    ctx: Context, who: Principal, app: App, key: AppSecretKey, found: list[AppSecret]
) -> dict[str, bytes]:
    """Return values in the clear; written down before they are."""
    async with ctx.store.write() as rows:
        await audit.record(
            rows,
            ctx.clock,
            who,
            "secrets.reveal",
            app.name,
            org_id=app.org_id,
            names=[row.name for row in found],
        )
    asked = keyring.Reveal(key=wrapped(key), values=tuple(at_rest(row) for row in found))
    shown = await ctx.keyring.reveal(asked)
    return {one.name: to_bytes(one.value) for one in shown.values}
