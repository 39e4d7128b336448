"""What others see of one machine: its snapshot, the trail of its states, who waits for a change.

Owned by the machine's driver, which shows every change here; the RPC, the catalog and waits read
it. Nothing here decides or writes.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from godwit.agent import ports
from godwit.agent.machines import lifecycle, records, views, waits
from godwit.durable import journal

_KEPT_EVENTS = 5
_TRAIL = 64
_NEW_TRAIL = frozenset({"prepare", "start", "resume", "relaunch", "restart", "update", "replace"})
_BEGINS = frozenset({"launch", "resume"})
_REACHES = frozenset({"start", "suspend", "fail"})


class Face:
    """One machine as it shows itself.

    Attributes:
        snapshot: The machine as it is now.
        trail: States since the last start, the present one last.
    """

    snapshot: views.Snapshot

    def __init__(
        self,
        network: ports.Network,
        revision: Callable[[], int],
        events: tuple[records.Event, ...],
    ) -> None:
        self._network = network
        self._revision = revision
        self._events = deque(events, maxlen=_KEPT_EVENTS)
        self._watchers: set[asyncio.Future[None]] = set()
        self.trail: deque[waits.Reached] = deque(_known_trail(events), maxlen=_TRAIL)

    def begin_trail(self, kind: str) -> None:
        """Forget earlier states when an operation begins that brings the machine up."""
        if kind in _NEW_TRAIL:
            self.trail.clear()

    def add(self, events: tuple[records.Event, ...]) -> None:
        """Take in new events; they are seen with the next `show`."""
        for event in events:
            self._events.appendleft(event)

    def show(self, machine: records.Machine, run: journal.Run | None, sentence: str) -> None:
        """Replace the snapshot and wake everybody who waits for a change."""
        self.snapshot = views.Snapshot(
            machine=machine,
            run=run,
            events=tuple(self._events),
            shown=lifecycle.shown(machine.state, views.operation(run)),
            sentence=sentence,
            revision=self._revision(),
            private_ip=self._network.private_ip(machine.plumbing),
            local_ipv4=self._network.local_ipv4(machine.plumbing),
            public_ip=self._network.public_ip(),
        )
        entry = waits.Reached(
            state=self.snapshot.shown,
            version=self.snapshot.version,
            event_id=self._events[0].id if self._events else "",
        )
        last = self.trail[-1] if self.trail else None
        if last is None or (last.state, last.version) != (entry.state, entry.version):
            self.trail.append(entry)
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)
        self._watchers.clear()

    async def next_change(self) -> None:
        """Return once the snapshot has been replaced."""
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.add(watcher)
        try:
            await watcher
        finally:
            self._watchers.discard(watcher)

    async def wait(self, wanted: waits.Wanted) -> waits.Answer:
        """Return once a wait is over. Never `Pending`; the caller brings the deadline."""
        while True:
            seen = self.snapshot
            answer = waits.judge(
                wanted,
                self.trail,
                lifecycle.leads_to(seen.machine.state, views.operation(seen.run)),
                version=seen.version,
                sentence=seen.sentence,
            )
            if not isinstance(answer, waits.Pending):
                return answer
            await self.next_change()


def _known_trail(events: tuple[records.Event, ...]) -> list[waits.Reached]:
    """Return the states reached since the last launch, as far as kept events tell."""
    found: list[waits.Reached] = []
    for event in reversed(events):
        if event.type in _BEGINS:
            found.clear()
        elif event.type in _REACHES and event.status not in lifecycle.TRANSIENT:
            found.append(waits.Reached(event.status, event.instance_id, event.id))
    return found
