"""Command lines are held to `golden/qemu_*.txt`; that they boot is tested in tests/vm.

After an intended change: `PYTHONPATH=. python tests/unit/agent/vmm/test_qemu.py`.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest

from godwit.agent import ports
from godwit.agent.vmm import probe, qemu
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


def command(kind="tcg", **resources) -> tuple[str, ...]:
    return qemu.command(plan(**resources), Kit(), ACCELERATORS[kind])


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


def test_each_descriptor_is_used_once():
    text = " ".join(command())
    for number in qemu.Descriptors().all:
        uses = [f"/proc/self/fd/{number} ", f"fd={number},"]
        assert sum(text.count(use) for use in uses) == 1


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
