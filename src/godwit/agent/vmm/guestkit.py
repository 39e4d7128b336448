"""What every guest boots from: Debian's cloud kernel, an initramfs with godwit-init, the TSC rate.

Owns `<cache>/guest`; all of it can be made again. The agent calls `ensure` at start-up, so does
`godwit doctor`; a second call only reads what is there. Two processes may call at once: one
works, the other waits. A new godwit-init makes a new initramfs beside the old one, because
machines that are just starting may still be reading that.
"""

import asyncio
import fcntl
import hashlib
import json
import lzma
import platform
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import zstandard

from godwit.agent.vmm import initramfs, kernel_image
from godwit.base import processes
from godwit.base.errors import Failure

PACKAGE = "linux-image-cloud-amd64"
BOOT_MODULES = ("virtio_mmio", "virtio_console")
"""What the control channel needs, loaded before init says hello."""
VSOCK_MODULES = ("vsock", "vmw_vsock_virtio_transport")
"""What it needs beside that where the VM has a vsock device, as Firecracker's have."""
RUN_MODULES = ("virtio_blk", "virtio_net", "virtio_balloon", "virtio_rng", "erofs", "overlay")
"""What a machine needs, loaded after its run spec came: a template has none of these."""

_KERNEL_FORMAT = 3
_INITRAMFS_FORMAT = 1
_KEPT_INITRAMFS = 4
_LOCK_DEADLINE_S = 600.0
_DOWNLOAD_DEADLINE_S = 600.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class GuestKit:
    """Files and figures that a VMM is started with.

    Attributes:
        kernel: Uncompressed ELF kernel with a PVH entry.
        initramfs: godwit-init and the modules it loads; its name carries the content's hash.
        tsc_khz: This host's time stamp counter, for `tsc_early_khz=` under emulation.
    """

    kernel: Path
    initramfs: Path
    tsc_khz: int
    kernel_version: str


async def ensure(cache: Path, programs: Path) -> GuestKit:
    """Return the guest kit of this host, made first if it is not there.

    Args:
        cache: `Paths.cache`; the kit lives in `guest` below it.
        programs: `Paths.programs`; holds the static godwit-init.

    Raises:
        Failure: `failed_precondition` when godwit-init is missing or not static, `unavailable`
            when Debian's kernel package cannot be had, `internal` when it is not as expected.
    """
    home = cache / "guest"
    home.mkdir(parents=True, exist_ok=True)
    init = programs / "godwit-init"
    async with _locked(home / "lock"):
        for left in home.glob("unpack-*"):
            # Of one that was killed.
            await asyncio.to_thread(shutil.rmtree, left, ignore_errors=True)
        program = await asyncio.to_thread(_read_init, init)
        kernel = await _ensure_kernel(home)
        image = await asyncio.to_thread(_ensure_initramfs, home, kernel, program)
        khz = await _ensure_tsc(home, init)
    return GuestKit(kernel / "vmlinux", image, khz, kernel.name)


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """Hold the kit's lock; waits for another process, but not for ever."""
    with path.open("w") as file:
        try:
            async with asyncio.timeout(_LOCK_DEADLINE_S):
                while not _try_lock(file.fileno()):
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise Failure(
                "deadline_exceeded",
                f"another process has been making the guest kit for {_LOCK_DEADLINE_S:g} s",
                hint=f"see who holds {path}: fuser {path}",
            ) from error
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_init(path: Path) -> bytes:
    hint = "build it with `cargo static` in rust/"
    try:
        program = path.read_bytes()
    except OSError as error:
        raise Failure(
            "failed_precondition", f"cannot read {path}: {error.strerror}", hint=hint
        ) from error
    if not kernel_image.is_static(program):
        raise Failure("failed_precondition", f"{path} is not a static x86-64 program", hint=hint)
    return program


async def _ensure_kernel(home: Path) -> Path:
    """Return the directory of the newest kernel here: vmlinux, modules and their order."""
    found = _newest_kernel(home)
    if found is not None:
        return found
    with tempfile.TemporaryDirectory(dir=home, prefix="unpack-") as temporary:
        work = Path(temporary)
        package = await _download(work)
        tree = work / "tree"
        await processes.run(["dpkg-deb", "-x", str(package), str(tree)], timeout_s=300)
        try:
            return await asyncio.to_thread(_install_kernel, home, tree, work)
        except (kernel_image.BadKernel, OSError) as error:
            raise Failure("internal", f"{package.name} is no usable kernel: {error}") from error


def _newest_kernel(home: Path) -> Path | None:
    formats = home.glob("kernel/*/format")
    found = [path.parent for path in formats if path.read_text() == str(_KERNEL_FORMAT)]
    return max(found, key=lambda path: (path.stat().st_mtime, path.name), default=None)


async def _download(work: Path) -> Path:
    """Download the package that Debian's meta package stands for, and nothing else."""
    try:
        name = await _resolve()
        await processes.run(
            ["apt-get", "-o", "APT::Sandbox::User=root", "download", name],
            cwd=str(work),
            timeout_s=_DOWNLOAD_DEADLINE_S,
        )
    except processes.ProgramFailed as error:
        raise Failure(
            "unavailable",
            f"cannot get the guest kernel from Debian: {error}",
            hint=f"check that `apt-get download {PACKAGE}` works on this host",
        ) from error
    return _only_package(work)


def _only_package(work: Path) -> Path:
    (package,) = work.glob("linux-image-*.deb")
    return package


async def _resolve() -> str:
    """Return the one versioned package behind the meta package."""
    for attempt in ("cached", "updated"):
        if attempt == "updated":
            await processes.run(["apt-get", "update"], timeout_s=_DOWNLOAD_DEADLINE_S)
        answer = await processes.run(["apt-cache", "depends", PACKAGE], check=False)
        name = parse_depends(answer.stdout.decode(errors="replace"))
        if name is not None:
            return name
    raise Failure(
        "unavailable",
        f"apt knows no package {PACKAGE}",
        hint="Godwit's hosts are Debian 12 with its main archive in /etc/apt/sources.list",
    )


def parse_depends(text: str) -> str | None:
    """Return the kernel package that `apt-cache depends` names, if there is one."""
    found = re.search(r"Depends: (linux-image-[0-9][\w.+-]*-cloud-amd64)$", text, re.MULTILINE)
    return found[1] if found else None


def _install_kernel(home: Path, tree: Path, work: Path) -> Path:
    """Make `kernel/<version>` from an unpacked package; visible only when complete."""
    (bzimage,) = tree.glob("boot/vmlinuz-*")
    version = bzimage.name.removeprefix("vmlinuz-")
    made = work / "kernel"
    (made / "modules").mkdir(parents=True)
    (made / "vmlinux").write_bytes(kernel_image.vmlinux(bzimage.read_bytes()))
    (made / "vmlinux").chmod(0o644)
    (made / "modules" / "order").write_text(_copy_modules(tree, version, made / "modules"))
    (made / "format").write_text(str(_KERNEL_FORMAT))
    target = home / "kernel" / version
    target.parent.mkdir(exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    made.chmod(0o755)
    made.rename(target)
    return target


def _copy_modules(tree: Path, version: str, into: Path) -> str:
    """Copy the modules guests load, uncompressed, and return the text of `/modules/order`."""
    library = tree / "lib" / "modules" / version
    files = {kernel_image.module_name(path.name): path for path in library.rglob("*.ko*")}
    builtin = {
        kernel_image.module_name(Path(line).name)
        for line in (library / "modules.builtin").read_text().splitlines()
    }
    contents: dict[str, bytes] = {}

    def depends(name: str) -> Iterable[str]:
        if name not in files:
            raise kernel_image.BadKernel(f"there is no module {name}")
        contents[name] = _read_module(files[name])
        return kernel_image.module_depends(contents[name])

    boot = kernel_image.load_order(BOOT_MODULES, depends, loaded=builtin)
    vsock = kernel_image.load_order(VSOCK_MODULES, depends, loaded=builtin | set(boot))
    run = kernel_image.load_order(RUN_MODULES, depends, loaded=builtin | set(boot))
    for name in (*boot, *vsock, *run):
        (into / f"{name}.ko").write_bytes(contents[name])
    moments = {"boot": boot, "vsock": vsock, "run": run}
    return "".join(f"{moment} {name}.ko\n" for moment, names in moments.items() for name in names)


def _read_module(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(content)
    if path.suffix == ".zst":
        return zstandard.ZstdDecompressor().decompressobj().decompress(content)
    return content


def _ensure_initramfs(home: Path, kernel: Path, init: bytes) -> Path:
    """Return the initramfs of this init and these modules, written first if it is new."""
    content = build_initramfs(init, kernel / "modules")
    digest = hashlib.sha256(b"%d" % _INITRAMFS_FORMAT + content).hexdigest()[:16]
    target = home / f"initramfs-{digest}.img"
    if not target.exists():
        temporary = target.with_suffix(".tmp")
        temporary.write_bytes(content)
        temporary.chmod(0o644)
        temporary.rename(target)
    older = sorted(home.glob("initramfs-*.img"), key=lambda path: path.stat().st_mtime)
    for path in older[:-_KEPT_INITRAMFS]:
        if path != target:
            path.unlink()
    return target


def build_initramfs(init: bytes, modules: Path) -> bytes:
    """Return the archive: `/init`, `/modules` and the console, nothing more."""
    order = (modules / "order").read_text()
    names = [line.split()[1] for line in order.splitlines()]
    return initramfs.archive(
        (
            initramfs.directory("dev"),
            initramfs.character_device("dev/console", 5, 1),
            initramfs.directory("modules"),
            initramfs.file("modules/order", order.encode()),
            *(initramfs.file(f"modules/{n}", (modules / n).read_bytes()) for n in names),
            initramfs.file("init", init, 0o755),
        )
    )


async def _ensure_tsc(home: Path, init: Path) -> int:
    """Return the counter's rate, measured once per boot of this host."""
    note = home / "tsc.json"
    boot = _host_boot()
    known = _read_note(note)
    khz = known.get("khz")
    if known.get("boot") == boot and isinstance(khz, int):
        return khz
    try:
        answer = await processes.run([str(init), "tsc-khz"], timeout_s=10)
        khz = int(answer.stdout)
    except (processes.ProgramFailed, ValueError) as error:
        raise Failure("internal", f"cannot measure the time stamp counter: {error}") from error
    temporary = note.with_suffix(".tmp")
    temporary.write_text(json.dumps({"boot": boot, "khz": khz}))
    temporary.replace(note)
    return khz


def _host_boot() -> str:
    return f"{platform.node()} {_BOOT_ID.read_text().strip()}"


def _read_note(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
