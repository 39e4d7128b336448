"""Jails as files: what is lent and given, what is removed, what a VMM could do to them."""

import os
from pathlib import Path

import pytest

from godwit.agent.vmm.firecracker import config, jail

UID = os.getuid()
NAME = "148ed193b95948"


@pytest.fixture
def made(tmp_path):
    there = jail.Jail(tmp_path / "jails", NAME, UID, Path("/opt/firecracker-v1.16.1-x86_64"))
    there.make()
    return there


def test_it_lies_where_the_jailer_will_look(made, tmp_path):
    assert made.root == (
        tmp_path / "jails" / "firecracker-v1.16.1-x86_64" / f"godwit-{NAME}" / "root"
    )
    assert made.home.stat().st_mode & 0o077 == 0
    assert made.root.stat().st_mode & 0o077 == 0


def test_the_jailer_is_told_everything_and_firecracker_the_rest(made):
    words = made.command(Path("/opt/jailer"), boots=True)
    at = words.index("--")
    told = dict(zip(words[1:at:2], words[2:at:2], strict=True))
    assert words[0] == "/opt/jailer"
    assert told == {
        "--id": f"godwit-{NAME}",
        "--exec-file": "/opt/firecracker-v1.16.1-x86_64",
        "--uid": str(UID),
        "--gid": str(UID),
        "--chroot-base-dir": str(made.jails),
        "--resource-limit": "no-file=1024",
    }
    assert words[at + 1 :] == (
        *("--api-sock", "/api.sock", "--level", "Warning", "--config-file", "/config.json"),
    )
    assert "--config-file" not in made.command(Path("/opt/jailer"), boots=False)
    assert "--daemonize" not in words


def test_what_is_lent_is_the_same_file_and_can_be_read(made, tmp_path):
    image = tmp_path / "image"
    image.write_bytes(b"pages")
    image.chmod(0o600)
    made.lend(image, config.ROOT)
    assert (made.root / "root").stat().st_ino == image.stat().st_ino
    assert image.stat().st_mode & 0o777 == 0o644


def test_a_file_from_another_disk_is_copied_once_and_older_ones_go(tmp_path):
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other file system here")
    kernel = other / f"godwit-kernel-{os.getpid()}"
    try:
        kernel.write_bytes(b"one")
        jails = [
            jail.Jail(tmp_path / "jails", name, UID, Path("/opt/firecracker"))
            for name in ("a", "b", "c")
        ]
        for there in jails:
            there.make()
        jails[0].lend(kernel, config.KERNEL)
        jails[1].lend(kernel, config.KERNEL)
        first = (jails[0].root / "kernel").stat()
        assert first.st_ino == (jails[1].root / "kernel").stat().st_ino
        kernel.write_bytes(b"another")
        jails[2].lend(kernel, config.KERNEL)
        assert (jails[2].root / "kernel").read_bytes() == b"another"
        assert (jails[0].root / "kernel").read_bytes() == b"one"
        assert len(list((tmp_path / "jails" / "kit").iterdir())) == 1
    finally:
        kernel.unlink()


def test_what_is_missing_is_an_error(made, tmp_path):
    with pytest.raises(FileNotFoundError):
        made.lend(tmp_path / "missing", config.ROOT)
    with pytest.raises(FileNotFoundError):
        made.give(tmp_path / "missing", config.SCRATCH)


def test_making_it_again_begins_afresh_and_removing_touches_nothing_else(made, tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(b"data")
    made.give(disk, config.SCRATCH)
    made.write("note", "text", size=4096)
    assert (made.root / "note").stat().st_size == 4096
    made.make()
    assert list(made.root.iterdir()) == []
    made.give(disk, config.SCRATCH)
    for _ in range(2):
        jail.remove(made.jails, NAME)
    assert not made.home.exists()
    assert disk.read_bytes() == b"data"


def test_a_jail_of_another_program_is_removed_too(made):
    newer = jail.Jail(made.jails, NAME, UID, Path("/opt/firecracker-v1.17.0"))
    newer.make()
    jail.remove(made.jails, NAME)
    assert not made.home.exists()
    assert not newer.home.exists()


def test_removing_does_not_follow_what_a_vmm_planted(made, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    (made.root / "way-out").symlink_to(precious)
    jail.remove(made.jails, NAME)
    assert (precious / "file").exists()


def test_a_sweep_takes_what_no_process_is_in(made):
    jail.sweep(made.jails)
    assert not made.home.exists()
    jail.sweep(made.jails / "missing")


def test_taps_of_templates_fit_and_are_not_taken_for_a_machines():
    names = {jail.tap_of_template(f"template-{number:08x}") for number in range(1_000)}
    assert len(names) == 1_000
    assert all(len(name) <= 15 and not name[2:].isdigit() for name in names)
