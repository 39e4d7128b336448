"""The driver behind the seam, against the fake: launching, going on, saving, failing."""

import asyncio
import contextlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from godwit.agent.vmm import hypervisor, running
from godwit.agent.vmm.firecracker import programs, vmm
from godwit.base import errors
from godwit.testing.firecracker import FakeFirecracker
from tests.unit.agent.vmm.firecracker.test_config import RATES
from tests.unit.agent.vmm.firecracker.test_config import guest as sized

UID = os.getuid()


@dataclass(frozen=True)
class Lab:
    """A hypervisor in a folder, and a guest for it."""

    folder: Path
    hypervisor: vmm.Firecracker
    guest: hypervisor.Guest

    @property
    def root(self) -> Path:
        return self.folder / "jails" / "firecracker" / f"godwit-{self.guest.name}" / "root"

    @contextlib.asynccontextmanager
    async def process(self):
        """Yield the fake process in the guest's jail."""
        fake = FakeFirecracker(self.root, name=f"godwit-{self.guest.name}")
        async with fake:
            yield fake


@dataclass(frozen=True)
class Kit:
    kernel: Path
    initramfs: Path


@pytest.fixture
def lab(tmp_path):
    for name in ("vmlinux", "initramfs", "image", "scratch", "firecracker", "state", "memory"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "m").mkdir()
    installed = programs.Programs(
        tmp_path / "firecracker", tmp_path / "jailer", "1.16.1", "10.0.0"
    )
    made = vmm.Firecracker(
        installed,
        Kit(tmp_path / "vmlinux", tmp_path / "initramfs"),
        tmp_path / "jails",
        rates=RATES,
    )
    guest = replace(
        sized(max_memory_mb=512),
        uid=UID,
        channel=tmp_path / "m" / "c",
        monitor=tmp_path / "m" / "v",
        devices=hypervisor.Devices(tmp_path / "image", tmp_path / "scratch", "gw5"),
    )
    return Lab(tmp_path, made, guest)


def resumed(lab: Lab) -> hypervisor.Guest:
    snapshot = hypervisor.Snapshot(lab.folder / "state", lab.folder / "memory")
    return replace(lab.guest, snapshot=snapshot)


async def saved(lab: Lab) -> hypervisor.Guest:
    """Boot, save and end a guest; return it as one that goes on."""
    with lab.hypervisor.launch(lab.guest):
        pass
    async with lab.process() as fake:
        fake.boot(config_of(lab))
        await lab.hypervisor.pause(lab.guest.monitor)
        into = hypervisor.Snapshot(lab.folder / "state", lab.folder / "memory")
        files = await lab.hypervisor.save(lab.guest.monitor, into)
    return replace(lab.guest, snapshot=files)


def config_of(lab: Lab) -> dict[str, object]:
    return json.loads((lab.root / "config.json").read_bytes())


def test_a_cold_launch_furnishes_the_jail_and_names_its_sockets(lab):
    with lab.hypervisor.launch(lab.guest) as launch:
        assert (launch.uid, launch.gid, launch.descriptors) == (0, 0, {})
        assert launch.channel_port == 1024
        assert launch.argv[-2:] == ("--config-file", "/config.json")
    names = {path.name for path in lab.root.iterdir()}
    assert names == {"kernel", "initramfs", "root", "scratch", "config.json"}
    assert lab.guest.channel.readlink() == lab.root / "v.sock"
    assert lab.guest.monitor.readlink() == lab.root / "api.sock"


def test_a_launch_from_a_snapshot_has_no_kernel_and_no_configuration(lab):
    with lab.hypervisor.launch(resumed(lab)) as launch:
        assert "--config-file" not in launch.argv
    names = {path.name for path in lab.root.iterdir()}
    assert names == {"state", "memory", "root", "scratch"}


def test_another_vmms_snapshot_is_refused(lab):
    alien = replace(lab.guest, snapshot=hypervisor.Snapshot(lab.folder / "state", None))
    with pytest.raises(errors.Failure, match="not one of Firecracker's"):
        lab.hypervisor.launch(alien).__enter__()


def test_launching_again_replaces_what_was_left(lab):
    for _ in range(2):
        with lab.hypervisor.launch(lab.guest):
            pass
    lab.hypervisor.clean(lab.guest.name)
    assert not lab.root.exists()
    lab.hypervisor.clean(lab.guest.name)
    assert (lab.folder / "scratch").exists()


async def test_a_saved_guest_goes_on_with_its_own_tap_socket_and_full_buckets(lab):
    guest = await saved(lab)
    other = replace(guest.devices, tap="gw9")
    guest = replace(guest, devices=other)
    with lab.hypervisor.launch(guest):
        pass
    async with lab.process() as fake:
        for _ in range(2):
            await lab.hypervisor.begin(guest)
        assert fake.state == "Running"
        assert fake.told["network-interfaces"]["net"]["host_dev_name"] == "gw9"
        assert fake.told["vsock"]["uds_path"] == "/v.sock"
        loads = [body for request, body in fake.requests if request == "PUT /snapshot/load"]
        assert len(loads) == 1
        assert loads[0]["resume_vm"] is False
        limits = [request for request, _ in fake.requests if request.startswith("PATCH /drives")]
        assert limits == ["PATCH /drives/root", "PATCH /drives/scratch"]


async def test_an_agent_killed_between_loading_and_going_on_goes_on(lab):
    guest = await saved(lab)
    with lab.hypervisor.launch(guest):
        pass
    async with lab.process() as fake:
        fake.refusals["PATCH /vm"] = "not now"
        with pytest.raises(errors.Failure):
            await lab.hypervisor.begin(guest)
        assert fake.state == "Paused"
        del fake.refusals["PATCH /vm"]
        await lab.hypervisor.begin(guest)
        assert fake.state == "Running"


async def test_what_is_saved_is_new_files_that_the_vmm_can_no_longer_name(lab):
    memory = lab.folder / "memory"
    before = memory.stat().st_ino
    with memory.open("rb") as mapped:
        guest = await saved(lab)
        assert guest.snapshot is not None
        assert guest.snapshot.memory == memory
        assert memory.stat().st_ino != before
        assert mapped.read() == b"x"
    assert memory.stat().st_size == 256 << 20
    assert not [path for path in lab.root.iterdir() if path.name.startswith("saved")]


async def test_a_guest_that_cannot_be_saved_says_why_and_runs_on(lab):
    with lab.hypervisor.launch(lab.guest):
        pass
    async with lab.process() as fake:
        fake.boot(config_of(lab))
        fake.refusals["PUT /snapshot/create"] = "the disk is full"
        into = hypervisor.Snapshot(lab.folder / "state", lab.folder / "memory")
        await lab.hypervisor.pause(lab.guest.monitor)
        with pytest.raises(errors.Failure, match="the disk is full") as caught:
            await lab.hypervisor.save(lab.guest.monitor, into)
        assert caught.value.code == "internal"
        await lab.hypervisor.go_on(lab.guest.monitor)
        assert fake.state == "Running"


async def test_nobody_behind_the_monitor_is_said(lab):
    for verb in (
        lab.hypervisor.pause(lab.guest.monitor),
        lab.hypervisor.go_on(lab.guest.monitor),
        lab.hypervisor.set_balloon(lab.guest.monitor, 100),
        lab.hypervisor.balloon_mb(lab.guest.monitor),
    ):
        with pytest.raises(errors.Failure) as caught:
            await verb
        assert caught.value.code == "failed_precondition"


async def test_a_firecracker_that_ended_is_not_waited_for(lab):
    guest = resumed(lab)
    with lab.hypervisor.launch(guest):
        pass
    with pytest.raises(errors.Failure, match="has ended") as caught:
        async with asyncio.timeout(60):
            await lab.hypervisor.begin(guest)
    assert caught.value.code == "failed_precondition"
    async with asyncio.timeout(60):
        await lab.hypervisor.begin(lab.guest)


async def test_the_balloon_counts_from_the_whole_and_waits_for_its_driver(lab):
    with lab.hypervisor.launch(lab.guest):
        pass
    async with lab.process() as fake:
        fake.boot(config_of(lab))
        fake.balloon_drives = False
        told = asyncio.Event()

        async def arrive() -> None:
            while not any(request == "PATCH /balloon" for request, _ in fake.requests):
                await asyncio.sleep(0.001)
            fake.balloon_drives = True
            told.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(arrive())
            await lab.hypervisor.set_balloon(lab.guest.monitor, 100)
        assert told.is_set()
        assert fake.told["balloon"]["amount_mib"] == 156
        assert await lab.hypervisor.balloon_mb(lab.guest.monitor) == 100


def test_only_the_guests_own_process_is_its_vmm(lab):
    is_it = lab.hypervisor.is_vmm(lab.guest.name, range(UID, UID + 1))
    assert not any(is_it(pid) for pid in running.pids())


def test_a_boot_and_a_build_are_told_apart(lab):
    assert "godwit.disks=root,scratch" in lab.hypervisor.boots
    assert lab.hypervisor.build.startswith("firecracker-1.16.1-")
    assert lab.hypervisor.overhead_mb < 64
