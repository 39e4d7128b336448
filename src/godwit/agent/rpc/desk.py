"""What all handlers share: bodies, finding a machine, judging a nonce, asking its driver."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from godwit.agent import ports
from godwit.agent.checks import Checks
from godwit.agent.draining import Drains
from godwit.agent.machines import leases, views
from godwit.agent.machines.driver import Driver
from godwit.agent.machines.leases import Leases
from godwit.agent.machines.lifecycle import Request
from godwit.agent.machines.memory import MemoryLimits
from godwit.agent.machines.metadata import MetadataBook
from godwit.agent.machines.registry import Machines
from godwit.agent.machines.secrets import Secrets
from godwit.agent.machines.standing import Standings
from godwit.agent.policies import Policies
from godwit.base import errors, log
from godwit.base.principal import Principal, Scope
from godwit.durable.database import Writer
from godwit.wire import host_rpc
from godwit.wire.record import Record

R = TypeVar("R", bound=Record)

Handler = Callable[[Principal, dict[str, Any]], Awaitable[Record | dict[str, Any]]]

_INTENT_S = 30.0


class OfMachine(Record):
    """Body of requests about one machine."""

    machine_id: str


class Change(OfMachine):
    """Body of requests that change a machine.

    Attributes:
        nonce: The caller's proof of holding the machine's lease.
    """

    nonce: str | None = None


def parse(kind: type[R], body: dict[str, Any]) -> R:
    """Return a body's record.

    Raises:
        Failure: `invalid_argument`, naming what is wrong.
    """
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise errors.invalid(wrong) from error


@dataclass(frozen=True)
class Desk:
    """Where requests are answered.

    Attributes:
        identity: This host.
        machines: What it owns.
        checks: Their results.
        vmm: For exec and signals, and where the logs are.
        database: Where versions are read from.
        secrets: For commands, which see what the machine's process sees.
        standings: What machines' containers do.
        policies: What machines may send and be sent.
    """

    identity: views.Identity
    machines: Machines
    checks: Checks
    vmm: ports.Vmm
    database: Writer
    leases: Leases
    metadata: MetadataBook
    memory: MemoryLimits
    drains: Drains
    secrets: Secrets
    standings: Standings
    policies: Policies

    def find(self, who: Principal, scope: Scope, machine_id: str) -> Driver:
        """Return a machine for one who may see it and holds the scope.

        Raises:
            Failure: `not_found`, `permission_denied`.
        """
        driver = self.machines.get(who, machine_id)
        log.bind(**driver.machine.about)
        machine = driver.machine
        who.require(scope, machine.org_id, app_id=machine.app_id, machine_id=machine_id)
        return driver

    def permit(self, who: Principal, machine_id: str, nonce: str | None) -> None:
        """Return if nobody else's lease forbids a change; the platform's own parts may anyway.

        Raises:
            Failure: `conflict`.
        """
        if not of_platform(who):
            self.leases.check(machine_id, nonce)

    def change(self, who: Principal, asked: Change, scope: Scope = "machines:write") -> Driver:
        """Return a machine that may be changed.

        Raises:
            Failure: `not_found`, `permission_denied`, `conflict`.
        """
        driver = self.find(who, scope, asked.machine_id)
        self.permit(who, asked.machine_id, asked.nonce)
        return driver

    async def ask(
        self,
        who: Principal,
        driver: Driver,
        request: Request,
        given: Mapping[str, Any],
        nonce: str | None,
    ) -> str:
        """Ask a machine's driver; return the public state before.

        Raises:
            Failure: The machine cannot do that now, or a lease forbids it when its turn comes.
        """
        machine_id = driver.machine.machine_id
        source = "flyd" if of_platform(who) else "user"
        try:
            async with asyncio.timeout(_INTENT_S):
                return await driver.ask(
                    request,
                    {**given, "source": source},
                    permit=lambda: self.permit(who, machine_id, nonce),
                )
        except TimeoutError as error:
            raise errors.Failure(
                "deadline_exceeded",
                f"the machine is busy: {driver.snapshot.shown}, {driver.snapshot.sentence}",
            ) from error

    def view(self, driver: Driver, minted: host_rpc.Lease | None = None) -> host_rpc.MachineView:
        """Return a machine as its owner sees it.

        Args:
            driver: The machine's.
            minted: The lease that this very request acquired, nonce and all.
        """
        snapshot = driver.snapshot
        machine_id = snapshot.machine.machine_id
        held = self.leases.held(machine_id)
        lease = None if held is None else leases.public(held, snapshot.version)
        return views.view(
            self.identity,
            snapshot,
            self.checks.results(machine_id),
            written=self.metadata.written(machine_id, snapshot.version),
            lease=minted or lease,
            containers=self.standings.of(machine_id),
        )

    @contextlib.asynccontextmanager
    async def session(self, driver: Driver) -> AsyncIterator[ports.ShimSession]:
        """Yield a session with a machine's shim; what is lost meanwhile is told in words.

        Raises:
            Failure: `failed_precondition` (it does not run), `deadline_exceeded` (its shim or
                guest does not answer).
        """
        session: ports.ShimSession | None = None
        try:
            session = await self.vmm.connect(driver.machine.machine_id)
            if session is None:
                raise _not_running(driver)
            yield session
        except TimeoutError as error:
            raise errors.Failure(
                "deadline_exceeded",
                "the machine's guest does not answer",
                hint="look at its log; restart it if it hangs",
            ) from error
        except ConnectionError as error:
            raise _not_running(driver) from error
        finally:
            if session is not None:
                await session.close()


def _not_running(driver: Driver) -> errors.Failure:
    return errors.Failure(
        "failed_precondition",
        f"the machine is not running: it is {driver.snapshot.shown}",
        hint="start it first",
    )


def of_platform(who: Principal) -> bool:
    """Tell whether one of the platform's own processes asks, for itself."""
    return who.subject.startswith("component:")
