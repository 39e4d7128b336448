"""The runner: only what is not done, errors that decide, pauses that grow, bugs that park."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from godwit.base import errors, processes
from godwit.durable import journal, runner
from godwit.testing import clock
from tests.unit.durable.test_journal import Desk, on_a_desk

Do = Callable[[list[str], Mapping[str, Any]], Awaitable[Mapping[str, Any] | None]]


def step(name: str, do: Do | None = None, **changes: Any) -> runner.Step[list[str]]:
    async def note(calls: list[str], outputs: Mapping[str, Any]) -> Mapping[str, Any] | None:
        calls.append(name)
        return None if do is None else await do(calls, outputs)

    given: dict[str, Any] = {"deadline_s": 10.0, "patience_s": 60.0, **changes}
    return runner.Step(name, f"doing {name}", note, **given)


class Bench:
    """A runner over a journal, and what its steps did."""

    def __init__(self, desk: Desk, *steps: runner.Step[list[str]]) -> None:
        self.desk = desk
        self.calls: list[str] = []
        self.said: list[str] = []
        self.runner = runner.Runner(desk.journal, desk.clock, {each.name: each for each in steps})

    async def run(self, *names: str) -> runner.Ending:
        begun = await self.desk.journal.begin(journal.Intent("m1", "org_a", "x", names))
        return await self.resume(begun)

    async def resume(self, run: journal.Run) -> runner.Ending:
        _, ending = await self.runner.run(run, self.calls, lambda _, text: self.said.append(text))
        return ending


def failing(times: int, error: Exception) -> Do:
    left = [times]

    async def do(_: list[str], __: Mapping[str, Any]) -> None:
        if left[0]:
            left[0] -= 1
            raise error

    return do


def test_steps_run_in_order_and_hand_their_outputs_on() -> None:
    async def body(desk: Desk) -> None:
        seen: list[Any] = []

        async def give(_: list[str], __: Mapping[str, Any]) -> Mapping[str, Any]:
            return {"path": "/x"}

        async def take(_: list[str], outputs: Mapping[str, Any]) -> None:
            seen.append(outputs["a"]["path"])

        bench = Bench(desk, step("a", give), step("b", take))
        assert await bench.run("a", "b") == runner.Done()
        assert bench.calls == ["a", "b"]
        assert seen == ["/x"]

    on_a_desk(body)


def test_a_recorded_step_never_runs_again_and_its_output_is_read_back() -> None:
    async def body(desk: Desk) -> None:
        seen: list[Any] = []

        async def take(_: list[str], outputs: Mapping[str, Any]) -> None:
            seen.append(outputs["a"])

        begun = await desk.journal.begin(journal.Intent("m1", "org_a", "x", ("a", "b")))
        await desk.journal.done(begun, "a", {"path": "/x"})
        (left,) = await desk.journal.unfinished()
        bench = Bench(desk, step("a"), step("b", take))
        assert await bench.resume(left) == runner.Done()
        assert bench.calls == ["b"]
        assert seen == [{"path": "/x"}]

    on_a_desk(body)


def test_an_operation_keeps_the_steps_it_began_with() -> None:
    async def body(desk: Desk) -> None:
        begun = await desk.journal.begin(journal.Intent("m1", "org_a", "x", ("a",)))
        bench = Bench(desk, step("a"), step("added_by_a_newer_build"))
        await bench.resume(begun)
        assert bench.calls == ["a"]

    on_a_desk(body)


def test_a_step_this_build_lacks_parks_the_operation_and_is_named() -> None:
    async def body(desk: Desk) -> None:
        ending = await Bench(desk, step("a")).run("a", "gone")
        assert isinstance(ending, runner.Parked)
        assert (ending.step, "'gone'" in ending.message) == ("gone", True)

    on_a_desk(body)


def test_what_the_host_refuses_is_tried_again_with_growing_pauses() -> None:
    async def body(desk: Desk) -> None:
        bench = Bench(desk, step("a", failing(4, OSError("busy"))))
        assert await bench.run("a") == runner.Done()
        assert bench.calls == ["a"] * 5
        assert abs(desk.clock.monotonic() - (0.2 + 0.4 + 0.8 + 1.6)) < 0.01
        assert await desk.journal.troubles("m1") == [("a", "busy")]

    on_a_desk(body)


def test_a_program_that_failed_is_tried_again() -> None:
    async def body(desk: Desk) -> None:
        error = processes.ProgramFailed(["ip"], "exit 2", "busy")
        assert await Bench(desk, step("a", failing(1, error))).run("a") == runner.Done()

    on_a_desk(body)


def test_past_its_patience_a_step_aborts_with_what_it_did_and_why() -> None:
    async def body(desk: Desk) -> None:
        bench = Bench(desk, step("a", failing(10**6, OSError("no route"))))
        ending = await bench.run("a")
        assert ending == runner.Aborted("a", "doing a: no route", "system")
        assert 60 <= desk.clock.monotonic() < 80

    on_a_desk(body)


def test_a_step_without_patience_limit_goes_on_and_says_that_it_is_stuck() -> None:
    async def body(desk: Desk) -> None:
        stubborn = step("a", failing(200, OSError("busy")), patience_s=None)
        bench = Bench(desk, stubborn)
        assert await bench.run("a") == runner.Done()
        assert "stuck at a: busy" in bench.said
        assert desk.clock.monotonic() > 1000

    on_a_desk(body)


def test_an_attempt_that_takes_too_long_is_broken_off_and_tried_again() -> None:
    async def body(desk: Desk) -> None:
        slow = [True]

        async def do(_: list[str], __: Mapping[str, Any]) -> None:
            if slow.pop() if slow else False:
                await desk.clock.sleep(3600)

        bench = Bench(desk, step("a", do))
        assert await bench.run("a") == runner.Done()
        assert await desk.journal.troubles("m1") == [("a", "not done within 10 s")]

    on_a_desk(body)


def test_abort_ends_it_with_whose_fault_it_is() -> None:
    async def body(desk: Desk) -> None:
        bench = Bench(desk, step("a", failing(1, runner.Abort("no such program"))), step("b"))
        assert await bench.run("a", "b") == runner.Aborted("a", "no such program", "user")
        assert bench.calls == ["a"]

    on_a_desk(body)


def test_a_failure_ends_it_unless_its_code_says_later() -> None:
    async def body(desk: Desk) -> None:
        missing = errors.Failure("manifest_unknown", "no image v2")
        bench = Bench(desk, step("a", failing(1, missing)))
        assert await bench.run("a") == runner.Aborted("a", "no image v2", "user")

    async def later(desk: Desk) -> None:
        away = errors.Failure("unavailable", "the registry is away")
        assert await Bench(desk, step("a", failing(3, away))).run("a") == runner.Done()

    on_a_desk(body)
    on_a_desk(later)


def test_retry_asks_for_its_own_pause() -> None:
    async def body(desk: Desk) -> None:
        bench = Bench(desk, step("a", failing(1, runner.Retry("not yet", 7.0))))
        assert await bench.run("a") == runner.Done()
        assert abs(desk.clock.monotonic() - 7.0) < 0.01

    on_a_desk(body)


def test_hand_off_names_what_follows() -> None:
    async def body(desk: Desk) -> None:
        bench = Bench(desk, step("a", failing(1, runner.HandOff("start", {"cold": True}))))
        assert await bench.run("a") == runner.HandedOff("start", {"cold": True})

    on_a_desk(body)


def test_a_bug_parks_at_once_with_its_traceback_in_the_journal() -> None:
    async def body(desk: Desk) -> None:
        bench = Bench(desk, step("a", failing(10**6, KeyError("slot"))))
        ending = await bench.run("a")
        assert isinstance(ending, runner.Parked)
        assert bench.calls == ["a"]
        ((_, text),) = await desk.journal.troubles("m1")
        assert "Traceback" in text
        assert "KeyError: 'slot'" in text

    on_a_desk(body)


def test_a_clock_that_jumps_does_not_shorten_patience() -> None:
    async def body(desk: Desk) -> None:
        async def do(calls: list[str], _: Mapping[str, Any]) -> None:
            desk.clock.skew_ms += 3_600_000
            if len(calls) < 4:
                raise OSError("busy")

        assert await Bench(desk, step("a", do)).run("a") == runner.Done()

    on_a_desk(body)


def test_virtual_hours_take_no_time() -> None:
    assert clock.run(_sleep_a_day()) >= 86_400


async def _sleep_a_day() -> float:
    the_clock = clock.FakeClock()
    await the_clock.sleep(86_400)
    return the_clock.monotonic()


def test_a_step_that_takes_too_long_says_that_it_is_stuck_while_it_still_tries() -> None:
    async def body(desk: Desk) -> None:
        async def slow(_: list[str], __: Mapping[str, Any]) -> None:
            await desk.clock.sleep(40)

        bench = Bench(desk, step("a", slow, deadline_s=60.0, stuck_s=30.0), step("b"))
        assert await bench.run("a", "b") == runner.Done()
        assert bench.said == ["doing a", "stuck at a: doing a", "doing b"]

    on_a_desk(body)


def test_a_step_that_ends_in_time_is_never_called_stuck() -> None:
    async def body(desk: Desk) -> None:
        async def slow(_: list[str], __: Mapping[str, Any]) -> None:
            await desk.clock.sleep(29)

        bench = Bench(desk, step("a", slow, deadline_s=60.0, stuck_s=30.0))
        await bench.run("a")
        await desk.clock.sleep(60)
        assert bench.said == ["doing a"]

    on_a_desk(body)


def test_a_step_is_stuck_past_its_deadline_unless_it_says_otherwise() -> None:
    assert step("a").stuck_after_s == 10.0
    assert step("a", stuck_s=3.0).stuck_after_s == 3.0
