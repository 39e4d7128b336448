"""`godwit doctor`: what this host can and cannot do, in words, found by trying.

Each finding is one sentence with a verdict; nothing here changes the host.
"""

import asyncio
import json
import os
import resource
import shutil
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psycopg

from godwit.agent.network import mesh, peers
from godwit.agent.network.members import MembersFile
from godwit.agent.network.mesh_device import device_name
from godwit.agent.vmm import probe
from godwit.agent.vmm.firecracker import programs
from godwit.base import errors, processes
from godwit.base.settings import Settings
from godwit.control import residence
from godwit.host import layout, listeners, mounts, requirements, running
from godwit.host.identity import HostIdentity

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


def _mount_flags(path: Path) -> int:
    return os.statvfs(path).f_flag


def _free_bytes(directory: Path) -> int:
    return shutil.disk_usage(directory).free


def _used_share(directory: Path) -> float:
    disk = shutil.disk_usage(directory)
    return 1 - disk.free / disk.total


def _why_no_connection(url: str) -> str:
    """Try a PostgreSQL database; return why it cannot be reached, nothing when it can."""
    try:
        psycopg.connect("postgresql:" + url.partition(":")[2], connect_timeout=3).close()
    except psycopg.Error as error:
        return " ".join(str(error).split())
    return ""


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
        choice: Chooses what runs machines.
        reflinks: Tells whether a directory's files can share blocks.
        mounted: Tells what is mounted on a directory.
        mount_flags: With what options a directory's file system is mounted (statvfs).
        free_bytes: Room in a directory.
        used_share: How full a directory's disk is, 0 to 1.
        open_files: How many files a process may open.
        connects: Tells why a PostgreSQL database cannot be reached, nothing when it can.
    """

    root: Path = Path("/")
    lacking: Callable[[Settings], list[str]] = requirements.missing
    which: Callable[[str], str | None] = shutil.which
    run: Callable[..., Awaitable[processes.Finished]] = processes.run
    accelerator: Callable[[], Awaitable[probe.Accelerator]] = probe.accelerator
    choice: Callable[[str, probe.Accelerator, Path], Awaitable[programs.Choice]] = programs.choose
    reflinks: Callable[[Path], bool] = layout.supports_reflink
    mounted: Callable[[Path], mounts.Mount | None] = mounts.at
    mount_flags: Callable[[Path], int] = _mount_flags
    free_bytes: Callable[[Path], int] = _free_bytes
    used_share: Callable[[Path], float] = _used_share
    open_files: Callable[[], int] = _most_files
    connects: Callable[[str], str] = _why_no_connection


_OWN = Instruments()


async def examine(settings: Settings, look: Instruments = _OWN) -> list[Finding]:
    """Return every finding, in the order a person would ask."""
    return [
        _required(settings, look),
        await _virtualization(settings, look),
        await _vmm(settings, look),
        _control_groups(look),
        _reflink(settings, look),
        _space(settings, look),
        _images(settings, look),
        _memory(settings, look),
        _open_files(look),
        await _database(settings, look),
        await _packet_filter(look),
        _forwarding(look),
        await _way_out(settings, look),
        await _mesh(settings, look),
        _ports(settings),
    ]


def _required(settings: Settings, look: Instruments) -> Finding:
    lacking = look.lacking(settings)
    if lacking:
        return Finding("requirements", "missing", "; ".join(lacking))
    return Finding("requirements", "ok", "every program that Godwit drives is installed")


async def _virtualization(settings: Settings, look: Instruments) -> Finding:
    if look.which("qemu-system-x86_64") is None:
        return Finding("virtualization", "missing", "qemu-system-x86_64 is not installed")
    chosen = settings.host.accelerator
    if chosen == "tcg":
        sentence = (
            "machines are emulated, 10 to 20 times slower, because host.accelerator is tcg;"
            " KVM was not tried"
        )
        return Finding("virtualization", "limited", sentence)
    found = await look.accelerator()
    if found.kind == "kvm":
        return Finding("virtualization", "ok", f"KVM runs guests: {found.reason}")
    if chosen == "kvm":
        sentence = (
            f"host.accelerator is kvm, but KVM runs no guest here ({found.reason}):"
            " no machine will start; set it to auto"
        )
        return Finding("virtualization", "missing", sentence)
    return Finding(
        "virtualization",
        "limited",
        f"KVM runs no guest here ({found.reason}); machines are emulated, 10 to 20 times slower",
    )


async def _vmm(settings: Settings, look: Instruments) -> Finding:
    """Tell which VMM machines run under; KVM is only tried if that decides."""
    wanted = settings.host.vmm
    if wanted == "auto" and look.which("firecracker") is None:
        return Finding("vmm", "ok", "machines run under QEMU: firecracker is not on the PATH")
    if wanted == "qemu" or settings.host.accelerator == "tcg":
        found = probe.Accelerator("tcg", "host.accelerator is tcg")
    else:
        found = await look.accelerator()
    try:
        chosen = await look.choice(wanted, found, settings.paths.store)
    except errors.Failure as failure:
        return Finding("vmm", "missing", f"{failure.message}; {failure.hint}")
    name = {"qemu": "QEMU", "firecracker": "Firecracker"}[chosen.name]
    return Finding("vmm", "ok", f"machines run under {name}: {chosen.reason}")


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
    if layout.own_mount(data) is not None:
        return Finding("store", "ok", f"{store} is an xfs file mounted by loop, with reflinks")
    mounted = look.mounted(store)
    if mounted is not None:
        return _mounted_store(mounted, look)
    existing = next(p for p in (store, data, *data.parents) if p.exists())
    if not os.access(existing, os.W_OK):
        return Finding("store", "missing", f"{existing} cannot be written")
    if look.reflinks(existing):
        return _hardened(f"{existing} copies disks by reference", existing, look)
    return Finding(
        "store",
        "limited",
        f"{existing} has no reflinks; `godwit up` makes an xfs file and mounts it by loop",
    )


def _mounted_store(mounted: mounts.Mount, look: Instruments) -> Finding:
    what = f"{mounted.at} is {mounted.kind} from {mounted.source}, mounted by hand"
    if not os.access(mounted.at, os.W_OK):
        return Finding("store", "missing", f"{what}, and cannot be written")
    if look.reflinks(mounted.at):
        return _hardened(f"{what}, with reflinks", mounted.at, look)
    sentence = f"{what}; it has no reflinks, so every copy of a disk takes its whole room"
    return Finding("store", "limited", sentence)


def _hardened(sentence: str, directory: Path, look: Instruments) -> Finding:
    """Return what is said of a store that is not of our own making.

    Files of images are unpacked there, and none may lend its owner's rights to anybody of this
    host. Whether it is mounted `nodev` depends on the VMM: Firecracker's jails have a device.
    """
    if look.mount_flags(directory) & os.ST_NOSUID:
        return Finding("store", "ok", sentence)
    advice = "mount a file system of its own on the store, with nosuid"
    return Finding("store", "limited", f"{sentence}, but without nosuid: {advice}")


def _space(settings: Settings, look: Instruments) -> Finding:
    existing = next(p for p in (settings.paths.data, *settings.paths.data.parents) if p.exists())
    free = look.free_bytes(existing) // 1024**3
    verdict: Verdict = "ok" if free >= 20 else "limited" if free >= 2 else "missing"  # noqa: PLR2004
    return Finding("disk", verdict, f"{free} GB free for images and machines at {existing}")


def _images(settings: Settings, look: Instruments) -> Finding:
    """Tell how full the disk of the images is; `godwit images list` says what holds each."""
    images = settings.paths.store / "images"
    if not images.is_dir():
        return Finding("images", "ok", "none at rest yet")
    sizes = [path.stat().st_size for path in images.glob("sha256-*/image.erofs")]
    used = look.used_share(images)
    sentence = (
        f"{len(sizes)} at rest, {sum(sizes) >> 20} MB; their disk is {used:.0%} full, and from"
        f" {settings.keep.images_high:.0%} on those that nothing needs go"
    )
    return Finding("images", "ok" if used < settings.keep.images_high else "limited", sentence)


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


async def _database(settings: Settings, look: Instruments) -> Finding:
    files = residence.Files(settings.paths.data / "control")
    try:
        url = residence.choose(files, settings.control.database or "")
        place = residence.place(url)
    except errors.Failure as failure:
        return Finding("database", "missing", f"{failure.message}; {failure.hint}")
    except PermissionError:
        return Finding("database", "ok", "only root may read where control's rows are")
    if url != residence.SQLITE and (reason := await asyncio.to_thread(look.connects, url)):
        return Finding("database", "missing", f"{place} does not answer: {reason}")
    return Finding("database", "ok", f"control's rows are in {place}")


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


async def _mesh(settings: Settings, look: Instruments) -> Finding:
    """Tell which of the other hosts are not heard, and where they were looked for."""
    data = settings.paths.data
    try:
        number = HostIdentity.model_validate_json((data / "host.json").read_text()).host_number
        others, wrong = peers.usable(MembersFile(data / "members.json").read(), number)
    except FileNotFoundError:
        return Finding("mesh", "ok", _ALONE)
    except PermissionError:
        return Finding("mesh", "ok", "only root may read which hosts there are")
    except errors.Failure as failure:
        return Finding("mesh", "limited", failure.message)
    if others:
        wrong = [*await _unheard(number, others.values(), settings, look), *wrong]
    if wrong:
        return Finding("mesh", "limited", "; ".join(wrong))
    return Finding("mesh", "ok", f"all {len(others)} other hosts are heard" if others else _ALONE)


async def _unheard(
    number: int, others: Collection[peers.Peer], settings: Settings, look: Instruments
) -> list[str]:
    """Return what is wrong between this host and the others."""
    name = device_name(number)
    try:
        shown = await look.run(["wg", "show", name, "dump"], check=False)
        device = peers.parse(shown.stdout.decode())
    except (processes.ProgramFailed, ValueError):
        return [f"{name} is not there: no machine of another host is reached"]
    reports = mesh.report(device, others, time.time())
    large = await _too_large(reports, settings.host.mtu, look)
    silent = [f"{r.name} at {r.endpoint or 'no known address'}" for r in reports if r.silent]
    if not silent:
        return large
    what = f"{len(silent)} of {len(reports)} other hosts are not heard: {', '.join(silent)}"
    open_it = f"UDP must pass between all hosts, to port {settings.listen.mesh} of this one"
    return [what, open_it, *large]


async def _too_large(reports: Sequence[mesh.Report], mtu: int, look: Instruments) -> list[str]:
    """Return what is said when full packets do not fit the way to the first host looked for."""
    for report in reports:
        address = report.endpoint.rpartition(":")[0].strip("[]")
        if not address:
            continue
        found = await look.run(["ip", "-j", "route", "get", address], check=False)
        if found.exit_code != 0:
            continue
        device = str(json.loads(found.stdout)[0].get("dev", ""))
        size = look.root / "sys/class/net" / device / "mtu"
        fits = int(size.read_text()) - _WIREGUARD if size.exists() else mtu
        if fits < mtu:
            return [f"packets of {mtu} do not fit {device}: set host.mtu to {fits} on all hosts"]
        break
    return []


_WIREGUARD = 80
"""What WireGuard adds to a packet, over IPv6: 40 of IP, 8 of UDP, 32 of its own."""


_ALONE = "there are no other hosts"


def _ports(settings: Settings) -> Finding:
    if running.read(settings.paths.run / "host.json") is not None:
        return Finding("ports", "ok", "Godwit is up here and holds its ports")
    taken = listeners.taken(settings)
    if taken:
        return Finding("ports", "missing", f"cannot listen on {', '.join(map(str, taken))}")
    return Finding("ports", "ok", "the ports of every component are free")


def verdict(findings: list[Finding]) -> Verdict:
    """Return the worst verdict."""
    order: tuple[Verdict, ...] = ("ok", "limited", "missing")
    return max((finding.verdict for finding in findings), key=order.index)


def examine_now(settings: Settings) -> list[Finding]:
    """Return the findings, for callers without an event loop."""
    return asyncio.run(examine(settings))
