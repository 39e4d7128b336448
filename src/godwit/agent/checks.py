"""Health checks of started machines: service checks gate routing, all of them gate deploys.

Each check is a task that probes its machine, at the machine's local IPv4 address or by a command
in it; results never touch the machine's state. Fast until the first pass after a start, then at
the check's own interval, at a place of its own in it, so that many checks do not come at once.
Until its first probe a check is `warning`, which lets through as little as `critical` does.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from godwit.agent import probes
from godwit.agent.check_config import Check, checks_of
from godwit.agent.machines import config as settings
from godwit.base import clock, tasks
from godwit.wire import host_rpc

logger = logging.getLogger(__name__)

_FAST_S = 0.25
_FAST_EXEC_S = 1.0
"""A command costs the guest more than a connection."""
_FAST_FOR_S = 60.0
_AT_ONCE = 64
_COMMANDS_AT_ONCE = 8
_SPREAD_S = 2.0
"""Over so long are the first checks spread of machines that an agent finds running."""
_NOT_YET = "the first check has not been made yet"


@dataclass
class _Watched:
    """A machine whose checks run."""

    boot: str
    checks: tuple[Check, ...]
    address: str
    results: dict[str, host_rpc.CheckStatus]
    tasks: list[asyncio.Task[None]]
    trusted: set[str]
    """Checks not made yet that let traffic through all the same."""
    graceless: bool
    """It ran before: its first checks are made soon."""
    run: probes.Run


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
    ) -> None:
        """Check a machine from now on; `boot` names its present start, `None` ends it.

        One that was `adopted` ran before this agent did: it keeps its traffic until a check says
        otherwise, and gets no grace, or every restart of the agent would cut it off. One that was
        `resumed` has long begun: it is asked at once, for requests wait for it.
        """
        watched = self._watched.get(machine_id)
        if watched is not None and watched.boot == boot:
            return
        if watched is not None:
            for task in watched.tasks:
                task.cancel()
            del self._watched[machine_id]
        if boot is None:
            return
        checks = checks_of(config)
        now = clock.rfc3339(self._clock.now_ms())
        results = {
            check.name: host_rpc.CheckStatus(
                name=check.name, status="warning", output=_NOT_YET, updated_at=now
            )
            for check in checks
        }
        trusted = {check.name for check in checks} if adopted else set()
        graceless = adopted or resumed
        watched = _Watched(boot, checks, address, results, [], trusted, graceless, run)
        self._watched[machine_id] = watched
        for check in checks:
            watched.tasks.append(
                self._tasks.spawn(
                    self._keep_checking(machine_id, watched, check),
                    name=f"check.{machine_id}.{check.name}",
                )
            )

    def results(self, machine_id: str) -> tuple[host_rpc.CheckStatus, ...]:
        """Return the last result of each check of a machine."""
        watched = self._watched.get(machine_id)
        return () if watched is None else tuple(watched.results.values())

    def passing(self, machine_id: str, config: Mapping[str, Any]) -> dict[int, bool]:
        """Return, by service, whether checks let traffic through.

        A service's own gate it, and top-level ones of `kind: readiness` gate every one.
        """
        watched = self._watched.get(machine_id)
        services = range(len(settings.items(config.get("services"))))
        found: dict[int, bool] = {}
        for check in watched.checks if watched is not None else checks_of(config):
            good = watched is not None and (
                watched.results[check.name].status == "passing" or check.name in watched.trusted
            )
            gated = services if check.readiness else (check.service,)
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
        self._take_in(machine_id, watched, check, result)
        return result.passing

    def _take_in(
        self, machine_id: str, watched: _Watched, check: Check, result: probes.Result
    ) -> None:
        before = watched.results[check.name]
        after = before.model_copy(
            update={
                "status": "passing" if result.passing else "critical",
                "output": result.output,
            }
        )
        if after.status != before.status:
            now = clock.rfc3339(self._clock.now_ms())
            after = after.model_copy(update={"updated_at": now})
        watched.results[check.name] = after
        was_trusted = check.name in watched.trusted
        watched.trusted.discard(check.name)
        if after.status != before.status or was_trusted:
            logger.info("%s: %s is %s: %s", machine_id, check.name, after.status, after.output)
            self._changed(machine_id)
