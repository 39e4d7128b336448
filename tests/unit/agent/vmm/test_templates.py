"""When templates are made, used, made anew and given up; that they work is tests/vm/test_warm.py."""

import asyncio
from pathlib import Path

import pytest

from godwit.agent import ports
from godwit.agent.vmm import cgroups, hypervisor, places, templates
from godwit.base import clock, errors
from godwit.wire import host_rpc

SIZE = ports.Hardware.of(host_rpc.Resources(memory_mb=256))
TWO_CPUS = ports.Hardware.of(host_rpc.Resources(cpus=2))
WITH_ARGUMENTS = ports.Hardware.of(host_rpc.Resources(memory_mb=256), kernel_arguments=("debug",))
WITH_SWAP = ports.Hardware.of(host_rpc.Resources(memory_mb=256), swap_bytes=1 << 20)
DAY_S = 86_400


class Turned(clock.SystemClock):
    """The machine's clock, turned forward by hand, and its wall clock back."""

    ahead_s = 0
    behind_s = 0

    def now_ms(self) -> int:
        return super().now_ms() + (self.ahead_s - self.behind_s) * 1000

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s

    def advance(self, seconds: int) -> None:
        self.ahead_s += seconds

    def set_back(self, seconds: int) -> None:
        self.behind_s += seconds


class Vmm:
    """A VMM as far as templates ask of it when nothing boots."""

    build = "qemu 1"
    boots = "kernel"
    overhead_mb = 1

    def is_vmm(self, name: str, uids: range):
        del name, uids
        return lambda pid: False

    def clean(self, name: str) -> None:
        del name


class Templates(templates.Templates):
    """Templates whose guests are written instead of booted."""

    def __init__(self, folder: Path, vmm: Vmm, time: Turned, **more) -> None:
        where = places.Places(folder / "store", folder / "run", Path("/no"))
        groups = cgroups.Cgroups("test", folder / "cgroup")
        super().__init__(where, vmm, groups, time, uid=1, **more)
        self.made: list[hypervisor.Guest] = []
        self.broken = False

    async def _boot_and_save(self, guest: hypervisor.Guest, directory: Path) -> None:
        self.made.append(guest)
        if self.broken:
            raise errors.Failure("unavailable", "its guest ended")
        for name in ("memory", "state"):
            (directory / name).write_text(guest.name)

    async def settle(self) -> None:
        """Return when nothing is being made."""
        while self._making:
            await asyncio.sleep(0)


@pytest.fixture
def time():
    return Turned()


@pytest.fixture
def copies(tmp_path, time):
    return Templates(tmp_path, Vmm(), time)


def all_there(copies: Templates) -> list[str]:
    return [path.name for path in copies._places.templates.iterdir()]


async def test_the_first_start_finds_none_and_has_it_made_once(copies):
    assert copies.take("org_1", SIZE) is None
    assert copies.take("org_1", SIZE) is None
    await copies.settle()
    snapshot = copies.take("org_1", SIZE)
    assert snapshot.state.read_text() == snapshot.memory.read_text() == copies.made[0].name
    assert len(copies.made) == 1


async def test_organizations_hardware_and_builds_have_their_own(copies):
    kinds = [("org_2", SIZE)]
    kinds += [("org_1", kind) for kind in (SIZE, TWO_CPUS, WITH_SWAP, WITH_ARGUMENTS)]
    for org, size in kinds:
        copies.take(org, size)
        await copies.settle()
        assert copies.take(org, size) is not None
    assert len(all_there(copies)) == 5
    assert [guest.disks for guest in copies.made] == [(), (), (), ("swap",), ()]
    assert [guest.kernel_arguments for guest in copies.made] == [(), (), (), (), ("debug",)]
    copies._vmm.build = "qemu 2"
    assert copies.take("org_1", SIZE) is None
    await copies.settle()


async def test_a_host_with_one_tenant_may_share(tmp_path, time):
    copies = Templates(tmp_path, Vmm(), time, shared=True)
    await copies.make("org_1", SIZE)
    assert copies.take("org_2", SIZE) is not None


async def test_a_day_later_it_is_made_anew_and_used_until_then(copies, time):
    first = await copies.make("org_1", SIZE)
    time.advance(DAY_S + 1)
    assert copies.take("org_1", SIZE) == first
    await copies.settle()
    second = copies.take("org_1", SIZE)
    assert second != first
    assert all_there(copies) == [second.state.parent.name]


async def test_the_second_failure_in_a_row_ends_a_template(copies, time):
    snapshot = await copies.make("org_1", SIZE)
    copies.distrust(snapshot)
    copies.trust(snapshot)
    copies.distrust(snapshot)
    assert copies.take("org_1", SIZE) == snapshot
    copies.distrust(snapshot)
    assert all_there(copies) == []
    assert copies.take("org_1", SIZE) is None
    assert copies._making == set()
    time.advance(601)
    assert copies.take("org_1", SIZE) is None
    await copies.settle()
    assert copies.take("org_1", SIZE) is not None


async def test_one_that_cannot_be_made_is_tried_again_later_and_leaves_nothing(copies, time):
    copies.broken = True
    for _ in range(3):
        assert copies.take("org_1", SIZE) is None
        await copies.settle()
    assert len(copies.made) == 1
    assert all_there(copies) == []
    copies.broken = False
    time.advance(601)
    copies.take("org_1", SIZE)
    await copies.settle()
    assert copies.take("org_1", SIZE) is not None


async def test_a_clock_that_is_set_back_keeps_nobody_from_a_template(copies, time):
    copies.broken = True
    copies.take("org_1", SIZE)
    await copies.settle()
    copies.broken = False
    time.set_back(30 * DAY_S)
    time.advance(601)
    assert copies.take("org_1", SIZE) is None
    await copies.settle()
    first = copies.take("org_1", SIZE)
    assert first is not None
    # One of the far future is as old as one of the past.
    time.set_back(2 * DAY_S)
    assert copies.take("org_1", SIZE) == first
    await copies.settle()
    assert copies.take("org_1", SIZE) not in (None, first)


async def test_what_a_killed_agent_left_is_swept(copies):
    left = copies._places.templates / "making-abcd"
    left.mkdir(parents=True)
    (left / "memory").touch()
    await copies.make("org_1", SIZE)
    assert not left.exists()


async def test_half_a_template_is_none(copies):
    snapshot = await copies.make("org_1", SIZE)
    (snapshot.state.parent / "template.json").write_text('{"v": 1, "torn')
    assert copies.take("org_1", SIZE) is None
    await copies.settle()
    assert copies.take("org_1", SIZE) is not None
