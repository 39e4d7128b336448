"""Which base image a build gets, and what it is told."""

import hashlib
import json

import pytest

from godwit.base.errors import Failure
from godwit.builder import supply
from godwit.images import auth, bases, manifests, ocilayout, recipes, registry
from godwit.testing.registry import Answer, ScriptedServer

QUICK = registry.Patience(connect_s=1, silence_s=1, attempts=1)


class FakeStorage:
    """Remembers what was loaded."""

    def __init__(self):
        self.loaded = []

    async def has(self, config_digest):
        return False

    async def load(self, source, config_digest, name):
        self.loaded.append((source.partition(":")[0], str(name)))
        return config_digest.removeprefix("sha256:")


@pytest.fixture
def local(tmp_path):
    """Return local bases with a Debian that has no layers."""
    layout = tmp_path / "bases" / recipes.key(recipes.DEBIAN)
    ocilayout.write(layout, [], config={}, names=recipes.DEBIAN.names)
    record = {"names": list(recipes.DEBIAN.names), "built_at": "2026-01-02T03:04:05.000Z"}
    (layout / "base.json").write_text(json.dumps(record))
    return bases.Bases(tmp_path / "bases")


async def provide(tmp_path, local, *names, **more):
    storage, told = FakeStorage(), []
    given = {"own": "own.test", "credentials": {}, "offline": False} | more
    plain = [name.partition("/")[0] for name in names if name.startswith("127.0.0.1")]
    one = supply.Supply(storage, local, patience=QUICK, plain=given.pop("plain", plain))
    ids = await one.provide(names, work=tmp_path, report=told.append, **given)
    return ids, storage.loaded, told


def guarded():
    """Return the answers of a registry with one image, for `bot` with the password `geheim`."""
    upstream = Upstream()
    wanted = auth.Credentials("bot", "geheim").basic()

    def handler(request):
        if request.headers.get("authorization") != wanted:
            return Answer(401, headers={"WWW-Authenticate": 'Basic realm="private"'})
        return upstream.handler(request)

    return handler


async def test_offline_takes_the_local_base_and_says_so(tmp_path, local):
    ids, loaded, told = await provide(tmp_path, local, "debian:bookworm-slim", offline=True)
    assert loaded == [("oci", "docker.io/library/debian:bookworm-slim")]
    assert told == [
        (
            "base image debian:bookworm-slim: offline, using the local base built from Debian "
            "packages on 2026-01-02"
        )
    ]
    assert set(ids) == {"debian:bookworm-slim"}


async def test_without_a_local_base_the_failure_names_those_there_are(tmp_path, local):
    with pytest.raises(Failure, match="no local base") as caught:
        await provide(tmp_path, local, "alpine:3", offline=True)
    assert caught.value.code == "unavailable"
    assert "debian:bookworm-slim" in caught.value.hint


class Upstream:
    """A registry with one image."""

    def __init__(self):
        self.config = json.dumps(
            {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": []}}
        ).encode()
        digest = f"sha256:{hashlib.sha256(self.config).hexdigest()}"
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": manifests.OCI_MANIFEST,
                "config": {
                    "mediaType": manifests.OCI_CONFIG,
                    "digest": digest,
                    "size": len(self.config),
                },
                "layers": [],
            }
        ).encode()

    def handler(self, request):
        if "/missing/" in request.path:
            return Answer(404)
        return Answer(200, self.manifest if "/manifests/" in request.path else self.config)


async def test_upstream_is_used_when_it_answers(tmp_path, local):
    async with ScriptedServer(Upstream().handler) as server:
        name = f"{server.address}/team/app:1"
        _, loaded, told = await provide(tmp_path, local, name)
    assert loaded == [("dir", name)]
    assert "pulling sha256" in told[0]


async def test_an_upstream_without_the_image_is_believed(tmp_path, local):
    async with ScriptedServer(Upstream().handler) as server:
        with pytest.raises(Failure) as caught:
            await provide(tmp_path, local, f"{server.address}/missing/x:1")
    assert caught.value.code == "manifest_unknown"


async def test_a_silent_upstream_without_a_local_base_is_unavailable(tmp_path, local):
    async with ScriptedServer(Upstream().handler) as server:
        gone = server.address
    with pytest.raises(Failure, match="upstream cannot be reached") as caught:
        await provide(tmp_path, local, f"{gone}/x:1")
    assert caught.value.code == "unavailable"


async def test_only_the_platform_s_registry_sees_the_credentials(tmp_path, local):
    async with (
        ScriptedServer(Upstream().handler) as own,
        ScriptedServer(Upstream().handler) as other,
    ):
        await provide(
            tmp_path,
            local,
            f"{own.address}/a:1",
            f"{other.address}/b:1",
            own=own.address,
            credentials={own.address: auth.Credentials(token="geheim")},
        )
        assert all("authorization" not in r.headers for r in other.requests)
        assert all(r.headers["authorization"] == "Bearer geheim" for r in own.requests)


async def test_each_registry_sees_its_own_credentials_and_no_other(tmp_path, local):
    async with ScriptedServer(Upstream().handler) as one, ScriptedServer(guarded()) as two:
        _, loaded, _ = await provide(
            tmp_path,
            local,
            f"{one.address}/a:1",
            f"{two.address}/b:1",
            credentials={two.address: auth.Credentials("bot", "geheim")},
        )
        assert len(loaded) == 2
        assert all("authorization" not in r.headers for r in one.requests)


async def test_a_private_base_without_credentials_is_refused_with_what_to_do(tmp_path, local):
    async with ScriptedServer(guarded()) as server:
        with pytest.raises(Failure, match="credentials") as caught:
            await provide(tmp_path, local, f"{server.address}/b:1")
    assert "godwit registries login" in caught.value.hint


async def test_offline_still_asks_the_platform_s_registry(tmp_path, local):
    async with ScriptedServer(Upstream().handler) as own:
        _, loaded, _ = await provide(
            tmp_path, local, f"{own.address}/a:1", own=own.address, offline=True
        )
    assert [kind for kind, _ in loaded] == ["dir"]


def test_a_name_that_is_no_reference_is_refused_early():
    with pytest.raises(Failure, match="needs the image 'A B'"):
        supply.check(["ok", "A B"])


async def test_the_platforms_registry_is_known_by_its_address_alone(tmp_path, local):
    async with ScriptedServer(Upstream().handler) as server:
        name = f"{server.address}/team/app:1"
        _, loaded, _ = await provide(tmp_path, local, name, own=server.address, plain=())
    assert loaded == [("dir", name)]


@pytest.mark.parametrize("host", ["127.0.0.1:4222", "localhost:4280", "169.254.169.254"])
async def test_nothing_else_of_the_host_is_asked_for_an_image(tmp_path, local, host):
    with pytest.raises(Failure, match="address of the host") as caught:
        await provide(tmp_path, local, f"{host}/x/y:1", plain=())
    assert caught.value.code == "invalid_argument"
