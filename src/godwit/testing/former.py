"""The former release, made from this repository's own history: for tests of upgrades.

Its source and programs are kept under `build/cache/former/<commit>`; made once.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from godwit.base import settings
from godwit.testing.platform import ROOT, sh

COMMIT = "5e326f68f4fc587b824bcbda3ae75faea1e82a7e"
"""Release 0.1."""
_BUILD_S = 1_200
_KERNEL_FORMAT = "1"
_KERNEL_LINES = ("boot ", "run ")
_STATIC = "x86_64-unknown-linux-gnu/small"


@dataclass(frozen=True)
class Release:
    """A release's source tree and its Rust programs."""

    source: Path
    programs: Path
    cache: Path

    @property
    def environ(self) -> dict[str, str]:
        """Return the variables that make `godwit` be this release."""
        return {
            "PYTHONPATH": str(self.source / "src"),
            "GODWIT_PATHS_PROGRAMS": str(self.programs),
            "GODWIT_PATHS_CACHE": str(self.cache),
        }

    def fill_cache(self, present: Path) -> None:
        """Make its cache of this release's: nothing can be downloaded where tests run.

        The guest kernel is laid out as that release knew it.
        """
        shutil.rmtree(self.cache, ignore_errors=True)
        shutil.copytree(present / "bases", self.cache / "bases")
        shutil.copytree(present / "guest" / "kernel", self.cache / "guest" / "kernel")
        for kernel in (self.cache / "guest" / "kernel").iterdir():
            order = kernel / "modules" / "order"
            lines = order.read_text().splitlines(keepends=True)
            order.write_text("".join(one for one in lines if one.startswith(_KERNEL_LINES)))
            (kernel / "format").write_text(_KERNEL_FORMAT)

    def renew_cache(self, present: Path) -> None:
        """Put this release's guest kernel there, as its set-up would."""
        shutil.rmtree(self.cache / "guest" / "kernel")
        shutil.copytree(present / "guest" / "kernel", self.cache / "guest" / "kernel")


def known() -> bool:
    """Tell whether this checkout's history holds the former release."""
    try:
        sh("git", "-C", str(ROOT), "cat-file", "-e", f"{COMMIT}^{{commit}}")
    except (AssertionError, OSError):
        return False
    return True


def built() -> Release:
    """Return the former release, built first if it is not there (minutes)."""
    home = ROOT / "build" / "cache" / "former" / COMMIT[:12]
    found = Release(home / "source", home / "programs", home / "cache")
    if not found.programs.exists():
        _unpack(found.source)
        _build(found.source / "rust", home / "new")
        (home / "new").rename(found.programs)
    return found


def release() -> Release:
    """Return the former release, ready to be brought up."""
    found = built()
    found.fill_cache(settings.from_process().paths.cache)
    return found


def _unpack(source: Path) -> None:
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    archive = source.with_suffix(".tar")
    sh("git", "-C", str(ROOT), "archive", "-o", str(archive), COMMIT)
    sh("tar", "-xf", str(archive), "-C", str(source))
    archive.unlink()


def _build(workspace: Path, programs: Path) -> None:
    """Build its programs; what both releases depend on is compiled anew, apart from ours."""
    target = workspace / "target"
    environ = {**os.environ, "CARGO_TARGET_DIR": str(target)}
    edges = ("build", "--release", "-p", "godwit-edge", "-p", "godwit-dns")
    for arguments in (edges, ("static",)):
        cargo = ("cargo", *arguments, "--quiet", "--locked")
        sh(*cargo, timeout=_BUILD_S, cwd=workspace, env=environ)
    shutil.rmtree(programs, ignore_errors=True)
    programs.mkdir()
    for name in ("edge", "dns"):
        shutil.copy2(target / "release" / f"godwit-{name}", programs)
    for name in ("shim", "init"):
        shutil.copy2(target / _STATIC / f"godwit-{name}", programs)
    shutil.rmtree(target)
