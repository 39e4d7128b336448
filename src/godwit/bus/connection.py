"""One process's connection to the bus: dials in the background, comes back by itself.

Owns the NATS client. Nothing here blocks a process from starting: while the bus is away,
callers get `Failure("unavailable")` at once and are told when it is back.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from godwit.base import errors, tasks

logger = logging.getLogger(__name__)

Listener = Callable[[], Coroutine[Any, Any, None]]

_DIAL_PAUSE_S = 0.5
_CONNECT_DEADLINE_S = 3.0


class Connection:
    """A connection that is up or down, and says which.

    Attributes:
        client: The NATS client; use it only while `up`.
    """

    def __init__(self, servers: Sequence[str], seed: str, name: str) -> None:
        self._servers = list(servers)
        self._seed = seed
        self._name = name
        self._tasks = tasks.Tasks(f"bus.{name}")
        self._listeners: list[Listener] = []
        self._breaks: list[Callable[[], None]] = []
        self._is_up = asyncio.Event()
        self.client = Client()

    async def __aenter__(self) -> Self:
        self._tasks.spawn(self._dial(), name="dial")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def up(self) -> bool:
        """Tell whether the bus answers."""
        return self._is_up.is_set() and self.client.is_connected

    @property
    def jetstream(self) -> JetStreamContext:
        """Return the JetStream side of the connection.

        Raises:
            Failure: `unavailable` while the bus is away.
        """
        return self.require().jetstream(timeout=5)

    def on_up(self, listener: Listener) -> None:
        """Call a listener after each (re)connection, and now if the bus is up."""
        self._listeners.append(listener)
        if self.up:
            self._tasks.spawn(listener(), name="on_up")

    @contextlib.contextmanager
    def broken(self, told: Callable[[], None]) -> Iterator[None]:
        """Call somebody each time the connection breaks, as long as the context lasts."""
        self._breaks.append(told)
        try:
            yield
        finally:
            self._breaks.remove(told)

    async def wait_up(self, timeout_s: float) -> bool:
        """Wait at most that long for the bus; return whether it is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._is_up.wait()
        return self.up

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> Msg:
        """Ask and return the answer.

        Raises:
            Failure: `unavailable` when the bus or the responder is away, `deadline_exceeded`.
        """
        client = self.require()
        try:
            async with asyncio.timeout(timeout_s + 1):
                return await client.request(subject, payload, timeout=timeout_s)
        except nats.errors.NoRespondersError as error:
            raise errors.Failure("unavailable", f"nobody answers on {subject}") from error
        except (nats.errors.TimeoutError, TimeoutError) as error:
            message = f"no answer on {subject} within {timeout_s:g} s"
            raise errors.Failure("deadline_exceeded", message) from error
        except (nats.errors.Error, OSError) as error:
            raise errors.Failure("unavailable", f"the bus is away: {error}") from error

    async def close(self) -> None:
        """Stop dialling and close; bounded."""
        await self._tasks.cancel()
        self._is_up.clear()
        if not self.client.is_closed:
            with contextlib.suppress(TimeoutError, nats.errors.Error, OSError):
                async with asyncio.timeout(_CONNECT_DEADLINE_S):
                    await self.client.close()

    def require(self) -> Client:
        """Return the NATS client.

        Raises:
            Failure: `unavailable` while the bus is away.
        """
        if not self.up:
            raise errors.Failure("unavailable", "the bus is away")
        return self.client

    async def _dial(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_CONNECT_DEADLINE_S):
                    await self.client.connect(
                        servers=self._servers,
                        name=self._name,
                        nkeys_seed_str=self._seed,
                        inbox_prefix=f"_INBOX_{self._name}",
                        connect_timeout=2,
                        # A negative count means for ever; nats-py would otherwise give up.
                        max_reconnect_attempts=-1,
                        reconnect_time_wait=1,
                        ping_interval=5,
                        max_outstanding_pings=2,
                        allow_reconnect=True,
                        reconnected_cb=self._came_up,
                        disconnected_cb=self._went_down,
                        error_cb=self._complained,
                    )
            except (nats.errors.Error, OSError, TimeoutError) as error:
                logger.debug("bus does not answer yet: %s", error)
                with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                    async with asyncio.timeout(1):
                        await self.client.close()
                self.client = Client()
                await asyncio.sleep(_DIAL_PAUSE_S)
            else:
                await self._came_up()
                return

    async def _came_up(self) -> None:
        logger.info("bus is up")
        self._is_up.set()
        for listener in self._listeners:
            self._tasks.spawn(listener(), name="on_up")

    async def _went_down(self) -> None:
        if self._is_up.is_set():
            logger.warning("bus is away")
        self._is_up.clear()
        for told in list(self._breaks):
            told()

    async def _complained(self, error: Exception) -> None:
        logger.debug("bus: %s", error)


async def connect(servers: Sequence[str], seed_file: Path, name: str) -> Connection:
    """Return a connection that dials in the background.

    Args:
        servers: `nats://host:port` each.
        seed_file: File with the nkey user seed.
        name: `control` or the host's id; the bus allows it the inbox `_INBOX_<name>`.
    """
    seed = await asyncio.to_thread(seed_file.read_text)
    return await Connection(servers, seed.strip(), name).__aenter__()
