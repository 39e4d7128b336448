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
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import godwit
from godwit.agent import app, books, meters, upkeep
from godwit.agent.distances import Distances
from godwit.agent.keyring_desk import KeyringDesk
from godwit.agent.machines import parking, views
from godwit.agent.mesh_desk import MeshDesk
from godwit.agent.network.host_network import HostNetwork
from godwit.agent.network.members import MembersFile, following
from godwit.agent.network.mesh import Mesh, rules_of
from godwit.agent.network.mesh_device import Config as MeshConfig
from godwit.agent.network.mesh_device import MeshDevice
from godwit.agent.network.peers import Peer
from godwit.agent.network.rules import Policy
from godwit.agent.vmm import cgroups, guestkit, probe, qemu
from godwit.agent.vmm.driver import HostVmm, Places
from godwit.agent.vmm.firecracker import jail, programs
from godwit.agent.vmm.firecracker.vmm import Firecracker
from godwit.agent.vmm.hypervisor import Hypervisor, Rates
from godwit.agent.vmm.templates import Templates
from godwit.base import clock, errors, log, notify, private_memory, processes, tasks
from godwit.base.settings import Host, Limits, Settings, read_resolved
from godwit.bus import connection, control_rpc, facts, rpc
from godwit.durable import database, journal
from godwit.host import joining, membership
from godwit.host.identity import HostIdentity, mesh_key_file, read_sealing_key
from godwit.images import collection
from godwit.images.store import ImageStore
from godwit.keyring import client as keyring
from godwit.wire import fly_src, host_rpc
from godwit.wire.members import backhaul

logger = logging.getLogger("godwit.agent")

_SHIM_MB = 4
_RELEASE_AGAIN_S = 15.0
_MEMBERS_EVERY_S = 1.0
_ANNOUNCED_EVERY_S = 5.0
_DISTANCES_EVERY_S = 10.0


def main() -> int:
    """Run until told to stop; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument("verb", nargs="?", choices=["serve", "park"], default="serve")
    arguments = parser.parse_args()
    log.set_up("agent")
    try:
        # Its shims and VMMs inherit that.
        private_memory.keep_out_of_core_dumps()
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

    def on_lost(task: str, error: BaseException | None) -> None:
        # A loop that should never end has: start afresh, the machines do not notice.
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
    members = MembersFile(settings.paths.data / "members.json")
    network = _network(settings, members.read())
    async with _parts(settings, identity, kit, accelerator, network) as parts:
        owned = tasks.Tasks("agent", on_lost=on_lost)
        async with owned:
            agent = app.App(parts, owned)
            # What machines that still run say to other hosts waits for nothing here.
            mesh = _join_mesh(settings, network, members, owned)
            await agent.start()
            more = _watch_distances(settings, mesh, agent, owned)
            bus = await _join_bus(settings, identity, agent, more, owned)
            _announce(settings, mesh, control_rpc.Client(bus, identity.host_id), owned)
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
    settings = settings.model_copy(
        update={"host": settings.host.model_copy(update={"vmm": "qemu"})}
    )
    network = _network(settings, ())
    async with _parts(settings, identity, kit, accelerator, network) as parts:
        host = app.make_host(parts)
        parked = await parking.park(host, journal.Journal(parts.database, parts.clock))
    logger.info("%d machines put aside", parked)
    return 0


def _network(settings: Settings, members: Sequence[Peer]) -> HostNetwork:
    """Return the host's network, which lets through what its members' file says from the start."""
    host, number = settings.host, _host_number(settings)
    return HostNetwork(
        number,
        run_dir=settings.paths.run,
        policy=Policy(
            uplink=host.uplink,
            first_vm_uid=host.first_vm_uid,
            mbit_each_way=settings.limits.network_mbit,
            flycast=settings.listen.flycast,
        ),
        mtu=host.mtu,
        mesh=rules_of(number, members, settings.listen.mesh),
    )


def _join_mesh(
    settings: Settings, network: HostNetwork, members: MembersFile, owned: tasks.Tasks
) -> Mesh:
    """Keep this host in the mesh with all that its members' file names."""
    config = MeshConfig(
        network.host_number,
        private_key=mesh_key_file(settings.paths.data),
        log=settings.paths.data / "log" / "wireguard-go.log",
        programs=settings.paths.programs,
        port=settings.listen.mesh,
        mtu=settings.host.mtu,
    )
    system = clock.SystemClock()
    mesh = Mesh(
        MeshDevice(config),
        network.reach,
        system,
        remembered_in=settings.paths.run / "mesh.json",
    )
    look = following(members, mesh.follow)
    owned.keep(upkeep.every(system, _MEMBERS_EVERY_S, look), name="members")
    owned.keep(mesh.run(), name="mesh")
    return mesh


def _announce(
    settings: Settings, mesh: Mesh, control: control_rpc.Client, owned: tasks.Tasks
) -> None:
    """Have everybody know this host in the mesh by its present keys, where it is now."""
    renew_after_s = settings.keep.mesh_key_days * 86_400.0

    async def announce_keys() -> None:
        await mesh.announce(control.mesh_keys, renew_after_s)

    async def announce_endpoints() -> None:
        await mesh.announce_endpoints(control.endpoints, settings.host.endpoints)

    keys = upkeep.every(clock.SystemClock(), _ANNOUNCED_EVERY_S, announce_keys)
    owned.keep(keys, name="mesh keys")
    endpoints = upkeep.every(clock.SystemClock(), _ANNOUNCED_EVERY_S, announce_endpoints)
    owned.keep(endpoints, name="mesh endpoints")


def _watch_distances(
    settings: Settings, mesh: Mesh, agent: app.App, owned: tasks.Tasks
) -> Mapping[str, rpc.Handler]:
    """Know how far other hosts are from now on; return what answers questions about this host."""
    known = Distances(settings.listen.edge_status, agent.tell_distances)
    look = upkeep.every(clock.SystemClock(), _DISTANCES_EVERY_S, known.look)
    owned.keep(look, name="distances")
    answers: Mapping[str, rpc.Handler] = MeshDesk(mesh.report, known.of).handlers()
    if "keyring" not in _read_identity(settings).roles:
        return answers
    own = keyring.Client(settings.paths.run / "keyring.sock")
    return {**answers, **KeyringDesk(own).handlers()}


async def _join_bus(
    settings: Settings,
    identity: views.Identity,
    agent: app.App,
    more: Mapping[str, rpc.Handler],
    owned: tasks.Tasks,
) -> connection.Connection:
    """Answer, with `more` beside its own verbs, and publish on the bus from now on."""
    seed = settings.paths.data / "keys" / "host.seed"
    host = _read_identity(settings)
    servers = membership.own_bus(settings, host)
    known = membership.Follower(settings.paths.data)
    bus = await connection.connect(servers, seed, identity.host_id)
    await rpc.serve(bus, owned, identity.host_id, {**agent.handlers(), **more})

    async def bid(request: host_rpc.BidRequest) -> host_rpc.Bid | None:
        takes = known.state(identity.host_id) in (None, "active")
        return await agent.bid(request) if takes else None

    await rpc.serve_bids(bus, owned, identity.region, bid, identity.host_id)
    agent.ask_control(control_rpc.Client(bus, identity.host_id))
    agent.publish_to(facts.FactStream(bus, identity.region))
    bus.on_up(agent.publisher.tell_everything)
    owned.spawn(_tell_release(control_rpc.Client(bus, identity.host_id)), name="release")
    stream = facts.FactStream(bus, identity.region)
    owned.keep(known.follow(stream.watch(["member"])), name="follow-members")
    owned.keep(known.write(), name="keep-members")
    return bus


async def _tell_release(control: control_rpc.Client) -> None:
    """Tell control which release runs here, once it can be told."""
    while True:
        try:
            await control.release(godwit.__version__)
        except errors.Failure as failure:
            if failure.code not in ("unavailable", "deadline_exceeded"):
                # An older release of control asks for nothing of the kind.
                logger.info("control does not note this host's release: %s", failure.message)
                return
            await asyncio.sleep(_RELEASE_AGAIN_S)
        else:
            return


@contextlib.asynccontextmanager
async def _parts(
    settings: Settings,
    identity: views.Identity,
    kit: guestkit.GuestKit,
    accelerator: probe.Accelerator,
    network: HostNetwork,
) -> AsyncIterator[app.Parts]:
    paths, host = settings.paths, settings.host
    groups = cgroups.Cgroups(settings.instance)
    if groups.lacking:
        lacking = ", ".join(groups.lacking)
        logger.warning(
            "this kernel has no %s controller: machines run without that limit", lacking
        )
    places = Places(paths.store, paths.run, paths.programs / "godwit-shim")
    hypervisor = await _hypervisor(settings, kit, accelerator)
    vmm = HostVmm(
        places,
        hypervisor,
        groups,
        first_vm_uid=host.first_vm_uid,
        copies=_templates(host, places, hypervisor, groups),
    )
    store = database.Database(paths.data / "agent" / "agent.db", app.SCHEMA)
    try:
        yield app.Parts(
            identity=identity,
            capacity=_capacity(host, hypervisor.overhead_mb),
            images=ImageStore(
                paths.store / "images", below=paths.data, elsewhere=_registries(paths.data)
            ),
            network=network,
            vmm=vmm,
            clock=clock.SystemClock(),
            database=store,
            catalog_socket=paths.run / "catalog.sock",
            usage_kept_ms=settings.keep.usage_days * 86_400_000,
            image_rules=collection.Rules(
                high=settings.keep.images_high,
                low=settings.keep.images_low,
                age_ms=settings.keep.images_days * 86_400_000,
            ),
            meter=meters.HostMeter(groups, places.machines),
            cpu=groups if _holds_cpu(settings, accelerator) else None,
            sealing_key=read_sealing_key(paths.data),
            fly_src_key=lambda: _fly_src_key(paths.data / "keys" / fly_src.PUBLIC_FILE),
        )
    finally:
        await vmm.close()
        await store.close()


def _fly_src_key(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _registries(data: Path) -> dict[str, str]:
    """Return where the platform's registry is reached, by the name that references have for it."""
    cluster = joining.read_cluster(data)
    found = None if cluster is None else cluster.registry
    return {} if found is None else {found.name: found.at}


async def _hypervisor(
    settings: Settings, kit: guestkit.GuestKit, accelerator: probe.Accelerator
) -> Hypervisor:
    """Return the VMM of this host; nothing is left of jails whose VMM has ended."""
    jails, rates = settings.paths.store / "jails", _rates(settings.limits)
    choice = await programs.choose(settings.host.vmm, accelerator, settings.paths.store)
    logger.info("machines run under %s: %s", choice.name, choice.reason)
    await asyncio.to_thread(jail.sweep, jails)
    if choice.programs is None:
        return qemu.Qemu(kit, accelerator, rates)
    return Firecracker(choice.programs, kit, jails, rates=rates)


def _templates(
    host: Host, places: Places, vmm: Hypervisor, groups: cgroups.Cgroups
) -> Templates | None:
    if not host.warm_starts:
        return None
    return Templates(
        places,
        vmm,
        groups,
        clock.SystemClock(),
        uid=host.first_vm_uid,
        shared=host.share_templates,
    )


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
    takes = backhaul(found.host_number, settings.listen.backhaul)
    return views.Identity(found.host_id, found.region, found.zone, found.epoch, takes)


def _host_number(settings: Settings) -> int:
    return _read_identity(settings).host_number


def _rates(limits: Limits) -> Rates:
    """Return what VMMs hold their guests to; the network paces traffic itself."""
    return Rates(
        root_iops=limits.root_iops,
        root_bytes_s=limits.root_mib_s << 20,
        root_burst_bytes=limits.root_burst_mib << 20,
    )


def _holds_cpu(settings: Settings, accelerator: probe.Accelerator) -> bool:
    """Tell whether machines are held to their CPU baseline."""
    wanted = settings.limits.cpu
    return wanted == "on" or (wanted == "auto" and accelerator.kind == "kvm")


def _capacity(host: Host, overhead_mb: int) -> books.Capacity:
    pages, page_size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    all_mb = pages * page_size // 1024**2
    given_mb = host.memory_mb or max(0, all_mb - host.reserved_memory_mb)
    return books.Capacity(
        memory_mb=int(given_mb * host.memory_overcommit),
        cpus=host.cpus or os.cpu_count() or 1,
        cpu_overcommit=host.cpu_overcommit,
        overhead_mb=overhead_mb + _SHIM_MB,
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
