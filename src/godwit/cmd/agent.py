"""The agent of one host: `python -m godwit.cmd.agent --settings FILE [park]`.

Without a word it serves: brings the machines back, tells the supervisor that it is ready, and on
SIGTERM goes away leaving every machine running. `park` puts all machines aside for `godwit down`.
"""

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from godwit.agent import app, books
from godwit.agent.machines import parking, views
from godwit.agent.network.host_network import HostNetwork
from godwit.agent.network.rules import Policy
from godwit.agent.vmm import cgroups, guestkit, probe, qemu
from godwit.agent.vmm.driver import Places, QemuVmm
from godwit.base import clock, errors, log, notify, processes, tasks
from godwit.base.settings import Settings, read_resolved
from godwit.bus import connection, facts, rpc
from godwit.durable import database, journal
from godwit.host.identity import HostIdentity
from godwit.images.store import ImageStore

logger = logging.getLogger("godwit.agent")

_KEPT_BY_HOST_MB = 1_024
_SHIM_MB = 4
_ETERNAL = ("agent.catalog", "agent.publish", "agent.alive", "agent.tidy")


def main() -> int:
    """Run until told to stop; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument("verb", nargs="?", choices=["serve", "park"], default="serve")
    arguments = parser.parse_args()
    log.set_up("agent")
    try:
        settings = read_resolved(arguments.settings)
        with _alone(settings.paths.data / "agent"):
            doing = park(settings) if arguments.verb == "park" else serve(settings)
            return asyncio.run(doing)
    except errors.Failure as failure:
        logger.error("%s%s", failure.message, f" ({failure.hint})" if failure.hint else "")  # noqa: TRY400
        return 1
    except processes.ProgramFailed as failed:
        logger.error("%s", failed)  # noqa: TRY400 (the message says it all)
        return 1


async def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; machines go on running."""
    stopping = asyncio.Event()
    broken: list[str] = []

    def on_failure(task: str, error: BaseException) -> None:
        # A loop that should never end has: start afresh, the machines do not notice.
        if task in _ETERNAL:
            broken.append(f"{task}: {error!r}")
            stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    identity = _identity(settings)
    accelerator = await probe.accelerator(
        settings.host.accelerator, uid=settings.host.first_vm_uid
    )
    logger.info("machines run by %s: %s", accelerator.kind, accelerator.reason)
    kit = await guestkit.ensure(settings.paths.cache, settings.paths.programs)
    async with _parts(settings, identity, kit, accelerator) as parts:
        owned = tasks.Tasks("agent", on_failure=on_failure)
        async with owned:
            agent = app.App(parts, owned)
            await agent.start()
            bus = await _join_bus(settings, identity, agent, owned)
            try:
                notify.notify("READY=1")
                logger.info("host %s is ready, %d machines", identity.host_id, len(agent.machines))
                await stopping.wait()
            finally:
                await bus.close()
    for reason in broken:
        logger.error("the agent stops: %s", reason)
    return 1 if broken else 0


async def park(settings: Settings) -> int:
    """Put all machines aside; they come back at the next start."""
    if not (settings.paths.data / "host.json").exists():
        return 0
    identity = _identity(settings)
    # Nothing is booted here, so nothing of a guest is needed.
    kit = guestkit.GuestKit(Path("/dev/null"), Path("/dev/null"), 1, "")
    accelerator = probe.Accelerator("tcg", "nothing is booted")
    async with _parts(settings, identity, kit, accelerator) as parts:
        host = app.make_host(parts)
        parked = await parking.park(host, journal.Journal(parts.database, parts.clock))
    logger.info("%d machines put aside", parked)
    return 0


async def _join_bus(
    settings: Settings, identity: views.Identity, agent: app.App, owned: tasks.Tasks
) -> connection.Connection:
    """Answer and publish on the bus from now on, whenever it is up."""
    seed = settings.paths.data / "keys" / "host.seed"
    bus = await connection.connect([f"nats://{settings.listen.bus}"], seed, identity.host_id)
    await rpc.serve(bus, owned, identity.host_id, agent.handlers())
    await rpc.serve_bids(bus, owned, identity.region, agent.bid)
    agent.publish_to(facts.FactStream(bus, identity.region))
    bus.on_up(agent.publisher.tell_everything)
    return bus


@contextlib.asynccontextmanager
async def _parts(
    settings: Settings,
    identity: views.Identity,
    kit: guestkit.GuestKit,
    accelerator: probe.Accelerator,
) -> AsyncIterator[app.Parts]:
    paths, host = settings.paths, settings.host
    store = database.Database(paths.data / "agent" / "agent.db", app.SCHEMA)
    try:
        yield app.Parts(
            identity=identity,
            capacity=_capacity(settings, accelerator),
            images=ImageStore(paths.store / "images"),
            network=HostNetwork(
                _host_number(settings),
                run_dir=paths.run,
                policy=Policy(uplink=host.uplink, first_vm_uid=host.first_vm_uid),
            ),
            vmm=QemuVmm(
                Places(paths.store, paths.run, paths.programs / "godwit-shim"),
                kit,
                accelerator,
                cgroups.Cgroups(settings.instance),
                first_vm_uid=host.first_vm_uid,
            ),
            clock=clock.SystemClock(),
            database=store,
            catalog_socket=paths.run / "catalog.sock",
        )
    finally:
        await store.close()


def _read_identity(settings: Settings) -> HostIdentity:
    path = settings.paths.data / "host.json"
    try:
        return HostIdentity.model_validate_json(path.read_text())
    except OSError as error:
        raise errors.Failure(
            "failed_precondition",
            f"cannot read {path}: {error.strerror}",
            hint="`godwit up` makes it",
        ) from error


def _identity(settings: Settings) -> views.Identity:
    found = _read_identity(settings)
    return views.Identity(found.host_id, found.region, found.zone, found.epoch)


def _host_number(settings: Settings) -> int:
    return _read_identity(settings).host_number


def _capacity(settings: Settings, accelerator: probe.Accelerator) -> books.Capacity:
    pages, page_size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    all_mb = pages * page_size // 1024**2
    return books.Capacity(
        memory_mb=settings.host.memory_mb or max(0, all_mb - _KEPT_BY_HOST_MB),
        cpus=settings.host.cpus or os.cpu_count() or 1,
        cpu_overcommit=settings.host.cpu_overcommit,
        overhead_mb=qemu.OVERHEAD_MB[accelerator.kind] + _SHIM_MB,
    )


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hold the agent's data alone: two agents would both own the machines.

    Raises:
        Failure: Another agent runs on this data.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise errors.Failure(
                "failed_precondition", f"another agent runs on {directory}"
            ) from error
        yield


if __name__ == "__main__":
    sys.exit(main())
