"""Shims of machines that all run, for `tools.scripted_agent`: `python -m tools.scripted_shims`.

Arguments: a folder for one socket per machine, and how many machines. In a process of their own,
so that nothing of them counts as the agent's. Each answers as `godwit-shim` does where an idle
agent asks: its status, and a subscription to it. One port takes the machines' TCP checks. Prints
that port once everything listens, and serves until its standard input ends.
"""

import asyncio
import contextlib
import json
import resource
import sys
import time
from pathlib import Path

from godwit.testing import agents
from godwit.wire import channel, shim

_ASKING = frozenset({"status", "subscribe"})


def machine_id(number: int) -> str:
    """Return the id of the n-th machine."""
    return f"{number:014x}"


def socket_of(folder: Path, machine: str) -> Path:
    """Return where a machine's shim listens."""
    return folder / f"{machine}.sock"


def _status(machine: str) -> bytes:
    status = shim.Status(
        machine_id=machine,
        instance_id=agents.offer(machine).instance_id,
        shim_version="0.1.0",
        shim_pid=1,
        vmm_pid=2,
        phase="running",
        started_at_ms=time.time_ns() // 1_000_000,
    )
    return channel.message({"type": "status", **status.model_dump(mode="json")})


async def _serve(folder: Path, machine: str) -> None:
    status = _status(machine)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = channel.Decoder()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                for frame in decoder.feed(data):
                    if json.loads(frame.payload).get("type") in _ASKING:
                        writer.write(status)
        writer.close()

    await asyncio.start_unix_server(answer, str(socket_of(folder, machine)))


async def _take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def main(folder: Path, machines: int) -> None:
    """Serve until standard input ends."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    for number in range(machines):
        await _serve(folder, machine_id(number))
    checked = await asyncio.start_server(_take, "127.0.0.1", 0)
    print(checked.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
