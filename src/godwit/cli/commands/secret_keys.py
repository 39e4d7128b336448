"""`godwit secrets keys`: keys that apps use by name. Called by `secrets`, whose group they are in.

A label may end in a version, `tokenv2`. Without one, a new key is the next version of its label,
so that what the former ones encrypted and signed stays readable (as flyctl numbers them).
"""

import re
from dataclasses import dataclass
from typing import Annotated, get_args

import typer

from godwit.base import errors
from godwit.cli import connect, session, times, tree
from godwit.cli.options import AppOption, ConfigOption, JsonOption, YesOption
from godwit.client.api import Api
from godwit.client.secret_keys import SecretKey
from godwit.wire.kms import KeyType

app = tree.group("Make and list an app's secret keys, which never leave the platform.", lists=True)

_PREFERRED: dict[str, KeyType] = {"signing": "nacl_auth", "encrypting": "nacl_secretbox"}
_TYPES: tuple[KeyType, ...] = get_args(KeyType)
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,255}")
_VERSIONED = re.compile(r"(.*)v([0-9]{1,18})")
_LONGEST_KEY = 4_096

TypeArgument = Annotated[
    str,
    typer.Argument(metavar="TYPE", help=f"signing, encrypting, or one of {', '.join(_TYPES)}."),
]
LabelArgument = Annotated[
    str, typer.Argument(metavar="LABEL", help="The key's name, with or without its version.")
]
NoVersionOption = Annotated[
    bool, typer.Option("--noversion", "-n", help="Take the label as it is, without a version.")
]
ReplaceOption = Annotated[
    bool, typer.Option("--force", "-f", help="Replace a key of that label and version.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Do not print the label.")]


@dataclass(frozen=True)
class Label:
    """A key's name in its parts; `version` is `None` where it has none."""

    prefix: str
    version: int | None

    @classmethod
    def parse(cls, text: str) -> "Label":
        """Return a label's parts.

        Raises:
            Failure: `invalid_argument`.
        """
        if not _LABEL.fullmatch(text):
            raise errors.invalid(
                f"{text!r} is no label for a secret key",
                hint="letters, digits, _ and -, at most 255",
            )
        found = _VERSIONED.fullmatch(text)
        return cls(text, None) if found is None else cls(found[1], int(found[2]))

    @property
    def order(self) -> tuple[str, int]:
        """Return what labels are sorted by: one without a version goes first."""
        return self.prefix, -1 if self.version is None else self.version


@dataclass(frozen=True)
class _Wanted:
    """A key to make, and what may be done for its label."""

    type: KeyType
    label: Label
    noversion: bool
    force: bool


@app.command(
    "list", epilog=tree.examples("godwit secrets keys list", "godwit secrets keys list --json")
)
def list_(
    context: typer.Context,
    app: AppOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List an app's secret keys by label, version and type."""
    here = session.of(context)
    name = connect.app_name(here, app, config)
    found: list[SecretKey] = connect.call(here, lambda api: api.secret_keys.list(name))
    if as_json or here.wants_json:
        here.out.json([one.model_dump(mode="json") for one in found])
        return
    now = here.clock.now_ms()
    found.sort(key=lambda one: Label.parse(one.name).order)
    here.out.table(
        ("label", "version", "type", "changed"),
        [(one.name, _version(one), one.type, times.ago(one.updated_at, now)) for one in found],
    )


@app.command(
    epilog=tree.examples(
        "godwit secrets keys generate signing session",
        "godwit secrets keys generate xaes256gcm backups --noversion",
    )
)
def generate(
    context: typer.Context,
    kind: TypeArgument,
    label: LabelArgument,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    noversion: NoVersionOption = False,
    force: ReplaceOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a random key; without a version in its label, the label's next version."""
    here = session.of(context)
    name = connect.app_name(here, app, config)
    wanted = _Wanted(_type(kind), Label.parse(label), noversion=noversion, force=force)
    made = connect.call(here, lambda api: _make(api, name, wanted))
    if not quiet:
        here.out.data(made)


@app.command(
    "import",
    epilog=tree.examples("godwit secrets keys import es256 webhooks"),
)
def import_(
    context: typer.Context,
    kind: TypeArgument,
    label: LabelArgument,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    noversion: NoVersionOption = False,
    force: ReplaceOption = False,
    quiet: QuietOption = False,
) -> None:
    """Import a key from standard input, byte by byte.

    Symmetric keys are their bytes; es256 also takes PKCS #8 or SEC 1, as DER or PEM.
    """
    here = session.of(context)
    name = connect.app_name(here, app, config)
    wanted = _Wanted(_type(kind), Label.parse(label), noversion=noversion, force=force)
    value = _given(here)
    made = connect.call(here, lambda api: _make(api, name, wanted, value))
    if not quiet:
        here.out.data(made)


@app.command("rm", hidden=True, epilog=tree.examples("godwit secrets keys rm session --yes"))
@app.command(
    epilog=tree.examples(
        "godwit secrets keys delete sessionv1", "godwit secrets keys delete session --yes"
    )
)
def delete(
    context: typer.Context,
    label: LabelArgument,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    noversion: NoVersionOption = False,
    yes: YesOption = False,
) -> None:
    """Delete a key; without a version in its label, all versions of it.

    What a deleted key encrypted is lost.
    """
    here = session.of(context)
    name = connect.app_name(here, app, config)
    parsed = Label.parse(label)
    present: list[SecretKey] = connect.call(here, lambda api: api.secret_keys.list(name))
    doomed = [one.name for one in present if _is(one.name, label, parsed, noversion=noversion)]
    if not doomed:
        raise errors.not_found(
            f"app {name!r} has no secret key {label!r}",
            hint="list them with `godwit secrets keys list`",
        )
    here.confirm(
        f"Delete {', '.join(doomed)} of {name}? What was encrypted with them is lost.", yes=yes
    )

    async def work(api: Api) -> None:
        for one in doomed:
            await api.secret_keys.delete(name, one)
            here.out.say(f"{one} is deleted")

    connect.call(here, work)


def _is(name: str, label: str, parsed: Label, *, noversion: bool) -> bool:
    if name == label:
        return True
    every_version = parsed.version is None and not noversion
    return every_version and Label.parse(name).prefix == parsed.prefix


def _type(given: str) -> KeyType:
    """Return the type that is meant.

    Raises:
        Failure: `invalid_argument`.
    """
    if given in _PREFERRED:
        return _PREFERRED[given]
    found = next((one for one in _TYPES if one == given), None)
    if found is None:
        raise errors.invalid(
            f"{given!r} is no type of key", hint=f"take signing, encrypting or {', '.join(_TYPES)}"
        )
    return found


async def _make(api: Api, app_name: str, wanted: _Wanted, value: bytes | None = None) -> str:
    """Make a key, of that value or a random one; return its label.

    Raises:
        Failure: `invalid_argument`; what the API says.
    """
    label = _free(await api.secret_keys.list(app_name), wanted)
    if value is None:
        await api.secret_keys.generate(app_name, label, wanted.type)
    else:
        await api.secret_keys.put(app_name, label, wanted.type, value)
    return label


def _free(present: list[SecretKey], wanted: _Wanted) -> str:
    """Return the label that a new key gets.

    Raises:
        Failure: `invalid_argument` when there is one, or other versions are of another type.
    """
    prefix, version = wanted.label.prefix, wanted.label.version
    known = {one.name: one.type for one in present}
    same = {name: Label.parse(name) for name in known}
    same = {name: label for name, label in same.items() if label.prefix == prefix}
    other = next((name for name in same if known[name] != wanted.type), None)
    if other is not None:
        raise errors.invalid(
            f"{other} is of type {known[other]}; versions of one label are of one type",
            hint="take another label, or the same type",
        )
    if version is None and not wanted.noversion:
        highest = max((label.order[1] for label in same.values()), default=-1)
        return f"{prefix}v{highest + 1}"
    chosen = prefix if version is None else f"{prefix}v{version}"
    if chosen in known and not wanted.force:
        raise errors.invalid(f"there is a key {chosen} already", hint="pass --force to replace it")
    return chosen


def _version(one: SecretKey) -> str:
    version = Label.parse(one.name).version
    return "-" if version is None else str(version)


def _given(here: session.Session) -> bytes:
    """Return the key on standard input.

    Raises:
        Failure: `invalid_argument` when there is none, or it is too long for one.
    """
    data = here.read(_LONGEST_KEY)
    if not data:
        raise errors.invalid(
            "standard input is empty: a key is expected there",
            hint="make one with `godwit secrets keys generate`",
        )
    return data
