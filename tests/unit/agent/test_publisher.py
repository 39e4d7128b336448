"""Facts: told once, kept while the bus is away, told again when it is back."""

import asyncio

from godwit.agent import publisher
from godwit.base import errors, tasks
from godwit.testing import clock
from godwit.wire import facts


def fact(host: str = "h1", revision: int = 1, zone: str = "0000") -> facts.HostFact:
    return facts.HostFact(
        owner=host, epoch=1, revision=revision, host_id=host, region="lcl", zone=zone
    )


class Stream:
    """A stream that can be away."""

    def __init__(self) -> None:
        self.away = False
        self.too_long: set[str] = set()
        self.sick: set[str] = set()
        self.slow: dict[str, asyncio.Event] = {}
        self.begun: list[facts.Fact] = []
        self.got: list[facts.Fact] = []
        self.ensured = 0

    async def ensure(self) -> None:
        self._check()
        self.ensured += 1

    async def publish(self, fact: facts.Fact) -> None:
        self.begun.append(fact)
        await asyncio.sleep(0)
        if fact.owner in self.slow:
            await self.slow[fact.owner].wait()
        self._check()
        if fact.owner in self.too_long:
            raise errors.invalid(f"{fact.owner} is too long")
        if fact.owner in self.sick:
            raise errors.Failure("unavailable", f"{fact.owner} was not taken")
        self.got.append(fact)

    def _check(self) -> None:
        if self.away:
            raise errors.Failure("unavailable", "the bus is away")


def play(body) -> None:
    async def whole() -> None:
        the_clock = clock.FakeClock()
        stream = Stream()
        async with tasks.Tasks("test") as owned:
            made = publisher.Publisher(the_clock)
            owned.spawn(made.run(stream, owned), name="run")
            await body(made, stream, the_clock)

    clock.run(whole())


def test_a_change_is_published_and_its_repetition_is_not() -> None:
    async def body(made: publisher.Publisher, stream: Stream, the_clock: clock.FakeClock) -> None:
        heard: list[facts.Fact] = []
        made.on_fact(heard.append)
        made.tell("h1", fact(revision=1))
        await the_clock.sleep(1)
        made.tell("h1", fact(revision=2))
        await the_clock.sleep(1)
        made.tell("h1", fact(revision=3, zone="00ff"))
        await the_clock.sleep(1)
        assert [each.revision for each in stream.got] == [1, 3]
        assert heard == stream.got
        assert stream.ensured == 1

    play(body)


def test_while_the_bus_is_away_only_the_newest_of_each_waits() -> None:
    async def body(made: publisher.Publisher, stream: Stream, the_clock: clock.FakeClock) -> None:
        stream.away = True
        for revision in range(1, 50):
            made.tell("h1", fact(revision=revision, zone=f"{revision:04x}"))
            made.tell("h2", fact("h2", revision, zone=f"{revision:04x}"))
            await the_clock.sleep(0.1)
        stream.away = False
        await the_clock.sleep(3)
        assert sorted((each.owner, each.revision) for each in stream.got) == [
            ("h1", 49),
            ("h2", 49),
        ]

    play(body)


def test_after_a_reconnection_everything_is_told_again() -> None:
    async def body(made: publisher.Publisher, stream: Stream, the_clock: clock.FakeClock) -> None:
        made.tell("h1", fact("h1"))
        made.tell("h2", fact("h2"))
        await the_clock.sleep(1)
        stream.got.clear()
        await made.tell_everything()
        await the_clock.sleep(1)
        assert sorted(each.owner for each in stream.got) == ["h1", "h2"]
        made.drop("h1")
        stream.got.clear()
        await made.tell_everything()
        await the_clock.sleep(1)
        assert [each.owner for each in stream.got] == ["h2"]

    play(body)


def test_a_record_that_can_never_be_published_holds_up_no_others() -> None:
    async def body(made: publisher.Publisher, stream: Stream, the_clock: clock.FakeClock) -> None:
        stream.too_long = {f"a{at:02}" for at in range(40)}
        for owner in sorted(stream.too_long):
            made.tell(owner, fact(owner))
        made.tell("h1", fact("h1"))
        await the_clock.sleep(0.5)
        assert [each.owner for each in stream.got] == ["h1"]
        made.tell("h2", fact("h2"))
        await the_clock.sleep(0.5)
        assert [each.owner for each in stream.got] == ["h1", "h2"]
        stream.too_long = set()
        made.tell("a07", fact("a07", 2, zone="00ff"))
        await the_clock.sleep(0.5)
        assert [each.owner for each in stream.got] == ["h1", "h2", "a07"]

    play(body)


def test_what_fails_again_and_again_comes_last() -> None:
    async def body(made: publisher.Publisher, stream: Stream, the_clock: clock.FakeClock) -> None:
        stream.sick = {f"a{at:02}" for at in range(40)}
        for owner in sorted(stream.sick):
            made.tell(owner, fact(owner))
        await the_clock.sleep(10)
        made.tell("h1", fact("h1"))
        await the_clock.sleep(5)
        assert [each.owner for each in stream.got] == ["h1"]
        stream.sick = set()
        await the_clock.sleep(5)
        assert len(stream.got) == 41

    play(body)


def test_a_record_that_takes_long_holds_up_only_the_next_of_its_own() -> None:
    async def body(made: publisher.Publisher, stream: Stream, the_clock: clock.FakeClock) -> None:
        stream.slow = {"a": asyncio.Event()}
        made.tell("a", fact("a"))
        await the_clock.sleep(1)
        for revision in (2, 3):
            made.tell("a", fact("a", revision, zone=f"{revision:04x}"))
            made.tell("h1", fact("h1", revision, zone=f"{revision:04x}"))
            await the_clock.sleep(1)
        assert [(each.owner, each.revision) for each in stream.begun] == [
            *(("a", 1), ("h1", 2), ("h1", 3)),
        ]
        stream.slow["a"].set()
        await the_clock.sleep(1)
        assert [each.revision for each in stream.got if each.owner == "a"] == [1, 3]

    play(body)
