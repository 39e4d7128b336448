"""The cases that operations are taken apart in: from where, by what, to where, asking what.

Every one is killed at every write and failed at every step (`test_operations`, `test_failures`).
Those of a machine with a root that lasts have several processes and a cache drive, too.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from godwit.agent.machines import lifecycle, scheduler
from godwit.base import errors
from godwit.testing import agents
from godwit.testing.world import Boot
from godwit.wire import shim

M = "0000000000000a"
NO_IMAGE = "sha256:" + "0" * 64

UP = [
    *("images.ensure", "vmm.discard", "vmm.await_turn", "network.plumb"),
    *("vmm.prepare", "vmm.spawn", "vmm.connect"),
]
STOP = [
    *("vmm.connect", "session.status", "session.stop"),
    *("vmm.connect", "vmm.exit_record", "vmm.discard", "network.unplumb"),
]
DOWN = ["vmm.exit_record", "vmm.discard", "network.unplumb"]
SUSPEND = ["vmm.suspend", "vmm.discard", "network.unplumb"]
RESUME = ["images.ensure", "vmm.discard", "network.plumb", "vmm.resume"]

LASTING: dict[str, Any] = {
    "rootfs": {"persist": "always"},
    "processes": [{"cmd": ["web"]}, {"exec": ["worker"], "user": "app"}],
    "cache_drive": {"size_mb": 64},
}
UNTIL_UPDATED = {**LASTING, "rootfs": {"persist": "restart"}}

Act = Callable[[agents.FakeHost, agents.Agent], Awaitable[Any]]


async def nothing(host: agents.FakeHost, agent: agents.Agent) -> None:
    """Do nothing."""


async def started(host: agents.FakeHost, agent: agents.Agent) -> None:
    await agent.create(M)
    assert await agent.rest(M) == "started"


async def started_once(host: agents.FakeHost, agent: agents.Agent) -> None:
    await agent.create(M, config={"restart": {"policy": "no"}})
    assert await agent.rest(M) == "started"


async def started_for_one_job(host: agents.FakeHost, agent: agents.Agent) -> None:
    await agent.create(M, config={"restart": {"policy": "no"}, "auto_destroy": True})
    assert await agent.rest(M) == "started"


async def started_to_last(host: agents.FakeHost, agent: agents.Agent) -> None:
    await agent.create(M, config=LASTING)
    assert await agent.rest(M) == "started"


async def started_to_last_until_updated(host: agents.FakeHost, agent: agents.Agent) -> None:
    await agent.create(M, config=UNTIL_UPDATED)
    assert await agent.rest(M) == "started"


async def stopped_to_last(host: agents.FakeHost, agent: agents.Agent) -> None:
    await started_to_last(host, agent)
    await agent.ask(M, "stop")
    assert await agent.rest(M) == "stopped"


async def suspended_to_last(host: agents.FakeHost, agent: agents.Agent) -> None:
    await started_to_last(host, agent)
    await agent.ask(M, "suspend")
    assert await agent.rest(M) == "suspended"


async def suspended_to_last_for_nothing(host: agents.FakeHost, agent: agents.Agent) -> None:
    await suspended_to_last(host, agent)
    host.world.saved[M] = replace(host.world.saved[M], usable=False)


async def stopped(host: agents.FakeHost, agent: agents.Agent) -> None:
    await agent.create(M, skip_launch=True)
    assert await agent.rest(M) == "stopped"


async def suspended(host: agents.FakeHost, agent: agents.Agent) -> None:
    await started(host, agent)
    await agent.ask(M, "suspend")
    assert await agent.rest(M) == "suspended"


async def suspended_for_nothing(host: agents.FakeHost, agent: agents.Agent) -> None:
    await suspended(host, agent)
    host.world.saved[M] = replace(host.world.saved[M], usable=False)


class Endless(deque[BaseException]):
    """A fault that never goes away."""

    def popleft(self) -> BaseException:
        """Return it again."""
        return self[0]


async def suspended_and_never_resumed(host: agents.FakeHost, agent: agents.Agent) -> None:
    await suspended(host, agent)
    refusal = errors.Failure("invalid_argument", "no such device")
    host.world.faults["vmm.resume"] = Endless([refusal])


async def started_without_a_way_to_save(host: agents.FakeHost, agent: agents.Agent) -> None:
    host.world.scripts[M].append(Boot(unsuspendable=True))
    await started(host, agent)


async def scheduled(host: agents.FakeHost, agent: agents.Agent) -> None:
    await agent.create(M, skip_launch=True, config={"schedule": "hourly"})
    assert await agent.rest(M) == "stopped"
    await host.clock.sleep(3600)


async def scheduled_without_room(host: agents.FakeHost, agent: agents.Agent) -> None:
    await scheduled(host, agent)
    await agent.create("0000000000000f", resources={"memory_mb": 3900})
    await agent.rest("0000000000000f")


async def is_due(host: agents.FakeHost, agent: agents.Agent) -> None:
    looking = scheduler.Scheduler(lambda: agent.machines, host.clock, agent.tasks)
    await looking.tick()
    while (agent.driver(M).machine.due_ms or 0) <= host.clock.now_ms():
        await asyncio.sleep(0.01)


def asking(request: lifecycle.Request, **given: Any) -> Act:
    async def act(_: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.ask(M, request, **given)

    return act


async def exits(host: agents.FakeHost, agent: agents.Agent) -> None:
    host.machinery.guest_exits(host.world.vms[M], 3)


async def breaks(host: agents.FakeHost, agent: agents.Agent) -> None:
    host.machinery.end(host.world.vms[M], cause="vmm", vmm=shim.VmmExit(signal=9))


async def creates(host: agents.FakeHost, agent: agents.Agent) -> None:
    await agent.create(M)


async def creates_only(host: agents.FakeHost, agent: agents.Agent) -> None:
    await agent.create(M, skip_launch=True)


async def creates_without_image(host: agents.FakeHost, agent: agents.Agent) -> None:
    await agent.create(M, image=agents.image(NO_IMAGE))


async def creates_what_init_refuses(host: agents.FakeHost, agent: agents.Agent) -> None:
    if not host.world.scripts[M]:
        host.world.scripts[M].append(Boot("refuses"))
    await agent.create(M)


@dataclass(frozen=True)
class Case:
    """One operation to take apart.

    Attributes:
        kind: The operation that the act begins.
        prepare: Brings the machine where the operation starts from.
        act: Begins it.
        ends: The state it rests in.
        asks: The verbs of an undisturbed run, in order.
        hands_off: To another operation, which asks some of the same again.
        broken: The verb that fails for ever in it.
    """

    kind: lifecycle.Kind
    prepare: Act
    act: Act
    ends: str
    asks: list[str]
    hands_off: bool = False
    broken: str = ""


CASES = {
    "launch": Case("start", nothing, creates, "started", UP),
    "prepare": Case("prepare", nothing, creates_only, "stopped", ["images.ensure"]),
    "start": Case("start", stopped, asking("start"), "started", UP),
    "stop": Case("stop", started, asking("stop"), "stopped", STOP),
    "restart": Case("restart", started, asking("restart"), "started", [*STOP, *UP]),
    "update": Case(
        "update",
        started,
        asking("update", update=agents.update(M, "01NEW")),
        "started",
        ["images.ensure", *STOP, *UP],
    ),
    "replace": Case(
        "replace",
        started,
        asking("replace", update=agents.update(M, "01NEW")),
        "stopped",
        ["images.ensure", *STOP],
    ),
    "replace of a stopped one": Case(
        "replace",
        stopped,
        asking("replace", update=agents.update(M, "01NEW")),
        "stopped",
        ["images.ensure", "vmm.connect", "vmm.connect", *DOWN],
    ),
    "exit and again": Case(
        "relaunch", started, exits, "started", ["vmm.exit_record", "vmm.discard", *UP]
    ),
    "exit for good": Case("settle", started_once, exits, "stopped", DOWN),
    "vmm killed": Case("settle", started_once, breaks, "stopped", DOWN),
    "exit and destroy": Case(
        "destroy",
        started_for_one_job,
        exits,
        "destroyed",
        ["vmm.connect", "vmm.connect", *DOWN],
    ),
    "destroy": Case(
        "destroy",
        stopped,
        asking("destroy"),
        "destroyed",
        ["vmm.connect", "vmm.connect", *DOWN],
    ),
    "destroy by force": Case("destroy", started, asking("kill"), "destroyed", STOP),
    "suspend": Case("suspend", started, asking("suspend"), "suspended", SUSPEND),
    "suspend that becomes a stop": Case(
        "suspend",
        started_without_a_way_to_save,
        asking("suspend", or_stop=True),
        "stopped",
        ["vmm.suspend", *STOP],
        hands_off=True,
    ),
    "suspend that cannot be": Case(
        "suspend",
        started_without_a_way_to_save,
        asking("suspend"),
        "started",
        ["vmm.suspend"],
    ),
    "resume": Case("resume", suspended, asking("start"), "started", [*RESUME, "vmm.connect"]),
    "resume that becomes a start": Case(
        "resume",
        suspended_for_nothing,
        asking("start"),
        "started",
        [*RESUME, *UP],
        hands_off=True,
    ),
    # It ends in a clearing, which leaves disk and snapshot.
    "resume that is given up": Case(
        "resume",
        suspended_and_never_resumed,
        asking("start"),
        "suspended",
        [*RESUME, *DOWN],
        hands_off=True,
        broken="vmm.resume",
    ),
    "stop of a suspended one": Case(
        "stop",
        suspended,
        asking("stop"),
        "stopped",
        ["vmm.connect", "vmm.connect", *DOWN],
    ),
    "restart of a suspended one": Case(
        "restart",
        suspended,
        asking("restart"),
        "started",
        ["vmm.connect", "vmm.connect", *DOWN, *UP],
    ),
    "update of a suspended one": Case(
        "update",
        suspended,
        asking("update", update=agents.update(M, "01NEW")),
        "started",
        ["images.ensure", "vmm.connect", "vmm.connect", *DOWN, *UP],
    ),
    "destroy of a suspended one": Case(
        "destroy",
        suspended,
        asking("destroy"),
        "destroyed",
        ["vmm.connect", "vmm.connect", *DOWN],
    ),
    "scheduled": Case("start", scheduled, is_due, "started", UP),
    "scheduled without room": Case("start", scheduled_without_room, is_due, "stopped", []),
    "update without image": Case(
        "update",
        started,
        asking("update", update=agents.update(M, "01NEW", image=agents.image(NO_IMAGE))),
        "started",
        ["images.ensure", "control.pull_token"],
    ),
    "no image": Case(
        "start",
        nothing,
        creates_without_image,
        "failed",
        ["images.ensure", "control.pull_token", *DOWN],
    ),
    "no such program": Case(
        "start",
        nothing,
        creates_what_init_refuses,
        "failed",
        [*UP, *DOWN],
    ),
}


_LASTING_UPDATE = asking("update", update=agents.update(M, "01NEW", config=LASTING))
_LASTING_REPLACE = asking("replace", update=agents.update(M, "01NEW", config=LASTING))
_OTHERWISE = asking("update", update=agents.update(M, "01NEW"))

CASES |= {
    "stop of a lasting one": Case("stop", started_to_last, asking("stop"), "stopped", STOP),
    "start of a lasting one": Case("start", stopped_to_last, asking("start"), "started", UP),
    "restart of a lasting one": Case(
        "restart", started_to_last, asking("restart"), "started", [*STOP, *UP]
    ),
    "exit of a lasting one": Case(
        "relaunch", started_to_last, exits, "started", ["vmm.exit_record", "vmm.discard", *UP]
    ),
    "update of a lasting one": Case(
        "update", started_to_last, _LASTING_UPDATE, "started", ["images.ensure", *STOP, *UP]
    ),
    "replace of a lasting one": Case(
        "replace", started_to_last, _LASTING_REPLACE, "stopped", ["images.ensure", *STOP]
    ),
    "update that ends what lasted": Case(
        "update",
        started_to_last_until_updated,
        asking("update", update=agents.update(M, "01NEW", config=UNTIL_UPDATED)),
        "started",
        ["images.ensure", *STOP, *UP],
    ),
    "update to one that does not last": Case(
        "update", started_to_last, _OTHERWISE, "started", ["images.ensure", *STOP, *UP]
    ),
    "suspend of a lasting one": Case(
        "suspend", started_to_last, asking("suspend"), "suspended", SUSPEND
    ),
    "resume of a lasting one": Case(
        "resume", suspended_to_last, asking("start"), "started", [*RESUME, "vmm.connect"]
    ),
    "resume of a lasting one that becomes a start": Case(
        "resume",
        suspended_to_last_for_nothing,
        asking("start"),
        "started",
        [*RESUME, *UP],
        hands_off=True,
    ),
    "stop of a suspended lasting one": Case(
        "stop",
        suspended_to_last,
        asking("stop"),
        "stopped",
        ["vmm.connect", "vmm.connect", *DOWN],
    ),
    "destroy of a lasting one": Case(
        "destroy",
        stopped_to_last,
        asking("destroy"),
        "destroyed",
        ["vmm.connect", "vmm.connect", *DOWN],
    ),
}
