"""`godwit doctor`: what this host can and cannot do, in words, found by trying.

Each finding is one sentence with a verdict; nothing here changes the host.
"""

import asyncio
import os
import resource
import shutil
import socket
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from godwit.agent.vmm import probe
from godwit.base import processes
from godwit.base.settings import Settings
from godwit.host import layout, requirements, running

Verdict = Literal["ok", "limited", "missing"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        verdict: `limited` works with a restriction, `missing` keeps `godwit up` from working.
        sentence: What was found and what follows from it.
    """

    subject: str
    verdict: Verdict
    sentence: str

    def as_json(self) -> dict[str, Any]:
        """Return the finding as plain data."""
        return asdict(self)


def _free_bytes(directory: Path) -> int:
    return shutil.disk_usage(directory).free


def _most_files() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return hard if hard != resource.RLIM_INFINITY else soft


@dataclass(frozen=True)
class Instruments:
    """What the doctor looks with: this host's own, unless others are given.

    Attributes:
        root: Where `proc` and `sys` are.
        lacking: Sentences about what `godwit up` needs and the host has not.
        which: Finds a program.
        run: Runs one.
        accelerator: Tries a guest.
        reflinks: Tells whether a directory's files can share blocks.
        free_bytes: Room in a directory.
        open_files: How many files a process may open.
    """

    root: Path = Path("/")
    lacking: Callable[[Settings], list[str]] = requirements.missing
    which: Callable[[str], str | None] = shutil.which
    run: Callable[..., Awaitable[processes.Finished]] = processes.run
    accelerator: Callable[[], Awaitable[probe.Accelerator]] = probe.accelerator
    reflinks: Callable[[Path], bool] = layout.supports_reflink
    free_bytes: Callable[[Path], int] = _free_bytes
    open_files: Callable[[], int] = _most_files


_OWN = Instruments()


async def examine(settings: Settings, look: Instruments = _OWN) -> list[Finding]:
    """Return every finding, in the order a person would ask."""
    return [
        _required(settings, look),
        await _virtualization(look),
        _control_groups(look),
        _reflink(settings, look),
        _space(settings, look),
        _memory(settings, look),
        _open_files(look),
        await _packet_filter(look),
        _forwarding(look),
        await _way_out(settings, look),
        _ports(settings),
    ]


def _required(settings: Settings, look: Instruments) -> Finding:
    lacking = look.lacking(settings)
    if lacking:
        return Finding("requirements", "missing", "; ".join(lacking))
    return Finding("requirements", "ok", "every program that Godwit drives is installed")


async def _virtualization(look: Instruments) -> Finding:
    if look.which("qemu-system-x86_64") is None:
        return Finding("virtualization", "missing", "qemu-system-x86_64 is not installed")
    found = await look.accelerator()
    if found.kind == "kvm":
        return Finding("virtualization", "ok", f"KVM runs guests: {found.reason}")
    return Finding(
        "virtualization",
        "limited",
        f"KVM runs no guest here ({found.reason}); machines are emulated, 10 to 20 times slower",
    )


def _control_groups(look: Instruments) -> Finding:
    root = look.root / "sys/fs/cgroup"
    if (root / "cgroup.controllers").exists():
        return Finding("cgroups", "ok", "cgroup version 2 limits each machine")
    if (root / "memory").is_dir() and (root / "cpu").is_dir():
        return Finding("cgroups", "ok", "cgroup version 1 limits each machine")
    return Finding("cgroups", "missing", "neither cgroup version has memory and cpu here")


def _reflink(settings: Settings, look: Instruments) -> Finding:
    data = settings.paths.data
    store = data / "store"
    if store.is_mount():
        return Finding("store", "ok", f"{store} is an xfs file mounted by loop, with reflinks")
    existing = next(p for p in (store, data, *data.parents) if p.exists())
    if not os.access(existing, os.W_OK):
        return Finding("store", "missing", f"{existing} cannot be written")
    if look.reflinks(existing):
        return Finding("store", "ok", f"{existing} copies disks by reference")
    return Finding(
        "store",
        "limited",
        f"{existing} has no reflinks; `godwit up` makes an xfs file and mounts it by loop",
    )


def _space(settings: Settings, look: Instruments) -> Finding:
    existing = next(p for p in (settings.paths.data, *settings.paths.data.parents) if p.exists())
    free = look.free_bytes(existing) // 1024**3
    verdict: Verdict = "ok" if free >= 20 else "limited" if free >= 2 else "missing"  # noqa: PLR2004
    return Finding("disk", verdict, f"{free} GB free for images and machines at {existing}")


def _memory(settings: Settings, look: Instruments) -> Finding:
    lines = dict(
        line.split(":", 1)
        for line in (look.root / "proc/meminfo").read_text().splitlines()
        if ":" in line
    )
    available = int(lines["MemAvailable"].split()[0]) // 1024
    given = settings.host.memory_mb
    if given is not None and given > available:
        sentence = f"{given} MB are promised to machines, {available} MB are available"
        return Finding("memory", "limited", sentence)
    return Finding(
        "memory", "ok", f"{available} MB available; {os.cpu_count()} CPUs, shared by machines"
    )


def _open_files(look: Instruments) -> Finding:
    count = look.open_files()
    verdict: Verdict = "ok" if count >= 65_536 else "limited"  # noqa: PLR2004
    return Finding(
        "open files", verdict, f"a process may open {count} files; the edge uses two each"
    )


async def _packet_filter(look: Instruments) -> Finding:
    if look.which("nft") is None:
        return Finding("nftables", "missing", "nft is not installed")
    # `--check` asks the kernel and changes nothing.
    program = b"table inet godwit_doctor {\n set s {\n typeof iifname . ip6 saddr\n }\n}\n"
    found = await look.run(["nft", "--check", "-f", "-"], stdin=program, check=False)
    if found.exit_code != 0:
        said = found.stderr.decode(errors="replace").strip()[:200]
        return Finding("nftables", "missing", f"the kernel refuses Godwit's rules: {said}")
    return Finding("nftables", "ok", "the kernel takes Godwit's rules")


def _forwarding(look: Instruments) -> Finding:
    paths = ("proc/sys/net/ipv4/ip_forward", "proc/sys/net/ipv6/conf/all/forwarding")
    missing = [look.root / p for p in paths if not os.access(look.root / p, os.W_OK)]
    if missing:
        return Finding("forwarding", "missing", f"{missing[0]} cannot be set")
    return Finding("forwarding", "ok", "IPv4 and IPv6 forwarding can be turned on")


async def _way_out(settings: Settings, look: Instruments) -> Finding:
    if settings.host.uplink is not None:
        names = [name for _, name in socket.if_nameindex()]
        if settings.host.uplink not in names:
            return Finding("uplink", "missing", f"no interface named {settings.host.uplink}")
        return Finding("uplink", "ok", f"machines leave through {settings.host.uplink}")
    ways = []
    for family in ("-4", "-6"):
        try:
            found = await look.run(["ip", family, "route", "show", "default"], check=False)
        except processes.ProgramFailed:
            break
        if found.stdout.strip():
            ways.append("IPv4" if family == "-4" else "IPv6")
    if not ways:
        return Finding("uplink", "limited", "no default route: machines reach no world outside")
    return Finding("uplink", "ok", f"machines leave by NAT over {' and '.join(ways)}")


def _ports(settings: Settings) -> Finding:
    if running.read(settings.paths.run / "host.json") is not None:
        return Finding("ports", "ok", "Godwit is up here and holds its ports")
    taken = []
    for name, address in settings.listen.model_dump().items():
        host, _, port = address.rpartition(":")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind((host.strip("[]"), int(port)))
            except OSError as error:
                taken.append(f"{address} for {name} ({error.strerror})")
    if taken:
        return Finding("ports", "missing", f"cannot listen on {', '.join(taken)}")
    return Finding("ports", "ok", "the ports of every component are free")


def verdict(findings: list[Finding]) -> Verdict:
    """Return the worst verdict."""
    order: tuple[Verdict, ...] = ("ok", "limited", "missing")
    return max((finding.verdict for finding in findings), key=order.index)


def examine_now(settings: Settings) -> list[Finding]:
    """Return the findings, for callers without an event loop."""
    return asyncio.run(examine(settings))
