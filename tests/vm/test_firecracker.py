"""The machines of the neighbouring files once more, under Firecracker.

They run where the probe finds that KVM runs guests and where `firecracker` and `jailer` are on
the PATH; elsewhere each says why it does not. What needs neither is in tests/host.
"""

import asyncio
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from types import ModuleType

import pytest

from godwit.agent.vmm import driver, guestkit, hypervisor, probe
from godwit.agent.vmm.firecracker import programs
from godwit.agent.vmm.firecracker.vmm import Firecracker
from godwit.base import errors
from godwit.testing.platform import ROOT
from tests.host import network_lab as lab
from tests.vm import (
    test_agent,
    test_agent_crashes,
    test_agent_suspend,
    test_agent_trouble,
    test_limits,
    test_memory,
    test_qemu,
    test_warm,
    vm_lab,
)

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

MODULES: tuple[ModuleType, ...] = (
    *(test_qemu, test_warm, test_memory, test_limits),
    *(test_agent, test_agent_trouble, test_agent_suspend),
)

OF_QEMU_ALONE = {
    "test_a_machine_that_may_not_grow_has_no_balloon_and_is_told_what_it_needs": (
        "reads QEMU's command line"
    ),
    "test_memory_grows_and_shrinks_within_its_bounds_and_the_vmms_limit_with_it": (
        "counts QEMU's overhead"
    ),
    "test_a_guest_that_takes_all_memory_is_ended_inside_and_its_vmm_stays_within_its_limit": (
        "counts QEMU's overhead"
    ),
    "test_what_is_reclaimed_goes_to_the_host_and_the_guest_may_have_it_again": (
        "looks into the file of the guest's memory"
    ),
}
"""Tests that look behind the seam, and at what."""


def suite() -> list[Callable[[], None]]:
    """Return every test of a whole machine that does not look behind the seam."""
    found = [
        test
        for module in MODULES
        for name, test in inspect.getmembers(module, inspect.isfunction)
        if name.startswith("test_") and test.__module__ == module.__name__
    ]
    return [
        test
        for test in found
        if test.__name__ not in OF_QEMU_ALONE and not inspect.signature(test).parameters
    ]


async def _installed() -> programs.Programs | str:
    """Return Firecracker, or why it cannot run guests here."""
    accelerator = await probe.accelerator()
    if accelerator.kind != "kvm":
        return f"KVM runs no guest here: {accelerator.reason}"
    try:
        return await programs.find()
    except errors.Failure as failure:
        return failure.message


@pytest.fixture(scope="module")
def installed() -> programs.Programs:
    found = asyncio.run(_installed())
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture
def under_firecracker(installed, monkeypatch):
    def make(
        places: driver.Places,
        kit: guestkit.GuestKit,
        rates: hypervisor.Rates | None,
    ) -> hypervisor.Hypervisor:
        jails = places.store / "jails"
        jails.mkdir(parents=True, exist_ok=True)
        return Firecracker(installed, kit, jails, rates=rates or hypervisor.Rates())

    monkeypatch.setattr(vm_lab, "make_hypervisor", make)


@pytest.mark.kvm
@pytest.mark.usefixtures("under_firecracker")
@pytest.mark.parametrize("test", suite(), ids=lambda test: test.__name__.removeprefix("test_"))
def test_under_firecracker(test):
    test()


@pytest.mark.kvm
@pytest.mark.usefixtures("under_firecracker")
@lab.own_namespace
async def test_a_machine_is_suspended_and_goes_on_under_firecracker():
    async with vm_lab.host() as here:
        machine = here.machine(
            5, script="echo begun; while true; do date +%s >/tick; sleep 1; done"
        )
        await machine.boot()
        await machine.run("echo kept > /dev/shm/note")
        before = (await machine.run("head -c16 /dev/urandom | od -An -tx1")).stdout
        await here.vmm.suspend(machine.id, "01K8")
        await machine.close()
        await here.vmm.discard(machine.id, 5, keep="all")
        await here.vmm.resume(machine.plan)
        machine.session = await here.vmm.connect(machine.id)
        status = await machine.phase("running")
        assert status.start_kind == "resumed"
        answer = await machine.run("cat /dev/shm/note; date +%s")
        note, seconds = answer.stdout.split()
        assert note == "kept"
        assert abs(int(seconds) - datetime.now(UTC).timestamp()) <= 2
        after = (await machine.run("head -c16 /dev/urandom | od -An -tx1")).stdout
        assert after != before


@pytest.mark.kvm
@pytest.mark.parametrize("sample", test_agent_crashes.SAMPLES, ids=test_agent_crashes.name_of)
@pytest.mark.usefixtures("under_firecracker")
def test_killed_in_the_middle_under_firecracker(sample):
    test_agent_crashes.goes_through(sample)


@pytest.mark.kvm
@pytest.mark.full
@pytest.mark.timeout(3_600)
@pytest.mark.usefixtures("installed")
def test_the_whole_platform_under_firecracker():
    """The end-to-end suite, as `make test` runs it."""
    alone = "unshare --net --mount --pid --fork --kill-child --mount-proc bash tools/isolated.sh"
    done = subprocess.run(
        [*alone.split(), sys.executable, "-m", "pytest", "-q", "tests/e2e", "-m", "not full"],
        cwd=ROOT,
        env={**os.environ, "GODWIT_HOST_VMM": "firecracker"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:]


def test_only_what_is_there_is_left_out():
    names = {
        name for module in MODULES for name, _ in inspect.getmembers(module, inspect.isfunction)
    }
    assert set(OF_QEMU_ALONE) <= names
    assert len(suite()) > 20
