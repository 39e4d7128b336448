"""What is told to a guest and to the kernel, in which order, and what is believed."""

from pathlib import Path

import pytest

from godwit.agent.vmm import balloon, cgroups
from godwit.agent.vmm.places import Places
from godwit.base import errors
from godwit.testing import clock
from godwit.wire.host_rpc import Resources

M = "148ed193b95948"
MB = 1 << 20


class Guest:
    """A VMM whose guest obeys at once, by steps, or not at all."""

    overhead_mb = 100

    def __init__(self, has_mb: int, *, step_mb: int = 10_000, least_mb: int = 0) -> None:
        self.has_mb = has_mb
        self.target_mb = has_mb
        self.step_mb = step_mb
        self.least_mb = least_mb
        self.said: list[str] = []
        self.away = False

    async def set_balloon(self, monitor: Path, target_mb: int) -> None:
        if self.away:
            raise errors.Failure("internal", "no balloon device has been activated")
        self.said.append(f"{monitor.stem} {target_mb}")
        self.target_mb = target_mb

    async def balloon_mb(self, monitor: Path) -> int:
        if self.away:
            raise errors.Failure("internal", f"nobody answers at {monitor.stem}")
        way = max(-self.step_mb, min(self.step_mb, self.target_mb - self.has_mb))
        self.has_mb = max(self.least_mb, self.has_mb + way)
        return self.has_mb


class Bench:
    def __init__(self, root: Path, guest: Guest) -> None:
        (root / "cgroup.controllers").write_text("cpu memory pids\n")
        self.guest = guest
        self.groups = cgroups.Cgroups("inst", root)
        self.groups.ensure(M, cgroups.limits(Resources(memory_mb=guest.has_mb), 100))
        self.file = root / "godwit/inst" / M / "memory.max"
        places = Places(root / "store", root, root / "shim")
        self.balloons = balloon.Balloons(places, guest, self.groups)  # type: ignore[arg-type]

    @property
    def limit_mb(self) -> int:
        return int(self.file.read_text()) // MB

    def set_memory(self, limit_mb: int) -> None:
        clock.run(self.balloons.set_memory(M, limit_mb))

    def reclaim(self, amount_mb: int) -> int:
        return clock.run(self.balloons.reclaim(M, amount_mb))


def test_a_guest_that_grows_and_shrinks_takes_its_vmms_limit_along(tmp_path):
    bench = Bench(tmp_path, Guest(256))
    bench.set_memory(512)
    assert (bench.guest.has_mb, bench.limit_mb) == (512, 512 + 100 + 2)
    bench.set_memory(128)
    assert (bench.guest.has_mb, bench.limit_mb) == (128, 128 + 100)


def test_a_slow_guest_is_waited_for_while_it_comes_nearer(tmp_path):
    bench = Bench(tmp_path, Guest(512, step_mb=8))
    bench.set_memory(128)
    assert (bench.guest.has_mb, bench.limit_mb) == (128, 128 + 100)


def test_the_limit_stays_while_the_guest_does_not_obey(tmp_path):
    bench = Bench(tmp_path, Guest(512, least_mb=300))
    before_mb = bench.limit_mb
    bench.set_memory(128)
    assert bench.limit_mb == before_mb
    assert bench.guest.target_mb == 128


def test_a_limit_the_kernel_refuses_leaves_the_former_one(tmp_path, caplog):
    bench = Bench(tmp_path, Guest(512))
    bench.file.unlink()
    bench.file.mkdir()
    bench.set_memory(128)
    assert "the kernel does not take" in caplog.text
    assert bench.guest.has_mb == 128


def test_what_is_reclaimed_is_given_back_to_the_guests_use(tmp_path):
    bench = Bench(tmp_path, Guest(512, least_mb=448))
    assert bench.reclaim(128) == 64
    assert bench.guest.target_mb == 512
    assert bench.reclaim(10_000) == 64
    assert bench.guest.said[-2].endswith(" 64")


def test_a_guest_that_begins_keeps_what_it_begins_with_and_no_other_is_told(tmp_path):
    bench = Bench(tmp_path, Guest(512))
    clock.run(bench.balloons.fill(M, Resources(memory_mb=512)))
    assert bench.guest.said == []
    clock.run(bench.balloons.fill(M, Resources(memory_mb=256, max_memory_mb=512)))
    assert bench.guest.target_mb == 256


@pytest.mark.parametrize("ask", ["set_memory", "reclaim"])
def test_a_machine_without_a_balloon_is_told_what_it_needs(tmp_path, ask):
    bench = Bench(tmp_path, Guest(512))
    bench.guest.away = True
    with pytest.raises(errors.Failure, match=f"machine {M} cannot be changed") as refused:
        getattr(bench, ask)(128)
    assert refused.value.code == "failed_precondition"
    assert "guest.max_memory_mb" in refused.value.hint
