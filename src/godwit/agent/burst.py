"""CPU beyond the baseline: each machine saves what it leaves and spends it in bursts.

The model is spec/machines.md §6: in each period of 80 ms a shared vCPU has a baseline of 5 ms, a
performance vCPU all 80, pooled over the machine's vCPUs. What a machine leaves of its baseline
grows its balance, what it takes beyond shrinks it, at most at the speed of all its vCPUs; at
zero it is held to the baseline. A boot is not charged: accounts begin when the process runs.

The first half is pure. `Bursts` is the loop that `agent.app` runs: it reads a machine's counter
when its balance could be half spent at the earliest, and sets a quota that spends no more than
the balance by the next look. While no agent runs, the quota that was last set stands: a machine
is never held lower than that, never above its vCPUs, and owes nothing for the time.
"""

import json
import logging
from dataclasses import dataclass
from typing import Protocol

from godwit.base import clock, errors
from godwit.wire import host_rpc

logger = logging.getLogger(__name__)

PERIOD_US = 80_000
BASELINE_US = {"shared": 5_000, "performance": 80_000}
"""CPU time of a period for each vCPU."""
IO_US = 40_000
"""CPU time of a period that a VMM may use beside its virtual CPUs, for disks and network."""
INITIAL_US = 5_000_000
CEILING_US = 500_000_000
LOOK_S = 2.0
"""How often a machine is looked at whose balance may soon be spent."""
_LONGEST_S = 60.0
_SECOND = 1_000_000


@dataclass(frozen=True)
class Share:
    """CPU time a machine may use in each period, in µs.

    Attributes:
        baseline_us: What it always may.
        full_us: What it may while it has balance.
    """

    baseline_us: int
    full_us: int

    @property
    def baseline_cpus(self) -> float:
        """Return the baseline in CPUs."""
        return self.baseline_us / PERIOD_US

    def of(self, seconds: float) -> int:
        """Return the baseline of that many seconds, in µs."""
        return round(self.baseline_us * seconds * _SECOND / PERIOD_US)


def share(resources: host_rpc.Resources) -> Share:
    """Return what a machine of that size may use."""
    baseline = resources.cpus * BASELINE_US[resources.cpu_kind]
    return Share(baseline, resources.cpus * PERIOD_US + IO_US)


@dataclass(frozen=True)
class Account:
    """What a machine has saved.

    Attributes:
        used_us: Its counter when it was last looked at.
        at_s: When that was, on the monotonic clock, which all processes of a boot share.
    """

    balance_us: int
    used_us: int
    at_s: float


def advance(account: Account, given: Share, used_us: int, at_s: float) -> Account:
    """Return the account at a later look; a counter that went back is a new one, from 0."""
    passed_s = max(0.0, at_s - account.at_s)
    taken = used_us - account.used_us if used_us >= account.used_us else used_us
    balance = account.balance_us + given.of(passed_s) - taken
    return Account(max(0, min(balance, CEILING_US)), used_us, at_s)


def quota_us(balance_us: int, given: Share, within_s: float) -> int:
    """Return a period's quota that spends no more than the balance within that time."""
    if given.full_us - given.baseline_us <= IO_US:
        # A performance machine always has all of its vCPUs, and so the VMM's part.
        return given.full_us
    extra = balance_us * PERIOD_US // round(within_s * _SECOND)
    return min(given.full_us, given.baseline_us + extra)


def look_after_s(balance_us: int, given: Share) -> float:
    """Return when to look again: half the time in which the balance could be spent."""
    beyond = (given.full_us - given.baseline_us) / PERIOD_US
    return min(_LONGEST_S, max(LOOK_S, balance_us / _SECOND / beyond / 2))


class Cpu(Protocol):
    """The kernel's side: counters and quotas by machine (`vmm.cgroups`)."""

    def used_us(self, machine_id: str) -> int | None:
        """Return the CPU time used since the VMM began; `None` when it is gone."""

    def throttled_us(self, machine_id: str) -> int:
        """Return how long its threads were held back."""

    def set_quota(self, machine_id: str, quota: int) -> None:
        """Let it use that many µs in each period from now on.

        Raises:
            Failure: The kernel refuses.
        """


@dataclass
class _Followed:
    boot: str
    given: Share
    account: Account
    look_at_s: float = 0.0
    quota_us: int | None = None


class Bursts:
    """The accounts of one host's running machines."""

    def __init__(self, cpu: Cpu, clock: clock.Clock) -> None:
        self._cpu = cpu
        self._clock = clock
        self._followed: dict[str, _Followed] = {}
        self._remembered: dict[str, tuple[str, Account]] = {}

    def follow(self, machine_id: str, boot: str | None, resources: host_rpc.Resources) -> None:
        """Keep a machine's account while it runs.

        Args:
            machine_id: Whose.
            boot: Names this run of its process; another one begins with the initial balance.
                `None` when it does not run.
            resources: What it may use.
        """
        known = self._followed.get(machine_id)
        if boot is None:
            self._followed.pop(machine_id, None)
            return
        given = share(resources)
        if known is not None and known.boot == boot:
            if known.given != given:
                known.given, known.look_at_s = given, 0.0
            return
        remembered = self._remembered.pop(machine_id, None)
        if remembered is not None and remembered[0] == boot:
            account = remembered[1]
        else:
            used_us = self._cpu.used_us(machine_id) or 0
            account = Account(INITIAL_US, used_us, self._clock.monotonic())
        self._followed[machine_id] = _Followed(boot, given, account)

    async def run(self) -> None:
        """Look at the machines for ever."""
        while True:
            self.look()
            await self._clock.sleep(LOOK_S)

    def look(self) -> None:
        """Look at every machine whose time has come."""
        now_s = self._clock.monotonic()
        for machine_id, each in self._followed.items():
            if now_s < each.look_at_s:
                continue
            try:
                self._look_at(machine_id, each, now_s)
            except (errors.Failure, OSError) as error:
                logger.warning("CPU of machine %s: %s", machine_id, error)

    def figures(self, machine_id: str) -> host_rpc.CpuShare | None:
        """Return a running machine's figures; `None` for another."""
        each = self._followed.get(machine_id)
        used_us = None if each is None else self._cpu.used_us(machine_id)
        if each is None or used_us is None:
            return None
        now = advance(each.account, each.given, used_us, self._clock.monotonic())
        return host_rpc.CpuShare(
            baseline=each.given.baseline_cpus,
            balance=now.balance_us // 10_000,
            throttle=self._cpu.throttled_us(machine_id) // 10_000,
        )

    def dump(self) -> str:
        """Return the accounts as text, for the next agent."""
        kept = {
            machine_id: {"boot": each.boot, **vars(each.account)}
            for machine_id, each in self._followed.items()
        }
        return json.dumps(kept, separators=(",", ":"))

    def load(self, text: str | None) -> None:
        """Take over a former agent's accounts; what cannot be read begins anew."""
        now_s = self._clock.monotonic()
        try:
            kept = json.loads(text or "{}")
            for machine_id, one in kept.items():
                account = Account(
                    balance_us=int(one["balance_us"]),
                    used_us=int(one["used_us"]),
                    at_s=min(float(one["at_s"]), now_s),
                )
                self._remembered[str(machine_id)] = (str(one["boot"]), account)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("the CPU accounts cannot be read, they begin anew: %s", error)

    def _look_at(self, machine_id: str, each: _Followed, now_s: float) -> None:
        used_us = self._cpu.used_us(machine_id)
        if used_us is None:
            return
        each.account = advance(each.account, each.given, used_us, now_s)
        # The loop's own beat is what decides; half a beat early keeps it from being missed.
        after_s = look_after_s(each.account.balance_us, each.given) - LOOK_S / 2
        each.look_at_s = now_s + after_s
        wanted = quota_us(each.account.balance_us, each.given, LOOK_S)
        if wanted != each.quota_us:
            self._cpu.set_quota(machine_id, wanted)
            each.quota_us = wanted
