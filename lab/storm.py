"""Faults drawn by chance, the same ones for the same seed; at the end all is as it was.

`draw` is pure and says what happens when; `run` lets it happen. What is disturbed is not disturbed
again before it is well, so that each fault is undone by itself; faults of different things
overlap.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from godwit.base import errors
from lab.laboratory import Lab
from lab.plan import Plan

COMPONENTS = ("agent", "bus", "control", "dns", "edge")
"""What is killed or stopped; where one does not run, nothing happens."""
_PAUSE_S = 2.0
"""Between the beginnings of two faults, on average."""
_SHORTEST_S, _LONGEST_S = 1.0, 15.0
_LOSS = 0.1
_SIGNALS = {"kill": "KILL", "stop": "STOP", "continue": "CONT"}


@dataclass(frozen=True, order=True)
class Event:
    """One thing that is done.

    Attributes:
        at_s: From the beginning.
        action: `cut`, `cut one way`, `heal`, `slow`, `as planned`, `kill`, `stop`, `continue`,
            `lose power`, `give power`.
        subject: The arguments: regions or a host, and a component.
        delay_ms: Of `slow`.
        loss: Of `slow`.
    """

    at_s: float
    action: str
    subject: tuple[str, ...]
    delay_ms: float = 0.0
    loss: float = 0.0

    def __str__(self) -> str:
        how = f" to {self.delay_ms:g} ms, losing {self.loss:.0%}" if self.action == "slow" else ""
        return f"{self.at_s:6.1f} s {self.action} {' '.join(self.subject)}{how}"


def draw(plan: Plan, seed: int, for_s: float) -> tuple[Event, ...]:
    """Return what happens, in order; faults begin within the time and are undone soon after."""
    return tuple(sorted(_Drawing(plan, random.Random(seed)).events(for_s)))  # noqa: S311


@dataclass
class _Drawing:
    """What has been drawn so far.

    Attributes:
        well_at_s: When each link and host that was disturbed is well again.
    """

    plan: Plan
    chance: random.Random
    well_at_s: dict[tuple[str, ...], float] = field(default_factory=dict)

    def events(self, for_s: float) -> Iterator[Event]:
        faults: list[Callable[[float, float], list[Event]]] = [
            self._component, self._component, self._cable, self._power,
        ]  # fmt: skip
        if self.plan.pairs:
            faults += [self._link, self._link, self._slow, self._region]
        now = self.chance.expovariate(1 / _PAUSE_S)
        while now < for_s:
            lasts = self.chance.uniform(_SHORTEST_S, _LONGEST_S)
            yield from self.chance.choice(faults)(round(now, 2), round(now + lasts, 2))
            now += self.chance.expovariate(1 / _PAUSE_S)

    def _take(self, things: list[tuple[str, ...]], begin: float, end: float) -> bool:
        """Tell whether all these are well, and have them disturbed until the end if so."""
        if any(self.well_at_s.get(thing, -1.0) >= begin for thing in things):
            return False
        self.well_at_s.update(dict.fromkeys(things, end))
        return True

    def _host(self) -> tuple[str]:
        hosts = [name for region in self.plan.regions for name in self.plan.hosts(region)]
        return (self.chance.choice(hosts),)

    def _link(self, begin: float, end: float) -> list[Event]:
        pair: tuple[str, str] = self.chance.choice(self.plan.pairs)
        a, b = self.chance.sample(pair, 2)
        action = self.chance.choice(["cut", "cut one way"])
        return self._both(pair, begin, end, Event(begin, action, (a, b)), "heal")

    def _slow(self, begin: float, end: float) -> list[Event]:
        pair = self.chance.choice(self.plan.pairs)
        delay_ms = round(self.plan.delay_ms(*pair) * self.chance.uniform(2, 10), 1)
        loss = round(self.chance.uniform(0, _LOSS), 3)
        slow = Event(begin, "slow", pair, delay_ms=min(delay_ms, 5_000.0), loss=loss)
        return self._both(pair, begin, end, slow, "as planned")

    def _region(self, begin: float, end: float) -> list[Event]:
        region = self.chance.choice(list(self.plan.regions))
        links = [pair for pair in self.plan.pairs if region in pair]
        if not self._take([*links], begin, end):
            return []
        return [Event(begin, "cut", (region,)), Event(end, "heal", (region,))]

    def _cable(self, begin: float, end: float) -> list[Event]:
        host = self._host()
        action = self.chance.choice(["cut", "cut one way"])
        return self._both(host, begin, end, Event(begin, action, host), "heal")

    def _power(self, begin: float, end: float) -> list[Event]:
        host = self._host()
        return self._both(host, begin, end, Event(begin, "lose power", host), "give power")

    def _component(self, begin: float, end: float) -> list[Event]:
        host, component = self._host(), self.chance.choice(COMPONENTS)
        if self.chance.random() < 0.5:  # noqa: PLR2004 (as often killed as stopped)
            return (
                [Event(begin, "kill", (*host, component))]
                if self._take([host], begin, end)
                else []
            )
        stop = Event(begin, "stop", (*host, component))
        return self._both(host, begin, end, stop, "continue")

    def _both(
        self, thing: tuple[str, ...], begin: float, end: float, event: Event, undo: str
    ) -> list[Event]:
        if not self._take([thing], begin, end):
            return []
        return [event, Event(end, undo, event.subject)]


def run(lab: Lab, events: tuple[Event, ...], told: Callable[[Event], None]) -> None:
    """Let the events happen, none before its time; whatever ends it, all faults are undone.

    Args:
        lab: Of the plan they were drawn for.
        events: From `draw`.
        told: Called with each event before it happens.
    """
    began = time.monotonic()
    left = list(events)
    try:
        while left:
            time.sleep(max(0.0, left[0].at_s - (time.monotonic() - began)))
            told(left[0])
            _do(lab, left.pop(0))
    except BaseException:
        for event in left:
            if event.action in ("heal", "as planned", "continue", "give power"):
                _do(lab, event)
        raise


def _do(lab: Lab, event: Event) -> None:
    subject = event.subject
    match event.action:
        case "cut" | "cut one way":
            lab.cut(*subject, one_way=event.action == "cut one way")
        case "heal":
            lab.heal(*subject)
        case "slow":
            lab.slow(*subject, delay_ms=event.delay_ms, loss=event.loss)
        case "as planned":
            lab.slow(*subject)
        case "lose power":
            lab.host(*subject).lose_power()
        case "give power":
            host = lab.host(*subject)
            if not host.up:
                lab.give_power(host)
                host.start()
        case "kill" | "stop" | "continue":
            host_name, component = subject
            _signal(lab, host_name, component, _SIGNALS[event.action])


def _signal(lab: Lab, host: str, component: str, name: str) -> None:
    try:
        lab.host(host).signal(component, name)
    except errors.Failure as failure:
        # It does not run there, or not at the moment.
        if failure.code != "not_found":
            raise
