"""An image here is no gift: who may use what another had pulled."""

import hashlib
import shutil

import pytest

from godwit.base.errors import Failure
from godwit.images import auth, rights, store
from godwit.testing.registry import Answer, ScriptedServer
from godwit.wire import host_rpc
from tests.unit.images.making import Tar
from tests.unit.images.test_store import Image

pytestmark = pytest.mark.skipif(shutil.which("mkfs.erofs") is None, reason="needs mkfs.erofs")

ALICE = auth.Credentials("alice", "geheim")


@pytest.fixture
def image():
    return Image(Tar().add("secret", b"of alice"), Tar().add("g", b"2"))


def private(image, credentials=ALICE):
    """Return the answers of a registry that gives an image to one user."""

    def handler(request):
        if request.headers.get("authorization") != credentials.basic():
            return Answer(401, headers={"WWW-Authenticate": 'Basic realm="private"'})
        return image.handler(request)

    return handler


def liar(image):
    """Return the answers of a registry that knows what an image is made of, but has it not."""

    def handler(request):
        wanted = request.path.rpartition("/")[2]
        layers = [f"sha256:{hashlib.sha256(body).hexdigest()}" for body in image.layers]
        return Answer(404) if wanted in layers else image.handler(request)

    return handler


async def test_a_private_image_serves_its_own_name_again_without_asking(tmp_path, image):
    async with ScriptedServer(private(image)) as server:
        one = store.ImageStore(tmp_path)
        made = await one.ensure(image.ref(server), ALICE.pull_token())
        count = len(server.requests)
        # As at every start of the machine, when no credentials are kept any more.
        assert await one.ensure(image.ref(server), None) == made
        assert len(server.requests) == count


async def test_a_digest_alone_opens_nothing(tmp_path, image):
    one = store.ImageStore(tmp_path)
    async with ScriptedServer(private(image)) as server, ScriptedServer(liar(image)) as other:
        await one.ensure(image.ref(server), ALICE.pull_token())
        with pytest.raises(Failure) as caught:
            await one.ensure(image.ref(other), None)
        assert caught.value.code == "manifest_unknown"
        # Having been refused changes nothing: neither for the thief nor for the owner.
        with pytest.raises(Failure):
            await one.ensure(image.ref(other), None)
        await one.ensure(image.ref(server), None)
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_an_index_is_guarded_as_its_image(tmp_path):
    image = Image(Tar().add("secret", b"of alice"), index=True)
    one = store.ImageStore(tmp_path)
    async with ScriptedServer(private(image)) as server, ScriptedServer(liar(image)) as other:
        await one.ensure(image.ref(server), ALICE.pull_token())
        with pytest.raises(Failure):
            await one.ensure(image.ref(other), None)
        assert (await one.ensure(image.ref(server), None)).digest == image.digest


async def test_who_has_the_bytes_may_use_the_one_that_is_here(tmp_path, image):
    one = store.ImageStore(tmp_path)
    async with ScriptedServer(private(image)) as server, ScriptedServer(image.handler) as mirror:
        made = await one.ensure(image.ref(server), ALICE.pull_token())
        assert await one.ensure(image.ref(mirror), None) == made
        count = len(mirror.requests)
        assert await one.ensure(image.ref(mirror), None) == made
        assert len(mirror.requests) == count
    assert len(one.list()) == 1


async def test_another_repository_of_the_same_registry_is_another_name(tmp_path, image):
    one = store.ImageStore(tmp_path)
    async with ScriptedServer(private(image)) as server:
        await one.ensure(image.ref(server), ALICE.pull_token())
        elsewhere = image.ref(server).model_copy(update={"repository": "other"})
        with pytest.raises(Failure):
            await one.ensure(elsewhere, None)
        await one.ensure(elsewhere, ALICE.pull_token())


async def test_a_public_image_is_everybody_s(tmp_path, image):
    one = store.ImageStore(tmp_path)
    async with ScriptedServer(image.handler) as server, ScriptedServer(liar(image)) as other:
        made = await one.ensure(image.ref(server), None)
        assert await one.ensure(image.ref(other), None) == made
        assert other.requests == []


async def test_an_image_of_the_first_release_is_good_for_every_name(tmp_path, image):
    one = store.ImageStore(tmp_path)
    async with ScriptedServer(private(image)) as server, ScriptedServer(liar(image)) as other:
        made = await one.ensure(image.ref(server), ALICE.pull_token())
        (made.path.parent / "rights.json").unlink()
        assert await one.ensure(image.ref(other), None) == made


def test_a_torn_file_gives_no_right(tmp_path):
    image = host_rpc.ImageRef(reference="x", registry="R.test", repository="a", digest="d")
    (tmp_path / "rights.json").write_text("{")
    assert not rights.cover(tmp_path, image)
    rights.add(tmp_path, rights.of_pull(image, "t"))
    assert rights.cover(tmp_path, image.model_copy(update={"registry": "r.test"}))
    assert not rights.cover(tmp_path, image.model_copy(update={"registry": "s.test"}))


def test_the_names_are_bounded(tmp_path):
    rights.write(tmp_path, rights.Rights())
    for number in range(300):
        ref = host_rpc.ImageRef(reference="x", registry="r", repository=f"a{number}", digest="d")
        rights.add(tmp_path, rights.of_pull(ref, "t"))
    assert rights.cover(tmp_path, ref)
    assert len((tmp_path / "rights.json").read_bytes()) < 4_096
