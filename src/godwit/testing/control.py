"""Control with everything around it faked but the database: for tests of control and the API."""

import contextlib
import functools
import hashlib
import json
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from godwit.base import clock, errors, principal
from godwit.control import (
    address_pools,
    apps,
    machine_signer,
    organizations,
    ports,
    registry_tokens,
    sealing,
    tokens,
)
from godwit.control.context import Context, Options
from godwit.control.records import App, Host, Organization
from godwit.images import registry_disk
from godwit.images.collection import Space
from godwit.keyring import roots, vault
from godwit.store import database
from godwit.testing import databases
from godwit.testing.facts import MemoryFacts
from godwit.testing.hosts import SimulatedHost, SimulatedHosts
from godwit.wire import host_rpc, keyring
from godwit.wire.secrets import to_text

OPERATOR = principal.component("tests")
REGISTRY = "127.0.0.1:5050"


class SettableClock(clock.SystemClock):
    """The machine's clock, moved by tests."""

    def __init__(self) -> None:
        self.skew_ms = 0

    def now_ms(self) -> int:
        """Return Unix time in milliseconds, moved."""
        return super().now_ms() + self.skew_ms


class AnyImage:
    """Registries that have every image but those named `missing`.

    Attributes:
        asked: Every `(reference, token)`.
        refused: Registries that take no credentials.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.refused: set[str] = set()

    async def check(self, registry: str, token: str) -> None:
        """Return unless the registry is among those that refuse."""
        self.asked.append((registry, token))
        if registry in self.refused:
            raise errors.Failure("permission_denied", f"{registry} refuses these credentials")

    async def resolve(self, reference: str, token: str | None) -> host_rpc.ImageRef:
        """Return an image with a digest made of its name."""
        self.asked.append((reference, token))
        if "missing" in reference:
            raise errors.Failure("manifest_unknown", f"{reference} is not there")
        return host_rpc.ImageRef(
            reference=reference,
            registry="docker.io",
            repository=reference.partition(":")[0],
            tag=reference.partition(":")[2] or "latest",
            digest=f"sha256:{hashlib.sha256(reference.encode()).hexdigest()}",
        )

    async def config_document(self, reference: str, token: str | None) -> bytes:
        """Return a config with the image's name in it."""
        await self.resolve(reference, token)
        return json.dumps({"os": "linux", "comment": reference}).encode()


class ScriptedBuilder:
    """A builder that reads the context and tells its size.

    Attributes:
        failure: What the next builds end with.
        requests: Every request.
    """

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.requests: list[ports.BuildRequest] = []
        self.contexts: list[bytes] = []

    async def build(self, request: ports.BuildRequest) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what happens."""
        self.requests.append(request)
        self.contexts.append(request.context.read_bytes())
        yield {"type": "log", "line": "STEP 1/1: FROM scratch"}
        if self.failure is not None:
            raise self.failure
        digest = f"sha256:{hashlib.sha256(self.contexts[-1]).hexdigest()}"
        yield {"type": "image", "reference": request.reference, "digest": digest}


class StockedWarehouse:
    """A registry whose disk holds what a test put there.

    Attributes:
        stock: What is in it.
        sizes: Bytes of each repository.
        disk: How full its disk is.
        collected: What was taken out, and the repositories that were to stay, each time.
        failure: What the next collections end with.
    """

    def __init__(self) -> None:
        self.stock = registry_disk.Contents()
        self.sizes: dict[str, int] = {}
        self.disk = Space(total_bytes=100, free_bytes=60)
        self.collected: list[tuple[tuple[registry_disk.Pushed, ...], frozenset[str]]] = []
        self.recovered = 0
        self.failure: errors.Failure | None = None

    async def contents(self) -> registry_disk.Contents:
        """Return what is in it."""
        return self.stock

    async def taken(self, repositories: Iterable[str]) -> int:
        """Return the bytes of some repositories."""
        return sum(self.sizes.get(name, 0) for name in repositories)

    def space(self) -> Space:
        """Return how full its disk is."""
        return self.disk

    async def recover(self) -> None:
        """Count it."""
        self.recovered += 1

    async def collect(self, images: Sequence[registry_disk.Pushed], keep: Collection[str]) -> None:
        """Take images out."""
        if self.failure is not None:
            raise self.failure
        self.collected.append((tuple(images), frozenset(keep)))
        left = tuple(one for one in self.stock.images if one not in images)
        self.stock = replace(self.stock, images=left, orphan_bytes=0)


class RootKeys(roots.Roots):
    """Root keys that can be out of reach, as those of a keyring that is away.

    Attributes:
        away: Whether they are.
    """

    away = False

    def told(self) -> keyring.Roots:
        """Return which there are."""
        self._require()
        return super().told()

    def key(self, root_id: str) -> bytes:
        """Return a root key."""
        self._require()
        return super().key(root_id)

    @property
    def newest(self) -> roots.Root:
        """Return the one that wraps."""
        self._require()
        return super().newest

    def _require(self) -> None:
        if self.away:
            raise errors.Failure("unavailable", "the keyring does not answer")


@dataclass(frozen=True)
class World:
    """Control and its surroundings."""

    ctx: Context
    store: database.Database
    host: SimulatedHost
    hosts: SimulatedHosts
    stream: MemoryFacts
    images: AnyImage
    builder: ScriptedBuilder
    warehouse: StockedWarehouse
    clock: SettableClock
    root_keys: RootKeys

    async def organization(self, slug: str) -> Organization:
        """Make an organization."""
        return await organizations.create(self.ctx, OPERATOR, slug=slug, name=slug)

    async def app(self, name: str, org_slug: str) -> App:
        """Make an app."""
        return await apps.create(self.ctx, OPERATOR, apps.NewApp(org_slug=org_slug, name=name))

    async def token(self, *org_slugs: str, scopes: tuple[str, ...] | None = None) -> str:
        """Make a token for one organization, or the operator's own; return its secret."""
        wanted = tokens.NewToken(
            name="test", org_slug=org_slugs[0] if org_slugs else None, scopes=scopes
        )
        _, secret = await tokens.create(self.ctx, OPERATOR, wanted)
        return secret

    def of(self, org: Organization, *scopes: principal.Scope) -> principal.Principal:
        """Return a principal of one organization, with all scopes unless some are named."""
        return principal.Principal(
            subject=f"user:somebody@{org.slug}",
            org_ids=frozenset({org.id}),
            scopes=frozenset(scopes) if scopes else principal.ALL_SCOPES,
        )

    async def add_host(self, host: SimulatedHost, number: int) -> None:
        """Have another host join."""
        self.hosts.by_id[host.host_id] = host
        async with self.store.write() as rows:
            await rows.hosts.put(
                Host(
                    id=host.host_id,
                    number=number,
                    public_key="",
                    region=host.region,
                    zone=host.zone,
                    created_at_ms=1,
                    sealing_key=to_text(host.sealing.public_key().public_bytes_raw()),
                )
            )

    def options(self, **changes: Any) -> "World":
        """Return the same world with other settings."""
        ctx = replace(self.ctx, options=replace(self.ctx.options, **changes))
        return replace(self, ctx=ctx)


_POOLS = address_pools.parse(("203.0.113.0/30",), ("2001:db8:7::/64",), "198.51.100.1")


@functools.cache
def _machine_signer() -> machine_signer.Signer:
    """Return the key of all worlds of a process: to make one takes a while."""
    with tempfile.TemporaryDirectory() as folder:
        return machine_signer.ensure(Path(folder))


@contextlib.asynccontextmanager
async def world(directory: Path, url: str | None = None) -> AsyncIterator[World]:
    """Build control over one simulated host in region `lcl`, in a directory of its own.

    Its database is the migrated one at `url`, or a SQLite file in the directory.
    """
    if url is None:
        async with databases.migrated("sqlite", directory) as made:
            url = made
    store = await database.open_database(url)
    stream = MemoryFacts()
    host = SimulatedHost("a1b2c3d4", stream=stream)
    hosts = SimulatedHosts(host)
    images, builder, moved = AnyImage(), ScriptedBuilder(), SettableClock()
    warehouse = StockedWarehouse()
    root_keys = RootKeys.load(directory / "keyring", moved)
    ctx = Context(
        store=store,
        hosts=hosts,
        images=images,
        builder=builder,
        warehouse=warehouse,
        clock=moved,
        signer=registry_tokens.ensure(directory),
        machine_signer=_machine_signer(),
        sealer=sealing.ensure(directory),
        keyring=vault.Vault(root_keys),
        options=Options(
            region="lcl",
            apps_domain="godwit.localhost",
            api_name="api.example.com",
            registry=REGISTRY,
            uploads=directory / "uploads",
            ask_s=0.5,
            act_s=0.5,
            silence_s=0.0,
            rate_limits=False,
            addresses=address_pools.parse(
                ("203.0.113.0/30",), ("2001:db8:7::/64",), "198.51.100.1"
            ),
        ),
    )
    around = World(ctx, store, host, hosts, stream, images, builder, warehouse, moved, root_keys)
    await around.add_host(host, 65_537)
    try:
        yield around
    finally:
        await store.close()
