"""Disks behind a bucket: which limits QEMU is given, and which disks share them."""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from godwit.agent.vmm import hypervisor, probe, qemu
from godwit.agent.vmm.hypervisor import Rates
from godwit.wire import host_rpc


@dataclass(frozen=True)
class Kit:
    kernel: Path = Path("/vmlinux")
    initramfs: Path = Path("/initramfs")
    tsc_khz: int = 2_600_000


def command(rates: Rates | None = None, *, template: bool = False) -> tuple[str, ...]:
    devices = hypervisor.Devices(Path("/image"), Path("/scratch"), "gw5")
    guest = hypervisor.Guest(
        name="148ed193b95948",
        slot=5,
        uid=2_000_005,
        resources=host_rpc.Resources(),
        channel=Path("/c"),
        monitor=Path("/m"),
        devices=None if template else devices,
    )
    return qemu.command(guest, Kit(), probe.Accelerator("tcg", "tried"), rates=rates)


def options(argv: tuple[str, ...], name: str) -> list[str]:
    return [value for flag, value in itertools.pairwise(argv) if flag == name]


def groups(argv: tuple[str, ...]) -> list[dict[str, object]]:
    found = [json.loads(each) for each in options(argv, "-object") if each.startswith("{")]
    return [each for each in found if each["qom-type"] == "throttle-group"]


def test_the_roots_disks_share_what_the_specification_gives_a_root():
    argv = command()
    (group,) = groups(argv)
    assert group["limits"] == {
        "iops-total": 2_000,
        "iops-total-max": 16_384,
        "bps-total": 8 << 20,
        "bps-total-max": 256 << 20,
    }
    paced = [each for each in options(argv, "-blockdev") if each.startswith("driver=throttle")]
    assert [each.split(",")[1] for each in paced] == ["node-name=root", "node-name=scratch"]
    assert all(f"throttle-group={group['id']}" in each for each in paced)


def test_discarding_and_read_only_reach_through_the_bucket():
    for each in options(command(), "-blockdev"):
        wanted = "read-only=on" if "node-name=root" in each else "discard=unmap"
        assert wanted in each


def test_a_burst_is_never_less_than_the_rate():
    (group,) = groups(command(Rates(root_burst_bytes=0)))
    limits = group["limits"]
    assert isinstance(limits, dict)
    assert limits["iops-total-max"] == limits["iops-total"]
    assert limits["bps-total-max"] == limits["bps-total"]


def test_limits_can_be_lifted_one_by_one_or_all():
    (group,) = groups(command(Rates(root_iops=0)))
    assert not any("iops" in name for name in group["limits"])  # type: ignore[attr-defined]
    argv = command(Rates(root_iops=0, root_bytes_s=0))
    assert groups(argv) == []
    assert not any("throttle" in word for word in argv)


@pytest.mark.parametrize(
    ("snapshot", "own", "has_one"),
    [(False, False, True), (False, True, True), (True, True, True), (True, False, False)],
)
def test_a_guest_with_only_a_view_of_a_templates_memory_has_no_balloon(snapshot, own, has_one):
    """QEMU 7.2 would punch holes into the template's file."""
    guest = hypervisor.Guest(
        name="148ed193b95948",
        slot=5,
        uid=2_000_005,
        resources=host_rpc.Resources(memory_mb=512, max_memory_mb=512),
        channel=Path("/c"),
        monitor=Path("/m"),
        snapshot=hypervisor.Snapshot(Path("/state"), Path("/memory")) if snapshot else None,
        own_memory=Path("/own") if own else None,
    )
    text = " ".join(qemu.command(guest, Kit(), probe.Accelerator("tcg", "tried")))
    assert ("virtio-balloon" in text) == has_one


def test_a_machine_that_may_not_grow_has_no_balloon():
    assert not any("balloon" in word for word in command())


def test_a_template_has_no_disks_to_pace():
    argv = command(template=True)
    assert groups(argv) == []
    assert not any("driver=throttle" in word for word in argv)
