"""Finds by trying whether this host's KVM runs a guest.

`/dev/kvm` may exist, open and make virtual CPUs without running an ordinary guest: nested in some
sandboxes it is an emulator of the few instructions a boot loader needs. So a guest is run that
does what a kernel does (64-bit mode, its own page tables, SSE, an exception through its own IDT)
and must then say the right number on a debug port, within a deadline. The guest is `probe.S`.
"""

import asyncio
import os
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from godwit.base import processes

QEMU = "/usr/bin/qemu-system-x86_64"
_DEVICE = Path("/dev/kvm")
_DEADLINE_S = 1.5
_ATTEMPTS = 2
_ANSWER = 0x2A
_SAID = _ANSWER << 1 | 1
"""What isa-debug-exit makes of the guest's number: QEMU's exit code."""
_KILLED = 137
_HUNG = f"a guest did not do a millisecond's work in {_DEADLINE_S:g} s"
_ROM_BYTES = 65_536
_RESET_VECTOR = 0xFFF0
_HALT = 0xF4

_CODE = bytes.fromhex(
    "fafcb800f08ed82e660f011668010f20c00c010f22c066ea1e000f00080066b810008ed88ec08ed0bc009000"
    "0031c0bf00000100b9000c0000f3abc7050000010003100100c7050010010003200100bf00200100b8830000"
    "00b9000200008907050000200083c7084975f30f20e00d200600000f22e0b8000001000f22d8b9800000c00f"
    "320d010100000f300f20c025ffffff9f0d0200018083e0fb0f22c0eaa6000f001800bc00900000488d058b00"
    "0000bf6030010066890766c74702180066c74704008e48c1e8106689470648c1e810894708c7470c00000000"
    "0f011d8b0000004531e431c00fa2b9100000000f320f3148b8efcdab896745230166480f6ec0660fd4c0bf00"
    "002000b9000004000f29074883c710ffc975f50f0b4183fc017517488b47f048bbde9b5713cf8a46024839c3"
    "7504b02ae6f4f4ebfd41ffc4488304240248cf900000000000000000ffff0000009bcf00ffff00000093cf00"
    "ffff0000009baf001f0048010f006f000030010000000000"
)
"""`probe.S` as machine code: `as -o p.o probe.S && objcopy -O binary -j .text p.o p.bin`."""


@dataclass(frozen=True)
class Accelerator:
    """What runs guests' instructions here.

    Attributes:
        reason: Why, for people.
        group: Group that VMM processes need for the device; `None` for none.
    """

    kind: Literal["kvm", "tcg"]
    reason: str
    group: int | None = None


async def accelerator(
    wanted: str = "auto", *, uid: int = 2_000_000, qemu: str = QEMU, device: Path = _DEVICE
) -> Accelerator:
    """Return what to run guests with.

    Args:
        wanted: `auto` tries; `kvm` and `tcg` are taken at their word.
        uid: A user that VMMs run under: the guest is tried with its rights.
        qemu: The emulator.
        device: Where KVM is.
    """
    if wanted == "tcg":
        return Accelerator("tcg", "emulation was asked for")
    access = _access(device)
    if access is None:
        return Accelerator("tcg", f"there is no {device}")
    group, everyone = access
    if wanted == "kvm":
        return Accelerator("kvm", "KVM was asked for", group)
    roots = os.geteuid() == 0 and group is None and not everyone
    reason = await _try_guest(qemu, 0, 0) if roots else await _try_guest(qemu, uid, group)
    if reason:
        return Accelerator("tcg", reason)
    if roots:
        return Accelerator("tcg", f"{device} is for root alone: give it a group, such as kvm")
    return Accelerator("kvm", "a guest ran to its end", group)


def rom() -> bytes:
    """Return the guest as the 64 KB below 1 MB, entered by a jump from the reset vector."""
    image = bytearray([_HALT]) * _ROM_BYTES
    image[: len(_CODE)] = _CODE
    after_jump = _RESET_VECTOR + 3
    image[_RESET_VECTOR:after_jump] = b"\xe9" + (-after_jump & 0xFFFF).to_bytes(2, "little")
    return bytes(image)


def command(qemu: str, rom_file: str, *, accelerated: bool = True) -> list[str]:
    """Return how the guest is run; `accelerated=False` runs it by emulation, to test the guest."""
    how = ["-accel", "kvm", "-cpu", "host"] if accelerated else ["-accel", "tcg", "-cpu", "max"]
    return [
        *(qemu, "-M", "microvm,pit=off,pic=off,rtc=off,isa-serial=off", *how),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-m", "16M"),
        *("-bios", rom_file, "-device", "isa-debug-exit,iobase=0xf4,iosize=0x01"),
    ]


async def _try_guest(qemu: str, uid: int, group: int | None) -> str:
    """Return an empty string if the guest came to its end, else what happened.

    A guest that hangs without a word is tried again: the host may have been busy.
    """
    said = _HUNG
    for _ in range(_ATTEMPTS):
        said = await _run_guest(qemu, uid, group)
        if said != _HUNG:
            break
    return said


async def _run_guest(qemu: str, uid: int, group: int | None) -> str:
    with tempfile.NamedTemporaryFile(prefix="godwit-probe-") as file:
        await asyncio.to_thread(file.write, rom())
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        argv = [*_as_user(uid, group), *command(qemu, file.name)]
        timed = ["timeout", "--signal=KILL", str(_DEADLINE_S), *argv]
        try:
            ended = await processes.run(timed, timeout_s=_DEADLINE_S + 10, check=False)
        except processes.ProgramFailed as error:
            return str(error)
    return verdict(ended.exit_code, ended.stderr.decode(errors="replace"))


def verdict(exit_code: int, stderr: str) -> str:
    """Return what an ended attempt means: an empty string for a guest that ran."""
    said = [line.split("qemu-system-x86_64: ")[-1] for line in stderr.splitlines() if line.strip()]
    complaint = next((line for line in said if "warning:" not in line), "")
    if exit_code == _SAID:
        return ""
    if exit_code in (_KILLED, -9):
        return f"a guest stopped: {complaint}" if complaint else _HUNG
    return complaint or f"a guest ended with {exit_code} instead of {_SAID}"


def _as_user(uid: int, group: int | None) -> Sequence[str]:
    if os.geteuid() != 0:
        return ()
    gid = uid if group is None else group
    return ("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups")


def _access(device: Path) -> tuple[int | None, bool] | None:
    """Return the group that may use the device and whether all may; `None` without a device."""
    try:
        found = device.stat()
    except FileNotFoundError:
        return None
    grouped = found.st_mode & stat.S_IWGRP and found.st_gid != 0
    return found.st_gid if grouped else None, bool(found.st_mode & stat.S_IWOTH)
