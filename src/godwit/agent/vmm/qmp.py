"""QMP, the language QEMU takes orders in, over its Unix socket.

One connection at a time, one caller: commands are answered in their order, events that come in
between are kept until they are asked for. Descriptors travel with a command (SCM_RIGHTS), for
the VMM may open nothing by name. Every wait has a deadline.
"""

import asyncio
import contextlib
import json
import socket
from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from godwit.base import errors

_READ_BYTES = 65_536
_LONGEST_LINE = 1 << 20
_ANSWER_S = 15.0


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        descriptor: Of ours, for commands that take one.
    """

    name: str
    arguments: Mapping[str, Any] | None = None
    descriptor: int | None = None

    def encoded(self, number: int) -> bytes:
        """Return it as QMP has it, with the number its answer will carry."""
        body: dict[str, Any] = {"execute": self.name, "id": number}
        if self.arguments:
            body["arguments"] = dict(self.arguments)
        return json.dumps(body).encode() + b"\n"


class Refused(Exception):
    """The VMM answered a command with an error.

    Attributes:
        kind: QMP's class of the error.
    """

    def __init__(self, command: str, kind: str, sentence: str) -> None:
        super().__init__(f"{command}: {sentence}")
        self.kind = kind


class Closed(Exception):
    """The VMM hung up or was never there."""


class Monitor:
    """One connection to a VMM."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""
        self._events: deque[dict[str, Any]] = deque()
        self._sent = 0

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Return a connection on which commands can be given.

        Raises:
            Closed: Nobody listens there.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        made = cls(connection)
        try:
            await asyncio.get_running_loop().sock_connect(connection, str(path))
            made._write(Command("qmp_capabilities"))
        except OSError as error:
            connection.close()
            raise Closed(f"no VMM takes orders at {path}: {error.strerror}") from error
        return made

    def close(self) -> None:
        """Hang up; the VMM is not touched."""
        self._connection.close()

    async def run(self, *commands: Command, within_s: float = _ANSWER_S) -> list[Any]:
        """Give commands in one go; return their answers.

        Raises:
            Refused: One of them was refused; those behind it were given all the same.
            Closed: The VMM hung up.
            TimeoutError: It did not answer.
        """
        async with asyncio.timeout(within_s):
            numbers = [self._write(command) for command in commands]
            pairs = zip(numbers, commands, strict=True)
            return [await self._answer(number, command.name) for number, command in pairs]

    async def event(self, names: Collection[str], *, within_s: float) -> dict[str, Any]:
        """Return the first event of one of these names since the connection was made.

        Raises:
            Closed: The VMM hung up.
            TimeoutError: None came.
        """
        for kept in self._events:
            if kept["event"] in names:
                self._events.remove(kept)
                return kept
        async with asyncio.timeout(within_s):
            while True:
                said = await self._read()
                if said.get("event") in names:
                    return said

    def _write(self, command: Command) -> int:
        """Send a command; commands are short and the VMM reads on, so the socket has room."""
        self._sent += 1
        data = command.encoded(self._sent)
        descriptors = [] if command.descriptor is None else [command.descriptor]
        try:
            sent = socket.send_fds(self._connection, [data], descriptors)
        except OSError as error:
            raise Closed(f"the VMM hung up: {error.strerror}") from error
        if sent != len(data):
            raise Closed("the VMM does not read its orders")
        return self._sent

    async def _answer(self, number: int, name: str) -> Any:
        while True:
            said = await self._read()
            if "event" in said:
                self._events.append(said)
            elif said.get("id") == number:
                refusal = said.get("error")
                if refusal is not None:
                    raise Refused(name, str(refusal.get("class")), str(refusal.get("desc")))
                return said.get("return")

    async def _read(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        while b"\n" not in self._received:
            try:
                chunk = await loop.sock_recv(self._connection, _READ_BYTES)
            except OSError as error:
                raise Closed(f"the VMM hung up: {error.strerror}") from error
            if not chunk:
                raise Closed("the VMM hung up")
            self._received += chunk
            if len(self._received) > _LONGEST_LINE:
                raise Closed("the VMM does not speak QMP")
        line, _, self._received = self._received.partition(b"\n")
        try:
            said = json.loads(line)
        except ValueError as error:
            raise Closed("the VMM does not speak QMP") from error
        return said if isinstance(said, dict) else {}


@contextlib.asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Monitor]:
    """Yield a connection; whatever goes wrong on it is a failure in words.

    Raises:
        Failure: `failed_precondition` nobody is there or it hung up, `deadline_exceeded` no
            answer in time, `internal` it refused.
    """
    monitor = None
    try:
        monitor = await Monitor.open(path)
        yield monitor
    except Closed as error:
        raise errors.Failure("failed_precondition", str(error)) from error
    except TimeoutError as error:
        raise errors.Failure("deadline_exceeded", f"the VMM at {path} does not answer") from error
    except Refused as error:
        raise errors.Failure("internal", f"the VMM refuses {error}") from error
    finally:
        if monitor is not None:
            monitor.close()


def capabilities(wanted: Mapping[str, bool]) -> Command:
    """Return the command that turns migration capabilities on or off; they stay so."""
    states = [{"capability": name, "state": state} for name, state in wanted.items()]
    return Command("migrate-set-capabilities", {"capabilities": states})
