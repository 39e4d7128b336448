import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.agent import burst
from godwit.agent.vmm import cgroups
from godwit.base import errors
from godwit.wire import host_rpc

MACHINE = "148ed193b95948"
INSTANCE = f"unit-{os.getpid()}"
"""Of the groups that are real: other runs of these tests have their own."""
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
    assert (group / "memory.limit_in_bytes").read_text() == str(357 * 1024 * 1024)
    group = v1 / "cpu/godwit/inst" / MACHINE
    assert (group / "cpu.cfs_quota_us").read_text() == "120000"
    assert (group / "cpu.cfs_period_us").read_text() == "80000"
    assert (group / "cpu.shares").read_text() == "64"
    assert not (v1 / "freezer/godwit").exists()


def test_version_2_has_one_group_and_delegates_down_to_it(v2):
    files = cgroups.Cgroups("inst", v2).ensure(MACHINE, SMALL)
    group = v2 / "godwit/inst" / MACHINE
    assert files == (str(group / "cgroup.procs"),)
    assert (group / "memory.max").read_text() == str(357 * 1024 * 1024)
    assert (group / "io.weight").read_text() == "default 10"
    assert (group / "cpu.max").read_text() == "120000 80000"
    for above in (v2, v2 / "godwit", v2 / "godwit/inst"):
        assert (above / "cgroup.subtree_control").read_text() == "+memory +cpu +pids +io"


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
    groups = cgroups.Cgroups(INSTANCE)
    if not (files := groups.ensure(MACHINE, SMALL)):
        pytest.skip("this host offers no controllers")
    process = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        join(files, process.pid)
        assert groups.members(MACHINE) == {process.pid}
        await groups.remove(MACHINE)
        assert await asyncio.wait_for(process.wait(), 60) == -9
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
    assert given_limits.cpu_us is not None
    assert given_limits.cpu_us > cpus * burst.PERIOD_US
    assert given_limits.tasks > cpus
    assert 1 <= int(cgroups.settings_v2(given_limits)["cpu"]["cpu.weight"]) <= 10_000
    assert int(cgroups.settings_v1(given_limits)["cpu"]["cpu.shares"]) >= 2


def test_a_performance_cpu_weighs_sixteen_shared_ones():
    shared = cgroups.limits(host_rpc.Resources(cpu_kind="shared", cpus=16), 0)
    performance = cgroups.limits(host_rpc.Resources(cpu_kind="performance", cpus=1), 0)
    assert shared.cpu_part == performance.cpu_part


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("memory", "memory.limit_in_bytes"),
        ("pids", "pids.max"),
        ("cpu", "cpu.cfs_quota_us"),
    ],
)
def test_a_limit_the_kernel_refuses_fails_the_start_and_names_the_file(v1, name, file):
    refusing = v1 / name / "godwit/inst" / MACHINE / file
    refusing.mkdir(parents=True)
    with pytest.raises(errors.Failure, match=str(refusing)) as refused:
        cgroups.Cgroups("inst", v1).ensure(MACHINE, SMALL)
    assert refused.value.code == "unavailable"


def test_a_weight_the_kernel_refuses_is_only_worth_a_warning(v1, caplog):
    (v1 / "cpu/godwit/inst" / MACHINE / "cpu.shares").mkdir(parents=True)
    assert cgroups.Cgroups("inst", v1).ensure(MACHINE, SMALL)
    assert "takes no cpu.shares" in caplog.text


@pytest.mark.parametrize(
    ("version", "memory", "cpu"),
    [
        ("v1", "memory/{}/memory.limit_in_bytes", "cpu/{}/cpu.cfs_quota_us"),
        ("v2", "{}/memory.max", "{}/cpu.max"),
    ],
)
def test_limits_change_while_a_machine_runs(request, version, memory, cpu):
    root = request.getfixturevalue(version)
    groups = cgroups.Cgroups("inst", root)
    groups.set_quota(MACHINE, 5_000)
    assert groups.machines() == frozenset()
    groups.ensure(MACHINE, SMALL)
    groups.set_memory(MACHINE, 7)
    groups.set_quota(MACHINE, 5_000)
    group = f"godwit/inst/{MACHINE}"
    assert (root / memory.format(group)).read_text() == "7"
    assert (root / cpu.format(group)).read_text().split()[0] == "5000"


def test_counters_of_both_versions_are_read_in_microseconds(tmp_path):
    for name in ("cpu", "cpuacct"):
        (tmp_path / "v1" / name / "godwit/inst" / MACHINE).mkdir(parents=True)
        (tmp_path / "v1" / name / "cgroup.procs").write_text("")
    (tmp_path / "v1/cpuacct/godwit/inst" / MACHINE / "cpuacct.usage").write_text("7000999\n")
    (tmp_path / "v1/cpu/godwit/inst" / MACHINE / "cpu.stat").write_text(
        "nr_periods 3\nnr_throttled 1\nthrottled_time 5000000\n"
    )
    first = cgroups.Cgroups("inst", tmp_path / "v1")
    assert (first.used_us(MACHINE), first.throttled_us(MACHINE)) == (7_000, 5_000)
    group = tmp_path / "v2/godwit/inst" / MACHINE
    group.mkdir(parents=True)
    (tmp_path / "v2/cgroup.controllers").write_text("cpu memory pids\n")
    (group / "cpu.stat").write_text("usage_usec 7000\nuser_usec 1\nthrottled_usec 5000\n")
    second = cgroups.Cgroups("inst", tmp_path / "v2")
    assert (second.used_us(MACHINE), second.throttled_us(MACHINE)) == (7_000, 5_000)
    for groups in (first, second):
        assert groups.used_us("ffffffffffffff") is None
        assert groups.throttled_us("ffffffffffffff") == 0
        assert groups.generation("ffffffffffffff") == 0 != groups.generation(MACHINE)


def groups_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


def real_groups() -> cgroups.Cgroups:
    groups = cgroups.Cgroups(INSTANCE)
    if groups.lacking:
        pytest.skip(f"this host lacks the controllers {groups.lacking}")
    return groups


@pytest.mark.host
async def test_a_quota_holds_what_runs_and_is_counted():
    groups = real_groups()
    files = groups.ensure(MACHINE, SMALL)
    burning = await asyncio.create_subprocess_exec("sh", "-c", "while :; do :; done")
    try:
        join(files, burning.pid)
        groups.set_quota(MACHINE, 5_000)
        async with asyncio.timeout(60):
            while groups.throttled_us(MACHINE) < 300_000:
                await asyncio.sleep(0.05)
        used_us, held_us = groups.used_us(MACHINE), groups.throttled_us(MACHINE)
        assert used_us is not None
        assert used_us < held_us
    finally:
        await groups.remove(MACHINE)
        await burning.wait()
    assert groups.used_us(MACHINE) is None


@pytest.mark.host
async def test_a_shim_is_confined_apart_from_its_vmm_and_removed_with_it():
    groups = real_groups()
    shim = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        groups.ensure(MACHINE, SMALL)
        groups.confine_shim(MACHINE, shim.pid)
        assert groups.members(MACHINE) == frozenset()
        assert groups.machines() == {MACHINE}
        assert f"/godwit/{INSTANCE}.shims/{MACHINE}" in groups_of(shim.pid)
    finally:
        await groups.remove(MACHINE)
        await shim.wait()
    assert groups.machines() == frozenset()
    groups.confine_shim(MACHINE, 2**22 - 7)
    await groups.remove(MACHINE)


@pytest.mark.host
async def test_what_takes_more_memory_than_its_limit_is_ended():
    groups = real_groups()
    few = cgroups.Limits(memory_bytes=32 << 20, cpu_us=None, cpu_part=16)
    files = groups.ensure(MACHINE, few)
    read, write = os.pipe()
    try:
        hog = await asyncio.create_subprocess_exec(
            *("sh", "-c", "read go; head -c 128M /dev/zero | tail -c 128M"), stdin=read
        )
        join(files, hog.pid)
        os.write(write, b"go\n")
        # The shell outlives its pipeline or dies with it: either way not with 0.
        assert await asyncio.wait_for(hog.wait(), 120) != 0
    finally:
        os.close(read)
        os.close(write)
        await groups.remove(MACHINE)


def test_a_group_says_whether_something_in_it_was_killed_for_want_of_memory(v1):
    groups = cgroups.Cgroups("inst", v1)
    groups.ensure(MACHINE, SMALL)
    control = v1 / "memory/godwit/inst" / MACHINE / "memory.oom_control"
    control.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    assert not groups.ran_out(MACHINE)
    control.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert groups.ran_out(MACHINE)
    assert not groups.ran_out("ffffffffffffff")


def test_version_2_counts_such_kills_among_its_events(v2):
    groups = cgroups.Cgroups("inst", v2)
    groups.ensure(MACHINE, SMALL)
    told = v2 / "godwit/inst" / MACHINE / "memory.events"
    told.write_text("low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n")
    assert groups.ran_out(MACHINE)
