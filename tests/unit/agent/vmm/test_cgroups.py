import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.agent.vmm import cgroups
from godwit.wire import host_rpc

MACHINE = "148ed193b95948"
SMALL = cgroups.limits(host_rpc.Resources(memory_mb=256), overhead_mb=100)


@pytest.fixture
def v1(tmp_path):
    for name in ("memory", "cpu", "pids", "freezer"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").write_text("")
    return tmp_path


@pytest.fixture
def v2(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    return tmp_path


def test_version_1_has_a_group_per_controller(v1):
    files = cgroups.Cgroups("inst", v1).ensure(MACHINE, SMALL)
    assert files == tuple(
        str(v1 / name / "godwit/inst" / MACHINE / "cgroup.procs")
        for name in ("memory", "cpu", "pids")
    )
    group = v1 / "memory/godwit/inst" / MACHINE
    assert (group / "memory.limit_in_bytes").read_text() == str(356 * 1024 * 1024)
    group = v1 / "cpu/godwit/inst" / MACHINE
    assert (group / "cpu.cfs_quota_us").read_text() == "150000"
    assert (group / "cpu.shares").read_text() == "64"
    assert not (v1 / "freezer/godwit").exists()


def test_version_2_has_one_group_and_delegates_down_to_it(v2):
    files = cgroups.Cgroups("inst", v2).ensure(MACHINE, SMALL)
    group = v2 / "godwit/inst" / MACHINE
    assert files == (str(group / "cgroup.procs"),)
    assert (group / "memory.max").read_text() == str(356 * 1024 * 1024)
    assert (group / "cpu.max").read_text() == "150000 100000"
    for above in (v2, v2 / "godwit", v2 / "godwit/inst"):
        assert (above / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"


def test_a_missing_controller_is_named_and_done_without(v2):
    (v2 / "cgroup.controllers").write_text("cpu memory\n")
    groups = cgroups.Cgroups("inst", v2)
    assert groups.lacking == ["pids"]
    groups.ensure(MACHINE, SMALL)
    assert not (v2 / "godwit/inst" / MACHINE / "pids.max").exists()


def test_ensure_may_run_twice(v1):
    groups = cgroups.Cgroups("inst", v1)
    assert groups.ensure(MACHINE, SMALL) == groups.ensure(MACHINE, SMALL)
    assert groups.machines() == {MACHINE}


def test_members_are_read_from_every_group(v1):
    groups = cgroups.Cgroups("inst", v1)
    groups.ensure(MACHINE, SMALL)
    (v1 / "memory/godwit/inst" / MACHINE / "cgroup.procs").write_text("12\n13\n")
    (v1 / "cpu/godwit/inst" / MACHINE / "cgroup.procs").write_text("13\n")
    assert groups.members(MACHINE) == {12, 13}
    assert groups.members("ffffffffffffff") == frozenset()


async def test_removing_what_is_not_there_is_no_error(v1):
    await cgroups.Cgroups("inst", v1).remove(MACHINE)


def test_a_host_without_controllers_runs_machines_without_limits(tmp_path):
    groups = cgroups.Cgroups("inst", tmp_path)
    assert groups.lacking == ["memory", "cpu", "pids"]
    assert groups.ensure(MACHINE, SMALL) == ()


@pytest.mark.host
async def test_removing_a_real_group_ends_what_is_in_it():
    groups = cgroups.Cgroups("godwit-unit-test")
    if not (files := groups.ensure(MACHINE, SMALL)):
        pytest.skip("this host offers no controllers")
    process = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        join(files, process.pid)
        assert groups.members(MACHINE) == {process.pid}
        await groups.remove(MACHINE)
        assert await asyncio.wait_for(process.wait(), 5) == -9
        assert groups.machines() == frozenset()
        await groups.remove(MACHINE)
    finally:
        if process.returncode is None:
            process.kill()


def join(files: tuple[str, ...], pid: int) -> None:
    for file in files:
        Path(file).write_text(str(pid))


@given(st.sampled_from(["shared", "performance"]), st.integers(1, 64), st.integers(256, 131_072))
def test_limits_cover_what_was_asked_and_fit_both_versions(kind, cpus, memory_mb):
    asked = host_rpc.Resources(cpu_kind=kind, cpus=cpus, memory_mb=memory_mb)
    given_limits = cgroups.limits(asked, overhead_mb=96)
    assert given_limits.memory_bytes > memory_mb * 1024 * 1024
    assert given_limits.cpu_us > cpus * 100_000
    assert given_limits.tasks > cpus
    assert 1 <= int(cgroups.settings_v2(given_limits)["cpu"]["cpu.weight"]) <= 10_000
    assert int(cgroups.settings_v1(given_limits)["cpu"]["cpu.shares"]) >= 2


def test_a_performance_cpu_weighs_sixteen_shared_ones():
    shared = cgroups.limits(host_rpc.Resources(cpu_kind="shared", cpus=16), 0)
    performance = cgroups.limits(host_rpc.Resources(cpu_kind="performance", cpus=1), 0)
    assert shared.cpu_part == performance.cpu_part
