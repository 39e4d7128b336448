"""`godwit scale count|vm|memory|show`."""

from typing import Annotated

import typer

from godwit.base import errors
from godwit.cli import connect, guest, options, session, tree
from godwit.cli.rollout import overrides
from godwit.cli.scale import count as counting
from godwit.cli.scale import size as sizing
from godwit.cli.scale import template
from godwit.client.api import Api

app = tree.group("Change how many machines an app has, and how large they are.")

GroupOption = Annotated[
    str | None,
    typer.Option("--process-group", "-g", "--group", metavar="GROUP", help="Process group."),
]
CountsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="COUNT...",
        help="How many machines: 3, +1, -1; of a group: worker=2.",
        show_default=False,
    ),
]
RegionsOption = Annotated[
    str | None,
    typer.Option(
        "--region", "-r", "--regions", metavar="CODES", help="Regions, with commas; in order."
    ),
]
MostOption = Annotated[
    int | None,
    typer.Option("--max-per-region", metavar="N", min=0, help="Machines a region has at most."),
]
VolumesOption = Annotated[
    bool, typer.Option("--with-new-volumes", help="New volumes for new machines; later.")
]
SnapshotOption = Annotated[
    str | None, typer.Option("--from-snapshot", metavar="ID", help="Of new volumes; later.")
]


@app.command(
    "count",
    context_settings={"ignore_unknown_options": True},
    epilog=tree.examples(
        "godwit scale count 3",
        "godwit scale count web=3 worker=1 --yes",
        "godwit scale count +1 --region fra",
        "godwit scale count 4 --region fra,ams --max-per-region 2",
    ),
)
def count_(
    context: typer.Context,
    counts: CountsArgument,
    *,
    app: options.AppOption = None,
    config: options.ConfigOption = None,
    group: GroupOption = None,
    region: RegionsOption = None,
    max_per_region: MostOption = None,
    with_new_volumes: VolumesOption = False,
    from_snapshot: SnapshotOption = None,
    env: options.EnvOption = None,
    vm_size: options.VmSizeOption = None,
    vm_cpus: options.VmCpusOption = None,
    vm_cpu_kind: options.VmCpuKindOption = None,
    vm_memory: options.VmMemoryOption = None,
    yes: options.YesOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Set how many machines a process group has, over all of its regions.

    New machines run the last complete release, with the config of the group's first machine.
    Standbys do not count. Returns before the new machines are well. Prints their ids.
    """
    here = session.of(context)
    if with_new_volumes or from_snapshot:
        flag = "--with-new-volumes" if with_new_volumes else "--from-snapshot"
        raise errors.invalid(f"{flag}: this platform has no volumes yet")
    request = counting.Request(
        app=connect.app_name(here, app, config),
        words=tuple(counts),
        group=group,
        regions=_regions(region),
        most=max_per_region,
        changes=template.Changes(
            overrides.pairs(env, "--env"),
            overrides.Size(vm_size, vm_cpus, vm_cpu_kind, vm_memory),
        ),
    )

    async def work(api: Api) -> counting.Done:
        drawn = await counting.draw(api, request)
        if not drawn.changes:
            here.out.say(f"{request.app} has these machines already")
            return counting.Done((), ())
        here.out.say(f"{request.app} will be scaled:")
        for line in drawn.lines():
            here.out.say(f"    {line}")
        here.confirm(f"Scale {request.app}?", yes=yes)
        return await counting.carry_out(here, api, request, drawn)

    _tell_count(here, request.app, connect.call(here, work), as_json=as_json)


def _tell_count(here: session.Session, app: str, done: counting.Done, *, as_json: bool) -> None:
    if as_json or here.wants_json:
        here.out.json(
            {
                "app": app,
                "created": [
                    {"id": one.id, "group": one.group(), "region": one.region}
                    for one in done.created
                ],
                "destroyed": [
                    {"id": one.id, "group": one.group(), "region": one.region}
                    for one in done.destroyed
                ],
            }
        )
        return
    for one in done.created:
        here.out.data(one.id)


def _regions(text: str | None) -> tuple[str, ...]:
    found = [one.strip() for one in (text or "").split(",")]
    return tuple(dict.fromkeys(one for one in found if one))


@app.command(
    epilog=tree.examples(
        "godwit scale vm shared-cpu-2x",
        "godwit scale vm performance-1x --vm-memory 4gb --process-group worker",
    ),
)
def vm(
    context: typer.Context,
    size: Annotated[
        str, typer.Argument(metavar="SIZE", help="Preset: see `godwit platform vm-sizes`.")
    ],
    *,
    app: options.AppOption = None,
    config: options.ConfigOption = None,
    group: GroupOption = None,
    vm_memory: options.VmMemoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Give the machines of a process group another size, one after another.

    Each is restarted with it, and has to be well before the next.
    """
    here = session.of(context)
    name = connect.app_name(here, app, config)
    _resize(here, name, group, overrides.Size(size, memory=vm_memory), as_json=as_json)


@app.command(
    epilog=tree.examples(
        "godwit scale memory 512", "godwit scale memory 2gb --process-group worker"
    ),
)
def memory(
    context: typer.Context,
    size: Annotated[str, typer.Argument(metavar="SIZE", help="MB, or with a unit such as 1gb.")],
    *,
    app: options.AppOption = None,
    config: options.ConfigOption = None,
    group: GroupOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Give the machines of a process group more or less memory, one after another.

    Each is restarted with it, and has to be well before the next.
    """
    here = session.of(context)
    name = connect.app_name(here, app, config)
    _resize(here, name, group, overrides.Size(memory=size), as_json=as_json)


def _resize(
    here: session.Session, app: str, group: str | None, size: overrides.Size, *, as_json: bool
) -> None:
    done = connect.call(here, lambda api: sizing.resize(here, api, app, group, size))
    if as_json or here.wants_json:
        here.out.json(
            {
                "app": app,
                "group": done.group,
                "guest": done.guest,
                "machines": list(done.machines),
            }
        )
        return
    if not done.machines:
        here.out.say(f"the machines of {done.group} have {guest.told(done.guest)} already")
        return
    for one in done.machines:
        here.out.data(one)
    here.out.hint("a deploy keeps this, unless fly.toml has a [[vm]] for the group")


@app.command(epilog=tree.examples("godwit scale show", "godwit scale show --app hello --json"))
def show(
    context: typer.Context,
    app: options.AppOption = None,
    config: options.ConfigOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show how many machines each process group has, how large they are, and where."""
    here = session.of(context)
    name = connect.app_name(here, app, config)

    async def work(api: Api) -> list[sizing.Row]:
        await api.apps.get(name)
        return sizing.rows(await api.machines.list(name))

    found = connect.call(here, work)
    if as_json or here.wants_json:
        here.out.json([_row(one) for one in found])
        return
    here.out.table(
        ("group", "count", "kind", "cpus", "memory MB", "regions", "standbys"),
        [
            (
                one.group,
                one.count,
                one.guest["cpu_kind"],
                one.guest["cpus"],
                one.guest["memory_mb"],
                ", ".join(f"{region}({number})" for region, number in one.regions.items()),
                one.standbys or "",
            )
            for one in found
        ],
    )
    if not found:
        here.out.hint(f"deploy with `godwit deploy --app {name}`")


def _row(one: sizing.Row) -> dict[str, object]:
    return {
        "group": one.group,
        "count": one.count,
        "cpu_kind": one.guest["cpu_kind"],
        "cpus": one.guest["cpus"],
        "memory_mb": one.guest["memory_mb"],
        "regions": one.regions,
        "standbys": one.standbys,
    }
