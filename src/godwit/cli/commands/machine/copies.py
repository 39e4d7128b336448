"""`godwit machine clone|update`."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from godwit.base import errors
from godwit.cli import connect, options, revise, session
from godwit.cli.commands.machine import run
from godwit.cli.held import Held
from godwit.cli.machines import clones, compared, wanted
from godwit.cli.machines import flags as flagged
from godwit.cli.rollout import overrides, progress, watch
from godwit.client.api import Api
from godwit.client.records import Machine

_SHORTEST_S = 1.0


@dataclass(frozen=True)
class CloneFlags:
    """What is different in a copy."""

    region: Annotated[
        str | None, typer.Option("--region", "-r", metavar="CODE", help="Else where the other is.")
    ] = None
    name: run.NameOption = None
    override_cmd: Annotated[
        str | None,
        typer.Option("--override-cmd", metavar="LINE", help="What the copy runs."),
    ] = None
    clear_cmd: Annotated[
        bool, typer.Option("--clear-cmd", help="The copy runs what its image says.")
    ] = False
    clear_auto_destroy: Annotated[
        bool, typer.Option("--clear-auto-destroy", help="The copy stays when it exits.")
    ] = False
    standby_for: Annotated[
        str | None,
        typer.Option(
            "--standby-for",
            metavar="source|IDS",
            help="The copy rests until the host of these machines is gone.",
        ),
    ] = None
    vm_size: options.VmSizeOption = None
    vm_cpus: options.VmCpusOption = None
    vm_cpu_kind: options.VmCpuKindOption = None
    vm_memory: options.VmMemoryOption = None
    attach_volume: Annotated[str | None, flagged.later("--attach-volume")] = None
    from_snapshot: Annotated[str | None, flagged.later("--from-snapshot")] = None

    def refuse_what_is_not_there(self) -> None:
        """Refuse flags for volumes.

        Raises:
            Failure: One was given.
        """
        if self.attach_volume or self.from_snapshot:
            flag = "--attach-volume" if self.attach_volume else "--from-snapshot"
            raise errors.invalid(f"{flag}: this platform has no volumes yet")

    def changes(self) -> clones.Changes:
        """Return what is different in the copy's config."""
        return clones.Changes(
            command=self.override_cmd,
            clear_command=self.clear_cmd,
            clear_auto_destroy=self.clear_auto_destroy,
            standby_for=self.standby_for,
            size=overrides.Size(self.vm_size, self.vm_cpus, self.vm_cpu_kind, self.vm_memory),
        )


@flagged.taking
def clone(
    context: typer.Context,
    machine: options.MachineArgument,
    *,
    app: options.AppOption = None,
    config: options.ConfigOption = None,
    flags: CloneFlags,
    detach: options.DetachOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Create a copy of a machine and start it; print its id.

    It is in the same process group, and in the same region unless told otherwise. What the other
    wrote to its disk is not copied.
    """
    here = session.of(context)
    chosen = connect.app_name(here, app, config)

    async def work(api: Api) -> Machine:
        source = await connect.machine(api, chosen, machine)
        made = clones.config_of(source, flags.changes())
        with progress.of(here.out) as shown:
            where = flags.region or source.region
            shown.step(f"Copy {source.id} into {where}")
            copy = await api.machines.create(
                chosen, made, name=flags.name, region=where, skip_launch="standbys" in made
            )
            shown.state(f"{copy.id} is {copy.state}")
            if detach:
                return copy
            watching = watch.Watch(api, chosen, here.clock, timeout_s=revise.WAIT_S, smoke=False)
            if "standbys" in made:
                await watching.until_settled(copy)
                return await api.machines.get(chosen, copy.id)
            return await watching.until_well(copy, lambda text: shown.state(f"{copy.id} {text}"))

    _tell(here, connect.call(here, work), as_json=as_json)


@flagged.taking
def update(
    context: typer.Context,
    machine: options.MachineArgument,
    *,
    app: options.AppOption = None,
    config: options.ConfigOption = None,
    image: Annotated[
        str | None, typer.Option("--image", "-i", metavar="REF", help="What it runs.")
    ] = None,
    flags: flagged.Flags,
    skip_start: Annotated[
        bool, typer.Option("--skip-start", help="Leave it stopped with the new config.")
    ] = False,
    skip_health_checks: Annotated[
        bool, typer.Option("--skip-health-checks", help="Do not wait for its checks.")
    ] = False,
    wait_timeout: Annotated[
        str, typer.Option("--wait-timeout", metavar="TIME", help="Seconds, or e.g. 5m.")
    ] = "300",
    yes: options.YesOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Change a machine's config: what is different is shown, and asked about.

    It is started again with it. The next deploy sets what fly.toml says.
    """
    here = session.of(context)
    name = connect.app_name(here, app, config)
    limit = max(_SHORTEST_S, overrides.seconds(wait_timeout, "--wait-timeout"))

    async def work(api: Api) -> Machine:
        found = await connect.machine(api, name, machine)
        made = wanted.changed(found.config, flags, image=image, read=run.reader(here))
        if not _agreed(here, found, made, yes=yes):
            return found
        change = revise.Change(
            found,
            made,
            launch=not skip_start and not made.get("standbys"),
            wait_s=limit,
            well=not skip_health_checks,
        )
        held = Held(api, name, here.clock, description="godwit machine update")
        async with held:
            await held.take([found.id])
            with progress.of(here.out) as shown:
                shown.step(f"Update {found.id}")
                return await revise.carry_out(here, api, name, change, held=held, told=shown.state)

    _tell(here, connect.call(here, work), as_json=as_json)


def _agreed(here: session.Session, found: Machine, made: dict[str, Any], *, yes: bool) -> bool:
    """Tell whether there is something to change, once the user has agreed to it."""
    lines = compared.lines(found.config, made)
    if not lines:
        here.out.say(f"{found.id} has this config already")
        return False
    here.out.say(f"{found.id} will be changed:")
    for line in lines:
        here.out.say(f"    {line}")
    here.confirm(f"Update {found.id}?", yes=yes)
    return True


def _tell(here: session.Session, machine: Machine, *, as_json: bool) -> None:
    if as_json or here.wants_json:
        here.out.json(machine.model_dump(mode="json"))
    else:
        here.out.data(machine.id)
