"""The control plane of one server: `python -m godwit.cmd.control --settings FILE`.

Builds everything in order of dependency, serves the API, and leaves within ten seconds of
SIGTERM. The API starts and reads also while the bus is away; the bus is dialled in the background.
"""

import argparse
import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from godwit.api import app as api
from godwit.base import clock, errors, log, notify, settings, tasks
from godwit.bus import connection, facts, rpc
from godwit.cmd.building import HostBuilder
from godwit.control import registry_tokens, seed
from godwit.control.context import Context, Options
from godwit.control.publisher import Publisher
from godwit.control.upkeep import Upkeep
from godwit.control.watcher import Watcher
from godwit.host.identity import HostIdentity
from godwit.images.resolver import Resolver
from godwit.store import database

logger = logging.getLogger("godwit.control")

_DRAIN_S = 5


@dataclass(frozen=True)
class Parts:
    """What control is made of."""

    ctx: Context
    store: database.Database
    bus: connection.Connection
    stream: facts.FactStream
    publisher: Publisher


class Server(uvicorn.Server):
    """Uvicorn that says when it answers, and ends by our word instead of by its own signals."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then tell the supervisor."""
        await super().startup(sockets)
        if self.started:
            _tell("READY=1")
            logger.info("serving the API")

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `_stop_on_signals`."""
        yield


async def run(resolved: settings.Settings) -> int:
    """Serve until told to stop; return the exit code."""
    parts = await build(resolved)
    faults: list[str] = []
    listening = _listen(resolved.listen.api)
    server = Server(
        uvicorn.Config(
            api.create(parts.ctx),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_DRAIN_S,
        )
    )

    def on_fault(name: str, error: BaseException) -> None:
        faults.append(f"{name}: {error!r}")
        server.should_exit = True

    _stop_on_signals(server)
    try:
        async with tasks.Tasks("control", on_failure=on_fault, grace_s=2.0) as owned:
            _start(parts, owned)
            await server.serve(sockets=[listening])
            _tell("STOPPING=1")
    finally:
        await parts.bus.close()
        await parts.store.close()
    logger.info("ended%s", f" for {faults[0]}" if faults else "")
    return 1 if faults or not server.started else 0


async def build(resolved: settings.Settings) -> Parts:
    """Open the database, make what is missing, and put everything together."""
    data = resolved.paths.data
    keys = data / "keys"
    identity = HostIdentity.model_validate_json((data / "host.json").read_text())
    (data / "control").mkdir(mode=0o700, parents=True, exist_ok=True)
    store = await database.open_database(database.sqlite_url(data / "control" / "control.db"))
    bus = await connection.connect(
        [f"nats://{resolved.listen.bus}"], keys / "control.seed", "control"
    )
    options = Options(
        region=identity.region,
        apps_domain=resolved.apps_domain,
        registry=resolved.listen.registry,
        uploads=data / "control" / "uploads",
    )
    ctx = Context(
        store=store,
        hosts=rpc.Client(bus),
        images=Resolver(resolved.listen.registry, own_insecure=True),
        builder=HostBuilder(resolved),
        clock=clock.SystemClock(),
        signer=registry_tokens.ensure(keys),
        options=options,
    )
    await seed.ensure(
        ctx,
        seed.Seed(
            operator_secret=(keys / "admin.token").read_text().strip(),
            host_id=identity.host_id,
            host_number=identity.host_number,
            public_key=identity.public_key,
            region=identity.region,
            zone=identity.zone,
        ),
    )
    _clear(options.uploads)
    stream = facts.FactStream(bus, identity.region)
    return Parts(ctx, store, bus, stream, Publisher(ctx, stream))


def main() -> int:
    """Read the settings and run; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=Path, required=True)
    arguments = parser.parse_args()
    log.set_up("control")
    logging.getLogger("alembic").setLevel("WARNING")
    try:
        return asyncio.run(run(_read(arguments.settings)))
    except errors.Failure as failure:
        logger.error("%s%s", failure.message, f" ({failure.hint})" if failure.hint else "")  # noqa: TRY400
    except OSError as error:
        logger.error("cannot start: %s", error)  # noqa: TRY400 (the message says it all)
    return 1


def _start(parts: Parts, owned: tasks.Tasks) -> None:
    watcher = Watcher(parts.ctx, parts.stream, parts.publisher)

    async def on_up() -> None:
        try:
            await parts.stream.ensure()
        except errors.Failure as failure:
            logger.warning("the stream of facts was not made: %s", failure.message)
        parts.publisher.republish()

    parts.bus.on_up(on_up)
    owned.spawn(parts.publisher.run(), name="publish")
    owned.spawn(watcher.read(), name="read")
    owned.spawn(watcher.apply(), name="apply")
    owned.spawn(Upkeep(parts.ctx).run(), name="upkeep")


def _tell(state: str) -> None:
    """Tell the supervisor; one that has ended is no reason to fail."""
    with contextlib.suppress(OSError):
        notify.notify(state)


def _stop_on_signals(server: uvicorn.Server) -> None:
    def stop() -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host.strip("[]"), int(port)))
    except OSError as error:
        listening.close()
        raise errors.Failure(
            "unavailable", f"the API cannot listen on {address}: {error.strerror}"
        ) from error
    listening.listen(256)
    listening.setblocking(False)
    return listening


def _read(path: Path) -> settings.Settings:
    if path.suffix == ".toml":
        return settings.load(path, {}, {})
    return settings.read_resolved(path)


def _clear(directory: Path) -> None:
    """Remove contexts that a former run left half-way."""
    for left in directory.glob("*.tar"):
        left.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
