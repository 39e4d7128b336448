"""A platform as the machine bench uses it: one app, its image, machines started and timed."""

import asyncio
import json
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from godwit.testing import platform as testing
from godwit.testing.platform import ROOT, Platform, eventually
from godwit.wire import channel

APP = "bench"
_SUSPENDING = {"internal_port": 8080, "protocol": "tcp", "ports": [], "autostop": "suspend"}
"""A service whose machine is meant to be suspended: it gets a memory file of its own."""


@dataclass(frozen=True)
class Use:
    """One platform, and the image of the example in its registry."""

    up: Platform
    image: str
    digest: str
    memory_mb: int = 256

    @classmethod
    def of(cls, up: Platform) -> "Use":
        """Deploy the example once, so that its image is at hand."""
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(ROOT / "examples" / "hello", folder, dirs_exist_ok=True)
            options = ("--org", testing.ORGANIZATIONS[0], "--yes", "--offline")
            launch = ("launch", "--name", APP, *options, "--force-host-build", "--no-ha")
            up.godwit(*launch, cwd=Path(folder))
        (machine,) = up.machines(APP)
        use = cls(up, machine["config"]["image"], machine["image_ref"]["digest"])
        use.destroy(machine["id"])
        return use

    def erofs(self, machine: str) -> Path:
        """Return the image file that a machine's root is."""
        del machine
        folder = self.up.data / "store" / "images" / self.digest.replace(":", "-")
        return folder / "image.erofs"

    def ask_for_one(self, *, suspending: bool = False) -> str:
        """Create a machine that does nothing; return its id at once."""
        config: dict[str, Any] = {
            "image": self.image,
            "init": {"exec": ["sleep", "600"]},
            "restart": {"policy": "no"},
        }
        if suspending:
            config["services"] = [_SUSPENDING]
        with self.up.api as api:
            answer = api.post(f"/v1/apps/{APP}/machines", json={"config": config})
            answer.raise_for_status()
            found: str = answer.json()["id"]
            return found

    def create(self, *, suspending: bool = False) -> str:
        """Create a machine; return its id once it runs."""
        machine = self.ask_for_one(suspending=suspending)
        self.wait(machine, "started")
        return machine

    def await_template(self, machine: str) -> None:
        """Return once a start of the machine is warm: its template was made meanwhile."""

        def is_warm() -> bool:
            self.stop(machine)
            self.start(machine)
            return self.status(machine)["start_kind"] == "warm"

        eventually(is_warm, deadline_s=120, pause_s=2)

    def start(self, machine: str, expect: str | None = None) -> float:
        """Start a machine; return the seconds until its process ran."""
        began = time.time()
        self.act(machine, "start")
        self.wait(machine, "started")
        status = self.status(machine)
        self._judge(machine, status, expect)
        return float(status["started_at_ms"]) / 1000 - began

    def start_together(self, machines: list[str]) -> float:
        """Start machines at once; return the seconds until the last one's process ran."""
        began = time.time()
        with ThreadPoolExecutor(len(machines)) as pool:
            list(pool.map(lambda machine: self.act(machine, "start"), machines))
            list(pool.map(lambda machine: self.wait(machine, "started"), machines))
        ends = [float(self.status(machine)["started_at_ms"]) / 1000 for machine in machines]
        return max(ends) - began

    def check(self, machine: str, expect: str | None) -> None:
        """Assert that a machine works, and was started as expected."""
        self._judge(machine, self.status(machine), expect)
        assert self.up.exec(APP, machine, "true")["exit_code"] == 0

    def stop(self, machine: str) -> None:
        """Stop a machine; return once it is down."""
        self.act(machine, "stop")
        self.wait(machine, "stopped")

    def stop_all(self, machines: list[str]) -> None:
        """Stop machines, all at once."""
        with ThreadPoolExecutor(len(machines)) as pool:
            list(pool.map(self.stop, machines))

    def suspend(self, machine: str) -> None:
        """Suspend a machine; return once it is down."""
        self.act(machine, "suspend")
        self.wait(machine, "suspended")

    def suspended_start(self, machine: str) -> float:
        """Suspend a machine; return the seconds until it goes on after being started."""
        began_before = self.status(machine)["started_at_ms"]
        self.suspend(machine)
        seconds = self.start(machine, expect="resumed")
        assert self.status(machine)["started_at_ms"] > began_before
        return seconds

    def act(self, machine: str, verb: str) -> None:
        """Ask for something."""
        with self.up.api as api:
            api.post(f"/v1/apps/{APP}/machines/{machine}/{verb}").raise_for_status()

    def wait(self, machine: str, state: str) -> None:
        """Wait for a state."""
        with self.up.api as api:
            path = f"/v1/apps/{APP}/machines/{machine}/wait"
            api.get(path, params={"state": state, "timeout": 60}).raise_for_status()

    def destroy(self, machine: str) -> None:
        """Destroy a machine; return once it is gone."""
        with self.up.api as api:
            path = f"/v1/apps/{APP}/machines/{machine}"
            api.delete(path, params={"force": "true"}).raise_for_status()
        self.wait(machine, "destroyed")

    def status(self, machine: str) -> dict[str, Any]:
        """Return what the machine's shim knows."""
        return asyncio.run(_status(self.up.run / "m" / f"{machine}.sock"))

    @staticmethod
    def _judge(machine: str, status: dict[str, Any], expect: str | None) -> None:
        if expect is not None:
            assert status["start_kind"] == expect, f"{machine}: {status}"


async def _status(socket: Path) -> dict[str, Any]:
    reader, writer = await asyncio.open_unix_connection(str(socket))
    writer.write(channel.message({"type": "status"}))
    decoder = channel.Decoder()
    try:
        async with asyncio.timeout(10):
            while True:
                for frame in decoder.feed(await reader.read(65_536)):
                    said: dict[str, Any] = json.loads(frame.payload)
                    if said.get("started_at_ms"):
                        return said
    finally:
        writer.close()
