"""What a mirror believes and what it writes: any order, duplicates, two at once, same end."""

import json
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from godwit.bus import mirror
from godwit.bus.mirror import Copy, Ledger

HOST = "a1b2c3d4"
FACT = {
    "kind": "machine",
    "owner": HOST,
    "host_id": HOST,
    "region": "fra",
    "machine_id": "m1",
    "epoch": 1,
    "revision": 7,
}
SUBJECT = f"facts.fra.machine.{HOST}.m1"


def read(subject: str = SUBJECT, region: str = "fra", **changed: object) -> Copy | None:
    return mirror.read(subject, json.dumps(FACT | changed).encode(), region)


def test_a_record_goes_into_the_mirror_as_it_is_under_the_region_that_owns_it() -> None:
    found = read(deleted=True)
    assert found is not None
    assert (found.subject, found.version, found.deleted) == (
        f"mirror.fra.machine.{HOST}.m1",
        (1, 7),
        True,
    )
    assert json.loads(found.data) == FACT | {"deleted": True}


@pytest.mark.parametrize(
    "changed",
    [
        {"owner": "other"},
        {"host_id": "other"},
        {"region": "iad"},
        {"machine_id": "m2"},
        {"kind": "host"},
        {"epoch": "new"},
        {"revision": None},
    ],
)
def test_what_a_subjects_owner_may_not_say_is_not_believed(changed: dict[str, object]) -> None:
    assert read(**changed) is None


@pytest.mark.parametrize(
    "subject",
    [
        f"facts.iad.machine.{HOST}.m1",
        f"facts.fra.machine.{HOST}",
        f"facts.fra.machine.{HOST}.m1.x",
        "facts.fra.app.control.m1",
    ],
)
def test_another_regions_subject_is_not_believed(subject: str) -> None:
    assert read(subject) is None


def test_what_is_no_record_is_not_believed() -> None:
    for data in (b"", b"[]", b"{}", b"null", b"\xff"):
        assert mirror.read(SUBJECT, data, "fra") is None


def test_only_machines_of_hosts_that_the_reading_told_of_are_gone() -> None:
    ledger = Ledger()
    for host, machine in (("h1", "m1"), ("h1", "m2"), ("h2", "m3")):
        ledger.holds(Copy(f"mirror.fra.machine.{host}.{machine}", (1, 1), deleted=False))
    ledger.holds(Copy("mirror.iad.machine.h1.m9", (1, 1), deleted=False))
    ledger.holds(Copy("mirror.fra.machine.h1.m4", (1, 1), deleted=True))
    told = {"mirror.fra.host.h1.h1", "mirror.fra.machine.h1.m1"}
    assert ledger.gone("fra", told) == ["mirror.fra.machine.h1.m2"]
    assert ledger.gone("fra", set()) == []


@dataclass
class Bus:
    """The mirror's stream: takes a message only over the one that its writer knew."""

    sequence: int = 0
    newest: dict[str, Copy] = field(default_factory=dict)
    writes: int = 0

    def put(self, copy: Copy, over: int, ledger: Ledger) -> None:
        there = self.newest.get(copy.subject)
        if (there.sequence if there else 0) != over:
            ledger.absent(copy.subject)
            if there is not None:
                ledger.holds(there)
            return
        self.sequence += 1
        self.writes += 1
        self.newest[copy.subject] = Copy(
            copy.subject, copy.version, copy.deleted, copy.data, self.sequence
        )
        ledger.holds(self.newest[copy.subject])


RECORDS = st.lists(
    st.tuples(
        st.sampled_from(["m1", "m2"]), st.integers(1, 2), st.integers(1, 4), st.booleans()
    ).map(lambda r: Copy(f"mirror.fra.machine.{HOST}.{r[0]}", (r[1], r[2]), deleted=False)),
    max_size=12,
)
STEPS = st.lists(
    st.tuples(st.sampled_from(["tell", "write", "echo", "forget"]), st.integers(0, 1)), max_size=80
)


class Pair:
    """Two that keep one mirror, each in its own order."""

    def __init__(self, told: list[Copy], order: random.Random) -> None:
        self.bus = Bus()
        self.told = told
        self.ledgers = [Ledger(), Ledger()]
        self.queues = [order.sample(told, len(told)) for _ in self.ledgers]

    def step(self, what: str, who: int) -> None:
        ledger = self.ledgers[who]
        if what == "tell" and self.queues[who]:
            ledger.told(self.queues[who].pop())
        elif what == "write":
            self.write(ledger)
        elif what == "echo":
            for copy in self.bus.newest.values():
                ledger.holds(copy)
        elif what == "forget":
            # Killed and started: it reads everything again.
            self.ledgers[who], self.queues[who] = Ledger(), list(self.told)

    def write(self, ledger: Ledger) -> None:
        for copy, over in ledger.due(2):
            self.bus.put(copy, over, ledger)

    def finish(self) -> None:
        for ledger, queue in zip(self.ledgers, self.queues, strict=True):
            for copy in queue:
                ledger.told(copy)
            for _ in range(20):
                self.write(ledger)
            assert ledger.due(64) == []

    def versions(self) -> dict[str, tuple[int, int]]:
        return {subject: copy.version for subject, copy in self.bus.newest.items()}


@settings(max_examples=300, deadline=None)
@given(told=RECORDS, steps=STEPS, order=st.randoms(use_true_random=False))
def test_two_mirrors_end_with_every_subjects_newest_record_whatever_happens_between(
    told: list[Copy], steps: list[tuple[str, int]], order: random.Random
) -> None:
    pair = Pair(told, order)
    for what, who in steps:
        before = pair.versions()
        pair.step(what, who)
        after = pair.versions()
        assert all(after[subject] >= held for subject, held in before.items())
    pair.finish()
    newest: dict[str, tuple[int, int]] = {}
    for copy in told:
        newest[copy.subject] = max(copy.version, newest.get(copy.subject, (0, 0)))
    assert pair.versions() == newest


@given(records=RECORDS)
def test_what_is_told_twice_is_written_once(records: list[Copy]) -> None:
    bus, ledger = Bus(), Ledger()
    for _ in range(2):
        for copy in sorted(records, key=lambda one: one.version):
            ledger.told(copy)
        while due := ledger.due(64):
            for copy, over in due:
                bus.put(copy, over, ledger)
    assert bus.writes == len({copy.subject for copy in records})


def test_what_is_being_written_is_not_due_and_holds_up_nothing_else() -> None:
    ledger = Ledger()
    one, two = (Copy(f"mirror.fra.machine.{HOST}.m{n}", (1, 1), deleted=False) for n in (1, 2))
    for copy in (one, two):
        ledger.told(copy)
    assert ledger.due(1) == [(one, 0)]
    assert ledger.due(1, {one.subject}) == [(two, 0)]
    assert ledger.due(2, {one.subject, two.subject}) == []


def test_only_a_later_message_tells_the_ledger_something() -> None:
    ledger, subject = Ledger(), f"mirror.fra.machine.{HOST}.m1"
    assert not ledger.knows(subject, 7)
    ledger.holds(Copy(subject, (1, 1), deleted=False, sequence=7))
    assert [ledger.knows(subject, sequence) for sequence in (6, 7, 8)] == [True, True, False]
    ledger.absent(subject)
    assert not ledger.knows(subject, 7)
