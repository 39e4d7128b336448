"""`godwit machine list|status`."""

import json
from typing import Annotated

import typer

from godwit.cli import connect, session, tables, times
from godwit.cli.options import AppOption, ConfigOption, JsonOption, MachineArgument, RegionOption
from godwit.client.api import Api
from godwit.client.records import Event, Machine


def list_(
    context: typer.Context,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    region: RegionOption = None,
    every: Annotated[bool, typer.Option("--all", help="Show destroyed machines too.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print ids only.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the machines of an app."""
    here = session.of(context)
    name = connect.app_name(here, app, config)
    found = connect.call(
        here, lambda api: api.machines.list(name, include_deleted=every, region=region)
    )
    if as_json or here.wants_json:
        here.out.json([one.model_dump(mode="json") for one in found])
    elif quiet:
        for one in found:
            here.out.data(one.id)
    else:
        _table(here, found)


def _table(here: session.Session, found: list[Machine]) -> None:
    now = here.clock.now_ms()
    here.out.table(
        (
            *("id", "name", "state", "checks", "region", "image", "ip address", "process"),
            *("schedule", "updated"),
        ),
        [
            (
                one.id,
                one.name,
                one.state,
                tables.checks_of(one),
                one.region,
                one.image_ref.short(),
                one.private_ip,
                one.group(),
                one.config.get("schedule"),
                times.ago(one.updated_at, now),
            )
            for one in found
        ],
    )


def status(
    context: typer.Context,
    machine: MachineArgument,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    display_config: Annotated[
        bool, typer.Option("--display-config", "-d", help="Show its config too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show one machine: its state, checks and history."""
    here = session.of(context)
    name = connect.app_name(here, app, config)

    async def work(api: Api) -> tuple[Machine, list[Event]]:
        found = await connect.machine(api, name, machine)
        return found, await api.machines.events(name, found.id)

    found, events = connect.call(here, work)
    if as_json or here.wants_json:
        whole = found.model_dump(mode="json")
        here.out.json({**whole, "events": [one.model_dump(mode="json") for one in events]})
        return
    here.out.pairs(
        {
            "ID": found.id,
            "Name": found.name,
            "App": name,
            "State": found.state,
            "Host": found.host_status,
            "Region": found.region,
            "Process": found.group(),
            "Schedule": found.config.get("schedule"),
            "Standby of": ", ".join(found.config.get("standbys") or []),
            "Image": found.image_ref.short(),
            "Version": found.version,
            "IP address": found.private_ip,
            "Created": found.created_at,
            "Updated": found.updated_at,
        }
    )
    _details(here, found, events)
    if display_config:
        here.out.data("")
        here.out.data(json.dumps(found.config, indent=2))


def _details(here: session.Session, found: Machine, events: list[Event]) -> None:
    if found.checks:
        here.out.data("")
        here.out.table(
            ("check", "status", "output"),
            [(one.name, one.status, one.output.strip()) for one in found.checks],
        )
    if found.containers:
        here.out.data("")
        here.out.table(("container", "state"), [(one.name, one.state) for one in found.containers])
    if events:
        here.out.data("")
        event_table(here, events)


def event_table(here: session.Session, events: list[Event]) -> None:
    """Print events as a table."""
    here.out.table(
        ("event", "status", "source", "at", "info"),
        [
            (one.type, one.status, one.source, times.moment(one.timestamp), _info(one))
            for one in events
        ],
    )


def _info(event: Event) -> str:
    ended = event.exit()
    if not ended:
        return ""
    parts = [f"exit_code={ended.get('exit_code')}"]
    parts += [name for name in ("oom_killed", "requested_stop", "restarting") if ended.get(name)]
    return ", ".join(parts)
