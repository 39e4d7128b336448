"""Usage intervals: nothing is counted twice, nothing is forgotten, whatever begins anew."""

import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.agent import app, burst
from godwit.agent.machines import store, usage
from godwit.agent.meters import Reading
from godwit.base import tasks
from godwit.durable import database
from tests.unit.agent.bench import Bench, M

HOUR_MS = 3_600_000


@pytest.fixture
def tx() -> Iterator[sqlite3.Connection]:
    made = database.prepare(sqlite3.connect(":memory:", isolation_level=None), app.SCHEMA)
    yield made
    made.close()


def begin(tx: sqlite3.Connection, at_ms: int) -> None:
    """Open an interval as a start does."""
    tx.execute(
        "INSERT INTO usage (org_id, app_id, machine_id, host_id, kind, cpu_kind, cpus, memory_mb,"
        " started_at_ms) VALUES ('org_a', 'app_a', 'm', 'h', 'running', 'shared', 1, 256, ?)",
        (at_ms,),
    )


def rows(tx: sqlite3.Connection) -> list[dict[str, int]]:
    return [dict(row) for row in tx.execute("SELECT * FROM usage ORDER BY id")]


def test_counters_are_added_up_and_the_same_reading_adds_nothing(tx):
    begin(tx, 0)
    first = Reading(cpu_us=10, cpu_of=1, bytes_in=5, bytes_out=7, bytes_of=1, disk_bytes=100)
    for _ in range(3):
        assert usage.count(tx, "m", first)
    usage.count(tx, "m", replace(first, cpu_us=15, bytes_in=6, disk_bytes=50))
    (row,) = rows(tx)
    assert (row["cpu_us"], row["bytes_in"], row["bytes_out"]) == (15, 6, 7)
    assert row["disk_bytes"] == 100


def test_another_boot_counts_from_nothing_and_the_tap_it_keeps_goes_on(tx):
    begin(tx, 0)
    usage.count(tx, "m", Reading(cpu_us=10, cpu_of=1, bytes_in=50, bytes_of=7))
    store.close_usage(tx, "m", 1_000)
    begin(tx, 2_000)
    usage.count(tx, "m", Reading(cpu_us=30, cpu_of=2, bytes_in=60, bytes_of=7))
    assert [(row["cpu_us"], row["bytes_in"]) for row in rows(tx)] == [(10, 50), (30, 10)]


def test_a_machine_at_rest_is_not_counted(tx):
    assert not usage.count(tx, "m", Reading(cpu_us=10, cpu_of=1))
    assert rows(tx) == []


def test_what_is_gone_reads_nothing_and_takes_nothing_back(tx):
    begin(tx, 0)
    usage.count(tx, "m", Reading(cpu_us=10, cpu_of=1, bytes_out=5, bytes_of=3))
    usage.count(tx, "m", Reading())
    (row,) = rows(tx)
    assert (row["cpu_us"], row["bytes_out"]) == (10, 5)


def test_an_interval_is_cut_after_an_hour_and_the_next_begins_where_it_ends(tx):
    begin(tx, 1_000)
    usage.count(tx, "m", Reading(cpu_us=10, cpu_of=1))
    assert not usage.cut(tx, "m", 1_000 + HOUR_MS - 1)
    assert usage.cut(tx, "m", 1_000 + HOUR_MS + 500)
    usage.count(tx, "m", Reading(cpu_us=12, cpu_of=1))
    first, second = rows(tx)
    assert first["ended_at_ms"] == second["started_at_ms"] == 1_000 + HOUR_MS + 500
    assert second["ended_at_ms"] is None
    assert (first["cpu_us"], second["cpu_us"]) == (10, 2)
    named = ("org_id", "app_id", "machine_id", "host_id", "cpus", "memory_mb", "cpu_kind")
    assert all(first[name] == second[name] for name in named)


def test_old_intervals_expire_and_an_open_one_never(tx):
    for at_ms in (0, 1_000, 2_000):
        begin(tx, at_ms)
        tx.execute("UPDATE usage SET ended_at_ms = ? WHERE ended_at_ms IS NULL", (at_ms + 500,))
    begin(tx, 0)
    assert usage.expire(tx, before_ms=1_600) == 2
    assert usage.expire(tx, before_ms=1_600) == 0
    assert [(row["started_at_ms"], row["ended_at_ms"]) for row in rows(tx)] == [
        (2_000, 2_500),
        (0, None),
    ]


def test_a_former_releases_table_is_taken_over():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    former = {**app.SCHEMA, "agent": app.SCHEMA["agent"][:1]}
    begin(database.prepare(connection, former), 0)
    database.prepare(connection, app.SCHEMA)
    usage.count(connection, "m", Reading(cpu_us=3, cpu_of=1))
    assert [row["cpu_us"] for row in rows(connection)] == [3]
    connection.close()


steps = st.lists(
    st.tuples(
        st.sampled_from(["use", "count", "stop", "start", "boot", "replug", "pass"]),
        st.integers(0, 10_000),
    ),
    max_size=60,
)


@given(steps)
def test_whatever_happens_every_use_that_was_read_is_counted_once(course):
    """A kernel that counts, a ledger that adds up; at each end both are read."""
    tx = database.prepare(sqlite3.connect(":memory:", isolation_level=None), app.SCHEMA)
    cpu = traffic = used_cpu = used_traffic = now_ms = 0
    generation, link, is_open = 1, 1, False

    def read() -> None:
        made = Reading(cpu_us=cpu, cpu_of=generation, bytes_in=traffic, bytes_of=link)
        usage.count(tx, "m", made)

    for what, amount in course:
        if what == "use" and is_open:
            cpu, traffic = cpu + amount, traffic + amount
            used_cpu, used_traffic = used_cpu + amount, used_traffic + amount
        elif what == "count":
            read()
        elif what == "start" and not is_open:
            begin(tx, now_ms)
            is_open = True
        elif what == "stop" and is_open:
            read()
            store.close_usage(tx, "m", now_ms)
            is_open = False
        elif what == "boot" and not is_open:
            generation, cpu = generation + 1, 0
        elif what == "replug" and not is_open:
            link, traffic = link + 1, 0
        elif what == "pass":
            now_ms += amount * 1_000
            read()
            usage.cut(tx, "m", now_ms)
    read()
    found = rows(tx)
    assert sum(row["cpu_us"] for row in found) == (used_cpu if found else 0)
    assert sum(row["bytes_in"] for row in found) == (used_traffic if found else 0)
    closed = [row for row in found if row["ended_at_ms"] is not None]
    assert all(row["started_at_ms"] <= row["ended_at_ms"] for row in closed)
    tx.close()


class Counters:
    """A kernel under the test's hands: CPU, traffic, quotas."""

    def __init__(self) -> None:
        self.reading = Reading(cpu_us=1_000, cpu_of=1, bytes_in=10, bytes_out=20, bytes_of=1)
        self.quotas: dict[str, int] = {}

    def read(self, machines: Mapping[str, int]) -> dict[str, Reading]:
        return dict.fromkeys(machines, self.reading)

    def used_us(self, machine_id: str) -> int | None:
        return self.reading.cpu_us if machine_id == M else None

    def throttled_us(self, machine_id: str) -> int:
        return len(machine_id)

    def set_quota(self, machine_id: str, quota: int) -> None:
        self.quotas[machine_id] = quota


@asynccontextmanager
async def agent(
    directory: Path, counters: Counters, former: Bench | None = None
) -> AsyncIterator[Bench]:
    async with tasks.Tasks("agent") as owned:
        made = Bench(directory, owned, former)
        made.parts = replace(made.parts, meter=counters, cpu=counters)
        made.app = app.App(made.parts, owned)
        await made.app.start()
        yield made
    await made.database.close()


async def test_a_stop_takes_in_what_was_used_until_then(tmp_path):
    counters = Counters()
    async with agent(tmp_path, counters) as bench:
        await bench.create()
        await bench.reach("started")
        counters.reading = replace(counters.reading, cpu_us=5_000, bytes_in=30, bytes_out=40)
        await bench.call("machine.stop", machine_id=M)
        await bench.reach("stopped")
        (interval,) = (await bench.call("usage.read", org_id="org_a"))["intervals"]
    assert interval["ended_at_ms"] is not None
    assert (interval["cpu_us"], interval["bytes_in"], interval["bytes_out"]) == (5_000, 30, 40)


async def test_a_suspend_takes_in_what_was_used_until_then(tmp_path):
    counters = Counters()
    async with agent(tmp_path, counters) as bench:
        await bench.create()
        await bench.reach("started")
        counters.reading = replace(counters.reading, cpu_us=7_000)
        await bench.call("machine.suspend", machine_id=M)
        await bench.reach("suspended")
        (interval,) = (await bench.call("usage.read", org_id="org_a"))["intervals"]
    assert interval["ended_at_ms"] is not None
    assert interval["cpu_us"] == 7_000


async def test_the_next_agent_counts_on_and_takes_the_cpu_account_over(tmp_path):
    counters = Counters()
    async with agent(tmp_path, counters) as bench:
        await bench.create()
        await bench.reach("started")
        assert bench.app.bursts is not None
        figures = bench.app.bursts.figures(M)
        assert figures is not None
        assert figures.balance >= burst.INITIAL_US // 10_000
        counters.reading = replace(counters.reading, cpu_us=2_001_000)
        bench.app.bursts.look()
        assert counters.quotas[M] == burst.share(agents_resources(bench)).full_us
        told = (await bench.call("machine.cpu", machine_id=M))["cpu"]
        assert (told["baseline"], told["throttle"]) == (0.0625, 0)
        assert 290 < told["balance"] < 350
        await bench.app.keep_accounts()
    async with agent(tmp_path, counters, bench) as following:
        assert following.app.bursts is not None
        taken_over = following.app.bursts.figures(M)
        assert taken_over is not None
        assert taken_over.balance < 400
        await following.call("machine.stop", machine_id=M)
        await following.reach("stopped")
        (interval,) = (await following.call("usage.read", org_id="org_a"))["intervals"]
    assert interval["cpu_us"] == 2_001_000


def agents_resources(bench: Bench):
    driver = bench.app.machines.find(M)
    assert driver is not None
    return driver.machine.resources
