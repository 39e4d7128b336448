"""Images for real: docker-registry, tokens, EROFS mounted by loop, full disks."""

# Blocking in a test holds up nobody.
# ruff: noqa: ASYNC221, ASYNC240, PTH110, PTH115, PTH118, PTH123

import asyncio
import contextlib
import hashlib
import json
import os
import stat
import subprocess
import sys
import tarfile

import pytest
import zstandard

from godwit.base.errors import Failure
from godwit.images import (
    auth,
    layers,
    manifests,
    ocilayout,
    publish,
    reference,
    registry,
    resolver,
    store,
)
from godwit.testing.registry import TokenServer, real_registry
from tests.host import bases_here
from tests.unit.images.making import Tar, apply, listing

pytestmark = [pytest.mark.host, pytest.mark.timeout(300)]

# capability v2: cap_net_bind_service, permitted and effective
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")[:20]


@contextlib.contextmanager
def mounted(path, at, *options):
    """Mount something; read-only by loop unless told otherwise."""
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", *(options or ("-o", "ro,loop")), str(path), str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


async def converted(tmp_path, *tars, **limits):
    files = []
    for number, tar in enumerate(tars):
        path = tmp_path / f"layer-{number}"
        path.write_bytes(tar.bytes() if isinstance(tar, Tar) else tar)
        files.append(layers.LayerFile(path, f"layer {number}"))
    into = tmp_path / "image.erofs"
    await store.convert(files, into, digest=f"sha256:{'0' * 64}", limits=layers.Limits(**limits))
    return into


async def test_what_a_layer_holds_is_in_the_mounted_file(tmp_path):
    tar = Tar().dir("./", mode=0o755).dir("d", mode=0o2775, uid=5, gid=6)
    tar.add("d/f", b"content", mode=0o4755, uid=1000, gid=2000, mtime=1_234_567_890)
    tar.hardlink("h", "d/f").symlink("s", "../../etc/passwd")
    tar.add(
        "cap", b"", pax_headers={"SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1")}
    )
    tar.add("attr", b"", pax_headers={"SCHILY.xattr.user.note": "kept"})
    tar.add("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)
    tar.add("zero", kind=tarfile.CHRTYPE, devmajor=0, devminor=0)
    tar.add("pipe", kind=tarfile.FIFOTYPE)
    with mounted(await converted(tmp_path, tar), tmp_path / "mnt") as root:
        at = (root / "d/f").stat()
        assert (at.st_uid, at.st_gid, stat.S_IMODE(at.st_mode)) == (1000, 2000, 0o4755)
        assert at.st_mtime == 1_234_567_890
        assert at.st_ino == (root / "h").stat().st_ino
        assert (root / "d/f").read_bytes() == b"content"
        assert os.readlink(root / "s") == "../../etc/passwd"
        above = (root / "d").stat()
        assert (above.st_uid, above.st_gid, stat.S_IMODE(above.st_mode)) == (5, 6, 0o2775)
        assert os.getxattr(root / "cap", "security.capability") == CAPABILITY
        assert os.getxattr(root / "attr", "user.note") == b"kept"
        assert (root / "null").stat().st_rdev == os.makedev(1, 3)
        assert not (root / "zero").exists()
        assert stat.S_ISFIFO((root / "pipe").stat().st_mode)


async def test_whiteouts_hold_in_the_mounted_file(tmp_path):
    lower = Tar().add("a", b"1").add("d/x", b"1").add("o/y", b"1")
    upper = Tar().whiteout("a").opaque("o").add("o/z", b"2")
    with mounted(await converted(tmp_path, lower, upper), tmp_path / "mnt") as root:
        assert listing(root) == {"d": "dir", "d/x": "1", "o": "dir", "o/z": "2"}


async def test_the_same_layers_make_the_same_file(tmp_path):
    digests = set()
    for number in range(2):
        place = tmp_path / str(number)
        place.mkdir()
        tar = Tar().add("f", b"x" * 10_000).dir("d").symlink("d/s", "f")
        made = await converted(place, tar)
        digests.add(hashlib.sha256(made.read_bytes()).hexdigest())
    assert len(digests) == 1


async def test_an_attack_leaves_nothing_outside(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    tar = Tar().symlink("l", str(out)).add("l/evil", b"x").symlink("r", "/proc/self/root")
    tar.add("r/evil", b"x").dir("e").symlink("e", "/etc").add("e/evil-by-test", b"x")
    with mounted(await converted(tmp_path, tar), tmp_path / "mnt") as root:
        assert len(list(root.rglob("evil*"))) == 3
    assert list(out.iterdir()) == []
    assert not os.path.exists("/etc/evil-by-test")
    assert not os.path.exists("/evil")


@pytest.mark.parametrize("megabytes", [1, 12, 30])
async def test_a_full_disk_is_said_so_and_leaves_nothing(tmp_path, megabytes):
    # 20 MB: the tree does not fit, not quite, or fits and the image does not.
    layer = tmp_path / "layer"
    layer.write_bytes(Tar().add("big", os.urandom(20 << 20)).bytes())
    size = f"size={megabytes}m"
    with mounted("tmpfs", tmp_path / "small", "-t", "tmpfs", "-o", size) as small:
        with pytest.raises(Failure, match="disk is full") as caught:
            await store.convert(
                [layers.LayerFile(layer, "layer")],
                small / "image.erofs",
                digest=f"sha256:{'0' * 64}",
                limits=layers.Limits(),
            )
        assert caught.value.code == "insufficient_capacity"
        assert not (small / "tree").exists()


@pytest.mark.parametrize("megabytes", [2, 25, 50])
async def test_a_store_on_a_full_disk_holds_no_half_image(tmp_path, megabytes):
    async with real_registry(tmp_path) as address:
        target = await pushed(address, tmp_path, Tar().add("big", os.urandom(20 << 20)))
        image = await resolver.resolve(target)
        size = f"size={megabytes}m"
        with mounted("tmpfs", tmp_path / "small", "-t", "tmpfs", "-o", size) as small:
            one = store.ImageStore(small)
            with pytest.raises(Failure, match="disk is full") as caught:
                await one.ensure(image, None)
            assert caught.value.code == "insufficient_capacity"
            assert one.list() == ()
            assert list((small / "tmp").iterdir()) == []


async def pushed(address, directory, *tars, credentials=None, name="app", codec="zstd"):
    """Push an image of these layers and return its reference."""
    blobs = []
    for number, tar in enumerate(tars):
        plain = tar.bytes()
        packed = zstandard.compress(plain)
        path = directory / f"{name.replace('/', '-')}-{number}"
        path.write_bytes(packed)
        digests = [f"sha256:{hashlib.sha256(x).hexdigest()}" for x in (packed, plain)]
        blobs.append(ocilayout.LayerBlob(path, codec, *digests, len(packed)))
    layout = ocilayout.write(
        directory / f"layout-{name.replace('/', '-')}",
        blobs,
        config={"config": {"Cmd": ["/x"], "Labels": {"a": "b"}}},
        names=["x"],
    )
    target = f"{address}/{name}:1"
    await publish.push(layout, target, credentials=credentials)
    return target


async def test_an_image_goes_through_a_registry_with_tokens(tmp_path):
    tokens = TokenServer({"u": "p", auth.TOKEN_USER: "platform-token"})
    user = auth.Credentials("u", "p")
    async with tokens.server, real_registry(tmp_path, tokens=tokens) as address:
        target = await pushed(address, tmp_path, Tar().add("f", b"1"), credentials=user)
        found = await resolver.inspect(target, credentials=user)
        assert found.config.labels == {"a": "b"}
        assert found.image.insecure
        one = store.ImageStore(tmp_path / "store")
        for token, more in ((None, "no access"), ("wrong", "no access")):
            with pytest.raises(Failure, match=more) as caught:
                await one.ensure(found.image, token)
            assert caught.value.code == "manifest_unknown"
        # A platform token works as a password at the token server …
        made = await one.ensure(found.image, "platform-token")
        await one.remove(made.digest)
        # … and a registry token works as it is, without asking the token server.
        given = tokens.given
        await one.ensure(found.image, tokens.token("app", ["pull"]))
        assert tokens.given == given
        with mounted(made.path, tmp_path / "mnt") as root:
            assert (root / "f").read_bytes() == b"1"


async def test_a_token_for_one_repository_opens_no_other(tmp_path):
    tokens = TokenServer({"u": "p"})
    user = auth.Credentials("u", "p")
    async with tokens.server, real_registry(tmp_path, tokens=tokens) as address:
        target = await pushed(address, tmp_path, Tar().add("f", b"1"), credentials=user)
        image = await resolver.resolve(target, credentials=user)
        with pytest.raises(Failure) as caught:
            await store.ImageStore(tmp_path / "store").ensure(image, tokens.token("b", ["pull"]))
        assert caught.value.code == "manifest_unknown"


async def test_public_images_need_no_credentials(tmp_path):
    tokens = TokenServer({"u": "p"}, public=frozenset({"app"}))
    user = auth.Credentials("u", "p")
    async with tokens.server, real_registry(tmp_path, tokens=tokens) as address:
        target = await pushed(address, tmp_path, Tar().add("f", b"1"), credentials=user)
        image = await resolver.resolve(target)
        assert (await store.ImageStore(tmp_path / "store").ensure(image, None)).config.cmd == (
            "/x",
        )


async def test_tags_digests_and_what_is_not_there(tmp_path):
    async with real_registry(tmp_path) as address:
        target = await pushed(address, tmp_path, Tar().add("f", b"1"))
        by_tag = await resolver.resolve(target)
        by_digest = await resolver.resolve(f"{address}/app@{by_tag.digest}")
        assert by_digest.digest == by_tag.digest
        assert by_digest.tag == ""
        for missing in (f"{address}/app:2", f"{address}/no", f"{address}/app@sha256:{'0' * 64}"):
            with pytest.raises(Failure) as caught:
                await resolver.resolve(missing)
            assert caught.value.code == "manifest_unknown"


async def test_an_index_in_a_real_registry_leads_to_its_image(tmp_path):
    async with real_registry(tmp_path) as address:
        target = await pushed(address, tmp_path, Tar().add("f", b"1"))
        wanted = reference.parse(target)
        async with registry.RegistryClient(address, insecure=True) as client:
            document = await client.manifest(wanted.repository, "1")
            entry = {
                "mediaType": manifests.OCI_MANIFEST,
                "digest": document.digest,
                "size": len(document.body),
            }
            for tag, platform in (("both", "amd64"), ("arm", "arm64")):
                body = json.dumps(
                    {
                        "schemaVersion": 2,
                        "mediaType": manifests.OCI_INDEX,
                        "manifests": [
                            {**entry, "platform": {"os": "linux", "architecture": platform}}
                        ],
                    }
                ).encode()
                await client.put_manifest("app", tag, manifests.OCI_INDEX, body)
        image = await resolver.resolve(f"{address}/app:both")
        assert image.digest != document.digest
        one = store.ImageStore(tmp_path / "store")
        assert (await one.ensure(image, None)).digest == document.digest
        assert one.has(image.digest)
        with pytest.raises(Failure, match="arm64 only"):
            await resolver.resolve(f"{address}/app:arm")


@pytest.mark.parametrize("damage", ["flipped", "shorter", "empty", "another"])
async def test_a_layer_that_its_registry_damaged_is_never_used(tmp_path, damage):
    async with real_registry(tmp_path) as address:
        content = os.urandom(3 << 20)
        target = await pushed(address, tmp_path, Tar().add("f", content))
        image = await resolver.resolve(target)
        blobs = (tmp_path / "blobs").rglob("blobs/sha256/*/*/data")
        layer = max(blobs, key=lambda path: path.stat().st_size)
        sound = layer.read_bytes()
        middle = len(sound) // 2
        layer.write_bytes(
            {
                "flipped": sound[:middle] + bytes([sound[middle] ^ 1]) + sound[middle + 1 :],
                "shorter": sound[:middle],
                "empty": b"",
                "another": zstandard.compress(Tar().add("evil", content).bytes()),
            }[damage]
        )
        one = store.ImageStore(tmp_path / "store")
        with pytest.raises(Failure) as caught:
            await one.ensure(image, None)
        assert caught.value.code in ("unavailable", "invalid_argument")
        assert one.list() == ()
        assert list((tmp_path / "store" / "tmp").iterdir()) == []
        # Put right, it is pulled as if nothing had been.
        layer.write_bytes(sound)
        made = await one.ensure(image, None)
        with mounted(made.path, tmp_path / "mnt") as root:
            assert (root / "f").read_bytes() == content


async def test_a_layer_that_is_a_bomb_is_refused_and_leaves_nothing(tmp_path):
    async with real_registry(tmp_path) as address:
        target = await pushed(address, tmp_path, Tar().add("zeros", bytes(256 << 20)))
        image = await resolver.resolve(target)
        one = store.ImageStore(tmp_path / "store")
        with pytest.raises(Failure, match="times its size") as caught:
            await one.ensure(image, None)
        assert caught.value.code == "invalid_argument"
        assert one.list() == ()
        assert list((tmp_path / "store" / "tmp").iterdir()) == []


async def test_two_processes_pull_an_image_once(tmp_path):
    async with real_registry(tmp_path) as address:
        target = await pushed(address, tmp_path, Tar().add("f", os.urandom(5 << 20)))
        image = await resolver.resolve(target)
        code = (
            "import asyncio, sys; from pathlib import Path;"
            "from godwit.images import store; from godwit.wire import host_rpc;"
            "image = host_rpc.ImageRef.model_validate_json(sys.argv[1]);"
            "s = store.ImageStore(Path(sys.argv[2]));"
            "print(asyncio.run(s.ensure(image, None)).path.stat().st_ino)"
        )
        command = [sys.executable, "-c", code, image.model_dump_json(), str(tmp_path / "store")]
        running = [
            await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            for _ in range(3)
        ]
        said = {(await process.communicate())[0] for process in running}
        assert len(said) == 1
        assert said != {b""}


async def test_a_pull_killed_at_any_moment_leaves_no_half_image(tmp_path):
    async with real_registry(tmp_path) as address:
        target = await pushed(address, tmp_path, Tar().add("f", os.urandom(20 << 20)))
        image = await resolver.resolve(target)
        code = (
            "import asyncio, sys; from pathlib import Path;"
            "from godwit.images import store; from godwit.wire import host_rpc;"
            "image = host_rpc.ImageRef.model_validate_json(sys.argv[1]);"
            "print('go', flush=True);"
            "asyncio.run(store.ImageStore(Path(sys.argv[2])).ensure(image, None))"
        )
        root = tmp_path / "store"
        command = [sys.executable, "-c", code, image.model_dump_json(), str(root)]
        for delay in (0.05, 0.15, 0.3, 0.5):
            process = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE
            )
            assert process.stdout is not None
            await process.stdout.readline()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), delay)
            if process.returncode is None:
                process.kill()
                await process.wait()
            one = store.ImageStore(root)
            for found in one.list():
                assert found.path.stat().st_size == found.size_bytes
        made = await store.ImageStore(root).ensure(image, None)
        assert list((root / "tmp").iterdir()) == []
        with mounted(made.path, tmp_path / "mnt") as tree:
            assert (tree / "f").stat().st_size == 20 << 20


async def test_a_removal_killed_at_any_moment_leaves_a_whole_image_or_none(tmp_path):
    async with real_registry(tmp_path) as address:
        tars = [Tar().add(str(n), os.urandom(2 << 20)) for n in range(3)]
        target = await pushed(address, tmp_path, *tars)
        image = await resolver.resolve(target)
        root = tmp_path / "store"
        code = (
            "import os, sys\nimport asyncio\nfrom pathlib import Path\n"
            "from godwit.images import store\n"
            "steps = int(sys.argv[3])\n"
            "def count(event, arguments):\n"
            "    global steps\n"
            "    if event in ('os.rename', 'os.remove', 'os.rmdir', 'os.mkdir'):\n"
            "        steps -= 1\n"
            "        if steps < 0:\n"
            "            os.kill(os.getpid(), 9)\n"
            "one = store.ImageStore(Path(sys.argv[2]))\n"
            "sys.addaudithook(count)\n"
            "asyncio.run(one.remove(sys.argv[1]))\n"
        )
        ended = None
        for steps in range(40):
            await store.ImageStore(root).ensure(image, None)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, image.digest, str(root), str(steps)
            )
            ended = await process.wait()
            one = store.ImageStore(root)
            for found in one.list():
                assert found.path.stat().st_size == found.size_bytes
            left = [path for path in root.rglob("*") if not path.is_dir()]
            assert one.has(image.digest) or left == [], (steps, left)
            assert list((root / "tmp").iterdir()) == []
            if ended == 0:
                break
        assert ended == 0
        assert steps > 3


async def test_a_pull_killed_between_any_two_steps_leaves_no_half_image(tmp_path):
    async with real_registry(tmp_path) as address:
        target = await pushed(address, tmp_path, Tar().add("f", b"1"), Tar().add("g", b"2"))
        image = await resolver.resolve(target)
        code = (
            "import os, sys\nimport asyncio\nfrom pathlib import Path\n"
            "from godwit.images import store\nfrom godwit.wire import host_rpc\n"
            "image = host_rpc.ImageRef.model_validate_json(sys.argv[1])\n"
            "steps = int(sys.argv[3])\n"
            "def count(event, arguments):\n"
            "    global steps\n"
            "    changes = ('os.rename', 'os.remove', 'os.rmdir', 'os.mkdir', 'subprocess.Popen')\n"
            "    if event in changes or (event == 'open' and arguments[2] & os.O_WRONLY):\n"
            "        steps -= 1\n"
            "        if steps < 0:\n"
            "            os.kill(os.getpid(), 9)\n"
            "one = store.ImageStore(Path(sys.argv[2]))\n"
            "sys.addaudithook(count)\n"
            "asyncio.run(one.ensure(image, None))\n"
        )
        ended, steps = None, 0
        while ended != 0:
            root = tmp_path / f"store-{steps}"
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, image.model_dump_json(), str(root), str(steps)
            )
            ended = await process.wait()
            assert ended in (0, -9)
            one = store.ImageStore(root)
            assert [found.path.stat().st_size for found in one.list()] == [
                found.size_bytes for found in one.list()
            ]
            assert list((root / "tmp").iterdir()) == []
            assert one.has(image.digest) or not list(root.glob("sha256-*"))
            steps += 2
            assert steps < 200
        assert steps > 8
        assert one.has(image.digest)


async def test_what_is_removed_makes_room_for_the_next(tmp_path):
    async with real_registry(tmp_path) as address:
        images = []
        for name in ("one", "two"):
            target = await pushed(
                address, tmp_path, Tar().add(name, os.urandom(20 << 20)), name=name
            )
            images.append(await resolver.resolve(target))
        with mounted("tmpfs", tmp_path / "small", "-t", "tmpfs", "-o", "size=75m") as small:
            one = store.ImageStore(small)
            await one.ensure(images[0], None)
            with pytest.raises(Failure, match="disk is full"):
                await one.ensure(images[1], None)

            async def make_room():
                await one.remove(images[0].digest)

            one.when_full(make_room)
            made = await one.ensure(images[1], None)
            assert [found.digest for found in one.list()] == [made.digest]


def facts(root):
    """Return what matters of every path below a directory."""
    found = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            at = os.lstat(path)
            what = os.readlink(path) if stat.S_ISLNK(at.st_mode) else at.st_size
            if stat.S_ISDIR(at.st_mode):
                what = "dir"
            elif stat.S_ISREG(at.st_mode):
                with open(path, "rb") as file:
                    what = hashlib.sha256(file.read()).hexdigest()
            key = os.path.relpath(path, root)
            found[key] = (at.st_mode, at.st_uid, at.st_gid, at.st_mtime_ns, at.st_nlink, what)
    return found


@pytest.mark.net
async def test_a_real_image_comes_out_as_gnu_tar_unpacks_it(tmp_path):
    base = await bases_here.base("python:3.11-slim")
    blobs = [base.layout.blob(layer.digest) for layer in base.layout.manifest().layers]
    peer = tmp_path / "peer"
    peer.mkdir()
    for blob in blobs:
        command = ["tar", "--zstd", "-xf", str(blob), "-C", str(peer), "--numeric-owner", "-p"]
        subprocess.run([*command, "--xattrs", "--xattrs-include=*"], check=True)
    for mark in peer.rglob(".wh.*"):
        hidden = mark.with_name(mark.name.removeprefix(".wh."))
        subprocess.run(["rm", "-rf", str(hidden), str(mark)], check=True)
        os.utime(mark.parent, ns=(0, 0))
    ours = apply(tmp_path, *(blob.read_bytes() for blob in blobs))
    expected, found = facts(peer), facts(ours)
    assert found.keys() == expected.keys()
    directories = {k for k, v in expected.items() if v[5] == "dir"}
    different = {k for k in found if found[k] != expected[k] and k not in directories}
    assert different == set()
