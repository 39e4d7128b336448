"""Bare QEMU: a machine's kernel, memory, disks and arguments without Godwit around them.

The peer of every start that `make bench` measures: no shim, user, cgroup, sandbox or journal;
from exec to the message of the same init that the process runs. A bare guest boots, or is a clone
of the same template that Godwit clones.
"""

import asyncio
import base64
import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from godwit.agent import slots
from godwit.agent.vmm import guestkit, hypervisor, probe, qemu
from godwit.base import settings
from godwit.testing import platform as testing
from godwit.wire import channel, host_rpc
from godwit.wire import guest as wire_guest

PATHS = settings.from_process().paths
_FIRST_TAP = 900_000
_HIGH = 200
"""Descriptors are kept from here on, out of the way of the numbers that the VMM is told."""
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Origin:
    """What bare guests are made from: a machine's image, run spec and disk, copied.

    Attributes:
        folder: On the store's file system, so that copies share blocks as a machine's do.
    """

    vmm: qemu.Qemu
    folder: Path
    image: Path
    scratch: Path
    spec: dict[str, Any]
    memory_mb: int


@dataclass(frozen=True)
class Bare:
    """A running guest."""

    process: subprocess.Popen[bytes]
    took_s: float


@contextlib.contextmanager
def origin(machine: Path, image: Path, memory_mb: int) -> Iterator[Origin]:
    """Yield what a running machine in that directory was made from."""
    kit = asyncio.run(guestkit.ensure(PATHS.cache, PATHS.programs))
    accelerator = asyncio.run(probe.accelerator("auto", uid=2_000_000))
    with tempfile.TemporaryDirectory(dir=machine.parent) as name:
        folder = Path(name)
        scratch = folder / "scratch"
        _copy(machine / "scratch.ext4", scratch)
        spec = _spec(machine.name).model_dump(mode="json")
        yield Origin(qemu.Qemu(kit, accelerator), folder, image, scratch, spec, memory_mb)


def _spec(machine_id: str) -> wire_guest.RunSpec:
    """Return what the machine's own init is told: the real one lies on no disk."""
    addresses = (
        wire_guest.Address(address="fdaa:0:1:1:1:0:5:2", prefix=128),
        wire_guest.Address(address="172.16.0.5", prefix=32),
    )
    return wire_guest.RunSpec(
        machine_id=machine_id,
        hostname=machine_id,
        network=wire_guest.Network(
            addresses=addresses, gateway_v4="172.16.0.1", gateway_v6="fe80::1"
        ),
        hosts=(wire_guest.HostsEntry(address="127.0.0.1", names=("localhost",)),),
        process=wire_guest.Process(
            argv=("sleep", "600"), env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        ),
    )


def boot(given: Origin) -> float:
    """Return the seconds that one guest alone takes to boot."""
    with running(given, 0) as bare:
        return bare.took_s


def boot_at_once(given: Origin, count: int) -> float:
    """Return the seconds until the last of so many guests, begun together, runs its process."""
    with contextlib.ExitStack() as made:
        # Made before the clock begins, and by one thread: what another thread forks holds a tap
        # that is just being made open until it runs its own program, and nobody else may open it.
        guests = [_guest(given, number, None, made) for number in range(count)]

        def one(guest: hypervisor.Guest) -> float:
            with _running(given, guest):
                return time.time()

        began = time.time()
        with ThreadPoolExecutor(count) as pool:
            return max(pool.map(one, guests)) - began


@contextlib.contextmanager
def running(
    given: Origin, number: int, snapshot: hypervisor.Snapshot | None = None
) -> Iterator[Bare]:
    """Yield a guest whose process runs: booted, or a clone of the snapshot; end it afterwards."""
    with (
        contextlib.ExitStack() as made,
        _running(given, _guest(given, number, snapshot, made)) as bare,
    ):
        yield bare


@contextlib.contextmanager
def _running(given: Origin, guest: hypervisor.Guest) -> Iterator[Bare]:
    with contextlib.ExitStack() as stack:
        began = time.time()
        with given.vmm.launch(guest) as launch:
            process = _spawn(launch, stack)
        asyncio.run(given.vmm.begin(guest))
        _speak(guest.channel, given.spec, wake=guest.snapshot is not None)
        yield Bare(process, time.time() - began)


def _guest(
    given: Origin, number: int, snapshot: hypervisor.Snapshot | None, stack: contextlib.ExitStack
) -> hypervisor.Guest:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    stack.callback(shutil.rmtree, folder)
    scratch = given.folder / f"scratch{number}"
    _copy(given.scratch, scratch)
    stack.callback(scratch.unlink)
    slot = _FIRST_TAP + number
    return hypervisor.Guest(
        name=f"bare{number}",
        slot=slot,
        uid=os.getuid(),
        resources=host_rpc.Resources(memory_mb=given.memory_mb),
        channel=folder / "channel",
        monitor=folder / "monitor",
        devices=hypervisor.Devices(given.image, scratch, _tap(slot, stack)),
        snapshot=snapshot,
    )


def _tap(slot: int, stack: contextlib.ExitStack) -> str:
    name = f"gw{slot}"
    slots.create_tap(name, os.getuid())
    stack.callback(testing.sh, "ip", "link", "del", name)
    testing.sh("ip", "link", "set", name, "up")
    return name


def _spawn(launch: hypervisor.Launch, stack: contextlib.ExitStack) -> "subprocess.Popen[bytes]":
    argv = list(launch.argv)
    sandbox = argv.index("-sandbox")
    del argv[sandbox : sandbox + 2]
    high = {
        theirs: fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, _HIGH)
        for theirs, ours in launch.descriptors.items()
    }

    def place() -> None:
        for theirs, ours in high.items():
            os.dup2(ours, theirs)

    process = subprocess.Popen(
        argv,
        # `pass_fds` would want the numbers open here, where other threads open and close them;
        # everything else closes by itself.
        close_fds=False,
        preexec_fn=place,  # noqa: PLW1509 (it only moves descriptors)
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    for ours in high.values():
        os.close(ours)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def _speak(path: Path, spec: dict[str, Any], *, wake: bool) -> None:
    """Do as a shim does: wake a copy, send the run spec; return when the process runs."""
    peer = socket.socket(socket.AF_UNIX)
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            peer.connect(str(path))
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.005)
    peer.settimeout(_PATIENCE_S)
    run = channel.message({"type": "run", "spec": spec})
    with peer:
        if wake:
            entropy = base64.b64encode(os.urandom(64)).decode()
            told = {"type": "wake", "clock_unix_ns": time.time_ns(), "entropy_base64": entropy}
            peer.sendall(channel.message(told) + run)
        for kind in _said(peer):
            if kind == "hello" and not wake:
                peer.sendall(run)
            elif kind == "started":
                return


def _said(peer: socket.socket) -> Iterator[str]:
    """Yield the types of the guest's messages."""
    decoder = channel.Decoder()
    while received := peer.recv(65_536):
        for frame in decoder.feed(received):
            if frame.kind is channel.Kind.MESSAGE:
                yield json.loads(frame.payload)["type"]


def _copy(source: Path, target: Path) -> None:
    testing.sh("cp", "--reflink=auto", "--sparse=always", str(source), str(target))
