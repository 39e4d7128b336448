"""The login of this user's docker at the platform's registry.

Where there is a docker it keeps the login itself, in the store it was set up with; where there is
none its config file is written, for other tools that read it.
"""

import asyncio
import base64
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from godwit.base import errors, private_files, processes

USER = "x"
"""The registry takes any user name; the token is the password."""


def log_in(environ: Mapping[str, str], registry: str, token: str) -> Path | None:
    """Log docker in at a registry; return the file that was written, if there is no docker.

    Raises:
        Failure: Docker refuses, or its config file is none.
    """
    program = shutil.which("docker", path=environ.get("PATH", ""))
    if program is None:
        return _write(environ, registry, token)
    command = [program, "login", "--username", USER, "--password-stdin", registry]
    try:
        asyncio.run(processes.run(command, stdin=token.encode(), env=environ))
    except processes.ProgramFailed as failure:
        raise errors.Failure("failed_precondition", f"docker login: {failure}") from failure
    return None


def _write(environ: Mapping[str, str], registry: str, token: str) -> Path:
    home = Path(environ.get("HOME") or "~").expanduser()
    path = Path(environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
    config = _read(path)
    auths = config.setdefault("auths", {})
    auths[registry] = {"auth": base64.b64encode(f"{USER}:{token}".encode()).decode()}
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    private_files.write(path, json.dumps(config, indent=2) + "\n")
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise errors.invalid(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("auths", {}), dict):
        raise errors.invalid(f"{path} is not docker's config file")
    return found
