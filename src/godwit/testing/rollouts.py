"""Deploys of an app that is under load: what the end-to-end tests and `make bench` share.

An app of its own is made from an image that has Python; what it runs is `tests/apps/steady`, put
into its machines as a file, so that nothing has to be built.
"""

import asyncio
import base64
import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from godwit.testing.load import Load, Shape, Tally, running
from godwit.testing.platform import ROOT, Platform

PROGRAM = ROOT / "tests" / "apps" / "steady" / "steady.py"
_DEPLOY_S = 600.0


@dataclass(frozen=True)
class Steady:
    """The app, and what it is made of."""

    up: Platform
    name: str
    image: str

    @classmethod
    def make(cls, up: Platform, name: str, org: str, image: str, machines: int) -> "Steady":
        """Create the app and deploy so many machines of it."""
        up.godwit("apps", "create", name, "--org", org)
        made = cls(up, name, image)
        made.deploy("rolling", version=1)
        if machines != len(made.ids()):
            up.godwit("scale", "count", str(machines), "--app", name, "--yes")
            made.await_healthy(machines)
        return made

    def ids(self) -> frozenset[str]:
        """Return the machines that are not destroyed."""
        return frozenset(one["id"] for one in self.up.machines(self.name))

    def await_healthy(self, machines: int, within_s: float = 180.0) -> None:
        """Return once so many machines pass their checks."""
        ends = time.monotonic() + within_s
        while time.monotonic() < ends:
            checks = [one["checks"] for one in self.up.machines(self.name)]
            if sum(_passing(each) for each in checks) == machines:
                return
            time.sleep(0.5)
        raise AssertionError(f"not {machines} machines are well: {checks}")

    def deploy(self, strategy: str, *, version: int) -> float:
        """Deploy once; return the seconds it took."""
        body = {"image": self.image, "definition": self.definition(strategy, version)}
        began = time.monotonic()
        with self.up.api as api:
            path = f"/x/v1/apps/{self.name}/deploys"
            answer = api.post(path, json=body)
            assert answer.status_code == 201, answer.text
            one = f"{path}/{answer.json()['id']}"
            seen, deploy = 0, answer.json()
            while deploy["status"] == "running":
                assert time.monotonic() - began < _DEPLOY_S, deploy
                deploy = api.get(one, params={"after": seen, "wait_s": 20}).json()
                seen = max((event["number"] for event in deploy["events"]), default=seen)
            events = api.get(one).json()["events"]
        assert deploy["status"] == "complete", [event["message"] for event in events]
        warnings = [event["message"] for event in events if event["level"] == "warning"]
        assert not warnings, warnings
        return time.monotonic() - began

    def definition(self, strategy: str, version: int) -> dict[str, Any]:
        """Return fly.toml as JSON."""
        check = {"path": "/", "interval": "2s", "timeout": "5s", "grace_period": "1s"}
        return {
            "app": self.name,
            "kill_signal": "SIGINT",
            "kill_timeout": "10s",
            "env": {"VERSION": str(version)},
            "experimental": {"exec": ["python3", "/srv/steady.py"]},
            "files": [
                {
                    "guest_path": "/srv/steady.py",
                    "raw_value": base64.b64encode(PROGRAM.read_bytes()).decode(),
                }
            ],
            "http_service": {
                "internal_port": 8080,
                "concurrency": {"type": "requests", "soft_limit": 100},
                "checks": [check],
            },
            "deploy": {"strategy": strategy, "max_unavailable": 1},
            "vm": [{"memory": "256mb"}],
        }

    @contextlib.contextmanager
    def under_load(self, shape: Shape) -> Iterator[Tally]:
        """Ask steadily meanwhile; the tally is whole at the end."""
        port = int(self.up.settings.listen.edge.rpartition(":")[2])
        load = Load(("127.0.0.1", port), f"{self.name}.godwit.localhost", shape)
        with (
            ThreadPoolExecutor(1, "load") as thread,
            running(load, lambda main: thread.submit(lambda: asyncio.run(main()))) as tally,
        ):
            yield tally


def _passing(checks: list[dict[str, Any]]) -> bool:
    return bool(checks) and all(one["status"] == "passing" for one in checks)
