"""An app in every region of a cluster, clients that keep asking for it, and what must be true.

The app is `tests/apps/steady`, one machine in each region. `Steady.problems` compares what the
cluster's owners, its books, its names and its edges say of the app, and what really runs.
"""

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from godwit.agent.vmm import running as vmms
from godwit.base import errors
from godwit.testing.load import Load, Shape, Tally, running
from godwit.testing.platform import eventually
from lab.laboratory import Lab
from lab.node import Host

APPS = Path(__file__).resolve().parents[1] / "apps"
SHAPE = Shape(clients=1, pause_s=0.5, slow=1, slow_s=2.0, echo_every_s=0.5)
_CONFIG = """
app = "{app}"
primary_region = "{region}"
kill_signal = "SIGINT"
kill_timeout = "10s"

[http_service]
internal_port = 8080
auto_stop_machines = "off"
auto_start_machines = true

[[http_service.checks]]
path = "/"
interval = "2s"
timeout = "5s"
grace_period = "1s"

[[vm]]
memory = "256mb"
"""
_DOCKERFILE = """
FROM python:3.11-slim
COPY steady.py /srv/
EXPOSE 8080
CMD ["python3", "/srv/steady.py"]
"""


@dataclass(frozen=True)
class Steady:
    """The app in a lab.

    Attributes:
        founder: The host whose operator does everything.
        machines: The machine of each region.
    """

    lab: Lab
    founder: Host
    image: str
    machines: dict[str, str]
    name: str = "steady"

    @classmethod
    def deploy(cls, lab: Lab) -> "Steady":
        """Deploy it, a machine in each region."""
        founder, regions = next(iter(lab.hosts.values())), list(lab.plan.regions)
        founder.godwit("images", "bootstrap")
        folder = source(founder, cls.name)
        founder.godwit("apps", "create", cls.name, "--org", "personal")
        founder.godwit("deploy", "--offline", "--force-host-build", "--no-ha", cwd=folder)
        each = ("--max-per-region", "1", "--region", ",".join(regions))
        founder.godwit("scale", "count", str(len(regions)), *each, "--yes", cwd=folder)
        found = founder.json("machine", "list", "--app", cls.name)
        made = {one["region"]: one["id"] for one in found}
        assert set(made) == set(regions), found
        steady = cls(lab, founder, found[0]["config"]["image"], made)
        steady.settle()
        return steady

    def get(self, region: str, path: str = "/", app: str = "") -> str:
        """Return what a region's client gets at its region's edge; nothing when that fails."""
        url = f"http://{app or self.name}.godwit.test{path}"
        try:
            at = self.edge(region).addresses
            return self.lab.node(f"{region}-c1").get(url, at=at, timeout_s=20)
        except errors.Failure:
            return ""

    def resolve(self, region: str, name: str) -> set[str]:
        """Return a name's addresses as the machine of a region learns them."""
        return set(self.get(region, f"/resolve/{name}").split())

    def edge(self, region: str) -> Host:
        """Return the host whose edge a region's clients use."""
        return self.lab.host(f"{region}-1")

    def shown(self, app: str = "") -> list[dict[str, Any]]:
        """Return an app's machines as the API shows them."""
        found: list[dict[str, Any]] = self.founder.json(
            "machine", "list", "--app", app or self.name
        )
        return found

    def hosts(self) -> dict[str, dict[str, Any]]:
        """Return the cluster's hosts by region, as the API shows them."""
        return {one["region"]: one for one in self.founder.json("host", "list")}

    def problems(self) -> list[str]:
        """Return what is not as it should be when nothing is disturbed."""
        try:
            return [*self._of_the_books(), *self._of_owners(), *self._of_clients()]
        except errors.Failure as failure:
            return [failure.message]

    def settle(self, within_s: float = 240.0) -> None:
        """Return once nothing is wrong.

        Raises:
            AssertionError: Something stays wrong.
        """
        found: list[str] = []

        def well() -> bool:
            found[:] = self.problems()
            return not found

        try:
            eventually(well, within_s, 0.5)
        except AssertionError as error:
            raise AssertionError("\n".join(found)) from error

    def _of_the_books(self) -> Iterator[str]:
        for region, host in self.hosts().items():
            if (host["state"], host["status"]) != ("active", "ok"):
                yield f"host of {region} is {host['state']}, {host['status']}"
        seen = {one["id"]: one for one in self.shown()}
        if set(seen) != set(self.machines.values()):
            yield f"machines are {sorted(seen)}, not {sorted(self.machines.values())}"
        for one in seen.values():
            if (one["state"], one.get("host_status")) != ("started", "ok"):
                yield f"machine {one['id']} is {one['state']}, host {one.get('host_status')}"

    def _of_owners(self) -> Iterator[str]:
        booked: dict[str, set[str]] = {}
        for app in self.founder.json("apps", "list"):
            for one in self.shown(app["name"]):
                booked.setdefault(one["region"], set()).add(one["id"])
        for region in self.lab.plan.regions:
            host = self.edge(region)
            states = owned(host)
            if set(states) != booked.get(region, set()):
                yield f"{region} has {sorted(states)}, booked {sorted(booked.get(region, ()))}"
            started = {one for one, state in states.items() if state == "started"}
            if set(processes(host)) != started:
                yield f"{region} runs {sorted(processes(host))}, started are {sorted(started)}"

    def _of_clients(self) -> Iterator[str]:
        everywhere = {one["private_ip"] for one in self.shown()}
        for region, machine in self.machines.items():
            if machine not in (said := self.get(region)):
                yield f"a client in {region} got {said!r}"
            if (names := self.resolve(region, f"{self.name}.internal")) != everywhere:
                yield f"in {region} the app's name leads to {names}, not {everywhere}"

    @contextlib.contextmanager
    def under_load(self, *regions: str, shape: Shape = SHAPE) -> Iterator[dict[str, Tally]]:
        """Have a client of each region ask its own edge meanwhile."""
        with contextlib.ExitStack() as stack:
            tallies = {}
            for region in regions or tuple(self.lab.plan.regions):
                at = (str(self.edge(region).addresses.v4), 80)
                load = Load(at, f"{self.name}.godwit.test", shape)
                start = self.lab.node(f"{region}-c1").run
                tallies[region] = stack.enter_context(running(load, start))
            yield tallies


def source(founder: Host, app: str, region: str = "") -> Path:
    """Put the app's source into the operator's home, under a name; return where."""
    folder = founder.tree.directory / "home" / app
    shutil.copytree(APPS / "steady", folder)
    (folder / "Dockerfile").write_text(_DOCKERFILE)
    (folder / "fly.toml").write_text(_CONFIG.format(app=app, region=region or founder.region))
    return folder


def owned(host: Host) -> dict[str, str]:
    """Return the machines that live on a host, by its own books, and their states."""
    path = host.tree.directory / "data" / "agent" / "agent.db"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as books:
        asked = "SELECT machine_id, state FROM machines WHERE destroyed_at_ms IS NULL"
        return dict(books.execute(asked).fetchall())


def processes(host: Host) -> dict[str, int]:
    """Return the machines that run on a host, whatever its books say."""
    return vmms.shims(host.tree.directory / "data" / "store" / "machines")


def clean(tallies: dict[str, Tally], *regions: str) -> None:
    """Fail where a request of these regions failed."""
    failed = {one: tallies[one].sentence() for one in regions or tallies if tallies[one].failed}
    assert not failed, failed
