"""Benchmark: how long a change of state takes to the readers of every other region.

Five regions on loopback, without any delay between them: a nats-server each, with the process
that keeps the region's mirror (`godwit.cmd.catalog`), and a reader that is the catalog of edge and
DNS itself (`rust/crates/watch/examples/arrivals.rs`). Ten owners, two in each region, tell of 200
changes a second through the agent's own publisher; a record says when it was told. What is
measured is from there to the moment a reader in another region sees it; for area `edge`
(`rows_here`) one region is run with 1,000 changes a second, and its own reader counts.

Run alone: `python -m tools.bench_catalog [--seconds N]`.
"""

import argparse
import asyncio
import contextlib
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import nkeys

from godwit.agent import publisher
from godwit.base import clock, tasks
from godwit.base.settings import Listen, Paths, Settings
from godwit.bus.connection import Connection
from godwit.bus.facts import FactStream
from godwit.host import bus_file, identity, membership
from godwit.wire import components, facts
from tools import bench as bench_

REGIONS = ("ams", "fra", "iad", "nrt", "syd")
_OWNERS, _MACHINES = 2, 20
_RATE = 200
_RATE_HERE = 1_000
_MUST_HERE_MS = 50.0
_ROUNDS = 3
_SECONDS = 10.0
_SETTLE_S = 60.0
_MUST_MS, _AIM_MS = 100.0, 30.0
_RUST = bench_.ROOT / "rust"
NATS_SERVER = str(Path(sys.executable).parent / "nats-server")


def rows(seconds: float = _SECONDS) -> list[bench_.Row]:
    """Return the rows: the median and the slowest hundredth, in every other region."""
    rounds = asyncio.run(_measure(REGIONS, _RATE, seconds))
    what = f"network.propagation_{len(REGIONS)}_regions"
    return _rows(what, _RATE, rounds, _MUST_MS, _AIM_MS)


def rows_here(seconds: float = _SECONDS) -> list[bench_.Row]:
    """Return the rows of one region alone, with many changes: when its edges know of one."""
    rounds = asyncio.run(_measure(REGIONS[:1], _RATE_HERE, seconds))
    return _rows("edge.routing_change", _RATE_HERE, rounds, _MUST_HERE_MS, None)


def _rows(
    what: str, rate: int, rounds: list[list[float]], must: float, aim: float | None
) -> list[bench_.Row]:
    middles = [statistics.median(ages) for ages in rounds]
    slowest = [sorted(ages)[len(ages) * 99 // 100] for ages in rounds]
    return [
        bench_.row(what, f"p50 at {rate} changes/s", "ms", middles),
        bench_.row(what, f"p99 at {rate} changes/s", "ms", slowest, must=must, aim=aim),
    ]


@dataclass
class Owner:
    """A synthetic host: what it tells goes through an agent's publisher."""

    region: str
    host_id: str
    seed: str
    key: str
    told: publisher.Publisher = field(
        default_factory=lambda: publisher.Publisher(clock.SystemClock())
    )
    revision: int = 0

    def change(self) -> tuple[str, int]:
        """Have a machine change its state now; return which, and its revision."""
        self.revision += 1
        machine_id = f"{self.host_id}{self.revision % _MACHINES:04d}"
        fact = facts.MachineFact(
            owner=self.host_id,
            epoch=1,
            revision=self.revision,
            org_id="o",
            network_id="n",
            network_number=1,
            app_id="a",
            app="bench",
            machine_id=machine_id,
            instance_id="i",
            name="quiet",
            host_id=self.host_id,
            region=self.region,
            state=("started", "stopped")[self.revision // _MACHINES % 2],
            private_ip="fdaa:0:1::2",
            local_ipv4="172.16.0.5",
            metadata={"at_us": str(time.time_ns() // 1_000)},
        )
        self.told.tell(machine_id, fact)
        return machine_id, self.revision


@dataclass
class Region:
    """One region's folder, settings and identity."""

    name: str
    settings: Settings
    who: identity.HostIdentity
    keys: identity.Keys

    def reader(self, folder: Path) -> Path:
        """Write what its reader is told; return the file."""
        config = components.DnsConfig(
            host_id=self.who.host_id,
            region=self.name,
            addresses=("127.0.0.1:1",),
            upstreams=(),
            agent_socket=str(folder / "none.sock"),
            bus=components.BusClient(
                servers=(f"nats://{self.settings.listen.bus}",),
                seed_file=str(self.keys.seed("dns")),
            ),
            view_file=str(folder / "view.json"),
        )
        path = folder / "reader.json"
        path.write_text(config.model_dump_json())
        return path


def example(crate: str, name: str) -> str:
    """Build an example of a crate; return where it is."""
    subprocess.run(
        [
            *("cargo", "build", "--quiet", "--locked", "--release"),
            *("-p", crate, "--example", name),
        ],
        cwd=_RUST,
        check=True,
    )
    target = Path(os.environ.get("CARGO_TARGET_DIR", _RUST / "target"))
    return str(target / "release" / "examples" / name)


async def _measure(regions: tuple[str, ...], rate: int, seconds: float) -> list[list[float]]:
    """Return how long records took, milliseconds, in each round."""
    program = example("godwit-watch", "arrivals")
    owners = [_owner(region, number) for region in regions for number in range(_OWNERS)]
    with tempfile.TemporaryDirectory(prefix="godwit-bench-") as folder:
        async with contextlib.AsyncExitStack() as stack:
            owned = await stack.enter_async_context(tasks.Tasks("bench"))
            made = _regions(regions, Path(folder), owners)
            heard: list[Heard] = []
            for region in made:
                heard += await _start(stack, owned, region, Path(folder), program)
            await _connect(stack, owned, made, owners)
            await _all_hear(owners, heard)
            return [await _round(owners, heard, rate, seconds) for _ in range(_ROUNDS)]


@dataclass
class Heard:
    """What a region's reader sees of others: how old each record was."""

    region: str
    ages: dict[tuple[str, int], float] = field(default_factory=dict)

    async def read(self, lines: asyncio.StreamReader) -> None:
        """Take what the reader says, to its end."""
        while line := await lines.readline():
            machine, revision, age_us = line.split()
            self.ages[machine.decode(), int(revision)] = int(age_us) / 1_000


def _owner(region: str, number: int) -> Owner:
    seed = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
    key = nkeys.from_seed(bytearray(seed)).public_key.decode()
    return Owner(region, f"{REGIONS.index(region):04x}{number:04x}", seed.decode(), key)


def _regions(names: tuple[str, ...], folder: Path, owners: list[Owner]) -> list[Region]:
    """Make the folders of all regions; each knows all members."""
    made = []
    for name in names:
        data, run = folder / name / "d", folder / name / "r"
        (run / "pids").mkdir(parents=True)
        listen = Listen(bus=f"127.0.0.1:{_free_port()}")
        settings = Settings(paths=Paths(data=data, run=run), listen=listen)
        made.append(Region(name, settings, *identity.ensure(data, name, "0000")))
    members = [_member(one.who.host_id, one.name, one.keys.public, one.settings) for one in made]
    members += [_member(one.host_id, one.region, {"host": one.key}, None) for one in owners]
    for region in made:
        membership.keep(region.settings.paths.data, members)
        text = bus_file.text(region.settings, region.who, region.keys, members)
        (region.settings.paths.run / "bus.conf").write_text(text)
    return made


def _member(
    host_id: str, region: str, keys: dict[str, str], settings: Settings | None
) -> facts.MemberFact:
    return facts.MemberFact(
        epoch=1,
        revision=1,
        host_id=host_id,
        host_number=70_000,
        region=region,
        zone="0000",
        roles=("agent",) if settings is None else ("bus", "agent", "edge", "dns"),
        keys=keys,
        services={} if settings is None else {"bus": settings.listen.bus},
    )


async def _start(
    stack: contextlib.AsyncExitStack, owned: tasks.Tasks, region: Region, folder: Path, reader: str
) -> list[Heard]:
    """Run a region's server, its mirror's keeper and its reader."""
    here = folder / region.name
    settings = here / "settings.json"
    settings.write_text(region.settings.model_dump_json())
    await stack.enter_async_context(
        _running(NATS_SERVER, "-c", str(region.settings.paths.run / "bus.conf"), log=here / "bus")
    )
    await stack.enter_async_context(
        _running(
            *(sys.executable, "-m", "godwit.cmd.catalog", "--settings", str(settings)),
            log=here / "catalog",
        )
    )
    process = await stack.enter_async_context(
        _running(reader, str(region.reader(here)), log=here / "reader", told=True)
    )
    heard = Heard(region.name)
    assert process.stdout is not None
    owned.spawn(heard.read(process.stdout), name=region.name)
    return [heard]


@contextlib.asynccontextmanager
async def _running(
    *argv: str, log: Path, told: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdout=asyncio.subprocess.PIPE if told else out,
            stderr=out,
            env={**os.environ, "NOTIFY_SOCKET": ""},
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _connect(
    stack: contextlib.AsyncExitStack, owned: tasks.Tasks, made: list[Region], owners: list[Owner]
) -> None:
    """Have every owner tell its region's bus."""
    servers = {region.name: f"nats://{region.settings.listen.bus}" for region in made}
    for owner in owners:
        link = Connection([servers[owner.region]], owner.seed, owner.host_id)
        await stack.enter_async_context(link)
        owned.spawn(
            owner.told.run(FactStream(link, owner.region), owned), name=f"tell.{owner.host_id}"
        )


async def _all_hear(owners: list[Owner], heard: list[Heard]) -> None:
    """Return once every region hears every owner.

    Raises:
        TimeoutError: One does not.
    """
    everybody = {owner.host_id for owner in owners}
    async with asyncio.timeout(_SETTLE_S):
        while any({name[:8] for name, _ in one.ages} != everybody for one in heard):
            for owner in owners:
                owner.change()
            await asyncio.sleep(0.2)


async def _round(
    owners: list[Owner], heard: list[Heard], rate: int, seconds: float
) -> list[float]:
    """Tell of changes for a while; return how long each took to each other region, if any.

    Raises:
        TimeoutError: Some machine's last record did not arrive everywhere.
    """
    for one in heard:
        one.ages.clear()
    regions = {owner.host_id: owner.region for owner in owners}
    last: dict[str, int] = {}
    began = time.monotonic()
    for number in range(int(seconds * rate)):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        machine, revision = owners[number % len(owners)].change()
        last[machine] = revision
    async with asyncio.timeout(_SETTLE_S):
        while any(told not in one.ages for one in heard for told in last.items()):
            await asyncio.sleep(0.05)
    return [
        age
        for one in heard
        for (machine, _), age in one.ages.items()
        if regions[machine[:8]] != one.region or len(heard) == 1
    ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=_SECONDS)
    print(bench_.table(rows(parser.parse_args().seconds)))


if __name__ == "__main__":
    main()
