"""Command lines are held to `golden/qemu_*.txt`; that they boot is tested in tests/vm.

After an intended change: `PYTHONPATH=. python tests/unit/agent/vmm/test_qemu.py`.
"""

import dataclasses
import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from godwit.agent import ports
from godwit.agent.vmm import hypervisor, probe, qemu
from godwit.wire import guest, host_rpc

GOLDEN = Path(__file__).parent / "golden"
ACCELERATORS = {
    "kvm": probe.Accelerator("kvm", "tried", 108),
    "tcg": probe.Accelerator("tcg", "tried"),
}


@dataclass(frozen=True)
class Kit:
    kernel: Path = Path("/var/cache/godwit/vmlinux")
    initramfs: Path = Path("/var/cache/godwit/initramfs")
    tsc_khz: int = 2_600_000


def plan(**resources) -> ports.VmPlan:
    return ports.VmPlan(
        machine_id="148ed193b95948",
        instance_id="01K8",
        org_id="org_1",
        app_id="app_1",
        slot=5,
        tap="gw5",
        resources=host_rpc.Resources(**resources),
        image=Path("/var/lib/godwit/store/images/x.erofs"),
        scratch_bytes=1 << 30,
        run_spec=guest.RunSpec(
            machine_id="148ed193b95948",
            hostname="h",
            process=guest.Process(argv=("x",), env={"SECRET": "hunter2"}),
        ),
    )


def guest_of(made: ports.VmPlan, **more) -> hypervisor.Guest:
    return hypervisor.Guest(
        name=made.machine_id,
        slot=made.slot,
        uid=2_000_005,
        resources=made.resources,
        channel=Path("/run/godwit/m/x.channel"),
        monitor=Path("/run/godwit/m/x.vmm"),
        devices=hypervisor.Devices(made.image, Path("/scratch.ext4"), made.tap),
        **more,
    )


def command(kind="tcg", **resources) -> tuple[str, ...]:
    return qemu.command(guest_of(plan(**resources)), Kit(), ACCELERATORS[kind])


def lines(kind: str) -> str:
    """One option with its value on a line."""
    return (
        "\n".join(command(kind))
        .replace("\n-", "\n\n-")
        .replace("\n\n", "\0")
        .replace("\n", " ")
        .replace("\0", "\n")
        + "\n"
    )


@pytest.mark.parametrize("kind", sorted(ACCELERATORS))
def test_the_command_line_is_what_was_reviewed(kind):
    assert lines(kind) == (GOLDEN / f"qemu_{kind}.txt").read_text()


def test_memory_and_processors_are_exactly_what_was_asked():
    text = " ".join(command(memory_mb=2304, cpus=4))
    assert "-m 2304M" in text
    assert "-smp 4" in text


def test_no_path_but_the_programs_own_is_opened_by_name():
    named = [word for word in command()[1:] if "/" in word]
    assert all("/proc/self/fd/" in word or "/dev/fdset/" in word for word in named)


def uses(argv: tuple[str, ...], number: int) -> int:
    ways = [f"/proc/self/fd/{number} ", f"fd={number},", f"/proc/self/fd/{number},"]
    return sum(" ".join(argv).count(way) for way in ways)


def test_each_descriptor_is_used_once():
    given = qemu.Descriptors()
    argv = command()
    numbers = (given.kernel, given.initramfs, given.image, given.scratch, given.tap)
    for number in (*numbers, given.channel, given.monitor):
        assert uses(argv, number) == 1
    assert uses(argv, given.memory) == 0


def copy(**more) -> tuple[str, ...]:
    snapshot = hypervisor.Snapshot(Path("/t/state"), more.pop("memory", Path("/t/memory")))
    made = guest_of(plan(), snapshot=snapshot, **more)
    return qemu.command(made, Kit(), ACCELERATORS["tcg"])


def test_a_copy_waits_for_its_state_and_sees_the_templates_memory_privately():
    argv = copy()
    assert argv[argv.index("-incoming") + 1] == "defer"
    assert "-kernel" not in argv
    assert "share=off" in argv[argv.index("-object") + 1]
    assert uses((*argv, " "), qemu.Descriptors().memory) == 1


def test_memory_of_its_own_is_shared_with_its_file():
    for memory in (Path("/t/memory"), None):
        argv = copy(memory=memory, own_memory=Path("/m/memory"))
        assert "share=on" in argv[argv.index("-object") + 1]
    argv = copy(memory=None)
    assert argv[argv.index("-object") + 1].startswith("memory-backend-ram")


def devices(argv: tuple[str, ...]) -> list[str]:
    found = [word for flag, word in itertools.pairwise(argv) if flag == "-device"]
    return [re.sub(r"mac=[0-9a-f:]+", "mac=", word) for word in found]


def test_a_template_has_the_devices_of_its_copies():
    template = dataclasses.replace(guest_of(plan()), slot=0, devices=None)
    made = qemu.command(template, Kit(), ACCELERATORS["tcg"])
    assert devices(made) == devices(copy()) == devices(command())


@pytest.mark.parametrize(
    ("disk", "bus"),
    [("swap", 13), ("cache", 14), ("image1", 16), ("image8", 23), ("own1", 23), ("own8", 16)],
)
def test_a_further_disk_has_a_slot_of_its_own_in_machine_and_template(disk, bus):
    made = guest_of(plan(), disks=(disk,))
    template = dataclasses.replace(made, slot=0, devices=None)
    argv = qemu.command(made, Kit(), ACCELERATORS["tcg"])
    (found,) = set(devices(argv)) - set(devices(command()))
    place = f"virtio-blk-device,drive={disk},serial={disk},bus=virtio-mmio-bus.{bus},"
    assert found.startswith(place)
    assert uses(argv, qemu.Descriptors().further(disk)) == 1
    assert devices(qemu.command(template, Kit(), ACCELERATORS["tcg"])) == devices(argv)


def test_images_of_containers_are_only_read():
    def told(disk) -> str:
        argv = qemu.command(guest_of(plan(), disks=(disk,)), Kit(), ACCELERATORS["tcg"])
        (found,) = (word for word in argv if f"node-name={disk}-file" in word)
        return found

    assert "read-only=on" in told("image1")
    assert "read-only=on" not in told("cache")
    assert "read-only=on" not in told("own1")


def test_only_a_root_that_lasts_is_synced():
    def cache(**more) -> list[str]:
        argv = qemu.command(guest_of(plan(), **more), Kit(), ACCELERATORS["tcg"])
        return [word for word in argv if "node-name=scratch-file" in word]

    assert all("cache.no-flush=on" in word for word in cache())
    assert all("cache.no-flush=off" in word for word in cache(lasting_root=True))
    assert len(cache()) == len(cache(lasting_root=True)) == 1


def test_a_machines_kernel_arguments_come_behind_the_platforms():
    made = guest_of(plan(), kernel_arguments=("debug", "a=1"))
    argv = qemu.command(made, Kit(), ACCELERATORS["tcg"])
    appended = argv[argv.index("-append") + 1]
    assert appended.endswith(" tsc_early_khz=2600000 debug a=1")


def test_nothing_secret_is_on_the_command_line():
    assert "hunter2" not in " ".join(command())


def test_the_clock_rate_is_told_under_emulation_only():
    assert "tsc_early_khz=2600000" in " ".join(command("tcg"))
    assert "tsc_early_khz" not in " ".join(command("kvm"))


def test_every_device_has_a_transport_of_its_own_and_none_is_the_first():
    buses = [part for word in command() for part in word.split(",") if part.startswith("bus=vir")]
    assert len(set(buses)) == len(buses) == 4
    assert "bus=virtio-mmio-bus.0" not in buses


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for each in ACCELERATORS:
        (GOLDEN / f"qemu_{each}.txt").write_text(lines(each))
