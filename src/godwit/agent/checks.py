"""Health checks of started machines: service checks gate routing, all of them gate deploys.

Each check is a task that probes its machine, at the machine's local IPv4 address or by a command
in it; results never touch the machine's state. Fast until the first pass after a start, then at
the check's own interval, at a place of its own in it, so that many checks do not come at once.
Until its first probe a check is `warning`, which lets through as little as `critical` does.

Readiness checks of containers are asked in the guest, or by `container_probes`, and counted there;
here is only heard what they have come to. They gate every service, and are told with the others.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from godwit.agent import probes
from godwit.agent.check_config import Check, ContainerCheck, checks_of, of_containers
from godwit.agent.machines import config as settings
from godwit.base import clock, tasks
from godwit.wire import host_rpc
from godwit.wire.guest_containers import Standing

logger = logging.getLogger(__name__)

_FAST_S = 0.25
_FAST_EXEC_S = 1.0
"""A command costs the guest more than a connection."""
_FAST_FOR_S = 60.0
_AT_ONCE = 64
_COMMANDS_AT_ONCE = 8
_SPREAD_S = 2.0
"""Over so long are the first checks spread of machines that an agent finds running."""
_HEARD_S = 0.25
"""From one turn of a machine's containers to the next that counts: they say what they like, and
the world is told of each."""
_NOT_YET = "the first check has not been made yet"
_Status = Literal["passing", "warning", "critical"]
_STATUSES: dict[str, _Status] = {"passing": "passing", "critical": "critical"}
_RESTING: dict[str, tuple[_Status, str]] = {
    "created": ("warning", "the container waits for others"),
    "starting": ("critical", "the container has ended, and is started again in a moment"),
    # Any other that ends for good takes the machine along.
    "stopped": ("passing", "the container has done its work"),
}


@dataclass
class _Watched:
    """A machine whose checks run."""

    boot: str
    checks: tuple[Check, ...]
    contained: tuple[ContainerCheck, ...]
    address: str
    results: dict[str, host_rpc.CheckStatus]
    tasks: list[asyncio.Task[None]]
    trusted: set[str]
    """Checks not made yet that let traffic through all the same."""
    graceless: bool
    """It ran before: its first checks are made soon."""
    run: probes.Run
    hearing: asyncio.Task[None] | None = None
    """While what containers say has to wait."""
    told: Sequence[Standing] | None = None
    """What they said meanwhile."""


class Checks:
    """The checks of all machines here.

    Args:
        changed: Told the id of a machine when one of its checks turns.
    """

    def __init__(
        self, the_clock: clock.Clock, owned: tasks.Tasks, changed: Callable[[str], None]
    ) -> None:
        self._clock = the_clock
        self._tasks = owned
        self._changed = changed
        self._watched: dict[str, _Watched] = {}
        self._probing = asyncio.Semaphore(_AT_ONCE)
        self._running = asyncio.Semaphore(_COMMANDS_AT_ONCE)

    def follow(
        self,
        machine_id: str,
        boot: str | None,
        config: Mapping[str, Any],
        address: str,
        *,
        adopted: bool = False,
        resumed: bool = False,
        run: probes.Run = probes.cannot_run,
        told: Sequence[Standing] = (),
    ) -> None:
        """Check a machine from now on; `boot` names its present start, `None` ends it.

        Its containers do what was `told` by now.

        One that was `adopted` ran before this agent did: it keeps its traffic until a check says
        otherwise, and gets no grace, or every restart of the agent would cut it off. One that was
        `resumed` has long begun: it is asked at once, for requests wait for it.
        """
        watched = self._watched.get(machine_id)
        if watched is not None and watched.boot == boot:
            return
        if watched is not None:
            for task in (*watched.tasks, *(() if watched.hearing is None else (watched.hearing,))):
                task.cancel()
            del self._watched[machine_id]
        if boot is None:
            return
        checks, contained = checks_of(config), _readiness(config)
        now = clock.rfc3339(self._clock.now_ms())
        names = [*(check.name for check in checks), *(check.name for check in contained)]
        results = {
            name: host_rpc.CheckStatus(
                name=name, status="warning", output=_NOT_YET, updated_at=now
            )
            for name in names
        }
        trusted = set(results) if adopted else set()
        graceless = adopted or resumed
        watched = _Watched(boot, checks, contained, address, results, [], trusted, graceless, run)
        self._watched[machine_id] = watched
        self._take_told(watched, told)
        for check in checks:
            watched.tasks.append(
                self._tasks.spawn(
                    self._keep_checking(machine_id, watched, check),
                    name=f"check.{machine_id}.{check.name}",
                )
            )

    def hear(self, machine_id: str, told: Sequence[Standing]) -> None:
        """Take in what a machine's containers do, and how their checks are."""
        watched = self._watched.get(machine_id)
        if watched is None or not watched.contained:
            return
        if watched.hearing is not None and not watched.hearing.done():
            watched.told = told
        elif self._take_told(watched, told):
            watched.hearing = self._tasks.spawn(
                self._hear_later(machine_id, watched), name=f"hear.{machine_id}"
            )
            self._changed(machine_id)

    async def _hear_later(self, machine_id: str, watched: _Watched) -> None:
        """Take in what was said meanwhile, until nothing was."""
        await self._clock.sleep(_HEARD_S)
        while watched.told is not None:
            told, watched.told = watched.told, None
            if self._take_told(watched, told):
                self._changed(machine_id)
            await self._clock.sleep(_HEARD_S)

    def results(self, machine_id: str) -> tuple[host_rpc.CheckStatus, ...]:
        """Return the last result of each check of a machine."""
        watched = self._watched.get(machine_id)
        return () if watched is None else tuple(watched.results.values())

    def passing(self, machine_id: str, config: Mapping[str, Any]) -> dict[int, bool]:
        """Return, by service, whether checks let traffic through.

        A service's own gate it, and those of `kind: readiness` at the top or of a container gate
        every one.
        """
        watched = self._watched.get(machine_id)
        services = range(len(settings.items(config.get("services"))))
        found: dict[int, bool] = {}
        checks: tuple[Check | ContainerCheck, ...] = (
            (*checks_of(config), *_readiness(config))
            if watched is None
            else (*watched.checks, *watched.contained)
        )
        for check in checks:
            good = watched is not None and (
                watched.results[check.name].status == "passing" or check.name in watched.trusted
            )
            own = check.service if isinstance(check, Check) else None
            gated = services if check.readiness else (own,)
            found |= {
                service: found.get(service, True) and good
                for service in gated
                if service is not None
            }
        return found

    async def _keep_checking(self, machine_id: str, watched: _Watched, check: Check) -> None:
        begun = self._clock.monotonic()
        await self._clock.sleep(self._before_first(watched, check))
        fast_s = min(_FAST_EXEC_S if check.type == "exec" else _FAST_S, check.interval_s)
        fast_for_s = max(_FAST_FOR_S, 2 * check.interval_s)
        while not await self._probe(machine_id, watched, check):
            young = self._clock.monotonic() - begun < check.grace_s + fast_for_s
            await self._clock.sleep(fast_s if young else check.interval_s)
        # From here on at moments that are the check's own, however long a probe takes.
        due = self._clock.monotonic() - random.uniform(0, check.interval_s / 2)  # noqa: S311
        while True:
            behind_s = self._clock.monotonic() - due
            due += check.interval_s * (1 + behind_s // check.interval_s)
            await self._clock.sleep(due - self._clock.monotonic())
            await self._probe(machine_id, watched, check)

    @staticmethod
    def _before_first(watched: _Watched, check: Check) -> float:
        if not watched.graceless:
            return check.grace_s
        if check.name not in watched.trusted:
            return 0.0
        return random.uniform(0, min(_SPREAD_S, check.interval_s))  # noqa: S311

    async def _probe(self, machine_id: str, watched: _Watched, check: Check) -> bool:
        """Make a check once it is its turn; return whether it passed."""
        async with self._running if check.type == "exec" else self._probing:
            result = await probes.probe(check, watched.address, watched.run)
        status: _Status = "passing" if result.passing else "critical"
        if self._note(watched, check.name, status, result.output):
            logger.info("%s: %s is %s: %s", machine_id, check.name, status, result.output)
            self._changed(machine_id)
        return result.passing

    def _take_told(self, watched: _Watched, told: Sequence[Standing]) -> bool:
        """Return whether that turned a check."""
        turned = False
        standings = {one.name: one for one in told}
        for check in watched.contained:
            standing = standings.get(check.container)
            if standing is None:
                continue
            if standing.checks is None:
                # An init of a former release tells nothing, for as long as it runs.
                turned |= check.name not in watched.trusted
                watched.trusted.add(check.name)
            else:
                turned |= self._note(watched, check.name, *_come_to(standing, check))
        return turned

    def _note(self, watched: _Watched, name: str, status: _Status, output: str) -> bool:
        """Take in what a check came to; return whether that is another than before."""
        before = watched.results[name]
        after = before.model_copy(update={"status": status, "output": output})
        if after.status != before.status:
            now = clock.rfc3339(self._clock.now_ms())
            after = after.model_copy(update={"updated_at": now})
        watched.results[name] = after
        was_trusted = name in watched.trusted
        watched.trusted.discard(name)
        return after.status != before.status or was_trusted


def _readiness(config: Mapping[str, Any]) -> tuple[ContainerCheck, ...]:
    return tuple(check for check in of_containers(config) if check.readiness)


def _come_to(standing: Standing, check: ContainerCheck) -> tuple[_Status, str]:
    """Return how a container's check is."""
    if standing.state in _RESTING:
        return _RESTING[standing.state]
    checks = standing.checks or ()
    if check.number >= len(checks):
        return "warning", _NOT_YET
    told = checks[check.number]
    return _STATUSES.get(told.status, "warning"), told.output
