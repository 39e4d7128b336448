"""All that machines could leave on a host: counted before the first and after the last is gone."""

import asyncio
import time
from pathlib import Path

from godwit.agent.vmm import running
from tests.host import network_lab as lab
from tests.vm import vm_lab

_OF_THE_AGENT = ("store/agent.db", "store/templates/", "catalog.sock", "network-parameters.json")
_OF_MACHINES = ("neighbours", "flows")
"""Of these only what is said of taps is compared; the uplink's go up and down by themselves."""


async def traces(here: vm_lab.Host) -> dict[str, list[str]]:
    """Return processes, groups, mounts, files, and everything in the network."""
    network = {name: text.splitlines() for name, text in (await lab.snapshot()).items()}
    for name in _OF_MACHINES:
        network[name] = [line for line in network[name] if " gw" in line]
    return {
        **network,
        "processes": _processes(here.places.run_dir),
        "groups": sorted(here.groups.machines()),
        "mounts": sorted(_mounts()),
        "files": sorted(_files(here.places.run_dir)),
    }


async def nothing_but(before: dict[str, list[str]], here: vm_lab.Host) -> None:
    """Wait until all is as it was: the kernel removes some of it a moment later."""
    end = time.monotonic() + lab.PATIENCE_S
    while (seen := await traces(here)) != before:
        changed = {name: (before[name], seen[name]) for name in seen if seen[name] != before[name]}
        assert time.monotonic() < end, changed
        await asyncio.sleep(0.1)


def _processes(folder: Path) -> list[str]:
    """Return the command lines of shims and VMMs of this host."""
    lines = [b" ".join(running.command_line(pid)) for pid in running.pids()]
    mine = str(folder).encode()
    return sorted(line.decode() for line in lines if mine in line or b"-name godwit-0000" in line)


def _mounts() -> list[str]:
    lines = Path("/proc/thread-self/mountinfo").read_text().splitlines()
    return [" ".join(line.split()[3:]) for line in lines]


def _files(folder: Path) -> list[str]:
    found = [str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()]
    machines = [str(path.relative_to(folder)) for path in (folder / "store/machines").glob("*")]
    return [name for name in found + machines if not name.startswith(_OF_THE_AGENT)]
