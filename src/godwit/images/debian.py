"""Trees of Debian packages: bootstrapped, extended, cleaned of everything of this machine.

The machine's own apt settings (mirror, proxy, certificate authority) are used to download
and never stay in a tree. Packages are installed in a mount and network namespace of their
own. Called by `bases.py`; needs root.
"""

import asyncio
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from godwit.base import processes
from godwit.base.errors import Failure
from godwit.images import recipes

_MERGED_USR: Final = Path("/usr/share/mmdebstrap/hooks/merged-usr")
_EXCLUDE: Final = (
    "force-unsafe-io",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)
_ACQUIRE: Final = re.compile(
    r'(?i)^(Acquire::(?:https?::.+|ftp::proxy.*|Retries|Check-Valid-Until|Check-Date)) "(.*)";$'
)
_DEB_LINE: Final = re.compile(
    r"^deb\s+(?:\[[^\]]*\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<c>.+)$"
)
_SUFFIX: Final = re.compile(r"(-updates|-security|-backports|/updates)$")
_NAMESPACES: Final = ("unshare", "--mount", "--propagation", "private", "--net")
_AROUND: Final = """\
set -e
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
shift
exec "$@"
"""
_ENVIRONMENT: Final = {
    "DEBIAN_FRONTEND": "noninteractive",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}
_REMOVED: Final = (
    "etc/resolv.conf",
    "etc/hostname",
    "etc/machine-id",
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "var/cache/ldconfig/aux-cache",
    "var/cache/debconf/templates.dat-old",
    "var/cache/debconf/config.dat-old",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/available-old",
)
_EMPTIED: Final = ("var/cache/apt", "var/lib/apt/lists", "var/log/apt", "dev", "run", "tmp")
_TRUNCATED: Final = ("var/log",)


def mirror_lines(texts: Sequence[str], suite: str) -> tuple[str, ...]:
    """Return sources for a suite from the mirrors this machine uses for Debian.

    Args:
        texts: The machine's sources, in either of apt's formats.
        suite: The suite that the machine runs, and that is to be installed.

    Returns:
        `deb` lines; none when the machine has no mirror for that suite.
    """
    found: dict[str, str] = {}
    for text in texts:
        for uri, name in _entries(text):
            if _SUFFIX.sub("", name) == suite and "debian" in uri:
                found.setdefault(name, f"deb {uri} {name} main")
    return tuple(found.values()) if suite in found else ()


def acquire_options(dump: str) -> tuple[str, ...]:
    """Return the download settings in the output of `apt-config dump`."""
    matches = (_ACQUIRE.match(line) for line in dump.splitlines())
    return tuple(f'{m.group(1)} "{m.group(2)}"' for m in matches if m and m.group(2))


async def bootstrap(tree: Path, *, timeout_s: float = 600.0) -> None:
    """Make a minimal Debian with apt in a directory that does not exist yet.

    apt's package lists stay in it, for `extend`, until `clean`.

    Raises:
        Failure: `failed_precondition` when mmdebstrap is missing, `unavailable` when the
            packages cannot be had.
    """
    sources = [p.read_text() for p in _source_files() if p.is_file()]
    options = [f"--aptopt={option}" for option in await _acquire()]
    hooks = [f"--hook-dir={_MERGED_USR}"] if _MERGED_USR.is_dir() else []
    command = [
        "mmdebstrap", "--variant=apt", "--format=directory", "--components=main",
        "--include=usr-is-merged,adduser", "--skip=cleanup/apt/lists",
        '--aptopt=Acquire::Languages "none"', *options, *hooks,
        *(f"--dpkgopt={rule}" for rule in _EXCLUDE),
        recipes.SUITE, str(tree), *mirror_lines(sources, recipes.SUITE),
    ]  # fmt: skip
    await _run(command, "Debian packages cannot be installed", timeout_s)


@dataclass(frozen=True)
class Index:
    """What apt knows of the packages there are: kept outside the trees it serves."""

    lists: Path
    sources: Path


def set_aside(tree: Path, into: Path) -> Index:
    """Move apt's lists out of a fresh tree, with the sources they came from."""
    into.mkdir()
    (tree / "var/lib/apt/lists").rename(into / "lists")
    (tree / "var/lib/apt/lists").mkdir(mode=0o755)
    shutil.copy(tree / "etc/apt/sources.list", into / "sources.list")
    return Index(into / "lists", into / "sources.list")


async def extend(
    tree: Path, packages: Sequence[str], index: Index, *, timeout_s: float = 600.0
) -> None:
    """Install further packages into a tree made by `bootstrap`.

    Downloads with this machine's settings, then installs without a network.

    Raises:
        Failure: `unavailable`.
    """
    if not packages:
        return
    (tree / "var/cache/apt/archives/partial").mkdir(parents=True, exist_ok=True)
    settings = index.lists.parent / f"{tree.name}.conf"
    settings.write_text(_apt_conf(tree, index, await _acquire()))
    environment = {**_ENVIRONMENT, "APT_CONFIG": str(settings)}
    install = ["apt-get", "install", "--yes", "--no-install-recommends"]
    await _run(
        [*install, "--download-only", *packages],
        "Debian packages cannot be downloaded",
        timeout_s,
        environment,
    )
    await _run(
        [*_NAMESPACES, "sh", "-c", _AROUND, "sh", str(tree), *install, "--no-download", *packages],
        "Debian packages cannot be installed",
        timeout_s,
        environment,
    )


async def run_inside(tree: Path, command: Sequence[str], *, timeout_s: float = 120.0) -> None:
    """Run a command with a tree as its root, without a network.

    Raises:
        Failure: `unavailable`, with what the command said.
    """
    chroot = ["chroot", str(tree), "/usr/bin/env", "-i"]
    chroot += [f"{name}={value}" for name, value in _ENVIRONMENT.items()]
    await _run(
        [*_NAMESPACES, "sh", "-c", _AROUND, "sh", str(tree), *chroot, *command],
        f"{command[0]} failed in the base image",
        timeout_s,
        _ENVIRONMENT,
    )


def dress(tree: Path, recipe: recipes.Recipe) -> None:
    """Put a recipe's files and links in place and take away what it removes."""
    for path in recipe.remove:
        (tree / path.lstrip("/")).unlink(missing_ok=True)
    for path, content in recipe.files.items():
        target = tree / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_text(content)
        target.chmod(0o755 if content.startswith("#!") else 0o644)
    for path, aim in recipe.links.items():
        target = tree / path.lstrip("/")
        target.unlink(missing_ok=True)
        target.symlink_to(aim)


async def clean(tree: Path) -> None:
    """Remove what is of this machine or of no use: lists, caches, logs, names, settings."""
    await asyncio.to_thread(_clean, tree)


def _clean(tree: Path) -> None:
    for path in _REMOVED:
        (tree / path).unlink(missing_ok=True)
    for path in _EMPTIED:
        _empty(tree / path)
    for path in _TRUNCATED:
        for log in (tree / path).rglob("*"):
            if log.is_file() and not log.is_symlink() and log.stat().st_size:
                os.truncate(log, 0)
    for cache in tree.glob("root/.*"):
        if cache.name in (".cache", ".wget-hsts"):
            shutil.rmtree(cache, ignore_errors=True)


def _empty(directory: Path) -> None:
    if not directory.is_dir():
        return
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _source_files() -> Iterator[Path]:
    etc = Path("/etc/apt")
    yield etc / "sources.list"
    yield from sorted((etc / "sources.list.d").glob("*.list"))
    yield from sorted((etc / "sources.list.d").glob("*.sources"))


def _entries(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        if match := _DEB_LINE.match(line.strip()):
            yield match.group("uri"), match.group("suite")
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"(?m)^([A-Za-z-]+):[ \t]*(.*)$", stanza))
        if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes") != "no":
            for uri in fields.get("URIs", "").split():
                for suite in fields.get("Suites", "").split():
                    yield uri, suite


async def _acquire() -> tuple[str, ...]:
    dump = await processes.run(["apt-config", "dump"])
    return acquire_options(dump.stdout.decode())


def _apt_conf(tree: Path, index: Index, options: Sequence[str]) -> str:
    settings = {
        "Dir": tree,
        "Dir::State::lists": index.lists,
        "Dir::State::status": tree / "var/lib/dpkg/status",
        "Dir::Etc::sourcelist": index.sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::parts": "/dev/null",
        "DPkg::Chroot-Directory": tree,
        "APT::Sandbox::User": "root",
    }
    lines = [f'{name} "{value}";' for name, value in settings.items()]
    return "\n".join([*lines, *(f"{option};" for option in options)]) + "\n"


async def _run(
    command: Sequence[str],
    what: str,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
) -> None:
    try:
        await processes.run(command, timeout_s=timeout_s, env=environment)
    except processes.ProgramFailed as error:
        if error.reason == "not installed":
            raise Failure(
                "failed_precondition",
                f"{command[0]} is not installed on this host",
                hint=f"install it: apt-get install {command[0]}",
            ) from error
        raise Failure(
            "unavailable",
            f"{what}: {error}",
            hint="check the host's package mirror and its network",
        ) from error
