"""Control with everything around it faked but the database: for tests of control and the API."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from godwit.base import clock, errors, principal
from godwit.control import apps, organizations, ports, registry_tokens, tokens
from godwit.control.context import Context, Options
from godwit.control.records import App, Host, Organization
from godwit.store import database
from godwit.testing.facts import MemoryFacts
from godwit.testing.hosts import SimulatedHost, SimulatedHosts
from godwit.wire import host_rpc

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
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []

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
    clock: SettableClock

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
                )
            )

    def options(self, **changes: Any) -> "World":
        """Return the same world with other settings."""
        ctx = replace(self.ctx, options=replace(self.ctx.options, **changes))
        return replace(self, ctx=ctx)


_MIGRATED: list[bytes] = []


async def _database(path: Path) -> database.Database:
    """Open a fresh database; migrated once per test process, then copied."""
    if not _MIGRATED:
        first = path.with_name("first.db")
        await (await database.open_database(database.sqlite_url(first))).close()
        _MIGRATED.append(first.read_bytes())
    await asyncio.to_thread(path.write_bytes, _MIGRATED[0])
    return await database.open_database(database.sqlite_url(path))


@contextlib.asynccontextmanager
async def world(directory: Path) -> AsyncIterator[World]:
    """Build control over one simulated host in region `lcl`, in a directory of its own."""
    store = await _database(directory / "control.db")
    stream = MemoryFacts()
    host = SimulatedHost("a1b2c3d4", stream=stream)
    hosts = SimulatedHosts(host)
    images, builder, moved = AnyImage(), ScriptedBuilder(), SettableClock()
    ctx = Context(
        store=store,
        hosts=hosts,
        images=images,
        builder=builder,
        clock=moved,
        signer=registry_tokens.ensure(directory),
        options=Options(
            region="lcl",
            apps_domain="godwit.localhost",
            registry=REGISTRY,
            uploads=directory / "uploads",
            ask_s=0.5,
            act_s=0.5,
            silence_s=0.0,
        ),
    )
    made = World(ctx, store, host, hosts, stream, images, builder, moved)
    await made.add_host(host, 65_537)
    try:
        yield made
    finally:
        await store.close()
