"""Machines: a cold start beside a bare QEMU boot, many boots, image to EROFS, resident sizes.

`machine.cold`: from the API's answer to `start` being asked, to the guest's process running, as
the shim saw it; beside it, in the same rounds, a bare QEMU with the same kernel, initramfs, disks
and arguments but without Godwit around it, from exec to the same message of the same init.
"""

import asyncio
import concurrent.futures
import contextlib
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from godwit.agent.vmm import guestkit, qemu
from godwit.base import settings
from godwit.testing import platform as testing
from godwit.testing.platform import ROOT, Platform, eventually
from godwit.wire import channel
from tools import bench_images
from tools.bench import Row, row

PATHS = settings.from_process().paths
ROUNDS = 9
BOOTS = 50
_TUNSETIFF = 0x400454CA
_TAP_FLAGS = 0x0002 | 0x1000 | 0x4000  # IFF_TAP | IFF_NO_PI | IFF_VNET_HDR


def rows() -> list[Row]:
    """Return every row of the area."""
    with testing.world(), testing.platform() as up:
        image = _image(up)
        return [
            *_cold(up, image),
            _many(up, image),
            *_resident(up, image),
            *bench_images.rows(),
        ]


def _image(up: Platform) -> str:
    """Deploy the example once, so that its image is in the platform's registry."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "examples" / "hello", folder, dirs_exist_ok=True)
        up.godwit(
            "launch",
            "--name",
            "bench",
            "--org",
            testing.ORGANIZATIONS[0],
            "--yes",
            "--offline",
            "--force-host-build",
            cwd=Path(folder),
        )
    (machine,) = up.machines("bench")
    up.godwit("machine", "destroy", machine["id"], "--force", "--yes", "-a", "bench")
    found: str = machine["config"]["image"]
    return found


def _create(up: Platform, image: str) -> dict[str, Any]:
    config = {"image": image, "init": {"exec": ["sleep", "600"]}, "restart": {"policy": "no"}}
    with up.api as api:
        answer = api.post("/v1/apps/bench/machines", json={"config": config})
        answer.raise_for_status()
        machine: dict[str, Any] = answer.json()
        _wait(up, machine["id"], "started")
        return machine


def _wait(up: Platform, machine: str, state: str) -> None:
    with up.api as api:
        path = f"/v1/apps/bench/machines/{machine}/wait"
        api.get(path, params={"state": state, "timeout": 60}).raise_for_status()


def _act(up: Platform, machine: str, verb: str) -> None:
    with up.api as api:
        api.post(f"/v1/apps/bench/machines/{machine}/{verb}").raise_for_status()


def _destroy(up: Platform, machine: str) -> None:
    with up.api as api:
        path = f"/v1/apps/bench/machines/{machine}"
        api.delete(path, params={"force": "true"}).raise_for_status()


def _started_at(up: Platform, machine: str) -> float:
    """Return the second in which the shim heard that the guest's process runs."""

    async def ask() -> float:
        reader, writer = await asyncio.open_unix_connection(str(up.run / "m" / f"{machine}.sock"))
        writer.write(channel.message({"type": "status"}))
        decoder = channel.Decoder()
        try:
            async with asyncio.timeout(10):
                while True:
                    for frame in decoder.feed(await reader.read(65_536)):
                        said = json.loads(frame.payload)
                        if said.get("started_at_ms"):
                            return float(said["started_at_ms"]) / 1000
        finally:
            writer.close()

    return asyncio.run(ask())


def _cold(up: Platform, image: str) -> list[Row]:
    created = _create(up, image)
    machine = created["id"]
    digest = created["image_ref"]["digest"].replace(":", "-")
    erofs = up.data / "store" / "images" / digest / "image.erofs"
    ours, bare = [], []
    for _ in range(ROUNDS):
        directory = up.data / "store" / "machines" / machine
        with _copied(directory, erofs) as boot:
            _act(up, machine, "stop")
            _wait(up, machine, "stopped")
            bare.append(_bare_boot(boot))
        began = time.time()
        _act(up, machine, "start")
        _wait(up, machine, "started")
        ours.append(_started_at(up, machine) - began)
    _destroy(up, machine)
    return [
        row(
            "machine.cold",
            "start to process running",
            "s",
            ours,
            "bare QEMU",
            bare,
            must=1.25,
            aim=1.10,
        )
    ]


@dataclass(frozen=True)
class Boot:
    """What a machine boots from: its VMM's argv, run spec and open files, the disk copied."""

    argv: list[str]
    spec: dict[str, Any]
    files: dict[int, str]


@contextlib.contextmanager
def _copied(directory: Path, image: Path) -> Iterator[Boot]:
    """Yield what a running machine was booted from; its own files go when it stops."""
    config = json.loads((directory / "shim.json").read_text())
    spec = json.loads((directory / "run.json").read_text())
    given = qemu.Descriptors()
    kit = asyncio.run(guestkit.ensure(PATHS.cache, PATHS.programs))
    files = {given.kernel: str(kit.kernel), given.initramfs: str(kit.initramfs)}
    files[given.image] = str(image)
    with tempfile.TemporaryDirectory(dir=directory.parent) as folder:
        scratch = f"{folder}/scratch"
        source = directory / "scratch.ext4"
        testing.sh("cp", "--reflink=auto", "--sparse=always", str(source), scratch)
        yield Boot(config["vmm"]["argv"], spec, {**files, given.scratch: scratch})


def _bare_boot(boot: Boot) -> float:
    """Boot the same argv without shim, user, cgroup or sandbox; return the seconds."""
    given = qemu.Descriptors()
    argv = list(boot.argv)
    sandbox = argv.index("-sandbox")
    del argv[sandbox : sandbox + 2]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = f"{folder}/channel"
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(1)
        opened = {given.tap: stack.enter_context(_tap()), given.channel: listener.fileno()}
        for number, name in boot.files.items():
            descriptor = os.open(name, os.O_RDWR if number == given.scratch else os.O_RDONLY)
            stack.callback(os.close, descriptor)
            opened[number] = descriptor
        # Out of the way of the numbers that the VMM is told.
        high = {number: fcntl.fcntl(fd, fcntl.F_DUPFD, 200) for number, fd in opened.items()}
        for descriptor in high.values():
            stack.callback(os.close, descriptor)

        def place() -> None:
            for number, descriptor in high.items():
                os.dup2(descriptor, number)

        began = time.time()
        process = subprocess.Popen(
            argv,
            pass_fds=tuple(high),
            preexec_fn=place,  # noqa: PLW1509 (no other thread runs here)
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            _speak(path, boot.spec)
            return time.time() - began
        finally:
            process.kill()
            process.wait()


def _speak(path: str, spec: dict[str, Any]) -> None:
    """Send the run spec at hello; return when the process runs."""
    peer = socket.socket(socket.AF_UNIX)
    deadline = time.monotonic() + 60
    while True:
        try:
            peer.connect(path)
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.005)
    peer.settimeout(60)
    decoder = channel.Decoder()
    with peer:
        while True:
            for frame in decoder.feed(peer.recv(65_536)):
                if frame.kind is not channel.Kind.MESSAGE:
                    continue
                said = json.loads(frame.payload)
                if said["type"] == "hello":
                    peer.sendall(channel.message({"type": "run", "spec": spec}))
                elif said["type"] == "started":
                    return


@contextlib.contextmanager
def _tap() -> Iterator[int]:
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", b"bench0", _TAP_FLAGS))
        subprocess.run(["ip", "link", "set", "bench0", "up"], check=True, timeout=10)
        yield descriptor
    finally:
        os.close(descriptor)


def _many(up: Platform, image: str) -> Row:
    """Boot fifty machines, two at once; count those that did not start."""

    def boot(_: int) -> int:
        try:
            machine = _create(up, image)["id"]
            code = up.exec("bench", machine, "true")["exit_code"]
            _destroy(up, machine)
        except (OSError, AssertionError, RuntimeError, ValueError) as error:
            print(f"a boot failed: {error}", flush=True)
            return 1
        return int(code)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        failed = sum(pool.map(boot, range(BOOTS)))
    return row(f"machine.{BOOTS}_boots", "failed, two at once", "boots", [failed], must=0)


def _resident(up: Platform, image: str) -> list[Row]:
    machine = _create(up, image)["id"]
    shim = _shim_pid(machine)
    status = eventually(lambda: _status(Path(f"/proc/{shim}/status").read_text()))
    inside = up.exec("bench", machine, "cat", "/proc/1/status")["stdout"]
    _destroy(up, machine)
    return [
        row("machine.shim_resident", "VmRSS", "MB", [status / 1024], aim=3.0),
        row("machine.init_resident", "VmRSS", "MB", [_status(inside) / 1024], aim=1.5),
    ]


def _shim_pid(machine: str) -> int:
    found = testing.sh("pgrep", "-f", f"godwit-shim --config .*{machine}").stdout.split()
    return int(found[0])


def _status(text: str) -> float:
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS"))
