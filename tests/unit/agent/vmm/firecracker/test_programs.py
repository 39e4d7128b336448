"""Which Firecracker is here, and which VMM is chosen, with programs that are shell scripts."""

import os
from pathlib import Path

import pytest

from godwit.agent.vmm import probe
from godwit.agent.vmm.firecracker import programs
from godwit.base import errors

KVM = probe.Accelerator("kvm", "a guest ran")
NO_KVM = probe.Accelerator("tcg", "a guest hung")
HERE = programs.Programs(Path("/f"), Path("/j"), "1.16.1", "10.0.0")


def script(path: Path, said: str) -> str:
    path.write_text(f"#!/bin/sh\n{said}\n")
    path.chmod(0o755)
    return str(path)


def installed(folder: Path, firecracker: str = "1.16.1", jailer: str = "1.16.1"):
    says = f'case $1 in --version) echo "Firecracker v{firecracker}";; *) echo v10.0.0;; esac'
    paths = {
        "firecracker": script(folder / "firecracker", says),
        "jailer": script(folder / "jailer", f'echo "Jailer v{jailer}"'),
    }
    return paths.get


async def test_what_is_on_the_path_is_read(tmp_path):
    found = await programs.find(installed(tmp_path))
    assert (found.version, found.snapshot_version) == ("1.16.1", "10.0.0")
    assert found.jailer == tmp_path / "jailer"


async def test_links_are_followed_for_the_jailer_names_jails_by_the_program(tmp_path):
    (tmp_path / "real").mkdir()
    which = installed(tmp_path / "real")
    (tmp_path / "firecracker").symlink_to(tmp_path / "real" / "firecracker")
    links = {"firecracker": str(tmp_path / "firecracker"), "jailer": which("jailer")}
    assert (await programs.find(links.get)).firecracker == tmp_path / "real" / "firecracker"


@pytest.mark.parametrize(
    ("firecracker", "jailer", "words"),
    [
        ("1.16.1", "1.15.0", "firecracker is 1.16.1 and jailer is 1.15.0"),
        ("1.15.2", "1.15.2", "firecracker 1.15.2 is not supported"),
        ("2.0.0", "2.0.0", "firecracker 2.0.0 is not supported"),
        ("new", "new", "does not say a version"),
    ],
)
async def test_what_does_not_fit_is_told(tmp_path, firecracker, jailer, words):
    with pytest.raises(errors.Failure, match=words) as caught:
        await programs.find(installed(tmp_path, firecracker, jailer))
    assert caught.value.code == "failed_precondition"
    assert "1.16 or newer" in caught.value.hint


async def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(errors.Failure, match="firecracker and jailer are not on the PATH"):
        await programs.find(lambda _: None)
    which = installed(tmp_path)
    with pytest.raises(errors.Failure, match=r"^jailer is not on the PATH"):
        await programs.find(lambda name: which(name) if name == "firecracker" else None)


async def test_a_program_that_needs_libraries_is_refused_before_a_jail_lacks_them(tmp_path):
    which = installed(tmp_path)
    dynamic = {"firecracker": "/bin/sh", "jailer": which("jailer")}
    with pytest.raises(errors.Failure, match="linked to libraries that a jail does not have"):
        await programs.find(dynamic.get)


async def test_a_program_that_does_not_run_is_told(tmp_path):
    which = installed(tmp_path)
    script(tmp_path / "firecracker", "exit 3")
    with pytest.raises(errors.Failure, match=r"cannot be run: .*exit 3"):
        await programs.find(which)


async def found() -> programs.Programs:
    return HERE


async def missing() -> programs.Programs:
    raise errors.Failure("failed_precondition", "jailer is not on the PATH", hint="put it there")


@pytest.mark.parametrize(
    ("wanted", "accelerator", "finding", "reason"),
    [
        ("auto", KVM, found, "firecracker 1.16.1 and KVM are here"),
        ("auto", NO_KVM, found, "Firecracker needs KVM: a guest hung"),
        ("auto", KVM, missing, "jailer is not on the PATH"),
        ("qemu", KVM, found, "QEMU was asked for"),
        ("firecracker", KVM, found, "firecracker 1.16.1 and KVM are here"),
    ],
)
async def test_the_choice_and_its_reason(tmp_path, wanted, accelerator, finding, reason):
    choice = await programs.choose(wanted, accelerator, tmp_path / "store", finding)
    assert choice.reason == reason
    usable = "are here" in reason
    assert (choice.programs is HERE) == usable
    assert choice.name == ("firecracker" if usable else "qemu")


@pytest.mark.parametrize(
    ("accelerator", "finding", "words"),
    [
        (NO_KVM, found, "vmm is firecracker, which needs KVM: a guest hung"),
        (KVM, missing, "vmm is firecracker, but jailer is not on the PATH"),
    ],
)
async def test_a_firecracker_that_was_asked_for_and_cannot_be_is_an_error(
    tmp_path, accelerator, finding, words
):
    with pytest.raises(errors.Failure, match=words) as caught:
        await programs.choose("firecracker", accelerator, tmp_path, finding)
    assert caught.value.hint


async def test_where_device_nodes_do_not_work_there_are_no_jails():
    if not os.statvfs("/proc").f_flag & os.ST_NODEV:
        pytest.skip("everything is mounted with devices here")
    choice = await programs.choose("auto", KVM, Path("/proc/1/missing"), found)
    assert choice.name == "qemu"
    assert "is mounted nodev" in choice.reason


def test_a_build_is_another_on_another_processor_and_after_another_program(tmp_path):
    (tmp_path / "f").write_bytes(b"one")
    here = programs.Programs(tmp_path / "f", Path("/j"), "1.16.1", "10.0.0")
    cpus = {}
    for name, model in (("a", "85"), ("b", "106")):
        cpus[name] = tmp_path / name
        cpus[name].write_text(f"processor\t: 0\nmodel\t\t: {model}\ncpu MHz\t: 1\n\n")
    first = here.build(cpus["a"])
    assert first.startswith("firecracker-1.16.1-s10.0.0-")
    assert here.build(cpus["a"]) == first
    assert here.build(cpus["b"]) != first
    (tmp_path / "f").write_bytes(b"two")
    assert here.build(cpus["a"]) != first
