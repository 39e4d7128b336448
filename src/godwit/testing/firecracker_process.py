"""`jailer` and `firecracker` as programs: the fake API in a real jail, with a guest of few words.

A test writes two scripts that call `main`, puts them on a PATH and has the real driver and the
real shim work with them. The jailer does what the real one documents, in its order: checks what
it was given, copies the program, changes root, makes devices and refuses those that are there
already, drops its rights; then the same process goes on as Firecracker. The guest listens on its
vsock port as init does, and is part of a snapshot.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from godwit.base import tasks
from godwit.testing.firecracker import FakeFirecracker
from godwit.testing.firecracker_bodies import Refusal
from godwit.wire import channel

VERSION: Final = "1.16.1"
SNAPSHOT_VERSION: Final = "10.0.0"
_PORT: Final = 1024
_DEVICES: Final = (("/dev/net/tun", 10, 200), ("/dev/kvm", 10, 232), ("/dev/urandom", 1, 9))
_FAREWELL_S: Final = 3.0


def main(argv: Sequence[str]) -> int:
    """Be the program that the script is named after; return its exit code."""
    name = Path(argv[0]).name
    if "--version" in argv[1:2]:
        print(f"{name.capitalize()} v{VERSION}\n")  # noqa: T201 - this is the program's output
        return 0
    if "--snapshot-version" in argv[1:2]:
        print(f"v{SNAPSHOT_VERSION}")  # noqa: T201
        return 0
    try:
        return _jail(argv[1:]) if name == "jailer" else _firecracker(argv[1:], Path("/"))
    except OSError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        return 1


def _jail(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("--id", "--exec-file", "--uid", "--gid", "--chroot-base-dir"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--resource-limit", action="append", default=[])
    at = words.index("--")
    given = parser.parse_args(words[:at])
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", given.id):
        print(f"Invalid instance ID: {given.id}", file=sys.stderr)  # noqa: T201
        return 1
    program = Path(given.exec_file).resolve(strict=True)
    root = Path(given.chroot_base_dir).resolve(strict=True) / program.name / given.id / "root"
    root.mkdir(parents=True, exist_ok=True)
    uid, gid = int(given.uid), int(given.gid)
    shutil.copyfile(program, root / program.name)
    os.chroot(root)
    os.chdir("/")
    _make_devices(uid, gid)
    os.setgid(gid)
    os.setuid(uid)
    os.umask(0o022)
    return _firecracker(["--id", given.id, *words[at + 1 :]], Path("/"))


def _make_devices(uid: int, gid: int) -> None:
    for folder in ("/", "/dev", "/dev/net", "/run"):
        Path(folder).mkdir(exist_ok=True)
        Path(folder).chmod(0o700)
        os.chown(folder, uid, gid)
    for path, major, minor in _DEVICES:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(major, minor))
        os.chown(path, uid, gid)


def _firecracker(words: Sequence[str], root: Path) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--id", default="anonymous-instance")
    parser.add_argument("--api-sock", default="/run/firecracker.socket")
    parser.add_argument("--config-file")
    parser.add_argument("--level")
    given = parser.parse_args(words)
    vm = GuestFirecracker(root, name=given.id, version=VERSION, api=given.api_sock)
    return asyncio.run(_serve(vm, given.config_file))


async def _serve(vm: "GuestFirecracker", config: str | None) -> int:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, vm.end)
    await vm.listen()
    if config is not None:
        try:
            vm.boot(json.loads((vm.root / config.lstrip("/")).read_bytes()))
        except Refusal as refusal:
            print(f"Error: {refusal}", file=sys.stderr)  # noqa: T201
            return 1
    await vm.ended.wait()
    return 0 if vm.state != "Not started" else 1


class GuestFirecracker(FakeFirecracker):
    """A Firecracker with a guest.

    Attributes:
        guest: What the guest remembers, and a snapshot with it.
    """

    def __init__(self, root: Path, *, name: str, version: str, api: str) -> None:
        super().__init__(root, name=name, version=version)
        self._api = root / api.lstrip("/")
        self.guest: dict[str, Any] = {"asleep": False, "argv": None, "entropy": []}
        self._runs = asyncio.Event()
        self._open = False
        self._tasks = tasks.Tasks("guest")
        self.balloon_drives = False
        self.on_change = self._changed

    @property
    def socket(self) -> Path:
        """Return where its API is."""
        return self._api

    def guest_state(self) -> dict[str, Any]:
        """Return what the guest remembers."""
        return {"guest": self.guest}

    def restore_guest(self, state: dict[str, Any]) -> None:
        """Take a saved guest's memory over."""
        self.guest = state["guest"]
        self.balloon_drives = self.guest["argv"] is not None

    def _changed(self) -> None:
        if self.state != "Running":
            self._runs.clear()
            return
        self._runs.set()
        if not self._open:
            self._open = True
            print("fake console: the guest runs", flush=True)  # noqa: T201
            self._tasks.spawn(self._listen_on_vsock(), name="vsock")

    async def _listen_on_vsock(self) -> None:
        path = self.root / self.told["vsock"]["uds_path"].lstrip("/")
        server = await asyncio.start_unix_server(self._connected, str(path))
        await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            asked = await reader.readline()
            await self._runs.wait()
            if asked == f"CONNECT {_PORT}\n".encode():
                writer.write(b"OK 1073741824\n")
                await _Conversation(self, reader, writer).run()
        writer.close()


class _Conversation:
    """The guest's init on one connection."""

    def __init__(
        self, vm: GuestFirecracker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._vm = vm
        self._reader = reader
        self._writer = writer

    async def run(self) -> None:
        if not self._vm.guest["asleep"]:
            self._greet()
        decoder = channel.Decoder()
        while data := await self._reader.read(65_536):
            for frame in decoder.feed(data):
                if frame.kind is channel.Kind.MESSAGE:
                    self._hear(json.loads(frame.payload))
            await self._writer.drain()

    def _tell(self, **body: Any) -> None:
        self._writer.write(channel.message(body))

    def _greet(self) -> None:
        self._tell(type="hello", v=1, init_version="0.1.0", kernel="fake", boot_id="")
        if self._vm.guest["argv"] is not None:
            self._tell(type="started", pid=7, at_ms=1, boot_id="fake-boot")

    def _hear(self, body: dict[str, Any]) -> None:
        handler = getattr(self, f"_on_{body['type']}", None)
        if handler is not None:
            handler(body)

    def _on_run(self, body: dict[str, Any]) -> None:
        guest = self._vm.guest
        if guest["argv"] is None:
            argv = guest["argv"] = body["spec"]["process"]["argv"]
            guest["entropy"].append(body["spec"]["entropy_base64"])
            self._vm.balloon_drives = True
            self._tell(type="started", pid=7, at_ms=1, boot_id="fake-boot")
            self._say(0, f"running {' '.join(argv)}\n")

    def _on_sleep(self, _: dict[str, Any]) -> None:
        self._vm.guest["asleep"] = True
        self._tell(type="asleep")

    def _on_wake(self, body: dict[str, Any]) -> None:
        self._vm.guest["asleep"] = False
        self._vm.guest["entropy"].append(body["entropy_base64"])
        self._greet()

    def _on_ping(self, body: dict[str, Any]) -> None:
        self._tell(type="pong", id=body["id"])

    def _on_stop(self, _: dict[str, Any]) -> None:
        self._tell(type="exited", exit_code=0, signal=None, oom_killed=False)
        asyncio.get_running_loop().call_later(_FAREWELL_S / 10, self._vm.end)

    def _on_exec(self, body: dict[str, Any]) -> None:
        """Answer `told`: what is behind the guest's devices, and what it remembers."""
        stream = body["stream"]
        self._tell(type="exec_started", stream=stream, pid=8)
        told = self._vm.told
        sizes = {
            name: (self._vm.root / drive["path_on_host"].lstrip("/")).stat().st_size
            for name, drive in told["drives"].items()
        }
        tap = told["network-interfaces"]["net"]["host_dev_name"]
        answer = {
            "uid": os.getuid(),
            "files": sorted(path.name for path in self._vm.root.iterdir()),
            "disks": sizes,
            "tap": tap,
            **self._vm.guest,
        }
        self._say(stream, json.dumps(answer))
        self._tell(type="exec_exited", stream=stream, exit_code=0, signal=None)

    def _say(self, stream: int, text: str) -> None:
        frame = channel.Frame(channel.Kind.STDOUT, stream, text.encode())
        self._writer.write(channel.encode(frame))
