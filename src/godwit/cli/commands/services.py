"""`godwit services list`."""

from collections import Counter
from typing import Any

import typer

from godwit.cli import connect, session, tree
from godwit.cli.options import AppOption, ConfigOption, JsonOption
from godwit.client.records import Machine

app = tree.group("Show what an app answers to from outside.")

_OFF = {None: "off", False: "off", True: "stop"}


@app.callback()
def services() -> None:
    """Show what an app answers to from outside."""


@app.command(
    "list", epilog=tree.examples("godwit services list", "godwit services list --app hello --json")
)
def list_(
    context: typer.Context,
    app: AppOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the ports of an app's machines, with their handlers and process groups."""
    here = session.of(context)
    name = connect.app_name(here, app, config)
    found = rows(connect.machines_of(here, name))
    if as_json or here.wants_json:
        here.out.json(found)
        return
    here.out.table(
        (
            *("protocol", "port", "to", "handlers", "force https", "autostop"),
            *("process groups", "regions", "machines"),
        ),
        [
            (
                one["protocol"],
                one["port"],
                one["internal_port"],
                ", ".join(one["handlers"]),
                one["force_https"],
                one["autostop"],
                ", ".join(one["groups"]),
                ", ".join(f"{region}({count})" for region, count in one["regions"].items()),
                one["machines"],
            )
            for one in found
        ],
    )
    if not found:
        here.out.hint(f"{name} has no services: its network reaches it as {name}.internal")


def rows(machines: list[Machine]) -> list[dict[str, Any]]:
    """Return every external port once, with the machines behind it."""
    found: dict[tuple[Any, ...], list[Machine]] = {}
    for machine in machines:
        for service in machine.config.get("services") or []:
            for port in service.get("ports") or [{}]:
                found.setdefault(_key(service, port), []).append(machine)
    return [_row(key, found[key]) for key in sorted(found, key=_place)]


def _place(key: tuple[Any, ...]) -> tuple[str, int, str]:
    """Return what ports are in order of: protocol and number, then whatever else differs."""
    protocol, port, *others = key
    return protocol, int(port.partition("-")[0] or 0), str(others)


def _key(service: dict[str, Any], port: dict[str, Any]) -> tuple[Any, ...]:
    start, end = port.get("start_port"), port.get("end_port")
    autostop = service.get("autostop")
    return (
        service.get("protocol", "tcp"),
        f"{start}-{end}" if start else str(port.get("port") or ""),
        service.get("internal_port"),
        tuple(port.get("handlers") or ()),
        bool(port.get("force_https")),
        _OFF.get(autostop, autostop),
    )


def _row(key: tuple[Any, ...], machines: list[Machine]) -> dict[str, Any]:
    protocol, port, internal_port, handlers, force_https, autostop = key
    return {
        "protocol": protocol,
        "port": port,
        "internal_port": internal_port,
        "handlers": list(handlers),
        "force_https": force_https,
        "autostop": autostop,
        "groups": sorted({one.group() for one in machines if one.group()}),
        "regions": dict(sorted(Counter(one.region for one in machines).items())),
        "machines": len(machines),
    }
