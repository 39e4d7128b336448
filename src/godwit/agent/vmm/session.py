"""A live connection to one machine's shim. Implements `ports.ShimSession`.

One task reads frames and hands them on: status to whoever watches, answers to whoever asked,
output to its command. Everything that waits ends with `ConnectionError` when the shim is gone, so
no caller needs to know how the connection was lost.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from godwit.agent import ports
from godwit.agent.vmm import commands, exec_stream
from godwit.base import tasks
from godwit.wire import channel, guest, host_rpc, shim

logger = logging.getLogger(__name__)

_CONNECT_S = 5.0
_ANSWER_S = 10.0
_READ_BYTES = 65_536
_TAKES_S = 10.0
_FLUSH_S = 1.0
_GONE = "the machine's shim is gone"
_DEAF = "the machine's shim takes nothing"


class Session:
    """One connection; several may be open to one shim, each with its own streams."""

    def __init__(
        self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._tasks = tasks.Tasks(f"shim.{name}")
        self._gone = asyncio.Event()
        self._status: shim.Status | None = None
        self._status_count = 0
        self._changed = asyncio.Condition()
        self._subscribed = False
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._streams: dict[int, exec_stream.ExecStream] = {}
        self._last_number = 0

    @classmethod
    async def open(cls, machine_id: str, socket: Path) -> Self | None:
        """Return a session, `None` when nobody listens there.

        Raises:
            TimeoutError: The shim does not take the connection.
        """
        try:
            async with asyncio.timeout(_CONNECT_S):
                reader, writer = await asyncio.open_unix_connection(str(socket))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        session = cls(machine_id, reader, writer)
        session._tasks.spawn(session._read(), name="read")
        return session

    async def status(self) -> shim.Status:
        """Return what the shim knows now.

        Raises:
            ConnectionError: The shim is gone.
        """
        seen = self._status_count
        await self.send({"type": "status"})
        async with asyncio.timeout(_ANSWER_S):
            latest = await self._newer_than(seen)
        if latest is None:
            raise ConnectionResetError(_GONE)
        return latest

    async def changes(self) -> AsyncIterator[shim.Status]:
        """Yield the status now and at every change; ends when the shim is gone."""
        seen = 0
        if not self._subscribed:
            self._subscribed = True
            with contextlib.suppress(ConnectionError):
                await self.send({"type": "subscribe"})
        while (latest := await self._newer_than(seen)) is not None:
            seen = self._status_count
            yield latest

    async def stop(self, signal: str, timeout_ms: int) -> None:
        """Ask the guest to stop; returns when the request is sent."""
        await self.send({"type": "stop", "signal": signal, "timeout_ms": timeout_ms})

    async def signal(self, signal: str) -> None:
        """Send a signal to the machine's main process."""
        await self.send({"type": "signal", "signal": signal})

    async def kill(self) -> None:
        """End the VMM at once."""
        await self.send({"type": "kill"})

    async def exec(
        self, request: host_rpc.ExecRequest, env: dict[str, str]
    ) -> host_rpc.ExecAnswer:
        """Run one command to its end; output is cut at 128 KiB per stream.

        Raises:
            Failure: `deadline_exceeded`, `failed_precondition`, `invalid_argument`.
        """
        return await commands.run(self, request, env)

    async def ps(self) -> tuple[host_rpc.GuestProcess, ...]:
        """Return the guest's processes.

        Raises:
            Failure: `failed_precondition`, `deadline_exceeded`, `unavailable`.
        """
        return await commands.processes(self)

    async def open_exec(
        self,
        argv: tuple[str, ...],
        env: dict[str, str],
        *,
        user: str = "",
        working_directory: str = "/",
        tty: ports.Window | None = None,
        container: str = "",
    ) -> exec_stream.ExecStream:
        """Start a command and return its streams, while it runs.

        Without a container it runs in the machine itself.

        Raises:
            Failure: `failed_precondition` (not running), `invalid_argument` (no such program or
                user).
            ConnectionError: The shim is gone.
        """
        text, coded = guest.split_environment(env)
        self._last_number += 1
        stream = exec_stream.ExecStream(self._last_number, self._send_bytes)
        self._streams[stream.number] = stream
        try:
            await self.send(
                {
                    "type": "exec",
                    "stream": stream.number,
                    "argv": list(argv),
                    "env": text,
                    "env_base64": coded,
                    "user": user,
                    "working_directory": working_directory,
                    "tty": tty._asdict() if tty is not None else None,
                    "container": container,
                }
            )
            async with asyncio.timeout(_ANSWER_S):
                await stream.started()
        except BaseException:
            self._streams.pop(stream.number, None)
            raise
        return stream

    async def accept(self, credit: int) -> exec_stream.ExecStream:
        """Return the next connection to the machine's `/.fly/api`, however long that takes.

        Args:
            credit: Bytes that may come before any are read.

        Raises:
            Failure: The machine does not run, or shim or guest have no such socket.
            ConnectionError: The shim is gone.
        """
        self._last_number += 1
        stream = exec_stream.ExecStream(self._last_number, self._send_bytes, credit)
        self._streams[stream.number] = stream
        try:
            await self.send({"type": "accept", "stream": stream.number, "credit": credit})
            await stream.started()
        except BaseException:
            self._streams.pop(stream.number, None)
            raise
        return stream

    async def answer(self, answer: ports.Answer) -> None:
        """Have init count what one of its containers answered; returns when it is sent.

        Raises:
            ConnectionError: The shim is gone.
        """
        await self.send({"type": "answer", **answer._asdict()})

    async def stats(self) -> dict[str, object]:
        """Return the guest's memory, load, disk and network counters.

        Raises:
            ConnectionError: The shim is gone.
        """
        self._last_number += 1
        number = self._last_number
        answer = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            await self.send({"type": "stats", "id": number})
            async with asyncio.timeout(_ANSWER_S):
                body: dict[str, object] = await answer
        finally:
            del self._asked[number]
        return {key: value for key, value in body.items() if key not in ("type", "id")}

    async def close(self) -> None:
        """Drop the connection; the machine is not touched."""
        self._writer.close()
        try:
            async with asyncio.timeout(_FLUSH_S):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            # A shim that reads nothing would keep what is still to be sent for ever.
            self._writer.transport.abort()
        await self._tasks.cancel()
        await self._end()

    async def send(self, body: dict[str, Any]) -> None:
        """Send a message.

        Raises:
            ConnectionError: The shim is gone.
        """
        await self._send_bytes(channel.message(body))

    async def _newer_than(self, seen: int) -> shim.Status | None:
        """Return the status once it has changed since, `None` when no more will come."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._status_count > seen or self._gone.is_set())
            return self._status if self._status_count > seen else None

    async def _send_bytes(self, data: bytes) -> None:
        if self._gone.is_set() or self._writer.is_closing():
            raise ConnectionResetError(_GONE)
        self._writer.write(data)
        try:
            async with asyncio.timeout(_TAKES_S):
                await self._writer.drain()
        except TimeoutError as error:
            raise ConnectionAbortedError(_DEAF) from error

    async def _read(self) -> None:
        decoder = channel.Decoder()
        try:
            while data := await self._reader.read(_READ_BYTES):
                for frame in decoder.feed(data):
                    await self._take(frame)
        except ConnectionError:
            logger.debug("shim connection lost")
        except (channel.BadFrame, ValueError) as error:
            logger.warning("a shim does not speak the protocol: %s", error)
        finally:
            self._writer.close()
            await self._end()

    async def _take(self, frame: channel.Frame) -> None:
        stream = self._streams.get(frame.stream)
        if frame.kind != channel.Kind.MESSAGE:
            if stream is not None:
                stream.take(frame)
            return
        body = _parse(frame.payload)
        kind = body["type"]
        if kind == "status":
            await self._take_status(body)
        elif kind == "error":
            self._take_error(body)
        elif kind == "stats":
            answer = self._asked.get(body.get("id", 0))
            if answer is not None and not answer.done():
                answer.set_result(body)
        elif kind in exec_stream.MESSAGES:
            told = self._streams.get(body.get("stream", 0))
            if told is not None and told.take_message(body):
                del self._streams[told.number]

    async def _take_status(self, body: dict[str, Any]) -> None:
        try:
            self._status = shim.Status.model_validate(body)
        except ValidationError as error:
            logger.warning("a shim's status cannot be read: %s", error)
            return
        async with self._changed:
            self._status_count += 1
            self._changed.notify_all()

    def _take_error(self, body: dict[str, Any]) -> None:
        """The shim could not pass something on: tell whoever waits for an answer of that kind."""
        message, regarding = str(body.get("message", "")), str(body.get("regarding", ""))
        logger.info("shim: %s: %s", regarding, message)
        if regarding == "exec":
            stream = self._streams.get(body.get("stream") or 0)
            if stream is not None and stream.refuse(message):
                del self._streams[stream.number]
        elif regarding == "accept":
            # A shim of a former release does not say which.
            for stream in tuple(self._streams.values()):
                if stream.refuse(message):
                    del self._streams[stream.number]
        elif regarding == "stats":
            for answer in self._asked.values():
                if not answer.done():
                    answer.set_exception(exec_stream.not_running(message))

    async def _end(self) -> None:
        self._gone.set()
        for stream in self._streams.values():
            stream.lost(ConnectionResetError(_GONE))
        self._streams.clear()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError(_GONE))
        async with self._changed:
            self._changed.notify_all()


def _parse(payload: bytes) -> dict[str, Any]:
    """Return a message.

    Raises:
        ValueError: It is not one.
    """
    body = json.loads(payload)
    if not isinstance(body, dict) or not isinstance(body.get("type"), str):
        raise channel.BadFrame("a message without a type")
    return body
