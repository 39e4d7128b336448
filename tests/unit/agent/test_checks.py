"""Checks: what a config asks for, what a probe says, when edges and deploys hear of it."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest

from godwit.agent import check_config, checks, probes
from godwit.base import clock, encoded, errors, tasks
from godwit.testing.clock import FakeClock, run
from godwit.testing.serving import serving
from godwit.wire import host_rpc
from godwit.wire.guest_containers import CheckStanding, Standing

SERVICE = {
    "protocol": "tcp",
    "internal_port": 8080,
    "checks": [
        {"type": "http", "interval": "15s", "timeout": "2s", "method": "get", "path": "/up"},
        {"type": "tcp", "interval": "100ms", "timeout": "5m", "grace_period": "10ms"},
    ],
}


def one(config: dict[str, Any]) -> check_config.Check:
    (check,) = check_config.checks_of(config)
    return check


def test_service_checks_are_named_and_clamped() -> None:
    http, tcp = check_config.checks_of({"services": [SERVICE]})
    assert (http.name, tcp.name) == ("servicecheck-00-http-8080", "servicecheck-01-tcp-8080")
    assert (http.interval_s, http.timeout_s, http.grace_s) == (15.0, 2.0, 0.0)
    assert (http.method, http.path, http.service) == ("GET", "/up", 0)
    assert (tcp.interval_s, tcp.timeout_s, tcp.grace_s) == (1.0, 60.0, 1.0)


def test_top_level_checks_keep_their_name_and_gate_no_service() -> None:
    check = one({"checks": {"alive": {"type": "tcp", "port": 9000, "interval": "1s"}}})
    assert (check.name, check.port, check.service) == ("alive", 9000, None)
    assert check.interval_s == 2.0
    assert not check.any_2xx


def test_defaults_are_ten_seconds_and_two() -> None:
    check = one({"checks": {"alive": {"port": 9000}}})
    assert (check.type, check.interval_s, check.timeout_s, check.grace_s) == ("tcp", 10, 2, 0)


def test_headers_come_as_a_list_or_a_map() -> None:
    listed = {"headers": [{"name": "X-A", "values": ["1", "2"]}], "port": 1, "type": "http"}
    assert one({"checks": {"c": listed}}).headers == (("X-A", "1"), ("X-A", "2"))
    mapped = {"headers": {"X-A": "1"}, "port": 1, "type": "http"}
    assert one({"checks": {"c": mapped}}).headers == (("X-A", "1"),)


@pytest.mark.parametrize(
    ("given", "asked"), [("a.example", "a.example"), ("a..b", None), ("", None)]
)
def test_a_name_that_tls_cannot_ask_for_is_none(given: str, asked: str | None) -> None:
    config = {"checks": {"c": {"type": "http", "port": 1, "tls_server_name": given}}}
    assert one(config).server_name == asked


def test_a_check_without_a_port_is_left_out() -> None:
    assert check_config.checks_of({"checks": {"c": {"type": "tcp"}}, "services": [{}]}) == ()


class Server:
    """A small HTTP server; says what it was asked."""

    def __init__(self) -> None:
        self.status = "200 OK"
        self.asked: list[bytes] = []
        self.port = 0
        self.body = b"hello" * 1000

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            part = await reader.read(4096)
            if not part:
                break
            head += part
        if head:
            self.asked.append(head)
            body = self.body
            writer.write(
                f"HTTP/1.1 {self.status}\r\nLocation: /x\r\nContent-Length: {len(body)}\r\n"
                "Connection: close\r\n\r\n".encode()
                + body
            )
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    async with serving(made.answer) as made.port:
        yield made


def http(port: int, **changes: Any) -> check_config.Check:
    given = {"type": "http", "path": "/up", "timeout": "60s", "interval": "1s", **changes}
    return one({"services": [{"internal_port": port, "checks": [given]}]})


async def test_http_passes_with_2xx_and_fails_with_anything_else(server: Server) -> None:
    good = await probes.probe(http(server.port), "127.0.0.1")
    assert good.passing
    assert len(good.output) <= 1_024
    server.status = "204 No Content"
    assert (await probes.probe(http(server.port), "127.0.0.1")).passing
    server.status = "302 Found"
    moved = await probes.probe(http(server.port), "127.0.0.1")
    assert not moved.passing
    assert moved.output.startswith("HTTP 302")
    server.status = "500 Oops"
    assert not (await probes.probe(http(server.port), "127.0.0.1")).passing
    assert len(server.asked) == 4


async def test_what_is_kept_of_an_answer_is_short_as_json_too(server: Server) -> None:
    for server.body in (b"\0" * 5_000, b"\xff" * 5_000, "é".encode() * 5_000):
        good = await probes.probe(http(server.port), "127.0.0.1")
        assert 900 < encoded.size(good.output) <= 1_024


async def test_a_top_level_check_wants_200(server: Server) -> None:
    check = one({"checks": {"c": {"type": "http", "port": server.port}}})
    assert (await probes.probe(check, "127.0.0.1")).passing
    server.status = "204 No Content"
    assert not (await probes.probe(check, "127.0.0.1")).passing


async def test_method_path_and_headers_are_sent(server: Server) -> None:
    check = http(server.port, method="head", headers={"Host": "app.example", "X-A": "1"})
    await probes.probe(check, "127.0.0.1")
    (asked,) = server.asked
    assert asked.startswith(b"HEAD /up HTTP/1.1\r\n")
    assert b"host: app.example\r\n" in asked.lower()
    assert b"x-a: 1\r\n" in asked.lower()


async def test_tcp_passes_when_somebody_listens(server: Server) -> None:
    given = {"type": "tcp", "timeout": "60s"}
    check = one({"services": [{"internal_port": server.port, "checks": [given]}]})
    assert (await probes.probe(check, "127.0.0.1")).passing


async def test_nobody_there_is_said_in_words() -> None:
    for kind in ("tcp", "http"):
        given = {"type": kind, "timeout": "60s"}
        check = one({"services": [{"internal_port": 1, "checks": [given]}]})
        result = await probes.probe(check, "127.0.0.1")
        assert not result.passing
        assert result.output


async def test_a_server_that_never_answers_times_out() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(silent) as port:
        result = await probes.probe(http(port, timeout="1s"), "127.0.0.1")
        assert not result.passing


async def test_results_turn_quickly_after_a_start_and_are_told_once(server: Server) -> None:
    told: list[str] = []
    server.status = "503 Not Yet"
    config = {
        "services": [
            {
                "internal_port": server.port,
                "checks": [{"type": "http", "interval": "60s", "timeout": "60s"}],
            }
        ]
    }
    async with tasks.Tasks("test") as owned:
        these = checks.Checks(clock.SystemClock(), owned, told.append)
        assert these.passing("m1", config) == {0: False}
        these.follow("m1", "boot1", config, "127.0.0.1")
        (first,) = these.results("m1")
        assert (first.status, these.passing("m1", config)) == ("warning", {0: False})
        async with asyncio.timeout(60):
            while told != ["m1"]:
                await asyncio.sleep(0.02)
        server.status = "200 OK"
        async with asyncio.timeout(60):
            while these.passing("m1", config) != {0: True}:
                await asyncio.sleep(0.02)
        assert told == ["m1", "m1"]
        assert these.results("m1")[0].status == "passing"
        these.follow("m1", "boot1", config, "127.0.0.1")
        assert these.results("m1")[0].status == "passing"
        these.follow("m1", "boot2", config, "127.0.0.1")
        assert these.results("m1")[0].status == "warning"
        these.follow("m1", None, config, "127.0.0.1")
        assert these.results("m1") == ()


async def test_what_was_adopted_keeps_its_traffic_until_a_check_says_otherwise(
    server: Server,
) -> None:
    told: list[str] = []
    given = {"type": "http", "interval": "1s", "timeout": "60s", "grace_period": "30s"}
    config = {"services": [{"internal_port": server.port, "checks": [given]}]}
    server.status = "503 Not Well"
    async with tasks.Tasks("test") as owned:
        these = checks.Checks(clock.SystemClock(), owned, told.append)
        these.follow("m1", "boot1", config, "127.0.0.1", adopted=True)
        assert these.passing("m1", config) == {0: True}
        assert these.results("m1")[0].status == "warning"
        async with asyncio.timeout(60):
            while not told:
                await asyncio.sleep(0.02)
        assert these.passing("m1", config) == {0: False}
        server.status = "200 OK"
        async with asyncio.timeout(60):
            while len(told) < 2:
                await asyncio.sleep(0.02)
        assert these.passing("m1", config) == {0: True}


async def test_a_service_without_checks_lets_traffic_through() -> None:
    async with tasks.Tasks("test") as owned:
        these = checks.Checks(clock.SystemClock(), owned, lambda _: None)
        assert these.passing("m1", {"services": [{"internal_port": 80}]}) == {}


@pytest.mark.parametrize(
    "given",
    [
        {"headers": {"X-A": "schön ✓"}},
        {"headers": {"Host": "a\nb"}},
        {"method": "GET /x"},
        {"path": "/\x00"},
    ],
)
async def test_what_cannot_be_sent_is_said_and_checking_goes_on(
    server: Server, given: dict[str, Any]
) -> None:
    config = {"checks": {"c": {"type": "http", "port": server.port, "timeout": "1s", **given}}}
    said = await probes.probe(one(config), "127.0.0.1")
    assert said.output


async def test_what_was_resumed_is_asked_at_once_and_not_believed_before(server: Server) -> None:
    turned = asyncio.Event()
    service = {"internal_port": server.port, "checks": [{"type": "tcp", "grace_period": "60s"}]}
    config = {"services": [service]}
    async with tasks.Tasks("test") as owned:
        these = checks.Checks(clock.SystemClock(), owned, lambda _: turned.set())
        these.follow("m1", "resumed", config, "127.0.0.1", resumed=True)
        assert these.passing("m1", config) == {0: False}
        async with asyncio.timeout(60):
            await turned.wait()
        assert these.passing("m1", config) == {0: True}


class Guest:
    """A machine in which commands can be run; says what it was asked."""

    def __init__(self, exit_code: int = 0, stdout: str = "", stderr: str = "") -> None:
        self.answer = host_rpc.ExecAnswer(exit_code=exit_code, stdout=stdout, stderr=stderr)
        self.asked: list[tuple[tuple[str, ...], float]] = []
        self.at_once = self.most_at_once = 0
        self.hold = asyncio.Event()
        self.hold.set()

    async def run(self, command: tuple[str, ...], timeout_s: float) -> host_rpc.ExecAnswer:
        self.asked.append((command, timeout_s))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.hold.wait()
        finally:
            self.at_once -= 1
        return self.answer


READY = {"type": "exec", "command": ["pg_isready", "-q"], "timeout": "3s", "interval": "2s"}


async def test_a_command_passes_with_exit_code_0_alone() -> None:
    check = one({"checks": {"db": READY}})
    assert (check.type, check.command, check.service) == ("exec", ("pg_isready", "-q"), None)
    good = Guest(stdout="accepting\n")
    found = await probes.probe(check, "127.0.0.1", good.run)
    assert (found.passing, found.output) == (True, "accepting")
    assert good.asked == [(("pg_isready", "-q"), 3.0)]
    for code in (1, 2, 137):
        bad = Guest(exit_code=code, stdout="a" * 5_000, stderr="no\n")
        found = await probes.probe(check, "127.0.0.1", bad.run)
        assert not found.passing
        assert found.output.startswith(f"exit code {code}: aaa")
        assert len(found.output) < 1_100


async def test_a_command_that_cannot_be_run_or_takes_too_long_is_told_in_words() -> None:
    check = one({"checks": {"db": READY}})
    assert not (await probes.probe(check, "127.0.0.1")).passing

    async def late(command: tuple[str, ...], timeout_s: float) -> host_rpc.ExecAnswer:
        raise errors.Failure("deadline_exceeded", f"{command[0]} ran over {timeout_s:g} s")

    found = await probes.probe(check, "127.0.0.1", late)
    assert (found.passing, found.output) == (False, "pg_isready ran over 3 s")


def test_a_command_of_a_service_gates_that_service() -> None:
    check = one({"services": [{"internal_port": 5432, "checks": [READY]}]})
    assert (check.name, check.service) == ("servicecheck-00-exec-5432", 0)
    assert check_config.checks_of({"checks": {"db": {"type": "exec"}}}) == ()


async def test_readiness_gates_every_service_and_informational_none(server: Server) -> None:
    services = [{"internal_port": 80}, {"internal_port": 81}]
    http_check = {"type": "http", "port": server.port, "timeout": "60s"}
    for kind, gated in (("informational", {}), (None, {}), ("readiness", {0: False, 1: False})):
        config = {"services": services, "checks": {"up": {**http_check, "kind": kind}}}
        async with tasks.Tasks("test") as owned:
            told: list[str] = []
            these = checks.Checks(clock.SystemClock(), owned, told.append)
            assert these.passing("m1", config) == gated
            these.follow("m1", "boot1", config, "127.0.0.1")
            assert these.passing("m1", config) == gated
            async with asyncio.timeout(60):
                while not told:
                    await asyncio.sleep(0.02)
            assert all(these.passing("m1", config).values())


async def test_many_commands_wait_for_their_turn() -> None:
    guest = Guest()
    guest.hold.clear()
    config = {"checks": {f"c{n}": READY for n in range(20)}}
    async with tasks.Tasks("test") as owned:
        these = checks.Checks(clock.SystemClock(), owned, lambda _: None)
        these.follow("m1", "boot1", config, "127.0.0.1", run=guest.run)
        async with asyncio.timeout(60):
            while guest.at_once < 8:
                await asyncio.sleep(0.01)
        guest.hold.set()
        async with asyncio.timeout(60):
            while len(guest.asked) < 20:
                await asyncio.sleep(0.01)
    assert guest.most_at_once == 8


def cadence(guest: "Counting", seconds: float, **given: Any) -> list[float]:
    """Return when a command check was made, in virtual time."""

    async def scenario() -> None:
        the_clock = FakeClock()
        guest.clock = the_clock
        async with tasks.Tasks("test") as owned:
            these = checks.Checks(the_clock, owned, lambda _: None)
            config = {"checks": {"c": {**READY, **given}}}
            these.follow("m1", "boot1", config, "127.0.0.1", run=guest.run)
            await the_clock.sleep(seconds)

    run(scenario())
    return guest.times


class Counting:
    """A guest that fails so many times first, and takes its time."""

    def __init__(self, failures: int, takes_s: float = 0.0) -> None:
        self.clock = FakeClock()
        self.times: list[float] = []
        self.failures = failures
        self.takes_s = takes_s

    async def run(self, command: tuple[str, ...], timeout_s: float) -> host_rpc.ExecAnswer:
        del command, timeout_s
        self.times.append(self.clock.monotonic())
        await self.clock.sleep(self.takes_s)
        code = int(len(self.times) <= self.failures)
        return host_rpc.ExecAnswer(exit_code=code, stdout="", stderr="")


def test_checks_are_quick_until_the_first_pass_and_keep_their_pace_then() -> None:
    times = cadence(Counting(3, takes_s=1.5), 200, interval="10s", grace_period="5s")
    assert times[0] == 5
    assert [b - a for a, b in pairwise(times[:4])] == [2.5, 2.5, 2.5]
    steady = times[4:]
    assert 5 <= steady[0] - times[3] <= 12
    assert all(abs(b - a - 10) < 0.001 for a, b in pairwise(steady))


def test_a_check_that_never_passes_is_quick_for_a_while_only() -> None:
    times = cadence(Counting(10**6), 300, interval="20s")
    assert len([at for at in times if at <= 60]) >= 60
    assert len([at for at in times if at > 100]) <= 10


def test_a_probe_longer_than_the_interval_delays_the_next_and_no_more() -> None:
    times = cadence(Counting(0, takes_s=2.5), 60, interval="2s", timeout="3s")
    assert all(b - a == pytest.approx(4) for a, b in pairwise(times[2:]))


async def test_a_result_tells_since_when_it_is_so(server: Server) -> None:
    config = {"checks": {"up": {"type": "tcp", "port": server.port, "interval": "2s"}}}
    async with tasks.Tasks("test") as owned:
        told: list[str] = []
        these = checks.Checks(clock.SystemClock(), owned, told.append)
        these.follow("m1", "boot1", config, "127.0.0.1")
        async with asyncio.timeout(60):
            while not told:
                await asyncio.sleep(0.02)
        since = these.results("m1")[0].updated_at
        watched = these._watched["m1"]
        assert await these._probe("m1", watched, watched.checks[0])
        assert these.results("m1")[0].updated_at == since


CONTAINED = {
    "services": [{"internal_port": 80}, {"internal_port": 81}],
    "containers": [
        {
            "name": "app",
            "healthchecks": [
                {"name": "alive", "kind": "liveness", "tcp": {"port": 80}},
                {"tcp": {"port": 80}},
                {"name": "up", "kind": "readiness", "tcp": {"port": 80}},
            ],
        },
        {"name": "db", "healthchecks": [{"kind": "readiness", "exec": {"command": ["ls"]}}]},
    ],
}


def standing(name: str, *statuses: str, state: str = "started") -> Standing:
    found = tuple(CheckStanding(status=status, output=f"{name} says") for status in statuses)
    return Standing(name=name, state=state, run=1, checks=found)


async def passes(these: checks.Checks, wanted: bool) -> None:
    async with asyncio.timeout(60):
        while these.passing("m1", CONTAINED) != {0: wanted, 1: wanted}:
            await asyncio.sleep(0.01)


async def test_readiness_checks_of_containers_gate_every_service_and_no_others_do() -> None:
    async with tasks.Tasks("test") as owned:
        these = checks.Checks(clock.SystemClock(), owned, lambda _: None)
        assert these.passing("m1", CONTAINED) == {0: False, 1: False}
        these.follow("m1", "boot1", CONTAINED, "127.0.0.1")
        assert [one.name for one in these.results("m1")] == ["app/up", "db/0"]
        assert {one.status for one in these.results("m1")} == {"warning"}

        well = standing("app", "critical", "warning", "passing")
        these.hear("m1", (well, standing("db", state="created")))
        assert these.passing("m1", CONTAINED) == {0: False, 1: False}
        these.hear("m1", (well, standing("db", "passing")))
        await passes(these, True)
        app, db = these.results("m1")
        assert (app.status, app.output, db.output) == ("passing", "app says", "db says")

        these.hear("m1", (standing("app", state="starting"), standing("db", "passing")))
        await passes(these, False)
        assert "started again" in these.results("m1")[0].output
        these.hear("m1", (well, standing("db", state="stopped")))
        await passes(these, True)  # Its work is done.


def test_containers_that_turn_all_the_time_are_told_of_now_and_then() -> None:
    time = FakeClock()
    turned: list[float] = []

    async def body() -> None:
        async with tasks.Tasks("test") as owned:
            these = checks.Checks(time, owned, lambda _: turned.append(time.monotonic()))
            these.follow("m1", "boot1", CONTAINED, "127.0.0.1")
            for number in range(1_000):
                status = ("passing", "critical")[number % 2]
                these.hear("m1", (standing("app", status, status, status),))
                await time.sleep(0.002)
            await time.sleep(1)
            assert these.results("m1")[0].status == "critical", "the last word counts"

    run(body())
    assert 2 <= len(turned) <= 10


async def test_containers_that_an_agent_finds_running_keep_their_traffic() -> None:
    former = (Standing(name="app", state="started"), Standing(name="db", state="started"))
    async with tasks.Tasks("test") as owned:
        these = checks.Checks(clock.SystemClock(), owned, lambda _: None)
        these.follow("m1", "boot1", CONTAINED, "127.0.0.1", adopted=True)
        assert these.passing("m1", CONTAINED) == {0: True, 1: True}
        these.hear("m1", (standing("app", "passing", "passing", "critical"),))
        assert these.passing("m1", CONTAINED) == {0: False, 1: False}
        # What init of a former release runs on, also from a suspend, tells of no checks.
        these.follow("m2", "boot1", CONTAINED, "127.0.0.1", resumed=True, told=former)
        assert these.passing("m2", CONTAINED) == {0: True, 1: True}


def test_what_needs_tls_is_asked_by_the_host() -> None:
    https = {"port": 8443, "scheme": "https", "path": "/up", "tls_server_name": "a.example"}
    both = [{"http": {"port": 80}}, {"name": "tls", "timeout": 3, "http": https}]
    config = {"containers": [{"name": "app", "healthchecks": both}]}
    clear, secured = check_config.of_containers(config)
    assert (clear.asked, clear.name, clear.interval_s) == (None, "app/0", 10)
    assert secured.asked is not None
    asked = secured.asked
    assert (asked.port, asked.path, asked.timeout_s) == (8443, "/up", 3)
    assert (asked.tls, asked.verify, asked.server_name) == (True, True, "a.example")
