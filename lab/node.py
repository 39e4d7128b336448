"""Nodes as tests and people use them: clients that ask, hosts that run Godwit."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tomlkit

from godwit.base import errors
from godwit.host import cgroup_root
from lab import clock, entering, namespaces
from lab.addressing import Addresses

T = TypeVar("T")

RUN = "/run/godwit"
_SETTINGS = "/etc/godwit/godwit.toml"
_SCRIPTS = Path(sys.executable).parent
_UP_S = 420.0
_DOWN_S = 260.0


@dataclass(frozen=True)
class Node:
    """A router, a client, or what a host and these have in common.

    Attributes:
        tree: Its processes.
        addresses: Towards the other nodes.
    """

    name: str
    region: str
    tree: namespaces.Tree
    addresses: Addresses

    @property
    def up(self) -> bool:
        """Tell whether it has power."""
        return self.tree.process is not None

    @property
    def environment(self) -> dict[str, str]:
        """Return what programs in it inherit: what this process has, but for Godwit's own."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("GODWIT_", "XDG_"))}
        return {
            **kept,
            "PATH": f"{_SCRIPTS}:{kept.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}",
            "HOME": str(self.tree.directory / "home"),
            "TMPDIR": str(self.tree.directory / "tmp"),
            "NO_COLOR": "1",
            **clock.environment(self.tree.directory),
        }

    def exec(
        self,
        *argv: str,
        timeout_s: float = 60.0,
        cwd: Path | None = None,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Run a program inside and return what it printed.

        Raises:
            Failure: The node is down, or the program failed or took too long.
        """
        command = self.tree.enter(argv, cwd=cwd)
        environment = {**self.environment, **(env or {})}
        return namespaces.run(command, stdin=stdin, timeout_s=timeout_s, env=environment)

    def run(self, main: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Run a coroutine in a thread of this process whose sockets are the node's.

        Raises:
            Failure: The node is down.
        """
        return entering.run(self.tree.first, main)

    def get(self, url: str, *, at: Addresses, timeout_s: float = 10.0, family: int = 4) -> str:
        """Ask for a page over HTTP as if the URL's host were at an address; return its body.

        Raises:
            Failure: No connection, no answer in time, or a status of 400 or more.
        """
        address = str(at.v4) if family == 4 else f"[{at.v6}]"  # noqa: PLR2004
        asked = ("curl", "--silent", "--show-error", "--fail-with-body", "--noproxy", "*")
        deadline = ("--max-time", f"{timeout_s:g}")
        # An empty host and port of a rule stand for any.
        there = ("--connect-to", f"::{address}:")
        return self.exec(*asked, *deadline, *there, url, timeout_s=timeout_s + 10)


@dataclass(frozen=True)
class Host(Node):
    """A server that runs Godwit.

    Attributes:
        instance: Its Godwit's name on this machine.
        settings: All of Godwit's settings that are not by default, dotted.
    """

    instance: str
    settings: Mapping[str, Any]

    def write_settings(self) -> None:
        """Write `/etc/godwit/godwit.toml`; programs inside need no variables then."""
        content: dict[str, Any] = {}
        for dotted, value in self.settings.items():
            *sections, key = dotted.split(".")
            into = content
            for section in sections:
                into = into.setdefault(section, {})
            into[key] = value
        path = self.tree.file(_SETTINGS)
        path.parent.mkdir(mode=0o755, exist_ok=True)
        path.write_text(tomlkit.dumps(content))

    def godwit(self, *argv: str, timeout_s: float = 240.0, cwd: Path | None = None) -> str:
        """Run the CLI as this server's operator; return what it printed."""
        return self.exec(str(_SCRIPTS / "godwit"), *argv, timeout_s=timeout_s, cwd=cwd)

    def json(self, *argv: str, timeout_s: float = 240.0) -> Any:
        """Run a read command of the CLI with `--json` and return the document."""
        return json.loads(self.godwit(*argv, "--json", timeout_s=timeout_s))

    def start(self) -> None:
        """Bring Godwit up and wait until it is."""
        self.godwit("up", "-d", timeout_s=_UP_S)

    def stop(self) -> None:
        """Take Godwit down as an operator does."""
        self.godwit("down", timeout_s=_DOWN_S)

    def components(self) -> dict[str, int]:
        """Return the components that run, by name, with their pids as the host sees them."""
        found = {}
        for file in sorted(self.tree.file(f"{RUN}/pids").glob("*.json")):
            # One that ends meanwhile takes its file along.
            with contextlib.suppress(FileNotFoundError):
                found[file.stem] = int(json.loads(file.read_text())["pid"])
        return found

    def signal(self, component: str, name: str) -> None:
        """Send a signal, `KILL`, `STOP` or `CONT`, to a component.

        Raises:
            Failure: `not_found` when no such component runs.
        """
        running = self.components()
        if component not in running:
            known = ", ".join(running) or "nothing"
            raise errors.not_found(f"no {component} runs on {self.name}; {known} does")
        self.exec("kill", "-s", name, str(running[component]))

    def set_clock(self, ahead_s: int) -> None:
        """Have its programs see a wall clock that is so much ahead, from their next start on."""
        clock.set_ahead(self.tree.directory, ahead_s)

    def lose_power(self) -> None:
        """End every process at once. Disks keep what was written, the rest is gone."""
        self.tree.kill()
        cgroup_root.remove(self.instance)
