import os
import shutil
from pathlib import Path

import pytest

from godwit.agent.vmm import probe
from godwit.base import processes

SOURCE = Path(probe.__file__).with_name("probe.S")


def test_the_guest_is_entered_from_the_reset_vector():
    rom = probe.rom()
    assert len(rom) == 65_536
    assert rom[0xFFF0] == 0xE9
    offset = int.from_bytes(rom[0xFFF1:0xFFF3], "little", signed=True)
    assert (0xFFF0 + 3 + offset) % 65_536 == 0


@pytest.mark.skipif(shutil.which("as") is None, reason="needs an assembler")
async def test_the_machine_code_is_the_source(tmp_path):
    object_file, binary = tmp_path / "p.o", tmp_path / "p.bin"
    await processes.run(["as", "-o", str(object_file), str(SOURCE)])
    await processes.run(["objcopy", "-O", "binary", "-j", ".text", str(object_file), str(binary)])
    assert probe.rom().startswith(binary.read_bytes())


@pytest.mark.skipif(not Path(probe.QEMU).exists(), reason="needs QEMU")
async def test_the_guest_comes_to_its_end_where_guests_run(tmp_path):
    """By emulation, which runs everything: a failing probe is KVM's fault, not the guest's."""
    rom = tmp_path / "rom"
    rom.write_bytes(probe.rom())
    ended = await processes.run(
        probe.command(probe.QEMU, str(rom), accelerated=False), timeout_s=20, check=False
    )
    assert probe.verdict(ended.exit_code, ended.stderr.decode()) == ""


@pytest.mark.parametrize(
    ("exit_code", "stderr", "word"),
    [
        (85, "", ""),
        (85, "qemu-system-x86_64: warning: host lacks something", ""),
        (137, "", "millisecond"),
        (137, "KVM internal error. Suberror: 1\nextra data[0]: 1", "Suberror: 1"),
        (-9, "", "millisecond"),
        (1, "qemu-system-x86_64: warning: x\nqemu-system-x86_64: failed to set MSR 0x48e", "MSR"),
        (1, "", "ended with 1"),
        (0, "", "ended with 0"),
    ],
)
def test_what_an_attempt_means(exit_code, stderr, word):
    said = probe.verdict(exit_code, stderr)
    assert word in said
    assert (said == "") == (word == "")


async def test_a_host_without_the_device_emulates(tmp_path):
    found = await probe.accelerator(device=tmp_path / "kvm")
    assert found.kind == "tcg"
    assert "there is no" in found.reason


async def test_what_is_asked_for_is_taken_at_its_word(tmp_path):
    assert (await probe.accelerator("tcg")).kind == "tcg"
    device = tmp_path / "kvm"
    device.touch(mode=0o660)
    found = await probe.accelerator("kvm", device=device)
    assert found.kind == "kvm"


async def test_an_emulator_that_is_missing_is_a_reason(tmp_path):
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(0o666)
    found = await probe.accelerator(device=device, qemu="/no/such/qemu")
    assert found.kind == "tcg"
    assert found.reason


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_a_device_for_root_alone_is_of_no_use_to_vmms(tmp_path):
    """`true` stands for a QEMU whose guest ran: it cannot be told from one, but for its code."""
    device, qemu = tmp_path / "kvm", tmp_path / "qemu"
    device.touch(mode=0o600)
    qemu.write_text("#!/bin/sh\nexit 85\n")
    qemu.chmod(0o755)
    found = await probe.accelerator(device=device, qemu=str(qemu))
    assert found.kind == "tcg"
    assert "for root alone" in found.reason


@pytest.mark.host
@pytest.mark.skipif(not Path("/dev/kvm").exists(), reason="has no KVM device")
async def test_this_hosts_answer_comes_with_a_reason_and_in_time():
    found = await probe.accelerator()
    assert found.kind in ("kvm", "tcg")
    assert found.reason
