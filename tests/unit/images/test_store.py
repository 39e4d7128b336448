"""The store: one conversion per digest, nothing half done, nothing left behind."""

import asyncio
import contextlib
import gzip
import hashlib
import json
import shutil

import pytest

from godwit.base import clock
from godwit.base.errors import Failure
from godwit.images import layers, manifests, store
from godwit.testing.registry import Answer, ScriptedServer
from godwit.wire import host_rpc
from tests.unit.images.making import Tar

pytestmark = pytest.mark.skipif(shutil.which("mkfs.erofs") is None, reason="needs mkfs.erofs")

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def sha(body):
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


class Image:
    """An image, served by its paths."""

    def __init__(self, *tars, architecture="amd64", diff_ids=None, index=False):
        plain = [tar.bytes() for tar in tars]
        self.layers = [gzip.compress(body, mtime=0) for body in plain]
        config = {
            "os": "linux",
            "architecture": architecture,
            "config": {"Cmd": ["/x"], "Labels": {"a": "b"}},
            "rootfs": {"diff_ids": diff_ids or [sha(body) for body in plain]},
        }
        self.config = json.dumps(config).encode()
        self.manifest = self._dump(
            mediaType=manifests.OCI_MANIFEST,
            config=self._descriptor(manifests.OCI_CONFIG, self.config),
            layers=[self._descriptor(LAYER, body) for body in self.layers],
        )
        self.index = self._dump(
            mediaType=manifests.OCI_INDEX,
            manifests=[
                {
                    **self._descriptor(manifests.OCI_MANIFEST, self.manifest),
                    "platform": {"os": "linux", "architecture": architecture},
                }
            ],
        )
        self.top = self.index if index else self.manifest
        self.asked = []

    @property
    def digest(self):
        return sha(self.manifest)

    def handler(self, request):
        self.asked.append(request.path)
        wanted = request.path.rpartition("/")[2]
        for body in (self.manifest, self.index, self.config, *self.layers):
            if sha(body) == wanted:
                return Answer(200, body)
        return Answer(404)

    def ref(self, server):
        return host_rpc.ImageRef(
            reference="app:1",
            registry=server.address,
            repository="app",
            digest=sha(self.top),
            insecure=True,
        )

    def _dump(self, **document):
        return json.dumps({"schemaVersion": 2, **document}).encode()

    def _descriptor(self, media_type, body):
        return {"mediaType": media_type, "digest": sha(body), "size": len(body)}


class Time(clock.SystemClock):
    """A clock turned by hand."""

    ms = 1_000_000_000_000

    def now_ms(self):
        return self.ms


def small():
    return Image(Tar().add("f", b"1"), Tar().add("g", b"2"))


def clean(root):
    """Tell that a store holds no work in progress."""
    return list((root / "tmp").iterdir()) == []


async def test_an_image_is_made_once_and_found_again(tmp_path):
    image = small()
    async with ScriptedServer(image.handler) as server:
        one = store.ImageStore(tmp_path)
        made = await one.ensure(image.ref(server), None)
        count = len(image.asked)
        again = await one.ensure(image.ref(server), None)
    assert made == again
    assert len(image.asked) == count
    assert made.digest == image.digest
    assert made.config.cmd == ("/x",)
    assert made.size_bytes == made.path.stat().st_size
    assert ":" not in str(made.path)
    assert one.has(image.digest)
    assert store.ImageStore(tmp_path).list() == (made,)
    assert clean(tmp_path)


async def test_asked_for_ten_times_at_once_it_is_pulled_once(tmp_path):
    image = small()
    async with ScriptedServer(image.handler) as server:
        stores = [store.ImageStore(tmp_path) for _ in range(2)]
        made = await asyncio.gather(
            *(stores[n % 2].ensure(image.ref(server), None) for n in range(10))
        )
    assert len({m.path for m in made}) == 1
    assert len([path for path in image.asked if "/blobs/" in path]) == 3


async def test_an_index_leads_to_its_image_also_later(tmp_path):
    image = Image(Tar().add("f", b"1"), index=True)
    async with ScriptedServer(image.handler) as server:
        made = await store.ImageStore(tmp_path).ensure(image.ref(server), None)
    later = store.ImageStore(tmp_path)
    assert made.digest == image.digest
    assert later.has(sha(image.index))
    assert later.get(sha(image.index)) == made
    await later.remove(sha(image.index))
    assert not later.has(sha(image.index))
    assert not later.has(image.digest)


async def test_the_same_layers_make_the_same_file(tmp_path):
    image = small()
    async with ScriptedServer(image.handler) as server:
        first = await store.ImageStore(tmp_path / "1").ensure(image.ref(server), None)
        second = await store.ImageStore(tmp_path / "2").ensure(image.ref(server), None)
    assert first.path.read_bytes() == second.path.read_bytes()


async def refused(tmp_path, image):
    async with ScriptedServer(image.handler) as server:
        one = store.ImageStore(tmp_path)
        with pytest.raises(Failure) as caught:
            await one.ensure(image.ref(server), None)
        assert not one.has(sha(image.top))
        assert one.list() == ()
        assert clean(tmp_path)
    return caught.value


async def test_another_architecture_is_refused_before_layers_are_fetched(tmp_path):
    image = Image(Tar().add("f", b"1"), architecture="arm64", index=True)
    failure = await refused(tmp_path, image)
    assert failure.code == "invalid_argument"
    assert "arm64 only; this host runs amd64" in failure.message
    assert not any("/blobs/" in path for path in image.asked)


async def test_a_config_of_another_architecture_is_refused(tmp_path):
    failure = await refused(tmp_path, Image(Tar().add("f", b"1"), architecture="s390x"))
    assert "s390x only" in failure.message


async def test_a_corrupt_layer_is_refused(tmp_path):
    image = small()
    image.layers[0] = image.layers[0][:-1] + b"x"
    failure = await refused(tmp_path, image)
    assert failure.code == "manifest_unknown"


async def test_a_layer_with_wrong_content_is_refused(tmp_path):
    image = small()
    whole, wrong = image.handler, image.layers[0][:-1] + b"x"

    def lie(request):
        answer = whole(request)
        return Answer(200, wrong) if answer.body == image.layers[0] else answer

    image.handler = lie
    failure = await refused(tmp_path, image)
    assert failure.code == "invalid_argument"
    assert "damaged" in failure.message


async def test_a_layer_that_escapes_is_refused(tmp_path):
    failure = await refused(tmp_path, Image(Tar().add("../f", b"1")))
    assert failure.code == "invalid_argument"
    assert "points out" in failure.message


async def test_a_wrong_diff_id_is_refused(tmp_path):
    failure = await refused(tmp_path, Image(Tar().add("f"), diff_ids=[f"sha256:{'0' * 64}"]))
    assert "config says" in failure.message


async def test_a_config_with_another_number_of_layers_is_refused(tmp_path):
    failure = await refused(tmp_path, Image(Tar().add("f"), diff_ids=["a", "b"]))
    assert "names 2" in failure.message


async def test_no_digest_is_no_image(tmp_path):
    ref = host_rpc.ImageRef(reference="a", registry="x", repository="a", digest="../../etc")
    one = store.ImageStore(tmp_path)
    with pytest.raises(Failure, match="not a sha256"):
        await one.ensure(ref, None)
    assert not one.has("../../etc")


async def test_a_missing_image_is_said_so(tmp_path):
    image = small()
    image.handler = lambda _: Answer(404)
    assert (await refused(tmp_path, image)).code == "manifest_unknown"


async def test_work_of_the_dead_is_removed_and_of_the_living_kept(tmp_path):
    one = store.ImageStore(tmp_path)
    dead = tmp_path / "tmp" / "dead"
    dead.mkdir()
    (dead / "big").write_text("x")
    dead.with_suffix(".lock").touch()
    with one._workplace(f"sha256:{'0' * 64}") as living:
        store.ImageStore(tmp_path)
        assert living.exists()
        assert not dead.exists()
    assert clean(tmp_path)


async def test_a_damaged_record_means_the_image_is_made_again(tmp_path):
    image = small()
    async with ScriptedServer(image.handler) as server:
        made = await store.ImageStore(tmp_path).ensure(image.ref(server), None)
        (made.path.parent / "meta.json").write_text("{")
        later = store.ImageStore(tmp_path)
        assert not later.has(image.digest)
        assert await later.ensure(image.ref(server), None) == made
    assert clean(tmp_path)


async def test_a_file_cut_short_is_made_again(tmp_path):
    image = small()
    async with ScriptedServer(image.handler) as server:
        made = await store.ImageStore(tmp_path).ensure(image.ref(server), None)
        made.path.write_bytes(b"")
        again = await store.ImageStore(tmp_path).ensure(image.ref(server), None)
    assert again.path.stat().st_size == again.size_bytes


async def test_a_cancelled_pull_leaves_nothing_and_can_be_repeated(tmp_path):
    image = small()
    async with ScriptedServer(image.handler) as server:
        for number, delay in enumerate((0.0, 0.01, 0.03, 0.05, 0.08, 0.12, 0.16)):
            root = tmp_path / str(number)
            one = store.ImageStore(root)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await one.ensure(image.ref(server), None)
            assert clean(root)
            assert (await one.ensure(image.ref(server), None)).digest == image.digest


async def test_out_of_time_is_said_so(tmp_path):
    image = small()
    async with ScriptedServer(image.handler) as server:
        with pytest.raises(Failure) as caught:
            await store.ImageStore(tmp_path, timeout_s=0.05).ensure(image.ref(server), None)
    assert caught.value.code == "deadline_exceeded"
    assert clean(tmp_path)


async def test_removing_what_is_not_there_is_fine(tmp_path):
    await store.ImageStore(tmp_path).remove(f"sha256:{'1' * 64}")


async def test_a_removed_image_leaves_nothing_and_can_be_pulled_again(tmp_path):
    image = Image(Tar().add("f", b"1"), index=True)
    async with ScriptedServer(image.handler) as server:
        one = store.ImageStore(tmp_path)
        await one.ensure(image.ref(server), None)
        assert one.at_rest()[0].names == {image.digest, sha(image.index)}
        assert await one.remove(sha(image.index))
        assert one.list() == ()
        assert not one.has(sha(image.index))
        files = [path for path in tmp_path.rglob("*") if not path.is_dir()]
        assert files == []
        assert (await one.ensure(image.ref(server), None)).digest == image.digest


async def test_an_image_stays_when_somebody_says_so_at_the_last_moment(tmp_path):
    image = small()
    async with ScriptedServer(image.handler) as server:
        one = store.ImageStore(tmp_path)
        made = await one.ensure(image.ref(server), None)
        assert not await one.remove(made.digest, unless=lambda: True)
        assert one.list() == (made,)
        assert clean(tmp_path)


async def test_a_use_is_written_down_and_outlives_the_process(tmp_path):
    image, time = small(), Time()
    async with ScriptedServer(image.handler) as server:
        one = store.ImageStore(tmp_path, time=time)
        await one.ensure(image.ref(server), None)
        first = store.ImageStore(tmp_path).at_rest()[0].used_at_ms
        time.ms += 3_600_000
        await one.ensure(image.ref(server), None)
    (kept,) = store.ImageStore(tmp_path).at_rest()
    assert (first, kept.used_at_ms) == (1_000_000_000_000, 1_000_003_600_000)
    assert kept.reference == "app:1"


async def test_an_image_of_a_release_that_noted_no_use_was_used_when_it_was_made(tmp_path):
    image = small()
    async with ScriptedServer(image.handler) as server:
        one = store.ImageStore(tmp_path)
        made = await one.ensure(image.ref(server), None)
    (made.path.parent / "used").unlink()
    at_ms = (made.path.parent / "meta.json").stat().st_mtime_ns // 1_000_000
    assert one.at_rest()[0].used_at_ms == at_ms


async def test_removals_and_pulls_of_one_image_never_meet(tmp_path):
    image = small()
    async with ScriptedServer(image.handler) as server:
        one, other = store.ImageStore(tmp_path), store.ImageStore(tmp_path)
        await one.ensure(image.ref(server), None)

        async def remove():
            for _ in range(5):
                await other.remove(image.digest)

        async def pull():
            for _ in range(5):
                made = await one.ensure(image.ref(server), None)
                assert made.size_bytes > 0

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(remove())
                group.create_task(pull())
        await one.ensure(image.ref(server), None)
    assert store.ImageStore(tmp_path).has(image.digest)
    assert clean(tmp_path)


async def test_before_an_image_is_refused_for_space_there_is_a_call_for_room(tmp_path):
    image = small()
    huge = json.loads(image.manifest)
    huge["layers"][0]["size"] = 1 << 60
    image.manifest = image.top = json.dumps(huge).encode()
    called = []
    async with ScriptedServer(image.handler) as server:
        one = store.ImageStore(tmp_path, limits=layers.Limits(max_bytes=1 << 62))

        async def make_room():
            called.append(clean(tmp_path))

        one.when_full(make_room)
        with pytest.raises(Failure, match="full") as refused:
            await one.ensure(image.ref(server), None)
    assert refused.value.code == "insufficient_capacity"
    assert called == [True]
    assert clean(tmp_path)
