"""`launch --from`: the source of an app, cloned with git into a directory of its own."""

import asyncio
from pathlib import Path

from godwit.base import errors, processes
from godwit.cli.session import Session

_CLONE_S = 600.0


def clone(here: Session, address: str, into: Path) -> Path:
    """Clone a repository with its submodules into a directory that is empty or not there.

    Raises:
        Failure: The directory has something in it, or git cannot clone.
    """
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise errors.Failure(
            "failed_precondition",
            f"--from: {into} is not an empty directory",
            hint="name another one with --into DIR",
        )
    here.out.say(f"Cloning {address} into {into}")
    command = ["git", "clone", "--quiet", "--recurse-submodules", "--", address, str(into)]
    try:
        asyncio.run(processes.run(command, timeout_s=_CLONE_S, cwd=str(here.directory)))
    except processes.ProgramFailed as failure:
        raise errors.invalid(f"--from: {failure}") from failure
    return into
