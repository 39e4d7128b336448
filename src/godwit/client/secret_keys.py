"""Secret keys of apps: `/v1/apps/{app}/secretkeys`."""

import base64
from urllib.parse import quote

from godwit.client.records import Answer
from godwit.client.transport import Transport
from godwit.wire.kms import KeyType


class SecretKey(Answer):
    """A secret key; `public_key` of an asymmetric one, base64."""

    name: str
    type: str
    public_key: str | None = None
    created_at: str | None = None
    updated_at: str | None = None


class SecretKeys:
    """Secret keys."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(self, app: str) -> list[SecretKey]:
        """Return an app's keys by name."""
        answer = await self._transport.get(_path(app))
        return [SecretKey.model_validate(one) for one in answer["secret_keys"]]

    async def generate(self, app: str, name: str, kind: KeyType) -> SecretKey:
        """Make a key, also in the place of one of that name.

        Raises:
            Failure: `invalid_argument`, `unavailable` when the keyring is away.
        """
        path = f"{_path(app)}/{quote(name, safe='')}/generate"
        return SecretKey.model_validate(
            await self._transport.call("POST", path, body={"type": kind})
        )

    async def put(self, app: str, name: str, kind: KeyType, value: bytes) -> SecretKey:
        """Import a key, also in the place of one of that name.

        Raises:
            Failure: `invalid_argument` when it is none; `unavailable`.
        """
        body = {"type": kind, "value": base64.b64encode(value).decode()}
        path = f"{_path(app)}/{quote(name, safe='')}"
        return SecretKey.model_validate(await self._transport.call("POST", path, body=body))

    async def delete(self, app: str, name: str) -> None:
        """Delete a key.

        Raises:
            Failure: `not_found`.
        """
        await self._transport.call("DELETE", f"{_path(app)}/{quote(name, safe='')}")


def _path(app: str) -> str:
    return f"/v1/apps/{quote(app, safe='')}/secretkeys"
