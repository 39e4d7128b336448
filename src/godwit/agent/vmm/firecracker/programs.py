"""Which Firecracker is installed here, and whether machines run under it or under QEMU."""

import asyncio
import hashlib
import os
import platform
import re
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from godwit.agent.vmm import kernel_image, probe
from godwit.base import errors, processes

OLDEST = (1, 16)
"""The release that moves a restored guest's vsock to another socket."""
NEWEST = (1, 99)
_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)\S*")
_DEADLINE_S = 10.0
_ELF = b"\x7fELF"
_CPU_LINES = ("vendor_id", "cpu family", "model", "stepping", "microcode", "flags")


@dataclass(frozen=True)
class Programs:
    """An installed Firecracker.

    Attributes:
        firecracker: The VMM.
        jailer: What starts it, of the same release.
        version: `1.16.1`.
        snapshot_version: Of the format it saves guests in.
    """

    firecracker: Path
    jailer: Path
    version: str
    snapshot_version: str

    def build(self, cpu_info: Path = Path("/proc/cpuinfo")) -> str:
        """Return what a saved guest depends on: the program, the kernel and the processor."""
        program = hashlib.sha256(self.firecracker.read_bytes())
        host = hashlib.sha256(platform.release().encode())
        for line in cpu_info.read_text().partition("\n\n")[0].splitlines():
            if line.startswith(_CPU_LINES):
                host.update(line.encode())
        return (
            f"firecracker-{self.version}-s{self.snapshot_version}"
            f"-{program.hexdigest()[:12]}-{host.hexdigest()[:12]}"
        )


async def find(which: Callable[[str], str | None] = shutil.which) -> Programs:
    """Return the Firecracker on the PATH.

    Raises:
        Failure: `failed_precondition`, saying what is missing or does not fit.
    """
    found = {name: which(name) for name in ("firecracker", "jailer")}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise _unfit(f"{' and '.join(missing)} {_are(missing)} not on the PATH")
    firecracker, jailer = (_real(path) for path in found.values() if path is not None)
    if await asyncio.to_thread(_needs_libraries, firecracker):
        raise _unfit(f"{firecracker} is linked to libraries that a jail does not have")
    version = await _version(firecracker, "--version")
    its_jailers = await _version(jailer, "--version")
    if its_jailers != version:
        raise _unfit(f"firecracker is {version} and jailer is {its_jailers}")
    if not OLDEST <= _numbers(version)[:2] <= NEWEST:
        raise _unfit(f"firecracker {version} is not supported")
    return Programs(
        firecracker, jailer, version, await _version(firecracker, "--snapshot-version")
    )


def _real(path: str) -> Path:
    """Return a program itself: the jailer names the jail by it, not by a link to it."""
    return Path(path).resolve()


def _needs_libraries(program: Path) -> bool:
    content = program.read_bytes()
    return content.startswith(_ELF) and not kernel_image.is_static(content)


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _unfit(sentence: str) -> errors.Failure:
    oldest = ".".join(map(str, OLDEST))
    return errors.Failure(
        "failed_precondition",
        sentence,
        hint=f"put firecracker and jailer as released, {oldest} or newer, on the PATH",
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


async def _version(program: Path, flag: str) -> str:
    try:
        said = await processes.run([str(program), flag], timeout_s=_DEADLINE_S)
    except (processes.ProgramFailed, OSError) as error:
        raise _unfit(f"{program} cannot be run: {error}") from error
    found = _VERSION.search(said.stdout.decode(errors="replace"))
    if found is None:
        raise _unfit(f"{program} {flag} does not say a version")
    return ".".join(found.groups())


def _check_devices(store: Path) -> None:
    """Check that device nodes work where jails will lie.

    Raises:
        Failure: `failed_precondition`: they do not.
    """
    existing = next(path for path in (store, *store.parents) if path.exists())
    if os.statvfs(existing).f_flag & os.ST_NODEV:
        raise errors.Failure(
            "failed_precondition",
            f"{existing} is mounted nodev, and a jail needs its /dev/kvm",
            hint="mount it without nodev",
        )


@dataclass(frozen=True)
class Choice:
    """The VMM of this host's machines.

    Attributes:
        programs: The Firecracker to use; `None` for QEMU.
        reason: Why, for people.
    """

    programs: Programs | None
    reason: str

    @property
    def name(self) -> str:
        """Return `firecracker` or `qemu`."""
        return "qemu" if self.programs is None else "firecracker"


async def choose(
    wanted: str,
    accelerator: probe.Accelerator,
    store: Path,
    finding: Callable[[], Awaitable[Programs]] = find,
) -> Choice:
    """Return the VMM to use.

    Args:
        wanted: `auto` takes Firecracker where KVM runs guests and it is installed.
        accelerator: What the probe found.
        store: Where jails will lie.
        finding: Looks for the programs.

    Raises:
        Failure: `failed_precondition` when Firecracker was asked for and cannot be used.
    """
    if wanted == "qemu":
        return Choice(None, "QEMU was asked for")
    if accelerator.kind != "kvm":
        if wanted == "firecracker":
            raise errors.Failure(
                "failed_precondition",
                f"vmm is firecracker, which needs KVM: {accelerator.reason}",
                hint="set host.vmm to auto or qemu, or run this host where KVM runs guests",
            )
        return Choice(None, f"Firecracker needs KVM: {accelerator.reason}")
    try:
        programs = await finding()
        _check_devices(store)
    except errors.Failure as failure:
        if wanted == "firecracker":
            raise errors.Failure(
                failure.code, f"vmm is firecracker, but {failure.message}", hint=failure.hint
            ) from failure
        return Choice(None, failure.message)
    return Choice(programs, f"firecracker {programs.version} and KVM are here")
