"""Control on further hosts: whether it can be, and what such a host is given.

All of them work on one database, which has to be a server of its own, with the same keys: what one
has signed or sealed, another reads. They come to a host in the answer to its request to join,
over TLS with the certificate that its token names; the keyring's root keys are sealed for that
host besides, so that control never sees them.
"""

from godwit.base import errors
from godwit.control import residence
from godwit.control.context import Context
from godwit.control.records import Host
from godwit.wire import keyring
from godwit.wire.joining import ControlParts

ROLES = ("control", "keyring")
"""What a host comes to run for it."""
KEYS = (
    "admin.token",
    "cluster.crt",
    "cluster.key",
    "edge-root.crt",
    "edge-root.key",
    "fly-src.key",
    "machine-tokens.key",
    "registry.crt",
    "registry.key",
    "registry.secret",
    "sealing.key",
)
"""The files, below `keys`, that all control hosts have in common."""


def demand(ctx: Context) -> None:
    """Return if control can run on more than one host.

    Raises:
        Failure: `failed_precondition` while the platform lives in SQLite.
    """
    if not residence.is_url(ctx.options.database):
        raise errors.Failure(
            "failed_precondition",
            "control runs on one host only: the platform's database is SQLite, a file there",
            hint="move it first, on that host:"
            " godwit control move-database --to postgresql://USER:PASSWORD@HOST/DATABASE",
        )


async def parts(ctx: Context, host: Host) -> ControlParts | None:
    """Return what a member that is to run control needs for it; `None` for any other.

    Raises:
        Failure: `failed_precondition` (see `demand`), `unavailable` when the keyring is away.
    """
    if "control" not in host.roles:
        return None
    demand(ctx)
    files = {name: ctx.options.keys / name for name in KEYS}
    return ControlParts(
        database=ctx.options.database,
        keys={name: file.read_text() for name, file in files.items() if file.exists()},
        roots=await ctx.keyring.hand_over(keyring.HandOver(host_key=host.sealing_key)),
    )
