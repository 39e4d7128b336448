"""The data directory: folders, the reflink store, and the files each component is told by.

Owns `<data>` and `<run>`; called by `host.up` before anything is started and by `host.down`
after everything has stopped.
"""

import asyncio
import contextlib
import errno
import fcntl
import secrets
import shutil
from pathlib import Path

from godwit.base import errors, private_files, processes
from godwit.base.clock import SystemClock
from godwit.base.settings import Settings
from godwit.control import fly_src_key
from godwit.host import (
    bus_file,
    cluster_certificate,
    components,
    edge_keys,
    identity,
    membership,
    mounts,
)
from godwit.host.joining import read_cluster
from godwit.wire import joining

_FICLONE = 0x40049409
_STORE_SHARE = 0.8
_STORE_MINIMUM = 2 * 1024**3
_LEAVING_S = 10.0


def supports_reflink(directory: Path) -> bool:
    """Tell, by trying, whether files in the directory can share blocks."""
    source, target = directory / ".reflink-a", directory / ".reflink-b"
    try:
        with source.open("wb+") as a, target.open("wb+") as b:
            a.write(b"x" * 65_536)
            a.flush()
            fcntl.ioctl(b.fileno(), _FICLONE, a.fileno())
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.EXDEV):
            return False
        raise
    else:
        return True
    finally:
        source.unlink(missing_ok=True)
        target.unlink(missing_ok=True)


async def prepare(settings: Settings) -> tuple[identity.HostIdentity, identity.Keys]:
    """Ensure folders, store, identity and the components' files.

    Raises:
        Failure: The store cannot be made; the message says what is missing.
    """
    paths = settings.paths
    if len(str(paths.run / "m" / ("0" * 14 + ".channel"))) > 100:  # noqa: PLR2004 (sun_path)
        raise errors.invalid(f"the run directory {paths.run} is too long for Unix sockets")
    for folder in ("bus", "registry", "control", "agent", "edge", "dns", "log", "keys"):
        (paths.data / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    # Machines' users must reach their own files below the store.
    paths.data.chmod(0o711)
    for folder in ("pids", "n", "m"):
        (paths.run / folder).mkdir(mode=0o711, parents=True, exist_ok=True)
    paths.cache.mkdir(parents=True, exist_ok=True)
    await mount_store(paths.data)
    for folder in ("images", "machines"):
        (paths.store / folder).mkdir(mode=0o711, exist_ok=True)
    who, keys = identity.ensure(paths.data, settings.host.region, settings.host.zone)
    if {"control", "edge"} <= set(who.roles):
        edge_keys.ensure_here(paths.data, who.host_id, SystemClock().now_ms())
    if "control" in who.roles and read_cluster(paths.data) is None:
        fly_src_key.ensure(paths.data / "keys")
    write_files(settings, who, keys)
    return who, keys


async def mount_store(data: Path) -> None:
    """Ensure `<data>/store` is on a file system with reflinks.

    Where the disk has none, an xfs file is made once and mounted by loop. What the operator
    mounted there is taken as it is.
    """
    store, image = data / "store", data / "store.xfs"
    store.mkdir(mode=0o711, exist_ok=True)
    if mounts.at(store) is not None and own_mount(data) is None:
        store.chmod(0o711)
        return
    if own_mount(data) is None and not image.exists() and supports_reflink(data):
        return
    if not image.exists():
        free = shutil.disk_usage(data).free
        if free < _STORE_MINIMUM:
            raise errors.Failure(
                "insufficient_capacity",
                f"{data} has {free // 1024**2} MB free; the store needs at least 2048 MB",
            )
        scratch = image.with_suffix(".new")
        with scratch.open("wb") as file:
            file.truncate(int(free * _STORE_SHARE))
        await processes.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(scratch)], timeout_s=120)
        scratch.replace(image)
    if own_mount(data) is None:
        # Not nodev: a VMM's jail has its own /dev/kvm here, and everything else is root's alone.
        # What is deleted within is given back to the disk below.
        await processes.run(
            ["mount", "-o", "loop,nosuid,noatime,discard", str(image), str(store)], timeout_s=60
        )
    store.chmod(0o711)


def own_mount(data: Path) -> mounts.Mount | None:
    """Return the store's mount if `mount_store` made it; the operator's is not ours to undo."""
    found = mounts.at(data / "store")
    ours = (data / "store.xfs").exists() and found and found.source.startswith("/dev/loop")
    return found if ours else None


async def unmount_store(data: Path) -> None:
    """Ensure the store is not mounted by us; who is just leaving it gets some seconds.

    Raises:
        Failure: Something still uses it.
    """
    store = data / "store"
    deadline = asyncio.get_running_loop().time() + _LEAVING_S
    while own_mount(data) is not None:
        try:
            await processes.run(["umount", str(store)], timeout_s=60)
        except processes.ProgramFailed as error:
            if asyncio.get_running_loop().time() > deadline:
                raise errors.Failure(
                    "failed_precondition",
                    f"{store} cannot be unmounted: {error.stderr.strip()}",
                    hint=f"`fuser -vm {store}` names who uses it; end that, then `godwit down`",
                ) from error
            await asyncio.sleep(0.2)


def clear_run(run: Path) -> None:
    """Remove the run directory."""
    shutil.rmtree(run, ignore_errors=True)


def upstreams(settings: Settings, resolv_conf: Path = Path("/etc/resolv.conf")) -> tuple[str, ...]:
    """Return the resolvers for names outside, `address:port`, IPv6 in brackets."""
    named = settings.host.dns_upstreams
    if not named:
        with contextlib.suppress(OSError):
            lines = [line.split() for line in resolv_conf.read_text().splitlines()]
            named = tuple(w[1] for w in lines if len(w) > 1 and w[0] == "nameserver")
    return tuple(_with_port(address) for address in named)


def _with_port(address: str) -> str:
    if address.startswith("[") or address.count(":") == 1:
        return address
    return f"[{address}]:53" if ":" in address else f"{address}:53"


def write_files(settings: Settings, who: identity.HostIdentity, keys: identity.Keys) -> None:
    """Write what each component is told by, for its owner alone; the registry's secret once."""
    run = settings.paths.run
    secret = keys.directory / "registry.secret"
    if "registry" in who.roles and not secret.exists():
        private_files.write(secret, secrets.token_hex(32) + "\n")
    if "control" in who.roles:
        root = cluster_certificate.ensure(keys.directory).root()
        shared = joining.bus_secret(root, who.region)
        private_files.write(keys.directory / "cluster.secret", shared + "\n")
    files = {
        "settings.json": settings.model_dump_json(indent=2),
        "bus.conf": bus_file.text(
            settings, who, keys, membership.read(settings.paths.data).values()
        ),
        "edge.json": components.edge_config(settings, who, keys).model_dump_json(indent=2),
        "dns.json": components.dns_config(
            settings, who, keys, upstreams(settings)
        ).model_dump_json(indent=2),
    }
    if "registry" in who.roles:
        files["registry.yml"] = components.registry_config(settings)
    if "bus" not in who.roles:
        del files["bus.conf"]
    for name, text in files.items():
        private_files.write(run / name, text)
