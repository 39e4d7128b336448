"""`godwit host`: the servers of the cluster, and making this one a member."""

import sys
from pathlib import Path
from typing import Annotated

import typer

import godwit
from godwit.base import durations, errors
from godwit.base.settings import Settings
from godwit.cli import connect, session, times, tree
from godwit.cli.commands import up
from godwit.cli.options import JsonOption, YesOption
from godwit.client.api import Api
from godwit.client.records import Host, MeshPeer
from godwit.host import edge_keys
from godwit.host import joining as host_joining
from godwit.host import units as host_units
from godwit.host.identity import HostIdentity

app = tree.group("Have servers join, and look after them.", lists=True)

HostArgument = Annotated[str, typer.Argument(metavar="HOST", help="From `godwit host list`.")]
SettingsOption = Annotated[
    Path | None, typer.Option("--settings", metavar="FILE", help="Settings of this host, TOML.")
]
_NANOSECONDS = 1_000_000_000


@app.command("list", epilog=tree.examples("godwit host list", "godwit host list --json"))
def list_(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the servers of the cluster."""
    here = session.of(context)
    found = connect.call(here, lambda api: api.hosts.list())
    if as_json or here.wants_json:
        here.out.json([one.model_dump(mode="json") for one in found])
        return
    here.out.table(
        ("id", "region", "zone", "state", "status", "machines", "free memory MB", "roles"),
        [
            (
                one.host_id,
                one.region,
                one.zone,
                one.state,
                one.status,
                one.machines,
                one.free_memory_mb,
                ",".join(one.roles),
            )
            for one in found
        ],
    )


@app.command(epilog=tree.examples("godwit host show a1b2c3d4"))
def show(context: typer.Context, host_id: HostArgument, as_json: JsonOption = False) -> None:
    """Show a host, a removed one too, and how it reaches all others through the mesh.

    That is what its own agent sees: when the two last shook hands, where packets to the other go,
    how many bytes went, and how long there and back takes.
    """
    here = session.of(context)

    async def found(api: Api) -> tuple[Host, list[MeshPeer] | None, str]:
        one = await api.hosts.get(host_id)
        if one.state == "removed":
            return one, None, "it was removed"
        try:
            return one, await api.hosts.mesh(host_id), ""
        except errors.Failure as failure:
            return one, None, failure.message

    one, mesh, problem = connect.call(here, found)
    if as_json or here.wants_json:
        peers = None if mesh is None else [peer.model_dump(mode="json") for peer in mesh]
        here.out.json({**one.model_dump(mode="json"), "mesh": peers})
        return
    _show_host(here, one)
    if mesh is None:
        here.out.say(f"How it reaches other hosts is not known: {problem}")
    elif mesh:
        here.out.data("")
        _show_mesh(here, mesh)


def _show_host(here: session.Session, one: Host) -> None:
    here.out.pairs(
        {
            "id": one.host_id,
            "number": one.host_number,
            "region": one.region,
            "zone": one.zone,
            "state": one.state,
            "status": one.status,
            "roles": ", ".join(one.roles),
            "machines": one.machines,
            "free memory MB": one.free_memory_mb,
            "release": one.release,
            "mesh address": one.mesh_address,
            "endpoints": ", ".join(one.endpoints),
            "services": ", ".join(f"{role} {at}" for role, at in one.services.items()),
            "joined": times.moment(one.created_at),
            "last heard of": times.moment(one.seen_at),
        }
    )


def _show_mesh(here: session.Session, mesh: list[MeshPeer]) -> None:
    now_ms = here.clock.now_ms()
    here.out.table(
        ("host", "region", "endpoint", "last handshake", "received", "sent", "round trip", "is"),
        [
            (
                peer.host_id,
                peer.region,
                peer.endpoint,
                times.ago(peer.handshake_at, now_ms) or "never",
                peer.received_bytes,
                peer.sent_bytes,
                None if peer.rtt_ms is None else f"{peer.rtt_ms:.1f} ms",
                "silent" if peer.silent else "heard",
            )
            for peer in mesh
        ],
    )


@app.command(
    epilog=tree.examples(
        "godwit host token --region fra",
        "godwit host token --region iad --control",
        "godwit host token --ttl 10m --json",
    )
)
def token(
    context: typer.Context,
    region: Annotated[
        str, typer.Option("--region", "-r", metavar="CODE", help="The only one it is good for.")
    ] = "",
    ttl: Annotated[
        str, typer.Option("--ttl", metavar="DURATION", help="How long it works, at most 168h.")
    ] = "1h",
    control: Annotated[
        bool,
        typer.Option("--control", help="The server may run control: it gets the platform's keys."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a token with which one server may join; it is shown this once."""
    here = session.of(context)
    try:
        ttl_s = durations.parse(ttl) // _NANOSECONDS
    except ValueError as error:
        raise errors.invalid(f"--ttl: {error}") from error
    made = connect.call(
        here, lambda api: api.hosts.create_token(region=region, ttl_s=ttl_s, control=control)
    )
    if as_json or here.wants_json:
        here.out.json(made.model_dump(mode="json"))
        return
    here.out.data(made.token)
    here.out.hint(
        f"on the new server: godwit host join --token … --region {region or 'REGION'}"
        f" --endpoint ADDRESS:51820{' --control' if control else ''}"
    )


@app.command(epilog=tree.examples("godwit host tokens"))
def tokens(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the tokens that servers may still join with, without their secrets."""
    here = session.of(context)
    found = connect.call(here, lambda api: api.hosts.tokens())
    if as_json or here.wants_json:
        here.out.json([one.model_dump(mode="json", exclude={"token"}) for one in found])
        return
    here.out.table(
        ("id", "region", "created by", "created", "expires"),
        [
            (
                one.id,
                one.region or "any",
                one.created_by,
                times.moment(one.created_at),
                times.moment(one.expires_at),
            )
            for one in found
        ],
    )


@app.command("revoke-token", epilog=tree.examples("godwit host revoke-token jtk_01j…"))
def revoke_token(
    context: typer.Context,
    token_id: Annotated[str, typer.Argument(metavar="ID", help="From `godwit host tokens`.")],
) -> None:
    """Make a token to join with worthless, now."""
    here = session.of(context)
    connect.call(here, lambda api: api.hosts.revoke_token(token_id))
    here.out.say(f"revoked {token_id}")


@app.command(
    epilog=tree.examples(
        "godwit host join --token godwit-join-1.… --region fra --endpoint 198.51.100.7:51820"
    )
)
def join(
    context: typer.Context,
    *,
    token_text: Annotated[
        str,
        typer.Option(
            "--token",
            metavar="TOKEN",
            help="From `godwit host token`; `-` reads it from stdin: other users see arguments.",
        ),
    ],
    region: Annotated[str, typer.Option("--region", "-r", metavar="CODE", help="Where it is.")],
    zone: Annotated[
        str | None,
        typer.Option("--zone", metavar="HEX", help="What fails together: four hex digits."),
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--endpoint",
            metavar="ADDRESS:PORT",
            help="Where other hosts reach its WireGuard; may be repeated, the best first.",
        ),
    ] = None,
    bus: Annotated[
        bool, typer.Option("--bus", help="Serve the region's bus beside others, three in all.")
    ] = False,
    control: Annotated[
        bool,
        typer.Option("--control", help="Run control as well, on the platform's PostgreSQL."),
    ] = False,
    as_json: JsonOption = False,
    settings_file: SettingsOption = None,
) -> None:
    """Make this server a member of a cluster; `godwit up` then starts it."""
    here = session.of(context)
    settings = up.resolve(context, settings_file)
    wanted = host_joining.Wanted(
        region=region,
        zone=zone or settings.host.zone,
        endpoints=tuple(endpoint or settings.host.endpoints),
        bus=bus,
        control=control,
    )
    text = sys.stdin.readline() if token_text == "-" else token_text  # noqa: S105 - stdin
    who = host_joining.join(settings, here.clock, text, wanted)
    if as_json or here.wants_json:
        here.out.json(who.model_dump(mode="json"))
        return
    here.out.data(who.host_id)
    here.out.say(f"host {who.host_id} of region {who.region}: {', '.join(who.roles)}")
    _say_whether_it_waits(here, settings, who)
    here.out.hint("start it with `godwit up -d`, or by systemd (`godwit host units`)")


@app.command("serve-bus", epilog=tree.examples("godwit host serve-bus --token godwit-join-1.…"))
def serve_bus(
    context: typer.Context,
    token_text: Annotated[
        str,
        typer.Option(
            "--token",
            metavar="TOKEN",
            help="From `godwit host token`; `-` reads it from stdin: other users see arguments.",
        ),
    ],
    settings_file: SettingsOption = None,
) -> None:
    """Have this host serve its region's bus beside others; `godwit upgrade` then starts that.

    A region has one bus server or three: a second one waits for the third.
    """
    here = session.of(context)
    settings = up.resolve(context, settings_file)
    text = sys.stdin.readline() if token_text == "-" else token_text  # noqa: S105 - stdin
    who = host_joining.serve_bus(settings, here.clock, text)
    here.out.say(f"host {who.host_id} of region {who.region}: {', '.join(who.roles)}")
    _say_whether_it_waits(here, settings, who)
    here.out.hint("have it begin with `godwit upgrade`; machines run on")


@app.command(epilog=tree.examples("godwit host cordon a1b2c3d4"))
def cordon(context: typer.Context, host_id: HostArgument) -> None:
    """Have a host take no new machines; those it has stay."""
    _set(context, host_id, "cordon", "takes no new machines")


@app.command(epilog=tree.examples("godwit host uncordon a1b2c3d4"))
def uncordon(context: typer.Context, host_id: HostArgument) -> None:
    """Have a host take machines again; draining ends."""
    _set(context, host_id, "uncordon", "takes machines")


@app.command(epilog=tree.examples("godwit host drain a1b2c3d4"))
def drain(context: typer.Context, host_id: HostArgument) -> None:
    """Have a host's machines moved to others of its region, one after another.

    Each is made anew elsewhere, and destroyed here once that one runs. `godwit host show` tells
    how many are left.
    """
    _set(context, host_id, "drain", "is being drained")


@app.command(epilog=tree.examples("godwit host remove a1b2c3d4 --yes"))
def remove(
    context: typer.Context,
    host_id: HostArgument,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Also with machines, which are lost then.")
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take every right from a host, for ever.

    Its connections are cut within seconds, and it stops its machines when it learns of it.
    """
    here = session.of(context)
    here.confirm(f"Remove host {host_id} for ever?", yes=yes)
    lost = connect.call(here, lambda api: api.hosts.remove(host_id, force=force))
    if as_json or here.wants_json:
        here.out.json({"host_id": host_id, "lost": [one.model_dump(mode="json") for one in lost]})
        return
    here.out.say(f"removed {host_id}")
    for one in lost:
        here.out.say(f"lost: machine {one.id} ({one.name})")


@app.command(epilog=tree.examples("godwit host upgrade", "godwit host upgrade --json"))
def upgrade(context: typer.Context, as_json: JsonOption = False) -> None:
    """Tell which release each host runs, and what is left to do for this one's.

    A host is upgraded on itself: install the release there, then `godwit upgrade`. Any order will
    do, and hosts of two neighbouring releases work together.
    """
    here = session.of(context)
    found = connect.call(here, lambda api: api.hosts.list())
    if as_json or here.wants_json:
        here.out.json(
            [{"host_id": one.host_id, "release": one.release, "todo": _todo(one)} for one in found]
        )
        return
    rows = [(one.host_id, one.region, one.release or "unknown", _todo(one)) for one in found]
    here.out.table(("id", "region", "release", "to do"), rows)


@app.command(
    epilog=tree.examples("godwit host units", "godwit host units --write-to /etc/systemd/system")
)
def units(
    context: typer.Context,
    write: Annotated[
        Path | None,
        typer.Option("--write-to", metavar="DIR", help="Write it there; /etc/systemd/system."),
    ] = None,
    settings_file: SettingsOption = None,
) -> None:
    """Print the systemd unit that starts Godwit on this server."""
    here = session.of(context)
    program = Path(sys.executable).parent / "godwit"
    text = host_units.render(program, settings_file.absolute() if settings_file else None)
    if write is None:
        here.out.raw(text)
        return
    try:
        (write / host_units.NAME).write_text(text)
    except OSError as error:
        raise errors.invalid(f"cannot write to {write}: {error.strerror}") from error
    here.out.say(f"wrote {write / host_units.NAME}")
    here.out.hint("systemctl daemon-reload && systemctl enable --now godwit")


@app.command(epilog=tree.examples("godwit host authority > godwit-root.pem"))
def authority(
    context: typer.Context, settings_file: SettingsOption = None, as_json: JsonOption = False
) -> None:
    """Print the certificate that clients of this cluster's edges have to trust.

    Certificates of apps' names are made by each host's edge, and this one vouches for them all.
    """
    data = up.resolve(context, settings_file).paths.data
    root = edge_keys.root(data)
    if root is None:
        raise errors.Failure(
            "failed_precondition",
            f"no certificate is known in {data}",
            hint="it is made, or learnt from the cluster, when Godwit comes up on this server",
        )
    here = session.of(context)
    if as_json or here.wants_json:
        here.out.json({"certificate": root})
        return
    here.out.raw(root)


def _say_whether_it_waits(here: session.Session, settings: Settings, who: HostIdentity) -> None:
    if "bus" in who.roles and host_joining.waits_for_a_third(settings.paths.data, who):
        here.out.say(
            f"its bus server waits for a third one in {who.region}: until then one serves alone"
        )


def _set(context: typer.Context, host_id: str, verb: str, done: str) -> None:
    here = session.of(context)
    connect.call(here, lambda api: api.hosts.set(host_id, verb))
    here.out.say(f"host {host_id} {done}")


def _todo(host: Host) -> str:
    if host.release == godwit.__version__:
        return ""
    if host.status != "ok":
        return "does not answer"
    return f"install {godwit.__version__} on it, then run `godwit upgrade` there"
