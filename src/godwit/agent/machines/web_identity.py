"""What AWS's tools need in a machine that takes an AWS role: a token file and its variables.

Where `AWS_ROLE_ARN` is in the environment of a process, `run_spec` adds the variables. The token
is the machine's own from control, as it would get it at `/.fly/api`; it is there from the start
if control is, and `agent.token_files` renews it. Source: spec/machines.md §5.2.
"""

import base64
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from godwit.agent import ports
from godwit.agent.machines import config as settings
from godwit.agent.machines import records
from godwit.base import errors
from godwit.wire import guest, guest_api

TOKEN_FILE = "/.fly/oidc/token"  # noqa: S105
AUDIENCE = "sts.amazonaws.com"
_ROLE = "AWS_ROLE_ARN"
_FILE_VARIABLE = "AWS_WEB_IDENTITY_TOKEN_FILE"
_SESSION_VARIABLE = "AWS_ROLE_SESSION_NAME"
_LONGEST_SESSION = 64
"""AWS's own limit for the name of a session."""
_MODE = 0o444
_OK = 200


def variables(machine: records.Machine, found: Mapping[str, str]) -> dict[str, str]:
    """Return what an environment has to have beside what it has: nothing that it says itself."""
    if not found.get(_ROLE) or found.get(_FILE_VARIABLE):
        return {}
    app = machine.app[: _LONGEST_SESSION - 1 - len(machine.machine_id)]
    session = f"{app}-{machine.machine_id}"
    return {
        _FILE_VARIABLE: TOKEN_FILE,
        _SESSION_VARIABLE: found.get(_SESSION_VARIABLE) or session,
    }


def is_wanted(machine: records.Machine, secrets: Collection[str]) -> bool:
    """Tell whether any process of a machine may be to take a role.

    Args:
        machine: The machine.
        secrets: Names of its app's.
    """
    return _ROLE in secrets or _ROLE in set(_named(machine))


def _named(machine: records.Machine) -> Iterator[str]:
    """Yield every variable that a machine's images and config name."""
    images = (machine.image_config, *machine.container_configs)
    for image in images:
        yield from (entry.partition("=")[0] for entry in (image.env if image else ()))
    config: Mapping[str, Any] = machine.config
    parts = (*settings.items(config.get("processes")), *settings.containers(config))
    for part in (config, *parts):
        yield from map(str, settings.mapping(part.get("env")))
        for entry in (*settings.items(part.get("env_from")), *settings.items(part.get("secrets"))):
            yield str(entry.get("env_var") or "")


def is_told(spec: guest.RunSpec) -> bool:
    """Tell whether a process will look for the token."""
    own = (spec.process, *spec.beside, *(one.process for one in spec.containers))
    return any(one.env.get(_FILE_VARIABLE) == TOKEN_FILE for one in own if one is not None)


async def fetch(control: ports.Control, machine_id: str, within_s: float) -> str:
    """Return a fresh token of a machine.

    Raises:
        Failure: Control is away, or has none: its API has no name.
    """
    request = guest_api.request(
        machine_id,
        "POST",
        "/v1/tokens/oidc",
        (("content-type", "application/json"),),
        json.dumps({"aud": AUDIENCE}).encode(),
    )
    answer = await control.guest_request(request, within_s)
    if answer.status != _OK:
        raise errors.Failure("unavailable", _refusal(answer))
    return answer.body.decode()


def _refusal(answer: guest_api.GuestAnswer) -> str:
    try:
        return str(json.loads(answer.body)["error"])
    except (ValueError, KeyError, TypeError):
        return f"the API answers {answer.status}"


def added(spec: guest.RunSpec, token: str) -> guest.RunSpec:
    """Return what init is told with a token that is there from the start."""
    content = base64.b64encode(token.encode()).decode()
    file = guest.File(path=TOKEN_FILE, content_base64=content, mode=_MODE)
    return spec.model_copy(update={"files": (*spec.files, file)})
