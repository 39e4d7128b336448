"""`godwit platform`."""

import typer

from godwit.appconfig import guests
from godwit.cli import connect, session, tree
from godwit.cli.options import JsonOption

app = tree.group("Show regions and machine sizes.")


@app.command(epilog=tree.examples("godwit platform regions", "godwit platform regions --json"))
def regions(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the regions that have hosts."""
    here = session.of(context)
    found = connect.call(here, lambda api: api.platform.regions())
    if as_json or here.wants_json:
        here.out.json(found.model_dump(mode="json"))
        return
    here.out.table(
        ("code", "name", "nearest"),
        [
            (one.code, one.name, "yes" if one.code == found.nearest else "")
            for one in found.regions
        ],
    )


@app.command(epilog=tree.examples("godwit platform hosts", "godwit platform hosts --json"))
def hosts(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the hosts that run machines."""
    here = session.of(context)
    found = connect.call(here, lambda api: api.hosts.list())
    if as_json or here.wants_json:
        here.out.json([one.model_dump(mode="json") for one in found])
        return
    here.out.table(
        ("id", "region", "zone", "status", "free memory MB", "machines"),
        [
            (one.host_id, one.region, one.zone, one.status, one.free_memory_mb, one.machines)
            for one in found
        ],
    )


@app.command("vm-sizes", epilog=tree.examples("godwit platform vm-sizes"))
def vm_sizes(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the sizes a machine may have."""
    here = session.of(context)
    if as_json or here.wants_json:
        here.out.json([{"name": name, **one.model_dump()} for name, one in guests.PRESETS.items()])
        return
    here.out.table(
        ("name", "cpus", "memory MB", "up to MB"),
        [
            (
                name,
                one.cpus,
                one.memory_mb,
                guests.most_memory_mb(one.cpu_kind, one.cpus),
            )
            for name, one in guests.PRESETS.items()
        ],
    )
