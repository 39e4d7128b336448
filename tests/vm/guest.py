"""One machine behind the real shim, in a folder of its own: what test_guest.py drives.

The VMM's command line is this file's own, so that a fault of the driver does not hide a fault of
the guest. Its disks are made from a small folder of busybox links.
"""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from godwit.agent.vmm.guestkit import GuestKit
from godwit.wire import channel, guest, shim

BOOT_S = 240.0
ANSWER_S = 120.0
APPLETS = (
    *("sh", "cat", "echo", "sleep", "id", "env", "ps", "kill", "ls", "yes", "head", "tail", "dd"),
    *("hostname", "ip", "mount", "wc", "true", "false", "stat", "stty", "touch", "seq", "ulimit"),
)


def make_image(folder: Path, more: Mapping[str, str] = MappingProxyType({})) -> Path:
    """Return an EROFS image of busybox, a few users and a few mistakes, and more texts by path."""
    root = folder / "rootfs"
    for name in ("bin", "etc", "srv", "tmp", "run/app", "home/app"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    os.chown(root / "run/app", 1000, 1001)
    os.chown(root / "home/app", 1000, 1001)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin" / "busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n"
    )
    (root / "etc/group").write_text("root:x:0:\napp:x:1001:\nwww-data:x:33:app\n")
    (root / "etc/resolv.conf").symlink_to("/run/systemd/resolve/stub-resolv.conf")
    (root / "srv/plain").write_text("not a program\n")
    (root / "srv/dos").write_text("#!/bin/sh\r\necho\r\n")
    (root / "srv/dos").chmod(0o755)
    for name, text in more.items():
        (root / name).write_text(text + "\n")
    image = folder / "root.erofs"
    subprocess.run(["mkfs.erofs", image, root], check=True, timeout=60, capture_output=True)
    return image


def make_disk(path: Path, size_mb: int) -> Path:
    """Return an empty ext4 disk."""
    with path.open("wb") as file:
        file.truncate(size_mb << 20)
    command = ["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,nodiscard", path]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    return path


class Machine:
    """A machine's folder, its shim's process, and connections to it."""

    def __init__(self, folder: Path, kit: GuestKit, image: Path, shim_program: Path) -> None:
        self.folder = folder
        self.kit = kit
        self.image = image
        self.socket = folder / "shim.sock"
        self.memory_mb = 192
        self.started_s = 0.0
        self._shim_program = shim_program
        self._process: asyncio.subprocess.Process | None = None
        self._clients: list[Client] = []

    def spec(self, *argv: str, **process: Any) -> guest.RunSpec:
        """Return a run spec for one command, with everything else as usual."""
        return guest.RunSpec(
            machine_id="148ed193b95948",
            hostname="148ed193b95948",
            entropy_base64="AAECAwQFBgc=",
            hosts=(
                guest.HostsEntry(address="127.0.0.1", names=("localhost",)),
                guest.HostsEntry(address="fdaa::2", names=("148ed193b95948", "fly-local-6pn")),
            ),
            process=guest.Process(argv=argv, **process),
        )

    def vmm(self, *, disks: dict[str, Path], network: bool) -> tuple[str, ...]:
        """Return a QEMU command line with these disks, by serial."""
        arguments = f"console=ttyS0 reboot=t panic=-1 quiet tsc_early_khz={self.kit.tsc_khz}"
        chardev = f"socket,id=control,path={self.folder / 'channel.sock'},server=on,wait=off"
        port = "virtserialport,chardev=control,name=godwit.control"
        argv = [
            *("/usr/bin/qemu-system-x86_64", "-accel", "tcg", "-cpu", "max,la57=off"),
            *("-M", "microvm,acpi=on,rtc=on,isa-serial=on,pit=on,pic=on"),
            *("-m", f"{self.memory_mb}M", "-nodefaults", "-no-user-config", "-no-reboot"),
            *("-display", "none", "-serial", "stdio"),
            *("-kernel", str(self.kit.kernel), "-initrd", str(self.kit.initramfs)),
            *("-append", arguments, "-chardev", chardev),
            *("-device", "virtio-serial-device", "-device", port),
        ]
        for serial, path in disks.items():
            readonly = ",readonly=on" if serial == "root" else ""
            argv += ["-drive", f"if=none,id={serial},file={path},format=raw{readonly}"]
            argv += ["-device", f"virtio-blk-device,drive={serial},serial={serial}"]
        if network:
            argv += ["-netdev", "user,id=net", "-device", "virtio-net-device,netdev=net"]
        return tuple(argv)

    async def start(
        self,
        spec: guest.RunSpec | None,
        *,
        network: bool = False,
        volumes: tuple[str, ...] = (),
        log: shim.LogLimits | None = None,
    ) -> None:
        """Start the shim; the guest boots."""
        disks = {"root": self.image, "scratch": make_disk(self.folder / "scratch.ext4", 64)}
        for name in volumes:
            path = self.folder / f"{name}.ext4"
            disks[name] = path if path.exists() else make_disk(path, 16)
        if spec is not None:
            (self.folder / "run.json").write_text(spec.model_dump_json())
        config = shim.ShimConfig(
            machine_id="148ed193b95948",
            instance_id="01K8RS0000000000000000000A",
            org_id="org_test",
            directory=str(self.folder),
            socket=str(self.socket),
            channel_socket=str(self.folder / "channel.sock"),
            run_spec=None if spec is None else str(self.folder / "run.json"),
            vmm=shim.Vmm(argv=self.vmm(disks=disks, network=network), uid=0, gid=0),
            log=log or shim.LogLimits(),
        )
        path = self.folder / "shim.json"
        path.write_text(config.model_dump_json())
        self.started_s = time.monotonic()
        self._process = await asyncio.create_subprocess_exec(
            str(self._shim_program), "--config", str(path), start_new_session=True
        )

    @property
    def pid(self) -> int:
        """Return the shim's pid."""
        assert self._process is not None
        return self._process.pid

    async def connect(self) -> "Client":
        """Return a connection, once the shim listens."""
        async with asyncio.timeout(ANSWER_S):
            while True:
                with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                    made = Client(*await asyncio.open_unix_connection(str(self.socket)))
                    self._clients.append(made)
                    return made
                await asyncio.sleep(0.02)

    async def running(self) -> "Client":
        """Return a connection, once the main process runs."""
        client = await self.connect()
        client.send({"type": "subscribe"})
        status = await client.status(lambda s: s.phase in ("running", "exited"), within_s=BOOT_S)
        assert status.phase == "running", status
        return client

    async def ended(self) -> shim.ExitRecord:
        """Return how it ended, once the shim has ended too."""
        assert self._process is not None
        async with asyncio.timeout(BOOT_S):
            assert await self._process.wait() == 0
        assert not self.socket.exists()
        return shim.ExitRecord.model_validate_json((self.folder / "exit.json").read_text())

    async def run(self, spec: guest.RunSpec, **options: Any) -> shim.ExitRecord:
        """Boot, wait for the end, return how it ended."""
        await self.start(spec, **options)
        return await self.ended()

    def lines(self, *sources: str) -> list[str]:
        """Return the text of the log's lines from these sources."""
        files = sorted(
            (self.folder / "logs").glob("*.jsonl"),
            key=lambda path: (
                path.stem == "current",
                -int(path.stem) if path.stem.isdigit() else 0,
            ),
        )
        parsed = [
            shim.LogLine.model_validate_json(line)
            for file in files
            for line in file.read_text().splitlines()
        ]
        times = [line.t for line in parsed]
        assert times == sorted(set(times))
        return [line.m for line in parsed if line.s in (sources or ("stdout",))]

    async def kill(self) -> None:
        """End the shim and with it the VMM, if they still run."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def close(self) -> None:
        """End everything this object started."""
        await self.kill()
        for client in self._clients:
            await client.close()


class Client:
    """One connection to a shim; messages and streams are kept until asked for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = channel.Decoder()
        self.messages: list[dict[str, Any]] = []
        self.output: dict[int, bytearray] = {}
        self.grants = True
        self.credit: dict[int, int] = {}

    def send(self, body: dict[str, Any]) -> None:
        self._writer.write(channel.message(body))

    def frame(self, kind: channel.Kind, stream: int, payload: bytes = b"") -> None:
        self._writer.write(channel.encode(channel.Frame(kind, stream, payload)))

    async def message(
        self, wanted: Callable[[dict[str, Any]], bool], *, within_s: float = ANSWER_S
    ) -> dict[str, Any]:
        """Return the first message that fits and forget those before it."""
        async with asyncio.timeout(within_s):
            while True:
                while self.messages:
                    body = self.messages.pop(0)
                    if wanted(body):
                        return body
                await self._take()

    async def of_type(self, *types: str, within_s: float = ANSWER_S) -> dict[str, Any]:
        """Return the first message of these types."""
        return await self.message(lambda body: body["type"] in types, within_s=within_s)

    async def status(
        self, wanted: Callable[[shim.Status], bool], *, within_s: float = ANSWER_S
    ) -> shim.Status:
        """Return the first status that fits."""

        def fits(body: dict[str, Any]) -> bool:
            return body["type"] == "status" and wanted(shim.Status.model_validate(body))

        return shim.Status.model_validate(await self.message(fits, within_s=within_s))

    async def until(self, stream: int, text: bytes) -> bytes:
        """Return a stream's output once the text is in it."""
        async with asyncio.timeout(ANSWER_S):
            while text not in self.output.get(stream, b""):
                await self._take()
        return bytes(self.output[stream])

    async def exec(
        self, stream: int, *argv: str, stdin: bytes | None = b"", **options: Any
    ) -> tuple[dict[str, Any], bytes]:
        """Run a command to its end; return the last message about it and what it wrote."""
        self.begin(stream, *argv, **options)
        if stdin is not None:
            for start in range(0, len(stdin), 65_536):
                self.frame(channel.Kind.STDIN, stream, stdin[start : start + 65_536])
            self.frame(channel.Kind.EOF, stream)
        ended = await self.of_type("exec_exited", "exec_failed", "error")
        return ended, bytes(self.output.get(stream, b""))

    def begin(self, stream: int, *argv: str, **options: Any) -> None:
        """Ask for a command."""
        body = {"type": "exec", "stream": stream, "argv": argv, "env": {}, "user": ""}
        self.send({**body, "working_directory": "/", "tty": None, **options})

    async def _take(self) -> None:
        data = await self._reader.read(65_536)
        if not data:
            raise ConnectionResetError("the shim closed the connection")
        for frame in self._decoder.feed(data):
            if frame.kind is channel.Kind.MESSAGE:
                self.messages.append(json.loads(frame.payload))
            elif frame.kind in (channel.Kind.STDOUT, channel.Kind.STDERR):
                self.output.setdefault(frame.stream, bytearray()).extend(frame.payload)
                if self.grants:
                    grant = len(frame.payload).to_bytes(4, "big")
                    self.frame(channel.Kind.CREDIT, frame.stream, grant)
            elif frame.kind is channel.Kind.CREDIT:
                granted = int.from_bytes(frame.payload, "big")
                self.credit[frame.stream] = self.credit.get(frame.stream, 0) + granted

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


@contextlib.asynccontextmanager
async def machine(
    folder: Path, kit: GuestKit, image: Path, shim_program: Path
) -> AsyncIterator[Machine]:
    """Yield a machine that has not been started; nothing of it is left afterwards."""
    made = Machine(folder, kit, image, shim_program)
    try:
        yield made
    finally:
        await made.close()
