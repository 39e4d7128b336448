"""A lab that is up, or is to be: made, found again, disturbed, removed.

Owns the lab's directory: the plan, what nodes keep on disk, relays' sockets and every log. Used by
`python -m lab`, by tests, by benches and by `make demo`.
"""

import contextlib
import fcntl
import functools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from godwit.base import errors
from godwit.host import cgroup_root
from lab import addressing, namespaces, wiring
from lab.lane import Condition, Report
from lab.links import Link
from lab.node import Host, Node
from lab.plan import Plan

ROOT = Path("/var/lib/godwit-lab")
_READY_S = 60.0
_MESH_PORT, _JOIN_PORT = 51_820, 4_281
_SOURCE = Path(__file__).resolve().parents[1]
_CACHE = Path(os.environ.get("GODWIT_PATHS_CACHE", "/var/cache/godwit"))


class Lab:
    """A lab by its plan and directory.

    Args:
        plan: What it is made of.
        root: Where labs have their directories.
    """

    def __init__(self, plan: Plan, root: Path = ROOT) -> None:
        self.plan = plan
        self.directory = root / plan.name
        self._umbrella = namespaces.Tree("the lab", self.directory / "umbrella")

    @classmethod
    def find(cls, name: str, root: Path = ROOT) -> "Lab":
        """Return the lab of that name.

        Raises:
            Failure: `not_found` when there is none.
        """
        try:
            text = (root / name / "plan.json").read_text()
        except OSError as error:
            raise errors.not_found(
                f"there is no lab {name}", hint="make one with `python -m lab up`"
            ) from error
        return cls(Plan.model_validate_json(text), root)

    # What it is made of.

    @functools.cached_property
    def _addresses(self) -> dict[str, addressing.Addresses]:
        return addressing.everywhere(self.plan)

    @functools.cached_property
    def routers(self) -> dict[str, Node]:
        """Return each region's router."""
        return {r: self._node(self.plan.router(r), r) for r in self.plan.regions}

    @functools.cached_property
    def clients(self) -> dict[str, Node]:
        """Return the clients by name."""
        return {
            name: self._node(name, region)
            for region in self.plan.regions
            for name in self.plan.clients(region)
        }

    @functools.cached_property
    def hosts(self) -> dict[str, Host]:
        """Return the hosts by name."""
        return {
            name: self._host(name, region)
            for region in self.plan.regions
            for name in self.plan.hosts(region)
        }

    @functools.cached_property
    def links(self) -> dict[tuple[str, str], Link]:
        """Return the links between regions."""
        return {(a, b): Link(a, b, self.directory / "relays") for a, b in self.plan.pairs}

    def node(self, name: str) -> Node:
        """Return a router, client or host by its name.

        Raises:
            Failure: `not_found`, naming those there are.
        """
        known = {n.name: n for n in self.routers.values()} | self.clients | self.hosts
        if name not in known:
            raise errors.not_found(f"no node {name}; there are {', '.join(known)}")
        return known[name]

    def host(self, name: str) -> Host:
        """Return a host by its name.

        Raises:
            Failure: `not_found`, naming those there are.
        """
        if name not in self.hosts:
            raise errors.not_found(f"no host {name}; there are {', '.join(self.hosts)}")
        return self.hosts[name]

    def _tree(self, name: str) -> namespaces.Tree:
        return namespaces.Tree(name, self.directory / "nodes" / name)

    def _node(self, name: str, region: str) -> Node:
        return Node(name, region, self._tree(name), self._addresses[name])

    def _host(self, name: str, region: str) -> Host:
        planned = self.plan.hosts(region)[name]
        at = self._addresses[name]
        instance = f"{self.plan.name}-{name}"
        settings = {
            "instance": instance,
            "apps_domain": wiring.APPS_DOMAIN,
            "paths.data": str(self._tree(name).directory / "data"),
            "paths.cache": str(_CACHE),
            "listen.edge": "0.0.0.0:80",
            "host.region": region,
            "host.zone": planned.zone,
            "host.uplink": wiring.CABLE,
            "host.endpoints": [f"{at.v4}:{_MESH_PORT}"],
            **({"listen.join": f"{at.v4}:{_JOIN_PORT}"} if name == self.plan.founder else {}),
            **self.plan.settings,
            **planned.settings,
        }
        return Host(name, region, self._tree(name), at, instance, settings)

    # Made and removed.

    @property
    def up(self) -> bool:
        """Tell whether it is there; of what is left of a dead one `down` takes care."""
        return self._umbrella.process is not None

    def start(self) -> None:
        """Make everything but Godwit itself: nodes, cables, links, all connected.

        Raises:
            Failure: A lab of this name is there already, or the kernel refuses something.
        """
        self.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        with self._alone():
            if self.up or (self.directory / "nodes").exists():
                raise errors.Failure(
                    "already_exists",
                    f"a lab {self.plan.name} is there already",
                    hint="end it with `python -m lab down`, or choose another name",
                )
            (self.directory / "plan.json").write_text(self.plan.model_dump_json(indent=2))
            seen = {"processes": namespaces.namespace()}
            (self.directory / "seen.json").write_text(json.dumps(seen))
            try:
                self._make()
            except BaseException:
                self._remove()
                raise

    def _make(self) -> None:
        namespaces.start_umbrella(self._umbrella.directory)
        for region, router in self.routers.items():
            self._start_node(router)
            self._set(router, wiring.ROUTER_SYSCTLS)
            self._ip(router, wiring.router(self.plan, region))
            namespaces.run(router.tree.in_network(["nft", "-f", "-"]), stdin=wiring.cuts())
        routers = {region: router.tree for region, router in self.routers.items()}
        for region in self.plan.regions:
            self._start_resolver(region)
        for (a, b), link in self.links.items():
            link.start(self._umbrella, routers, self.plan.delay_ms(a, b))
        for node in (*self.clients.values(), *self.hosts.values()):
            self._plug_in(node)

    def _start_resolver(self, region: str) -> None:
        """Have a router answer names."""
        router = self.routers[region]
        names = router.tree.directory / "names.json"
        names.write_text(json.dumps(wiring.zone(self.plan, region)))
        log = router.tree.directory / "resolver.log"
        program = [sys.executable, "-m", "lab.resolver", "--names", str(names)]
        namespaces.spawn(
            ["env", f"PYTHONPATH={_SOURCE}", *program, "--address", str(router.addresses.v4)],
            log,
            below=router.tree,
        )
        namespaces.wait_for(
            lambda: "ready" in log.read_text(),
            _READY_S,
            lambda: f"no resolver: {log.read_text()[-1_000:]}",
        )

    def give_power(self, host: Host) -> None:
        """Start a host that lost its power; `Host.start` brings its Godwit up.

        Raises:
            Failure: It has power, or the lab is down.
        """
        if host.up:
            raise errors.Failure("failed_precondition", f"{host.name} is up")
        self._plug_in(host)

    def _plug_in(self, node: Node) -> None:
        """Start a node and connect it to its router."""
        self._start_node(node)
        router = self.routers[node.region]
        self._set(node, wiring.END_SYSCTLS)
        with contextlib.suppress(errors.Failure):
            # The kernel takes its time with the cable of a node that lost its power.
            self._ip(router, [f"link delete dev {wiring.socket_of_router(node.name)}"])
        self._ip(router, wiring.cable(node.name, node.addresses, node.tree.first))
        self._ip(node, wiring.end(node.addresses, router.addresses))
        if isinstance(node, Host):
            node.write_settings()

    def _start_node(self, node: Node) -> None:
        namespaces.start_node(self._umbrella, node.name, node.tree.directory)
        resolvers = wiring.resolvers(self.routers[node.region].addresses)
        for path, text in (
            ("/etc/hosts", wiring.names(self.plan)),
            ("/etc/resolv.conf", resolvers),
        ):
            file = node.tree.file(path)
            # It may be a link to a file that other nodes have too.
            file.unlink(missing_ok=True)
            file.write_text(text)

    @staticmethod
    def _ip(node: Node, lines: list[str]) -> None:
        command = node.tree.in_network(["ip", "-batch", "-"])
        namespaces.run(command, stdin="\n".join(lines) + "\n")

    @staticmethod
    def _set(node: Node, parameters: dict[str, str]) -> None:
        lines = [f"{name.replace('/', '.')}={value}" for name, value in parameters.items()]
        namespaces.run(node.tree.in_network(["sysctl", "--quiet", "--write", *lines]))

    def down(self) -> None:
        """End it and everything in it, whatever state it is in; nothing is left.

        Raises:
            Failure: It was made where processes are numbered differently, or does not end.
        """
        if not self.directory.exists():
            return
        with self._alone():
            self._demand_same_processes()
            self._remove()

    def _remove(self) -> None:
        self._umbrella.kill()
        for host in self.hosts.values():
            cgroup_root.remove(host.instance)
        namespaces.discard(self.directory)
        with contextlib.suppress(OSError):
            # The last one.
            self.directory.parent.rmdir()

    def _demand_same_processes(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            seen = json.loads((self.directory / "seen.json").read_text())
            if seen["processes"] != namespaces.namespace():
                raise errors.Failure(
                    "failed_precondition",
                    f"lab {self.plan.name} was made in another space of processes",
                    hint=f"end it where it was made; if that is gone, remove {self.directory}",
                )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lab's lock.

        Raises:
            Failure: Somebody else is making or removing it.
        """
        lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = os.path.samestat(os.fstat(lock), self.directory.stat())
            except (BlockingIOError, FileNotFoundError):
                held = False
            if not held:
                raise errors.Failure("conflict", f"lab {self.plan.name} is being made or removed")
            yield
        finally:
            os.close(lock)

    # Disturbed.

    def cut(self, a: str, b: str | None = None, *, one_way: bool = False) -> None:
        """Let nothing pass: a region from all others or from one, or a host from its router.

        Args:
            a: A region, or a node at the end of a cable.
            b: Another region; all if `None`.
            one_way: Only what `a` sends is lost.
        """
        self._set_cut(a, b, cut=True, one_way=one_way)

    def heal(self, a: str, b: str | None = None) -> None:
        """Undo `cut` of the same arguments, in both directions."""
        self._set_cut(a, b, cut=False, one_way=False)

    def _set_cut(self, a: str, b: str | None, *, cut: bool, one_way: bool) -> None:
        if a not in self.plan.regions and b is None:
            node = self.node(a)
            command = self.routers[node.region].tree.in_network(["nft", "-f", "-"])
            lines = wiring.cut(node.name, sends=cut, gets=cut and not one_way)
            namespaces.run(command, stdin=lines)
            return
        for link in self._links_of(a, b):
            now = link.ask()
            ways = link.ways(a if one_way else None)
            link.ask({way: _but(now[way].condition, cut=cut) for way in ways})

    def cut_cables(self) -> dict[str, tuple[str, ...]]:
        """Return the nodes whose cable is cut, and what they cannot: `sends`, `gets`."""
        found: dict[str, tuple[str, ...]] = {}
        for router in self.routers.values():
            command = router.tree.in_network(["nft", "-j", "list", "table", "inet", wiring.TABLE])
            for name, what in wiring.cut_in(namespaces.run(command)):
                found[name] = (*found.get(name, ()), what)
        return found

    def slow(
        self, a: str, b: str, *, delay_ms: float | None = None, loss: float | None = None
    ) -> None:
        """Change a link's delay or share of lost packets, in both directions.

        Args:
            a: A region.
            b: Another one.
            delay_ms: One way; that of the plan if `None`.
            loss: From 0 to 1; none is lost if `None`.
        """
        usual = self.plan.delay_ms(a, b)
        for link in self._links_of(a, b):
            change = {"delay_ms": usual if delay_ms is None else delay_ms, "loss": loss or 0.0}
            now = link.ask()
            link.ask({way: _but(now[way].condition, **change) for way in link.ways()})

    def _links_of(self, a: str, b: str | None) -> list[Link]:
        found = [
            link for pair, link in self.links.items() if a in pair and (b is None or b in pair)
        ]
        if not found or a == b:
            known = ", ".join(self.plan.regions)
            raise errors.invalid(f"no link between {a} and {b or 'others'}; regions are {known}")
        return found

    def weather(self) -> dict[str, Report]:
        """Return what became of the packets of each direction between regions."""
        return {way: one for link in self.links.values() for way, one in link.ask().items()}


def _but(condition: Condition, **changes: Any) -> Condition:
    try:
        return Condition(**{**vars(condition), **changes})
    except ValueError as error:
        raise errors.invalid(str(error)) from error
