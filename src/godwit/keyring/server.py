"""The keyring's socket: who may ask, how much, how long. One question per connection."""

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from godwit.base import errors
from godwit.keyring import framing
from godwit.keyring.vault import Vault
from godwit.wire import keyring

logger = logging.getLogger(__name__)

_QUESTION_S = 5.0
_AT_ONCE = 64
_PEER = struct.Struct("3i")

Handler = Callable[[dict[str, Any]], Awaitable[BaseModel]]


def listen(path: Path) -> socket.socket:
    """Return a socket that only this user may connect to; made before another user is become."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
    finally:
        os.umask(before)
    listening.listen(_AT_ONCE)
    listening.setblocking(False)
    return listening


def handlers(vault: Vault) -> Mapping[str, Handler]:
    """Return every verb with what answers it."""

    async def roots(_: dict[str, Any]) -> BaseModel:
        return await vault.roots()

    async def new_root(_: dict[str, Any]) -> BaseModel:
        return await vault.new_root()

    async def prepare_root(_: dict[str, Any]) -> BaseModel:
        return await vault.prepare_root()

    return {
        "new_key": lambda body: vault.new_key(keyring.NewKey.model_validate(body)),
        "renew_key": lambda body: vault.renew_key(keyring.RenewKey.model_validate(body)),
        "seal": lambda body: vault.seal(keyring.Seal.model_validate(body)),
        "reseal": lambda body: vault.reseal(keyring.Reseal.model_validate(body)),
        "reveal": lambda body: vault.reveal(keyring.Reveal.model_validate(body)),
        "for_host": lambda body: vault.for_host(keyring.ForHost.model_validate(body)),
        "hand_over": lambda body: vault.hand_over(keyring.HandOver.model_validate(body)),
        "rewrap": lambda body: vault.rewrap(keyring.Rewrap.model_validate(body)),
        "retire_roots": lambda body: vault.retire_roots(keyring.RetireRoots.model_validate(body)),
        "make_kms": lambda body: vault.make_kms(keyring.MakeKms.model_validate(body)),
        "use_kms": lambda body: vault.use_kms(keyring.UseKms.model_validate(body)),
        "promote_root": lambda body: vault.promote_root(keyring.PreparedRoot.model_validate(body)),
        "take_roots": lambda body: vault.take_roots(keyring.TakeRoots.model_validate(body)),
        "prepare_root": prepare_root,
        "roots": roots,
        "new_root": new_root,
    }


class Server:
    """Answers on a listening socket.

    Args:
        vault: What answers.
        allowed: The user whose processes may ask.
    """

    def __init__(self, vault: Vault, *, allowed: int) -> None:
        self._handlers = handlers(vault)
        self._allowed = allowed
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def start(self, listening: socket.socket) -> asyncio.Server:
        """Answer from now on."""
        return await asyncio.start_unix_server(self._serve, sock=listening)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if _peer(writer) != self._allowed:
                logger.warning("somebody else than control asked and was turned away")
                return
            async with self._room, asyncio.timeout(_QUESTION_S):
                data = await framing.read(reader)
                answer = await self.answer(data)
                await framing.write(writer, answer.model_dump_json().encode())
        except (TimeoutError, ConnectionError, framing.BadMessage):
            logger.info("a question broke off")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def answer(self, data: bytes) -> keyring.Answer:
        """Return the answer to a question; nothing of either is ever logged but its verb."""
        try:
            asked = keyring.Question.model_validate_json(data)
            handler = self._handlers.get(asked.verb)
            if handler is None:
                raise errors.invalid("this keyring does not know that verb")
            body = (await handler(asked.body)).model_dump(mode="json")
        except ValidationError:
            # Its words may quote what was given.
            return _problem(errors.invalid("the question cannot be read"))
        except errors.Failure as failure:
            return _problem(failure)
        except OSError as error:
            logger.exception("%s failed", asked.verb)
            why = f"the keyring cannot write its keys: {error.strerror}"
            return _problem(errors.Failure("unavailable", why))
        return keyring.Answer(body=body)


def _peer(writer: asyncio.StreamWriter) -> int:
    """Return the user at the other end."""
    connection: socket.socket = writer.get_extra_info("socket")
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return int(_PEER.unpack(raw)[1])


def _problem(failure: errors.Failure) -> keyring.Answer:
    problem = keyring.Problem(code=failure.code, message=failure.message, hint=failure.hint)
    return keyring.Answer(error=problem)
