"""`godwit doctor`: what this host can and cannot do, in words, found by trying.

Each finding is one sentence with a verdict; nothing here changes the host.
"""

import asyncio
import os
import resource
import shutil
import socket
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


async def examine(settings: Settings) -> list[Finding]:
    """Return every finding, in the order a person would ask."""
    return [
        _required(settings),
        await _virtualization(),
        _control_groups(),
        _reflink(settings),
        _space(settings),
        _memory(settings),
        _open_files(),
        await _packet_filter(),
        _forwarding(),
        await _way_out(settings),
        *_ports(settings),
    ]


def _required(settings: Settings) -> Finding:
    lacking = requirements.missing(settings)
    if lacking:
        return Finding("requirements", "missing", "; ".join(lacking))
    return Finding("requirements", "ok", "every program that Godwit drives is installed")


async def _virtualization() -> Finding:
    if shutil.which("qemu-system-x86_64") is None:
        return Finding("virtualization", "missing", "qemu-system-x86_64 is not installed")
    found = await probe.accelerator()
    if found.kind == "kvm":
        return Finding("virtualization", "ok", f"KVM runs guests: {found.reason}")
    return Finding(
        "virtualization",
        "limited",
        f"KVM runs no guest here ({found.reason}); machines are emulated, 10 to 20 times slower",
    )


def _control_groups(root: Path = Path("/sys/fs/cgroup")) -> Finding:
    if (root / "cgroup.controllers").exists():
        return Finding("cgroups", "ok", "cgroup version 2 limits each machine")
    if (root / "memory").is_dir() and (root / "cpu").is_dir():
        return Finding("cgroups", "ok", "cgroup version 1 limits each machine")
    return Finding("cgroups", "missing", "neither cgroup version has memory and cpu here")


def _reflink(settings: Settings) -> Finding:
    data = settings.paths.data
    store = data / "store"
    if store.is_mount():
        return Finding("store", "ok", f"{store} is an xfs file mounted by loop, with reflinks")
    existing = next(p for p in (store, data, *data.parents) if p.exists())
    if not os.access(existing, os.W_OK):
        return Finding("store", "missing", f"{existing} cannot be written")
    if layout.supports_reflink(existing):
        return Finding("store", "ok", f"{existing} copies disks by reference")
    return Finding(
        "store",
        "limited",
        f"{existing} has no reflinks; `godwit up` makes an xfs file and mounts it by loop",
    )


def _space(settings: Settings) -> Finding:
    existing = next(p for p in (settings.paths.data, *settings.paths.data.parents) if p.exists())
    free = shutil.disk_usage(existing).free // 1024**3
    verdict: Verdict = "ok" if free >= 20 else "limited" if free >= 2 else "missing"  # noqa: PLR2004
    return Finding("disk", verdict, f"{free} GB free for images and machines at {existing}")


def _memory(settings: Settings) -> Finding:
    lines = dict(
        line.split(":", 1)
        for line in Path("/proc/meminfo").read_text().splitlines()
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


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = hard if hard != resource.RLIM_INFINITY else soft
    verdict: Verdict = "ok" if count >= 65_536 else "limited"  # noqa: PLR2004
    return Finding(
        "open files", verdict, f"a process may open {count} files; the edge uses two each"
    )


async def _packet_filter() -> Finding:
    if shutil.which("nft") is None:
        return Finding("nftables", "missing", "nft is not installed")
    # `--check` asks the kernel and changes nothing.
    program = b"table inet godwit_doctor { set s { typeof iifname . ip6 saddr; } }\n"
    found = await processes.run(["nft", "--check", "-f", "-"], stdin=program, check=False)
    if found.exit_code != 0:
        said = found.stderr.decode(errors="replace").strip()[:200]
        return Finding("nftables", "missing", f"the kernel refuses Godwit's rules: {said}")
    return Finding("nftables", "ok", "the kernel takes Godwit's rules")


def _forwarding() -> Finding:
    paths = ("/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding")
    missing = [p for p in paths if not os.access(p, os.W_OK)]
    if missing:
        return Finding("forwarding", "missing", f"{missing[0]} cannot be set")
    return Finding("forwarding", "ok", "IPv4 and IPv6 forwarding can be turned on")


async def _way_out(settings: Settings) -> Finding:
    if settings.host.uplink is not None:
        names = [name for _, name in socket.if_nameindex()]
        if settings.host.uplink not in names:
            return Finding("uplink", "missing", f"no interface named {settings.host.uplink}")
        return Finding("uplink", "ok", f"machines leave through {settings.host.uplink}")
    ways = []
    for family in ("-4", "-6"):
        try:
            found = await processes.run(["ip", family, "route", "show", "default"], check=False)
        except processes.ProgramFailed:
            break
        if found.stdout.strip():
            ways.append("IPv4" if family == "-4" else "IPv6")
    if not ways:
        return Finding("uplink", "limited", "no default route: machines reach no world outside")
    return Finding("uplink", "ok", f"machines leave by NAT over {' and '.join(ways)}")


def _ports(settings: Settings) -> list[Finding]:
    if running.read(settings.paths.run / "host.json") is not None:
        return [Finding("ports", "ok", "Godwit is up here and holds its ports")]
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
        return [Finding("ports", "missing", f"cannot listen on {', '.join(taken)}")]
    return [Finding("ports", "ok", "the ports of every component are free")]


def verdict(findings: list[Finding]) -> Verdict:
    """Return the worst verdict."""
    order: tuple[Verdict, ...] = ("ok", "limited", "missing")
    return max((finding.verdict for finding in findings), key=order.index)


def examine_now(settings: Settings) -> list[Finding]:
    """Return the findings, for callers without an event loop."""
    return asyncio.run(examine(settings))
