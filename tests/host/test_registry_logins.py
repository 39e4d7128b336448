"""Private registries for real: Debian's docker-registry with basic auth and with bearer tokens."""

import contextlib
import shutil
from dataclasses import dataclass

import pytest

from godwit.base.errors import Failure
from godwit.builder import storage, supply
from godwit.images import auth, bases, registry, resolver, store
from godwit.testing.registry import TokenServer, real_registry
from tests.host.test_images import pushed
from tests.unit.images.making import Tar

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("docker-registry") is None, reason="needs docker-registry"),
]

BOT = auth.Credentials("bot", "geheim")
WRONG = auth.Credentials("bot", "falsch")
HTPASSWD = "bot:$2b$04$9DiwhWASXaKM2879obOvZe6BsSk6h5xdUQfN2MFYsRZJiOmHQ2Owe\n"
"""bcrypt of `geheim`."""


@dataclass(frozen=True)
class Private:
    """A registry with one image in it."""

    address: str
    image: str


@contextlib.asynccontextmanager
async def serving(kind, directory):
    if kind == "basic":
        async with real_registry(directory, htpasswd=HTPASSWD) as address:
            yield address
    else:
        tokens = TokenServer({"bot": "geheim"})
        async with tokens.server, real_registry(directory, tokens=tokens) as address:
            yield address


@pytest.fixture(params=["basic", "bearer"])
async def private(request, tmp_path):
    layer = Tar().dir("./", mode=0o755).add("secret", b"of bot")
    async with serving(request.param, tmp_path) as address:
        image = await pushed(address, tmp_path, layer, credentials=BOT, name="team/app")
        yield Private(address, image)


async def test_an_image_is_pulled_with_the_password_and_not_without(private, tmp_path):
    found = await resolver.resolve(private.image, credentials=BOT)
    here = store.ImageStore(tmp_path / "store")
    for wrong in (None, WRONG.pull_token()):
        with pytest.raises(Failure) as caught:
            await here.ensure(found, wrong)
        assert caught.value.code == "manifest_unknown"
        assert "falsch" not in f"{caught.value.message} {caught.value.hint}"
    made = await here.ensure(found, BOT.pull_token())
    assert made.config.cmd == ("/x",)
    assert await here.ensure(found, None) == made


async def test_what_another_had_pulled_is_not_resolved_without_a_right_of_one_s_own(
    private, tmp_path
):
    found = await resolver.resolve(private.image, credentials=BOT)
    here = store.ImageStore(tmp_path / "store")
    await here.ensure(found, BOT.pull_token())
    by_digest = f"{private.address}/team/app@{found.digest}"
    for credentials in (None, WRONG):
        for image in (private.image, by_digest):
            with pytest.raises(Failure) as caught:
                await resolver.resolve(image, credentials=credentials)
            assert caught.value.code == "manifest_unknown"


async def test_a_password_is_tried_before_it_is_kept(private):
    async with registry.RegistryClient(private.address, credentials=BOT, insecure=True) as client:
        await client.check()
    for wrong in (WRONG, auth.Credentials("nobody", "geheim")):
        async with registry.RegistryClient(
            private.address, credentials=wrong, insecure=True
        ) as client:
            with pytest.raises(Failure, match="does not take this user name") as caught:
                await client.check()
        assert caught.value.code == "permission_denied"


async def test_a_private_base_reaches_a_build_of_who_may_have_it(private, tmp_path):
    kept = storage.Storage(tmp_path / "cache", tmp_path / "run")
    one = supply.Supply(kept, bases.Bases(tmp_path / "bases"), plain=[private.address])
    told = []
    async with kept.build_place() as work:

        async def provide(credentials):
            return await one.provide(
                [private.image],
                own="own.test",
                credentials=credentials,
                offline=False,
                work=work,
                report=told.append,
            )

        for others in ({}, {"other.test": BOT}, {private.address: WRONG}):
            with pytest.raises(Failure) as caught:
                await provide(others)
            assert caught.value.code == "manifest_unknown"
        assert set(await provide({private.address: BOT})) == {private.image}
        assert list(work.iterdir()) == []
    assert "geheim" not in " ".join(told)
    left = [path for path in (tmp_path / "cache").rglob("*auth*") if path.is_file()]
    assert left == []
