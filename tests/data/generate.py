"""Writes what this release leaves on disks, for the tests of the next: `tests/data/release-<n>`.

    python -m tests.data.generate 0.3

Run once before a release, and never again for it: its data stay, and every later one reads them.

- `journals.sql`, `worlds.json`: every operation is begun on the fake host and its agent killed
  after each write; what the database and the host then held, one machine each, in one database.
- `saved.json`, `template.json`: what makes a suspended machine's files, and a template's, whole.
- `golden/`: the contract of records and messages.
"""

import asyncio
import contextlib
import itertools
import json
import shutil
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from godwit.agent.vmm import snapshots, templates
from godwit.durable import database
from godwit.testing import agents, clock
from godwit.testing.world import Boot, Killed
from godwit.wire import shim
from tests.contract import examples

NO_IMAGE = "sha256:" + "0" * 64
OLD, NEW = "01OLD", "01NEW"

Act = Callable[[agents.FakeHost, agents.Agent, str], Awaitable[None]]


def creating(**changes: Any) -> Act:
    async def act(_: agents.FakeHost, agent: agents.Agent, machine_id: str) -> None:
        await agent.create(machine_id, instance_id=OLD, **changes)

    return act


def asking(request: Any, **given: Any) -> Act:
    async def act(_: agents.FakeHost, agent: agents.Agent, machine_id: str) -> None:
        asked = dict(given)
        if request in ("update", "replace"):
            asked["update"] = agents.update(machine_id, NEW)
        await agent.ask(machine_id, request, **asked)

    return act


def exiting(code: int) -> Act:
    async def act(host: agents.FakeHost, _: agents.Agent, machine_id: str) -> None:
        host.machinery.guest_exits(host.world.vms[machine_id], code)

    return act


async def breaking(host: agents.FakeHost, _: agents.Agent, machine_id: str) -> None:
    vm = host.world.vms[machine_id]
    host.machinery.end(vm, cause="vmm", vmm=shim.VmmExit(signal=9))


async def refusing(host: agents.FakeHost, agent: agents.Agent, machine_id: str) -> None:
    host.world.scripts[machine_id].append(Boot("refuses"))
    await agent.create(machine_id, instance_id=OLD)


async def nothing(_: agents.FakeHost, __: agents.Agent, ___: str) -> None:
    """Begin from an empty host."""


async def suspended(host: agents.FakeHost, agent: agents.Agent, machine_id: str) -> None:
    await agent.create(machine_id, instance_id=OLD)
    await agent.rest(machine_id)
    await agent.ask(machine_id, "suspend")


async def suspended_for_nothing(
    host: agents.FakeHost, agent: agents.Agent, machine_id: str
) -> None:
    await suspended(host, agent, machine_id)
    await agent.rest(machine_id)
    host.world.saved[machine_id] = replace(host.world.saved[machine_id], usable=False)


STARTED = creating()
ONCE = creating(config={"restart": {"policy": "no"}})
JOB = creating(config={"restart": {"policy": "no"}, "auto_destroy": True})
STOPPED = creating(skip_launch=True)

CASES: dict[str, tuple[Act, Act]] = {
    "launch": (nothing, STARTED),
    "prepare": (nothing, STOPPED),
    "start": (STOPPED, asking("start")),
    "stop": (STARTED, asking("stop", source="user")),
    "restart": (STARTED, asking("restart")),
    "update": (STARTED, asking("update")),
    "update of a stopped one": (STOPPED, asking("update")),
    "replace": (STARTED, asking("replace")),
    "relaunch": (STARTED, exiting(3)),
    "settle": (ONCE, exiting(3)),
    "settle of a killed vmm": (ONCE, breaking),
    "destroy after its job": (JOB, exiting(0)),
    "destroy": (STOPPED, asking("destroy")),
    "destroy by force": (STARTED, asking("kill")),
    "fail without image": (nothing, creating(image=agents.image(NO_IMAGE))),
    "fail without program": (nothing, refusing),
    "clear": (STOPPED, nothing),
    "suspend": (STARTED, asking("suspend")),
    "resume": (suspended, asking("start")),
    "resume that becomes a start": (suspended_for_nothing, asking("start")),
    "stop of a suspended one": (suspended, asking("stop")),
    "update of a suspended one": (suspended, asking("update")),
}


@dataclass(frozen=True)
class Cut:
    """One machine's rows and surroundings at the moment its agent was killed."""

    rows: dict[str, list[dict[str, Any]]]
    world: dict[str, Any]


async def rested(agent: agents.Agent, machine_id: str) -> None:
    for _ in range(3):
        if agent.machines.find(machine_id) is not None:
            await agent.rest(machine_id)
        await asyncio.sleep(2)


async def begin(host: agents.FakeHost, number: int) -> agents.Agent:
    agent = await host.agent()
    agent.machines._last_slot = number + 1  # type: ignore[attr-defined]
    return agent


async def count(name: str, machine_id: str) -> tuple[int, dict[str, Any]]:
    """Return how many writes a case takes, and where it rests."""
    prepare, act = CASES[name]
    host = agents.FakeHost()
    agent = await begin(host, 1)
    await prepare(host, agent, machine_id)
    await rested(agent, machine_id)
    if name == "clear":
        agent = await with_remains(host, agent, None)
    before = 0 if name == "clear" else agent.database.writes
    await act(host, agent, machine_id)
    await rested(agent, machine_id)
    machine = agent.driver(machine_id).machine
    ends = {"state": machine.state, "instance_id": machine.instance_id}
    writes = agent.database.writes - before
    await host.close()
    return writes, ends


async def with_remains(
    host: agents.FakeHost, agent: agents.Agent, kill_at: tuple[int, str] | None
) -> agents.Agent:
    """Kill an agent, leave a tap behind and start the next, which clears it."""
    await agent.kill()
    host.world.taps.add(next(iter(agent.machines)).machine.slot)
    following = agents.Agent(host, kill_at)
    host.agents.append(following)
    with contextlib.suppress(Killed):
        await following.start()
    return following


async def cut(name: str, number: int, after: int, machine_id: str) -> Cut:
    prepare, act = CASES[name]
    host = agents.FakeHost()
    agent = await begin(host, number)
    await prepare(host, agent, machine_id)
    await rested(agent, machine_id)
    if name == "clear":
        agent = await with_remains(host, agent, (after, "after"))
    else:
        agent.database.kill_at = (agent.database.writes + after, "after")
    acting = asyncio.get_running_loop().create_task(act(host, agent, machine_id))
    await agent.killed.wait()
    await agent.bury()
    acting.cancel()
    await asyncio.wait({acting})
    found = Cut(unfinished(rows_of(host)), world_of(host, machine_id))
    await host.close()
    return found


TABLES = ("machines", "events", "usage", "operations", "entries")


def rows_of(host: agents.FakeHost) -> dict[str, list[dict[str, Any]]]:
    return {table: host.rows(f"SELECT * FROM {table}") for table in TABLES}


def unfinished(rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Return rows without the operations that had ended, to keep the data small."""
    operations = [row for row in rows["operations"] if row["ended_at_ms"] is None]
    ids = {row["id"] for row in operations}
    entries = [row for row in rows["entries"] if row["operation_id"] in ids]
    return {**rows, "operations": operations, "entries": entries}


def world_of(host: agents.FakeHost, machine_id: str) -> dict[str, Any]:
    world = host.world
    vm, record = world.vms.get(machine_id), world.exits.get(machine_id)
    saved = world.saved.get(machine_id)
    return {
        "tap": bool(world.taps),
        "disk": machine_id in world.prepared,
        "saved": None
        if saved is None
        else {"instance_id": saved.plan.instance_id, "usable": saved.usable},
        "vm": None
        if vm is None
        else {
            "instance_id": vm.plan.instance_id,
            "phase": vm.phase,
            "started_at_ms": vm.started_at_ms,
            "paused": vm.paused,
        },
        "exit": None if record is None else record.model_dump(mode="json", exclude_none=True),
    }


def cuts() -> Iterator[tuple[dict[str, Any], Cut]]:
    numbers = itertools.count(1)
    for name in CASES:
        writes, ends = clock.run(count(name, "00000000000000"))
        for after in range(1, writes + 1):
            number = next(numbers)
            machine_id = f"{number:014x}"
            found = clock.run(cut(name, number, after, machine_id))
            if found.rows["machines"] and (found.rows["operations"] or after == writes):
                told = {"machine_id": machine_id, "case": name, "after_write": after}
                yield {**told, **found.world, "ends": ends}, found


SAVED = snapshots.Saved(
    machine_id="148ed193b95948",
    instance_id="01K8RS0000000000000000000A",
    build="qemu 7.2.9 tcg",
    cpu="0123456789abcdef",
    state_bytes=4,
    state_sha256="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    memory_bytes=6,
)
MADE = templates.Made(
    wanted=templates.Wanted(
        org_id="org_a",
        boots="6.1 init 1",
        build="qemu 7.2.9 tcg",
        cpus=1,
        memory_mb=256,
        balloon=True,
        host="1b4e28ba-2fa1-11d2-883f-0016d3cca427 0123456789abcdef",
    ),
    made_at_ms=1_790_000_000_000,
)


def main(folder: Path) -> None:
    """Write a release's data."""
    folder.mkdir()
    shutil.copytree(examples.GOLDEN, folder / "golden")
    for name, record in (("saved.json", SAVED), ("template.json", MADE)):
        (folder / name).write_text(record.model_dump_json(indent=2) + "\n")
    write_journals(folder)


def write_journals(folder: Path) -> None:
    """Write what killed agents leave."""
    connection = database.prepare(sqlite3.connect(":memory:", isolation_level=None), agents.SCHEMA)
    worlds = []
    for told, found in cuts():
        worlds.append(told)
        for table, rows in found.rows.items():
            for row in rows:
                kept = {
                    name: value for name, value in row.items() if (table, name) != ("usage", "id")
                }
                marks = ", ".join("?" * len(kept))
                connection.execute(
                    f"INSERT INTO {table} ({', '.join(kept)}) VALUES ({marks})",
                    tuple(kept.values()),
                )
    (folder / "journals.sql").write_text("\n".join(connection.iterdump()) + "\n")
    lines = ",\n".join(json.dumps(each, sort_keys=True) for each in worlds)
    (folder / "worlds.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main(Path(__file__).parent / f"release-{sys.argv[1]}")
