"""Logs and usage, gathered from hosts."""

import pytest

from godwit.base import errors
from godwit.control import logs, machines, usage
from godwit.testing.hosts import SimulatedHost
from godwit.wire import host_rpc
from tests.unit.control.conftest import Town


async def make(town: Town) -> str:
    new = machines.NewMachine(config={"image": "nginx"})
    return (await machines.create(town.world.ctx, town.acme, "shop", new)).view.machine_id


def line(machine_id: str, t: int, text: str) -> host_rpc.LogEntry:
    return host_rpc.LogEntry(
        t=t,
        org_id="",
        app="shop",
        machine_id=machine_id,
        region="lcl",
        stream="stdout",
        message=text,
    )


@pytest.fixture
async def two(town: Town) -> tuple[str, str, SimulatedHost]:
    """A machine on each of two hosts, their lines interleaved."""
    first = await make(town)
    other = SimulatedHost("b0000000", memory_mb=100_000)
    await town.world.add_host(other, 2)
    second = await make(town)
    town.world.host.lines = [line(first, t, f"a{t}") for t in (10, 30, 50)]
    other.lines = [line(second, t, f"b{t}") for t in (20, 30, 40)]
    return first, second, other


async def read(town: Town, **wanted: object) -> tuple[list[str], int]:
    page = await logs.page(town.world.ctx, town.acme, "shop", logs.Wanted(**wanted))  # type: ignore[arg-type]
    return [one.message for one in page.lines], page.cursor


async def test_lines_of_all_hosts_come_in_order_of_time(town: Town, two: tuple) -> None:
    assert await read(town) == (["a10", "b20", "a30", "b30", "b40", "a50"], 50)
    assert await read(town, limit=2) == (["b40", "a50"], 50)
    assert await read(town, machine_id=two[0]) == (["a10", "a30", "a50"], 50)
    assert await read(town, region="fra") == ([], 0)


async def test_a_cursor_goes_through_everything_once(town: Town, two: tuple) -> None:
    seen, cursor = await read(town, after=1, limit=2)
    while True:
        more, cursor = await read(town, after=cursor, limit=2)
        if not more:
            break
        seen += more
    assert sorted(seen) == ["a10", "a30", "a50", "b20", "b30", "b40"]
    assert cursor == 50


async def test_a_silent_host_hides_only_its_own_lines(town: Town, two: tuple) -> None:
    two[2].away = True
    assert (await read(town))[0] == ["a10", "a30", "a50"]
    town.world.host.away = True
    with pytest.raises(errors.Failure) as caught:
        await read(town)
    assert caught.value.code == "unavailable"


async def test_an_app_without_machines_has_no_lines(town: Town) -> None:
    assert await read(town) == ([], 0)


async def test_usage_is_an_organizations_own(town: Town, two: tuple) -> None:
    def interval(number: int, org_id: str) -> host_rpc.UsageInterval:
        return host_rpc.UsageInterval(
            id=number, org_id=org_id, app_id="a", machine_id=two[0], host_id="a1b2c3d4",
            kind="running", cpu_kind="shared", cpus=1, memory_mb=256, started_at_ms=1, ended_at_ms=2,
        )  # fmt: skip

    town.world.host.intervals = [interval(1, town.shop.org_id), interval(2, "org_other")]
    two[2].away = True
    report = await usage.report(town.world.ctx, town.acme, "acme", host_id=None, after=0, limit=10)
    assert [one.id for one in report.intervals] == [1]
    assert report.silent_hosts == ["b0000000"]
    only = await usage.report(
        town.world.ctx, town.acme, "acme", host_id="a1b2c3d4", after=1, limit=10
    )
    assert (only.intervals, only.silent_hosts) == ([], [])
