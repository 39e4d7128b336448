"""Control's end of the keyring's socket. Implements `control.ports.Keyring`."""

import asyncio
import contextlib
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from godwit.base import errors
from godwit.keyring import framing
from godwit.wire import keyring
from godwit.wire.record import Record
from godwit.wire.secrets import SealedKey

T = TypeVar("T", bound=Record)

_ANSWER_S = 5.0


class Client:
    """Asks the keyring; every question has its own connection, so none waits for another."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def new_key(self, asked: keyring.NewKey) -> keyring.WrappedKey:
        """Return new keys for an app, wrapped.

        Raises:
            Failure: `unavailable` when the keyring is away; what it said. So do the others.
        """
        return await self._ask("new_key", asked, keyring.WrappedKey)

    async def renew_key(self, asked: keyring.RenewKey) -> keyring.WrappedKey:
        """Return another sealing key for an app."""
        return await self._ask("renew_key", asked, keyring.WrappedKey)

    async def seal(self, asked: keyring.Seal) -> keyring.Sealed:
        """Return values sealed, with what users see of them."""
        return await self._ask("seal", asked, keyring.Sealed)

    async def reseal(self, asked: keyring.Reseal) -> keyring.Sealed:
        """Return values sealed with an app's present key."""
        return await self._ask("reseal", asked, keyring.Sealed)

    async def reveal(self, asked: keyring.Reveal) -> keyring.Revealed:
        """Return values in the clear."""
        return await self._ask("reveal", asked, keyring.Revealed)

    async def for_host(self, asked: keyring.ForHost) -> SealedKey:
        """Return an app's key, sealed for a host."""
        return await self._ask("for_host", asked, SealedKey)

    async def hand_over(self, asked: keyring.HandOver) -> SealedKey:
        """Return the root keys, sealed for a host."""
        return await self._ask("hand_over", asked, SealedKey)

    async def rewrap(self, asked: keyring.Rewrap) -> keyring.Wrapped:
        """Return apps' keys wrapped by the newest root key."""
        return await self._ask("rewrap", asked, keyring.Wrapped)

    async def roots(self) -> keyring.Roots:
        """Return which root keys there are."""
        return await self._ask("roots", None, keyring.Roots)

    async def new_root(self) -> keyring.Roots:
        """Make a root key that wraps from now on."""
        return await self._ask("new_root", None, keyring.Roots)

    async def prepare_root(self) -> keyring.PreparedRoot:
        """Make a root key that opens and does not wrap yet."""
        return await self._ask("prepare_root", None, keyring.PreparedRoot)

    async def promote_root(self, asked: keyring.PreparedRoot) -> keyring.Roots:
        """Have a prepared root key wrap from now on."""
        return await self._ask("promote_root", asked, keyring.Roots)

    async def take_roots(self, asked: keyring.TakeRoots) -> keyring.Roots:
        """Know the root keys of another keyring as well."""
        return await self._ask("take_roots", asked, keyring.Roots)

    async def retire_roots(self, asked: keyring.RetireRoots) -> keyring.Roots:
        """Remove the root keys that nothing uses."""
        return await self._ask("retire_roots", asked, keyring.Roots)

    async def make_kms(self, asked: keyring.MakeKms) -> keyring.MadeKms:
        """Return a secret key of an app, generated or imported, sealed."""
        return await self._ask("make_kms", asked, keyring.MadeKms)

    async def use_kms(self, asked: keyring.UseKms) -> keyring.UsedKms:
        """Return what a secret key makes of a text."""
        return await self._ask("use_kms", asked, keyring.UsedKms)

    async def _ask(self, verb: str, body: Record | None, kind: type[T]) -> T:
        given = {} if body is None else body.model_dump(mode="json")
        question = keyring.Question(verb=verb, body=given)
        try:
            async with asyncio.timeout(_ANSWER_S):
                data = await self._exchange(question.model_dump_json().encode())
            answer = keyring.Answer.model_validate_json(data)
            if answer.error is not None:
                error = answer.error
                raise errors.Failure(error.code, error.message, hint=error.hint)
            return kind.model_validate(answer.body)
        except ValidationError:
            # Neither its words nor their cause may quote a value.
            raise errors.Failure("unavailable", "the keyring's answer cannot be read") from None
        except (OSError, TimeoutError, framing.BadMessage) as error:
            raise errors.Failure(
                "unavailable",
                "the keyring does not answer; machines run on, secrets cannot be changed now",
                hint="its log is keyring.log in the data directory's log folder",
            ) from error

    async def _exchange(self, data: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(self._path))
        try:
            await framing.write(writer, data)
            return await framing.read(reader)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
