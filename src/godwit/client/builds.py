"""Building an image from source: `POST /x/v1/apps/{app}/builds`.

The body is a tar of the build context, the parameters are query parameters, and the answer
is one JSON object a line: `log`, `notice`, `image` or `error`.
"""

import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import get_args

from pydantic import ValidationError

from godwit.base import errors
from godwit.client.records import BuildEvent
from godwit.client.transport import Transport

_SILENCE_S = 900.0


@dataclass(frozen=True)
class BuildOptions:
    """How to build.

    Attributes:
        dockerfile: Path within the context.
        label: Tag of the image; the platform makes one when empty.
        labels: Of the image.
        secrets: For RUN steps that mount them.
        offline: Use local bases only.
        force: Build on this host although it serves several organizations.
    """

    dockerfile: str = "Dockerfile"
    target: str = ""
    args: dict[str, str] = field(default_factory=dict)
    label: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    no_cache: bool = False
    offline: bool = False
    force: bool = False


class Builds:
    """Builds."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def build(
        self, app: str, context: AsyncIterator[bytes], options: BuildOptions
    ) -> AsyncGenerator[BuildEvent, None]:
        """Build and yield what happens; the last event is the image.

        Raises:
            Failure: The build failed or was refused.
        """
        done = False
        async with self._transport.stream(
            "POST",
            f"/x/v1/apps/{app}/builds",
            query=_query(options),
            content=context,
            headers=_headers(options),
            timeout_s=_SILENCE_S,
        ) as lines:
            async for line in lines:
                event = _event(line)
                if event is None:
                    continue
                if event.type == "error":
                    raise errors.Failure(
                        _code(event), event.message or "the build failed", hint=event.hint
                    )
                done = done or event.type == "image"
                yield event
        if not done:
            raise errors.Failure(
                "unavailable",
                "the build ended without an image and without saying why",
                hint="try again; `godwit doctor` on the host tells whether it can build",
            )


def _code(event: BuildEvent) -> errors.Code:
    known = (code for code in get_args(errors.Code) if code == event.code)
    return next(known, "failed_precondition")


def _headers(options: BuildOptions) -> dict[str, str]:
    headers = {"Content-Type": "application/x-tar"}
    if options.secrets:
        # Not in the address, which is written into logs.
        told = base64.b64encode(json.dumps(options.secrets).encode())
        headers["Godwit-Build-Secrets"] = told.decode()
    return headers


def _query(options: BuildOptions) -> dict[str, str | bool | None]:
    return {
        "dockerfile": options.dockerfile,
        "target": options.target or None,
        "args": json.dumps(options.args) if options.args else None,
        "label": options.label or None,
        "labels": json.dumps(options.labels) if options.labels else None,
        "no_cache": options.no_cache or None,
        "offline": options.offline or None,
        "force": options.force or None,
    }


def _event(line: str) -> BuildEvent | None:
    if not line.strip():
        return None
    try:
        return BuildEvent.model_validate_json(line)
    except ValidationError:
        return BuildEvent(type="log", line=line)
