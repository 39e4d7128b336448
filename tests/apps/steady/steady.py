"""An app that is replaced under load: short and long requests, bodies, WebSockets.

Standard library only; it is put into a machine as a file and run by the image's Python. `/` says
which machine answers, `/slow/SECONDS` takes its time, `/echo` gives a body back, `/ws` echoes
messages, `/resolve/NAME` tells a name's IPv6 addresses, a line each, `/leave` ends the app. Told
to end (SIGINT, SIGTERM) it bids every WebSocket farewell (1012), finishes what it has and goes.
"""

import asyncio
import base64
import hashlib
import os
import signal
import socket
import struct

HOST = os.environ.get("HOST", "0.0.0.0")
PORT = int(os.environ.get("PORT", "8080"))
ME = f"{os.environ.get('FLY_MACHINE_ID', '?')} {os.environ.get('VERSION', '1')}\n"
ENDING = asyncio.Event()
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10
_SERVICE_RESTART = 1012
_LONGEST_FAREWELL_S = 3.0


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one connection's requests, one after the other."""
    try:
        while await answer(reader, writer):
            pass
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Answer one request; return whether the connection stays."""
    head = await first_of_end_or(reader.readuntil(b"\r\n\r\n"))
    if head is None:
        return False
    line, *lines = head.decode("latin-1").strip().split("\r\n")
    _, path, _ = line.split(" ", 2)
    headers = {
        name.lower(): value.strip() for name, _, value in (text.partition(":") for text in lines)
    }
    if headers.get("upgrade", "").lower() == "websocket":
        await websocket(headers, reader, writer)
        return False
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    if path.startswith("/slow/"):
        await asyncio.sleep(float(path.rpartition("/")[2]))
    if path == "/leave":
        ENDING.set()
    content = body if path == "/echo" else ME.encode()
    if path.startswith("/resolve/"):
        content = await resolved(path.rpartition("/")[2])
    stays = "close" if ENDING.is_set() else "keep-alive"
    writer.write(
        f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\nConnection: {stays}\r\n\r\n".encode()
        + content
    )
    await writer.drain()
    return not ENDING.is_set()


async def resolved(name: str) -> bytes:
    """Return the name's addresses, none if it is not known."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, family=socket.AF_INET6)
    except socket.gaierror:
        return b""
    return "".join(sorted({f"{one[4][0]}\n" for one in found})).encode()


async def first_of_end_or(reading) -> bytes | None:  # type: ignore[no-untyped-def]
    """Return what is read; `None` when the app ends first, or the peer has."""
    task = asyncio.ensure_future(reading)
    ending = asyncio.ensure_future(ENDING.wait())
    await asyncio.wait({task, ending}, return_when=asyncio.FIRST_COMPLETED)
    ending.cancel()
    if not task.done():
        task.cancel()
        return None
    try:
        data: bytes = task.result()
    except asyncio.IncompleteReadError:
        return None
    return data


async def websocket(
    headers: dict[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Echo messages until one side bids farewell."""
    digest = hashlib.sha1(headers["sec-websocket-key"].encode() + _MAGIC, usedforsecurity=False)
    accept = base64.b64encode(digest.digest()).decode()
    writer.write(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
    )
    farewell = asyncio.ensure_future(bid_farewell(writer))
    try:
        while True:
            kind, payload = await message(reader)
            if kind == _CLOSE:
                if not ENDING.is_set():
                    writer.write(frame(_CLOSE, payload))
                return
            if kind == _PING:
                writer.write(frame(_PONG, payload))
            elif not ENDING.is_set():
                writer.write(frame(kind, payload))
            await writer.drain()
    finally:
        farewell.cancel()


async def bid_farewell(writer: asyncio.StreamWriter) -> None:
    """Once the app ends, say so."""
    await ENDING.wait()
    writer.write(frame(_CLOSE, struct.pack(">H", _SERVICE_RESTART)))


async def message(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read one masked frame of a client's; fragments are not needed here."""
    first, second = await reader.readexactly(2)
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack(">H", await reader.readexactly(2))
    mask = await reader.readexactly(4)
    data = await reader.readexactly(length)
    return first & 0x0F, bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))


def frame(kind: int, payload: bytes) -> bytes:
    """Return a server's frame; only short ones are needed."""
    return bytes([0x80 | kind, len(payload)]) + payload


async def main() -> None:
    """Serve until told to end, then let everything come to its end."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ENDING.set)
    serving: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            serving.add(task)
            task.add_done_callback(serving.discard)
        await serve(reader, writer)

    server = await asyncio.start_server(connected, HOST, PORT, backlog=1024)
    print(f"{ME.strip()} listens", flush=True)
    await ENDING.wait()
    server.close()
    if serving:
        _, late = await asyncio.wait(serving, timeout=_LONGEST_FAREWELL_S)
        print(f"{len(late)} connections are left", flush=True)
    print("bye", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
