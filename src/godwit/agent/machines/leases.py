"""Leases: for a time, one client alone may change a machine (spec/machines.md §3.3).

The host judges by what it holds in memory; every change is stored before it is answered, so a
lease outlives the agent. The platform's own acts (autostart, restart policy, schedules, a host
being drained) never ask here.

A nonce that matches the last lease prolongs it, also after it expired while nobody else took it:
its holder was late, not replaced. Any other nonce acquires like none.
"""

import base64
from collections.abc import Callable

from godwit.agent.machines import holdings, records
from godwit.base import clock, errors
from godwit.durable.database import Writer
from godwit.wire import host_rpc

LONGEST_TTL_S = 86_400
_NONCE_BYTES = 20
_LONGEST_TEXT = 1_000


class Leases:
    """Who holds which machine of this host.

    Args:
        database: Where they are stored.
        the_clock: By whose Unix time they expire.
        random: Returns that many bytes nobody can guess.
    """

    def __init__(
        self, database: Writer, the_clock: clock.Clock, random: Callable[[int], bytes]
    ) -> None:
        self._database = database
        self._clock = the_clock
        self._random = random
        self._last: dict[str, holdings.Held] = {}

    async def load(self) -> None:
        """Read what an earlier agent stored."""
        self._last = await self._database.read(holdings.leases)

    def drop(self, machine_id: str) -> None:
        """Forget a machine whose record is gone."""
        self._last.pop(machine_id, None)

    def held(self, machine_id: str) -> holdings.Held | None:
        """Return the lease that holds now; an expired one does not."""
        last = self._last.get(machine_id)
        return last if last is not None and last.expires_at_ms > self._clock.now_ms() else None

    def check(self, machine_id: str, nonce: str | None) -> None:
        """Return if a change may be made with this nonce.

        Raises:
            Failure: `conflict`: somebody else holds the machine.
        """
        held = self.held(machine_id)
        if held is not None and not _matches(held, nonce):
            raise _taken(held)

    async def acquire(
        self, machine: records.Machine, request: host_rpc.LeaseRequest, minted_for: str = ""
    ) -> holdings.Held:
        """Acquire or prolong a lease; the answer's nonce is its holder's.

        Args:
            machine: What is leased.
            request: By whom, for how long, and the nonce of an earlier one.
            minted_for: The version whose offer or update brings it; once more finds the same.

        Raises:
            Failure: `conflict` (somebody else holds it), `invalid_argument` (time, text).
        """
        _check_form(request)
        before = self._last.get(machine.machine_id)
        held = self.held(machine.machine_id)
        again = held is not None and minted_for != "" and held.minted_for == minted_for
        if held is not None and not again and not _matches(held, request.nonce):
            raise _taken(held)
        prolonged = before is not None and (again or _matches(before, request.nonce))
        lease = holdings.Held(
            nonce=before.nonce if before is not None and prolonged else self._mint(),
            expires_at_ms=self._clock.now_ms() + request.ttl_s * 1000,
            owner=request.owner or (before.owner if before is not None and prolonged else ""),
            description=request.description
            or (before.description if before is not None and prolonged else ""),
            minted_for=minted_for,
        )
        await self._put(machine, lease)
        return lease

    async def release(self, machine: records.Machine, nonce: str | None) -> None:
        """Give a lease back; one that has expired is given back already.

        Raises:
            Failure: `conflict` (not the holder's nonce), `invalid_argument` (no nonce).
        """
        if not nonce:
            raise errors.invalid(
                "releasing a lease needs its nonce", hint="send it as fly-machine-lease-nonce"
            )
        self.check(machine.machine_id, nonce)
        last = self._last.get(machine.machine_id)
        if last is not None and _matches(last, nonce):
            await self._put(machine, None)

    async def end(self, machine: records.Machine) -> None:
        """End a lease without its nonce, for an operator whose client left it behind."""
        if machine.machine_id in self._last:
            await self._put(machine, None)

    async def _put(self, machine: records.Machine, lease: holdings.Held | None) -> None:
        """Take a lease up at once, so that nobody else gets it meanwhile, then store it."""
        machine_id = machine.machine_id
        before = self._last.get(machine_id)
        self._set(machine_id, lease)
        try:
            await self._database.write(lambda tx: holdings.put_lease(tx, machine, lease))
        except Exception:
            if self._last.get(machine_id) is lease:
                self._set(machine_id, before)
            raise

    def _set(self, machine_id: str, lease: holdings.Held | None) -> None:
        if lease is None:
            self._last.pop(machine_id, None)
        else:
            self._last[machine_id] = lease

    def _mint(self) -> str:
        return base64.b32encode(self._random(_NONCE_BYTES)).decode().lower()


def public(held: holdings.Held, version: str, *, to_holder: bool = False) -> host_rpc.Lease:
    """Return a lease as others see it; the nonce is its holder's alone."""
    return host_rpc.Lease(
        nonce=held.nonce if to_holder else None,
        # Rounded up: whoever reads it never acts too early.
        expires_at=-(-held.expires_at_ms // 1000),
        owner=held.owner,
        description=held.description,
        version=version,
    )


def _matches(held: holdings.Held, nonce: str | None) -> bool:
    return bool(nonce) and held.nonce == nonce


def _taken(held: holdings.Held) -> errors.Failure:
    until = clock.rfc3339(held.expires_at_ms)
    what = f" ({held.description})" if held.description else ""
    return errors.Failure(
        "conflict",
        f"the machine is leased by {held.owner or 'somebody else'}{what} until {until}",
        hint="wait for its end, or give its nonce as fly-machine-lease-nonce",
    )


def _check_form(request: host_rpc.LeaseRequest) -> None:
    if not 1 <= request.ttl_s <= LONGEST_TTL_S:
        raise errors.invalid(f"ttl: must be within 1..{LONGEST_TTL_S} seconds")
    if len(request.description) > _LONGEST_TEXT or len(request.owner) > _LONGEST_TEXT:
        raise errors.invalid(f"description: must be at most {_LONGEST_TEXT} characters")
