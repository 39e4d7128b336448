"""Checks: what a config asks for, what a probe says, when edges and deploys hear of it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from godwit.agent import checks
from godwit.base import clock, tasks

SERVICE = {
    "protocol": "tcp",
    "internal_port": 8080,
    "checks": [
        {"type": "http", "interval": "15s", "timeout": "2s", "method": "get", "path": "/up"},
        {"type": "tcp", "interval": "100ms", "timeout": "5m", "grace_period": "10ms"},
    ],
}


def one(config: dict[str, Any]) -> checks.Check:
    (check,) = checks.checks_of(config)
    return check


def test_service_checks_are_named_and_clamped() -> None:
    http, tcp = checks.checks_of({"services": [SERVICE]})
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


def test_a_check_without_a_port_is_left_out() -> None:
    assert checks.checks_of({"checks": {"c": {"type": "tcp"}}, "services": [{}]}) == ()


class Server:
    """A small HTTP server; says what it was asked."""

    def __init__(self) -> None:
        self.status = "200 OK"
        self.asked: list[bytes] = []
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            part = await reader.read(4096)
            if not part:
                break
            head += part
        if head:
            self.asked.append(head)
            body = b"hello" * 1000
            writer.write(
                f"HTTP/1.1 {self.status}\r\nLocation: /x\r\nContent-Length: {len(body)}\r\n"
                "Connection: close\r\n\r\n".encode()
                + body
            )
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.answer, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    yield made
    # Its side of the last connections ends in the next turns of the loop.
    await asyncio.sleep(0.05)
    listening.close()
    await listening.wait_closed()


def http(port: int, **changes: Any) -> checks.Check:
    given = {"type": "http", "path": "/up", "timeout": "1s", "interval": "1s", **changes}
    return one({"services": [{"internal_port": port, "checks": [given]}]})


async def test_http_passes_with_2xx_and_fails_with_anything_else(server: Server) -> None:
    good = await checks.probe(http(server.port), "127.0.0.1")
    assert good.passing
    assert len(good.output) <= 1_024
    server.status = "204 No Content"
    assert (await checks.probe(http(server.port), "127.0.0.1")).passing
    server.status = "302 Found"
    moved = await checks.probe(http(server.port), "127.0.0.1")
    assert not moved.passing
    assert moved.output.startswith("HTTP 302")
    server.status = "500 Oops"
    assert not (await checks.probe(http(server.port), "127.0.0.1")).passing
    assert len(server.asked) == 4


async def test_a_top_level_check_wants_200(server: Server) -> None:
    check = one({"checks": {"c": {"type": "http", "port": server.port}}})
    assert (await checks.probe(check, "127.0.0.1")).passing
    server.status = "204 No Content"
    assert not (await checks.probe(check, "127.0.0.1")).passing


async def test_method_path_and_headers_are_sent(server: Server) -> None:
    check = http(server.port, method="head", headers={"Host": "app.example", "X-A": "1"})
    await checks.probe(check, "127.0.0.1")
    (asked,) = server.asked
    assert asked.startswith(b"HEAD /up HTTP/1.1\r\n")
    assert b"host: app.example\r\n" in asked.lower()
    assert b"x-a: 1\r\n" in asked.lower()


async def test_tcp_passes_when_somebody_listens(server: Server) -> None:
    given = {"type": "tcp", "timeout": "1s"}
    check = one({"services": [{"internal_port": server.port, "checks": [given]}]})
    assert (await checks.probe(check, "127.0.0.1")).passing


async def test_nobody_there_is_said_in_words() -> None:
    for kind in ("tcp", "http"):
        given = {"type": kind, "timeout": "1s"}
        check = one({"services": [{"internal_port": 1, "checks": [given]}]})
        result = await checks.probe(check, "127.0.0.1")
        assert not result.passing
        assert result.output


async def test_a_server_that_never_answers_times_out() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    result = await checks.probe(http(port), "127.0.0.1")
    assert not result.passing
    await asyncio.sleep(0.05)
    listening.close()


async def test_results_turn_quickly_after_a_start_and_are_told_once(server: Server) -> None:
    told: list[str] = []
    server.status = "503 Not Yet"
    config = {
        "services": [
            {
                "internal_port": server.port,
                "checks": [{"type": "http", "interval": "60s", "timeout": "1s"}],
            }
        ]
    }
    async with tasks.Tasks("test") as owned:
        these = checks.Checks(clock.SystemClock(), owned, told.append)
        assert these.passing("m1", config) == {0: False}
        these.follow("m1", "boot1", config, "127.0.0.1")
        (first,) = these.results("m1")
        assert (first.status, these.passing("m1", config)) == ("critical", {0: False})
        await asyncio.sleep(0.1)
        server.status = "200 OK"
        async with asyncio.timeout(5):
            while not told:
                await asyncio.sleep(0.02)
        assert told == ["m1"]
        assert these.passing("m1", config) == {0: True}
        assert these.results("m1")[0].status == "passing"
        these.follow("m1", "boot1", config, "127.0.0.1")
        assert these.results("m1")[0].status == "passing"
        these.follow("m1", "boot2", config, "127.0.0.1")
        assert these.results("m1")[0].status == "critical"
        these.follow("m1", None, config, "127.0.0.1")
        assert these.results("m1") == ()


async def test_what_was_adopted_keeps_its_traffic_until_a_check_says_otherwise(
    server: Server,
) -> None:
    told: list[str] = []
    given = {"type": "http", "interval": "1s", "timeout": "1s", "grace_period": "30s"}
    config = {"services": [{"internal_port": server.port, "checks": [given]}]}
    server.status = "503 Not Well"
    async with tasks.Tasks("test") as owned:
        these = checks.Checks(clock.SystemClock(), owned, told.append)
        these.follow("m1", "boot1", config, "127.0.0.1", adopted=True)
        assert these.passing("m1", config) == {0: True}
        assert these.results("m1")[0].status == "critical"
        async with asyncio.timeout(5):
            while not told:
                await asyncio.sleep(0.02)
        assert these.passing("m1", config) == {0: False}
        server.status = "200 OK"
        async with asyncio.timeout(5):
            while len(told) < 2:
                await asyncio.sleep(0.02)
        assert these.passing("m1", config) == {0: True}


async def test_a_service_without_checks_lets_traffic_through() -> None:
    async with tasks.Tasks("test") as owned:
        these = checks.Checks(clock.SystemClock(), owned, lambda _: None)
        assert these.passing("m1", {"services": [{"internal_port": 80}]}) == {}
