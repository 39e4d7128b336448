"""Secrets of apps: `/v1/apps/{app}/secrets`, and Godwit's own beside it."""

import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from godwit.client.records import Answer
from godwit.client.transport import Transport


class Secret(Answer):
    """A secret by name and digest; `status` is `deployed`, `staged` or `partial`."""

    name: str
    digest: str = ""
    version: int = 0
    status: str = ""
    created_at: str | None = None
    updated_at: str | None = None


class SecretList(Answer):
    """An app's secrets at a version."""

    version: int = 0
    secrets: list[Secret] = []


class RootKeys(Answer):
    """Root keys of the keyring, the oldest first, and how many apps were wrapped again."""

    root_keys: list[str] = []
    rewrapped: int = 0


class Secrets:
    """Secrets."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(self, app: str) -> SecretList:
        """Return an app's secrets and how far each has come, never a value."""
        answer = await self._transport.get(f"/x{_path(app)}")
        return SecretList.model_validate(answer)

    async def change(self, app: str, values: Mapping[str, bytes | None]) -> int:
        """Set secrets, remove those that are `None`; return the version they make.

        Raises:
            Failure: `invalid_argument`, `unavailable` when the keyring is away.
        """
        answer = await self._transport.call("POST", _path(app), body=_body(values))
        return int(answer["version"])

    async def rotate(self, app: str) -> int:
        """Have an app's secrets encrypted with another key; return their version, which stays."""
        answer = await self._transport.call("POST", f"/x{_path(app)}/rotate")
        return int(answer["version"])

    async def rotate_root(self) -> RootKeys:
        """Have another root key wrap every app's keys."""
        return RootKeys.model_validate(await self._transport.call("POST", "/x/v1/keyring/rotate"))


def _path(app: str) -> str:
    return f"/v1/apps/{quote(app, safe='')}/secrets"


def _body(values: Mapping[str, bytes | None]) -> dict[str, Any]:
    text: dict[str, str | None] = {}
    coded: dict[str, str] = {}
    for name, value in values.items():
        try:
            text[name] = None if value is None else value.decode()
        except UnicodeDecodeError:
            coded[name] = base64.b64encode(value or b"").decode()
    return {"values": text, "values_base64": coded}
