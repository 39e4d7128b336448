"""Collections of the platform's registry, real: docker-registry, its supervisor, its disk."""

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from godwit.base import private_files
from godwit.base import settings as base_settings
from godwit.base.clock import SystemClock
from godwit.base.errors import Failure
from godwit.control import registry_plan, registry_tokens
from godwit.control.registry_tokens import Access
from godwit.host import components, registry_keeper, running, supervisor
from godwit.images import (
    auth,
    manifests,
    ocilayout,
    publish,
    reference,
    registry,
    registry_disk,
)
from godwit.testing.loopback import free_port
from tests.unit.images.making import Tar

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]

NOW_MS = 4_000_000_000_000
"""Later than anything is pushed: all of it is old."""


class Place:
    """A registry under its supervisor, and what keeps it small."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address = f"127.0.0.1:{free_port()}"
        self.settings = base_settings.Settings(
            paths=base_settings.Paths(data=directory / "data", run=directory / "run"),
            listen=base_settings.Listen(registry=self.address),
        )
        self.root = self.settings.paths.data / "registry"
        for folder in ("data/keys", "data/registry", "data/log", "run/pids", "run/n"):
            (directory / folder).mkdir(parents=True)
        keys = self.settings.paths.data / "keys"
        private_files.write(keys / "registry.secret", "s3cret\n")
        self.signer = registry_tokens.ensure(keys)
        private_files.write(
            self.settings.paths.run / "registry.yml", components.registry_config(self.settings)
        )
        self.keeper = self.new_keeper()

    def new_keeper(self) -> registry_keeper.RegistryKeeper:
        return registry_keeper.RegistryKeeper(self.settings, lambda r: self.token(r, "delete"))

    def token(self, repository: str, *actions: str) -> str:
        access = Access(repository, frozenset(actions))
        return self.signer.sign("test", [access], now_ms=_now_ms())

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Place"]:
        (component,) = (
            replace(each, after=())
            for each in components.plan(self.settings)
            if each.name == "registry"
        )
        paths = self.settings.paths
        parts = supervisor.Supervisor(
            (component,), paths.run, paths.data / "log", {"PATH": os.environ["PATH"]}
        )
        await parts.start()
        try:
            yield self
        finally:
            await parts.stop()

    async def push(self, name: str, content: bytes) -> str:
        """Push an image with one layer of this content; return its digest."""
        plain = Tar().add("f", content).bytes()
        packed = zstandard.compress(plain)
        work = Path(tempfile.mkdtemp(dir=self.directory))
        (work / "layer").write_bytes(packed)
        digests = [f"sha256:{hashlib.sha256(each).hexdigest()}" for each in (packed, plain)]
        layer = ocilayout.LayerBlob(work / "layer", "zstd", *digests, len(packed))
        layout = ocilayout.write(work / "layout", [layer], config={"config": {}}, names=["x"])
        repository = reference.parse(f"{self.address}/{name}").repository
        token = self.token(repository, "pull", "push")
        return await publish.push(
            layout,
            f"{self.address}/{name}",
            credentials=auth.Credentials(token=token),
            insecure=True,
        )

    async def pulls(self, repository: str, wanted: str) -> bool:
        """Tell whether an image is there, all of it."""
        credentials = auth.Credentials(token=self.token(repository, "pull"))
        client = registry.RegistryClient(self.address, credentials=credentials, insecure=True)
        async with client:
            try:
                found = await client.manifest(repository, wanted)
            except Failure as failure:
                if failure.code == "manifest_unknown":
                    return False
                raise
            parsed = manifests.parse(found.body, found.content_type, wanted)
            for blob in (*parsed.layers, parsed.config):
                assert await client.has_blob(repository, blob.digest)
            return True

    async def collect(self, needed: registry_plan.Needed) -> list[str]:
        """Collect all that is old and not needed; return what went."""
        there = await self.keeper.contents()
        goes = registry_plan.plan(there.images, needed, young_from_ms=NOW_MS)
        await self.keeper.collect(goes, needed.apps)
        return sorted(f"{one.repository}@{one.digest}" for one in goes)


def _now_ms() -> int:
    return SystemClock().now_ms()


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    assert shutil.which("docker-registry")
    with tempfile.TemporaryDirectory(prefix="gw-reg-") as directory:
        async with Place(Path(directory)).running() as made:
            yield made


def needing(*digests: str, apps: tuple[str, ...] = ()) -> registry_plan.Needed:
    return registry_plan.Needed(frozenset(digests), frozenset(), frozenset(apps))


async def test_what_nobody_needs_goes_with_its_bytes_and_the_rest_is_whole(place: Place) -> None:
    big = os.urandom(400_000)
    kept = await place.push("hello:1", b"kept")
    gone = await place.push("hello:2", big)
    before = await place.keeper.taken(["hello"])
    assert before > 400_000
    assert await place.collect(needing(kept, apps=("hello",))) == []
    assert await place.pulls("hello", gone), "the newest push of an app stays"
    assert await place.collect(needing(kept)) == [f"hello@{gone}"]
    assert await place.pulls("hello", kept)
    assert not await place.pulls("hello", gone)
    assert await place.keeper.taken(["hello"]) < 100_000
    assert not any(p.stat().st_size >= 400_000 for p in place.root.rglob("data"))


async def test_content_that_an_image_shares_with_one_that_goes_stays(place: Place) -> None:
    kept = await place.push("one:1", b"shared")
    assert await place.push("two:1", b"shared") == kept
    images = (await place.keeper.contents()).images
    (goes,) = (one for one in images if one.repository == "two")
    await place.keeper.collect([goes], ["one"])
    assert await place.pulls("one", kept)
    assert not await place.pulls("two", kept)
    assert {one.repository for one in (await place.keeper.contents()).images} == {"one"}


async def test_what_was_collected_can_be_pushed_again(place: Place) -> None:
    digest = await place.push("hello:1", b"again")
    assert await place.collect(needing()) == [f"hello@{digest}"]
    assert await place.push("hello:1", b"again") == digest
    assert await place.pulls("hello", "1")


async def test_what_is_pushed_anew_after_the_plan_stays(place: Place) -> None:
    digest = await place.push("hello:1", b"x")
    (planned,) = (await place.keeper.contents()).images
    link = next(place.root.rglob("revisions/sha256/*/link"))
    os.utime(link, ns=((planned.pushed_at_ms + 5_000) * 10**6,) * 2)
    await place.keeper.collect([planned], ["hello"])
    assert await place.pulls("hello", digest)


async def test_uploads_that_no_image_names_go_and_count_for_their_owner(place: Place) -> None:
    content = os.urandom(300_000)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    file = place.directory / "blob"
    file.write_bytes(content)
    credentials = auth.Credentials(token=place.token("hello", "pull", "push"))
    async with registry.RegistryClient(
        place.address, credentials=credentials, insecure=True
    ) as client:
        await client.upload("hello", manifests.Descriptor("", digest, len(content)), file)
    assert await place.keeper.taken(["hello"]) == 300_000
    assert (await place.keeper.contents()).orphan_bytes == 300_000
    await place.keeper.collect([], ["hello"])
    assert await place.keeper.taken(["hello"]) == 0
    assert (await place.keeper.contents()).orphan_bytes == 0


async def test_pulls_go_on_during_a_collection_and_pushes_again_after_it(place: Place) -> None:
    digest = await place.push("hello:1", os.urandom(2_000_000))
    done = asyncio.Event()
    seen = []

    async def pull() -> None:
        while not done.is_set():
            seen.append(await place.pulls("hello", digest))

    async with asyncio.TaskGroup() as group:
        group.create_task(pull())
        for _ in range(2):
            await place.keeper.collect([], ["hello"])
        done.set()
    assert seen
    assert all(seen)
    await place.push("hello:2", b"writes again")


async def test_one_that_was_cut_off_is_made_good_at_the_next_start(place: Place) -> None:
    digest = await place.push("hello:1", b"x")
    work = f"""
import asyncio, sys
from pathlib import Path
from tests.host.test_registry_keeper import *
from godwit.host import registry_keeper
from godwit.base.settings import Settings
settings = Settings.model_validate_json(Path({str(place.directory / "settings.json")!r}).read_text())
keeper = registry_keeper.RegistryKeeper(settings, lambda r: "")
async def hang():
    print("read-only", flush=True)
    await asyncio.sleep(600)
keeper._collect_garbage = hang
asyncio.run(keeper.collect([], []))
"""
    (place.directory / "settings.json").write_text(place.settings.model_dump_json())
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", work, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        assert await process.stdout.readline() == b"read-only\n"
    process.kill()
    await process.wait()
    with pytest.raises(Failure):
        await place.push("hello:2", b"refused")
    assert await place.pulls("hello", digest)
    await place.new_keeper().recover()
    await place.push("hello:2", b"taken")
    pid_file = place.settings.paths.run / "pids" / "registry.json"
    before = running.read(pid_file)
    await place.new_keeper().recover()
    assert running.read(pid_file) == before


async def test_a_registry_that_dies_meanwhile_comes_back_with_writes(place: Place) -> None:
    await place.push("hello:1", b"x")
    pid_file = place.settings.paths.run / "pids" / "registry.json"

    async def kill() -> None:
        while not (place.settings.paths.run / "registry.no-writes").exists():
            await asyncio.sleep(0.005)
        if (process := running.read(pid_file)) is not None:
            process.signal(signal.SIGKILL)

    async with asyncio.TaskGroup() as group:
        group.create_task(kill())
        await place.keeper.collect([], ["hello"])
    await place.push("hello:2", b"y")


async def test_an_empty_repository_of_no_app_is_removed(place: Place) -> None:
    await place.push("gone/inner:1", b"x")
    await place.collect(needing())
    top = place.root / "docker/registry/v2/repositories"
    assert not (top / "gone" / "inner" / "_manifests").exists()
    assert registry_disk.contents(place.root).images == ()
