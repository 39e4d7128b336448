"""A Firecracker process's API: HTTP over the Unix socket it listens on, one request at a time.

The socket lies in a directory that the VMM's user may write to, so whatever is there is looked at
before it is connected to: a link planted by a VMM that was broken out of leads nowhere.
"""

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import httpx
from pydantic import BaseModel, ValidationError

from godwit.agent.vmm.firecracker import bodies
from godwit.base import errors

ANSWER_S: Final = 10.0
"""For what only changes a record of the VMM."""
SAVE_S: Final = 120.0
"""For what writes or maps all of a guest's memory: 64 GB at half a gigabyte a second."""
_ANSWER_BYTES = 1_048_576
_FAULT_BYTES = 2_000


class Fault(Exception):
    """Firecracker refused.

    Attributes:
        request: `PUT /snapshot/load` and the like.
        status: HTTP status.
        message: Its own words.
    """

    def __init__(self, request: str, status: int, message: str) -> None:
        super().__init__(f"Firecracker refused {request}: {message}")
        self.request = request
        self.status = status
        self.message = message


class WrongState(Fault):
    """The request is not for a machine in this state: started already, or not started yet."""


_STATE_WORDS = (
    "not supported before starting the microVM",
    "not supported after starting the microVM",
    "not allowed after configuring boot-specific resources",
)


class Gone(ConnectionError):
    """There is no process behind the socket, or it went away in the middle of a request."""


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """Yield a short name of a VMM's socket, for as long as it is in use.

    Raises:
        Gone: It is not there, or something else lies there.
    """
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise Gone(f"{path}: {error.strerror}") from error
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise Gone(f"{path} is not a socket")
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


async def listens(path: Path) -> bool:
    """Tell whether somebody takes connections on a VMM's socket."""
    try:
        with reachable(path) as name, socket.socket(socket.AF_UNIX) as probing:
            probing.setblocking(False)
            await asyncio.get_running_loop().sock_connect(probing, name)
    except OSError:
        return False
    return True


class Api:
    """Requests to one Firecracker process, over one connection.

    Every verb raises `Fault` (`WrongState` when the machine has or has not been started yet),
    `Gone` when the process is not there, and `Failure` `deadline_exceeded` when it is silent.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator["Api"]:
        """Yield the API behind a socket.

        Raises:
            Gone: There is no such socket.
        """
        with reachable(path) as name:
            transport = httpx.AsyncHTTPTransport(uds=name, retries=0)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://firecracker", trust_env=False
            ) as client:
                yield cls(client)

    async def info(self) -> bodies.InstanceInfo:
        """Return id, state and version."""
        return bodies.InstanceInfo.model_validate_json(await self._get("/"))

    async def machine_config(self) -> bodies.MachineConfig:
        """Return the size of the guest."""
        answer = httpx.Response(200, content=await self._get("/machine-config")).json()
        known = {key: answer[key] for key in bodies.MachineConfig.model_fields if key in answer}
        return bodies.MachineConfig.model_validate(known)

    async def configure(self, config: bodies.Config) -> None:
        """Tell a process that was not started all it has to be, section by section."""
        await self._put("/machine-config", config.machine)
        await self._put("/boot-source", config.boot_source)
        for drive in config.drives:
            await self._put(f"/drives/{drive.drive_id}", drive)
        for interface in config.network:
            await self._put(f"/network-interfaces/{interface.iface_id}", interface)
        await self._put("/vsock", config.vsock)
        if config.balloon is not None:
            await self._put("/balloon", config.balloon)
        if config.entropy is not None:
            await self._put("/entropy", config.entropy)

    async def start(self) -> None:
        """Start the configured machine."""
        await self._put("/actions", bodies.Action(action_type="InstanceStart"))

    async def pause(self) -> None:
        """Ensure a started machine's virtual CPUs stand still."""
        await self._patch("/vm", bodies.Vm(state="Paused"))

    async def resume(self) -> None:
        """Ensure a started machine's virtual CPUs run."""
        await self._patch("/vm", bodies.Vm(state="Resumed"))

    async def save(self, where: bodies.SnapshotCreate) -> None:
        """Save a paused machine's memory and devices; it stays paused."""
        await self._put("/snapshot/create", where, within_s=SAVE_S)

    async def load(self, what: bodies.SnapshotLoad) -> None:
        """Become a saved machine. After a refusal the process ends by itself."""
        await self._put("/snapshot/load", what, within_s=SAVE_S)

    async def set_drive(self, update: bodies.DriveUpdate) -> None:
        """Change a drive's file or rates after the start."""
        await self._patch(f"/drives/{update.drive_id}", update)

    async def set_network(self, update: bodies.NetworkUpdate) -> None:
        """Change an interface's rates after the start."""
        await self._patch(f"/network-interfaces/{update.iface_id}", update)

    async def set_balloon(self, amount_mib: int) -> None:
        """Set how much memory the guest shall give back; it does so in its own time."""
        await self._patch("/balloon", bodies.BalloonUpdate(amount_mib=amount_mib))

    async def balloon_stats(self) -> bodies.BalloonStats:
        """Return what the guest gave back, and what its kernel says of its memory."""
        return bodies.BalloonStats.model_validate_json(await self._get("/balloon/statistics"))

    async def _get(self, path: str) -> bytes:
        return await self._ask("GET", path, None, ANSWER_S)

    async def _put(self, path: str, body: bodies.Body, within_s: float = ANSWER_S) -> None:
        await self._ask("PUT", path, body, within_s)

    async def _patch(self, path: str, body: bodies.Body) -> None:
        await self._ask("PATCH", path, body, ANSWER_S)

    async def _ask(
        self, method: str, path: str, body: bodies.Body | None, within_s: float
    ) -> bytes:
        content = None if body is None else body.json_text().encode()
        headers = {} if content is None else {"Content-Type": "application/json"}
        request = f"{method} {path}"
        try:
            answer = await self._client.request(
                method, path, content=content, headers=headers, timeout=within_s
            )
        except httpx.TimeoutException as error:
            raise errors.Failure(
                "deadline_exceeded", f"Firecracker gave no answer to {request} in {within_s:g} s"
            ) from error
        except httpx.TransportError as error:
            raise Gone(f"Firecracker went away at {request}: {error}") from error
        if answer.is_success:
            return answer.content[:_ANSWER_BYTES]
        raise _fault(request, answer)


class _FaultMessage(BaseModel):
    fault_message: str


def _fault(request: str, answer: httpx.Response) -> Fault:
    try:
        message = _FaultMessage.model_validate_json(answer.content[:_ANSWER_BYTES]).fault_message
    except ValidationError:
        message = answer.content[:_FAULT_BYTES].decode(errors="replace") or "no reason given"
    kind = WrongState if any(words in message for words in _STATE_WORDS) else Fault
    return kind(request, answer.status_code, message)
