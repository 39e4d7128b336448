"""Builds for real: Buildah, a registry with tokens, a local base."""

# Blocking in a test holds up nobody.
# ruff: noqa: ASYNC221, ASYNC240, PTH208, PTH211

import asyncio
import contextlib
import os
import socket
import subprocess
from pathlib import Path

import pytest

from godwit.base.clock import SystemClock
from godwit.base.errors import Failure
from godwit.builder import buildah, ports, storage
from godwit.images import auth, bases, resolver, store
from godwit.testing.registry import TokenServer, real_registry
from tests.host import bases_here
from tests.unit.images.making import listing

pytestmark = [pytest.mark.host, pytest.mark.net, pytest.mark.timeout(600)]


class Bench:
    """A builder, a registry and a context."""

    def __init__(self, tmp_path, builder, address, tokens):
        self.path = tmp_path
        self.builder = builder
        self.address = address
        self.tokens = tokens
        self.context = tmp_path / "context"
        self.context.mkdir()
        self.built = 0

    def write(self, **files):
        for name, text in files.items():
            path = self.context / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    async def build(self, dockerfile=None, **more):
        """Build and return what was said and where the image is."""
        if dockerfile is not None:
            (self.context / "Dockerfile").write_text(dockerfile)
        self.built += 1
        request = ports.BuildRequest(
            context=more.pop("context", self.context),
            reference=f"{self.address}/app:{self.built}",
            credentials=auth.Credentials(token=self.tokens.token("app", ["pull", "push"])),
            **more,
        )
        said = []
        async with contextlib.aclosing(self.builder.build(request)) as events:
            async for event in events:
                said.append(event)
        assert isinstance(said[-1], ports.BuildImage)
        return said, f"{self.address}/app@{said[-1].digest}"

    async def config(self, image):
        found = await resolver.inspect(image, credentials=auth.Credentials("u", "p"))
        return found.config

    @contextlib.asynccontextmanager
    async def files(self, image):
        found = await resolver.resolve(image, credentials=auth.Credentials("u", "p"))
        made = await store.ImageStore(self.path / "store").ensure(
            found, self.tokens.token("app", ["pull"])
        )
        at = self.path / "mnt"
        at.mkdir(exist_ok=True)
        subprocess.run(["mount", "-o", "ro,loop", str(made.path), str(at)], check=True)
        try:
            yield at
        finally:
            subprocess.run(["umount", str(at)], check=True)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Return a place for Buildah's storage that all tests here share."""
    return tmp_path_factory.mktemp("builder")


@pytest.fixture
async def bench(tmp_path, kept):
    await bases_here.base("python:3.11-slim")
    await bases_here.base("debian:bookworm-slim")
    local = bases.Bases(bases_here.directory())
    builder = buildah.BuildahBuilder(kept / "cache", kept / "run", local)
    tokens = TokenServer({"u": "p"})
    async with tokens.server, real_registry(tmp_path, tokens=tokens) as address:
        yield Bench(tmp_path, builder, address, tokens)
    assert list((kept / "cache" / "work").iterdir()) == []
    assert str(kept) not in Path("/proc/self/mountinfo").read_text()


def lines(said):
    return [event.message for event in said if isinstance(event, ports.BuildLog)]


async def test_a_dockerfile_becomes_an_image_in_the_registry(bench):
    bench.write(app_dot_py="print('hi')", note_dot_log="x", keep__x_dot_log="y")
    bench.write(_dot_dockerignore="**/*.log\n!keep/*.log\nDockerfile\n")
    os.symlink("/etc/passwd", bench.context / "link")
    said, image = await bench.build(
        """
        ARG BASE=python:3.11-slim
        FROM ${BASE} AS first
        ARG GREETING=nobody
        RUN echo "hello $GREETING" > /greeting
        FROM ${BASE}
        COPY --from=first /greeting /greeting
        COPY . /app
        RUN python --version > /version
        ENV ANSWER=42
        EXPOSE 8080
        CMD ["python", "/app/app.py"]
        """,
        args={"GREETING": "world", "UNUSED": "x"},
        labels={"team": "a b"},
        offline=True,
    )
    notices = [e.message for e in said if isinstance(e, ports.BuildNotice)]
    assert any(
        "python:3.11-slim: offline, using the local base built from Debian packages on 20" in n
        for n in notices
    )
    config = await bench.config(image)
    assert config.exposed_ports == ("8080/tcp",)
    assert config.labels == {"team": "a b"}
    assert "ANSWER=42" in config.env
    async with bench.files(image) as root:
        assert (root / "greeting").read_text() == "hello world\n"
        assert (root / "version").read_text().startswith("Python 3.11")
        assert listing(root / "app") == {
            ".dockerignore": "**/*.log\n!keep/*.log\nDockerfile\n",
            "app.py": "print('hi')",
            "keep": "dir",
            "keep/x.log": "y",
            "link": "-> /etc/passwd",
        }


async def test_build_arguments_are_the_dockerfile_s_and_reach_no_program_of_the_host(bench):
    said, _ = await bench.build(
        """
        FROM debian:bookworm-slim
        ARG STORAGE_DRIVER
        RUN echo "driver $STORAGE_DRIVER"
        """,
        args={
            "LD_DEBUG": "help",
            "LD_PRELOAD": "/nowhere.so",
            "GODEBUG": "inittrace=1",
            "BUILDAH_FORMAT": "nonsense",
            "STORAGE_DRIVER": "a b=c",
            "PATH": "/nowhere",
        },
        offline=True,
    )
    assert "driver a b=c" in lines(said)
    assert not any("preload" in line or "init internal" in line for line in lines(said))


async def test_upstream_is_asked_first_and_its_silence_is_said(bench, monkeypatch):
    said, _ = await bench.build("FROM debian:bookworm-slim\nRUN true\n")
    sentence = next(e.message for e in said if isinstance(e, ports.BuildNotice))
    assert "debian:bookworm-slim" in sentence
    assert "upstream cannot be reached" in sentence or "pulling sha256" in sentence


async def test_a_target_is_built_and_later_stages_are_not(bench):
    dockerfile = """
    FROM debian:bookworm-slim AS wanted
    RUN echo right > /which
    FROM nothing.invalid/other AS later
    RUN false
    """
    _, image = await bench.build(dockerfile, target="wanted", offline=True)
    async with bench.files(image) as root:
        assert (root / "which").read_text() == "right\n"


async def test_a_second_build_uses_the_cache_and_no_cache_does_not(bench):
    dockerfile = "FROM debian:bookworm-slim\nRUN head -c 8 /dev/urandom | od -An -tx1 > /random\n"
    _, first = await bench.build(dockerfile, offline=True)
    said, second = await bench.build(offline=True)
    assert any("Using cache" in line for line in lines(said))
    _, third = await bench.build(offline=True, no_cache=True)
    assert first == second != third


async def test_zstd_is_pushed_when_asked_for(bench):
    _, image = await bench.build(
        "FROM debian:bookworm-slim\nRUN echo z > /z\n", offline=True, compression="zstd"
    )
    async with bench.files(image) as root:
        assert (root / "z").read_text() == "z\n"


async def test_a_failing_step_is_named(bench):
    with pytest.raises(Failure) as caught:
        await bench.build("FROM debian:bookworm-slim\nRUN echo before; exit 7\n", offline=True)
    assert caught.value.code == "failed_precondition"
    assert caught.value.message == "the build failed at 'RUN echo before; exit 7': exit status 7"


@pytest.mark.parametrize(
    ("dockerfile", "more", "code", "why"),
    [
        ("FROM debian:bookworm-slim\nCOPY nope /\n", {}, "failed_precondition", "nope"),
        (
            "FROM debian:bookworm-slim\nUSER x\nRUN true\n",
            {},
            "failed_precondition",
            "unknown user",
        ),
        ("FROM debian:bookworm-slim AS prod\n", {"target": "prd"}, "invalid_argument", "no stage"),
        ("FROM no.such.image:1\n", {}, "unavailable", "no local base"),
        ("FROM Bad:Image:Name\n", {}, "invalid_argument", "not an image reference"),
        ("RUN true\n", {}, "invalid_argument", "before the first FROM"),
        ("", {}, "invalid_argument", "no FROM"),
    ],
)
async def test_every_mistake_has_its_sentence(bench, dockerfile, more, code, why):
    with pytest.raises(Failure, match=why) as caught:
        await bench.build(dockerfile, offline=True, **more)
    assert caught.value.code == code


async def test_a_missing_dockerfile_is_said_so(bench):
    with pytest.raises(Failure, match="no Dockerfile"):
        await bench.build(dockerfile=None, offline=True)


async def test_secrets_reach_the_step_and_nothing_else(bench):
    said, image = await bench.build(
        "FROM debian:bookworm-slim\n"
        "RUN --mount=type=secret,id=KEY cp /run/secrets/KEY /tmp/k && wc -c < /tmp/k > /length"
        " && cat /tmp/k && echo && rm /tmp/k\n",
        secrets={"KEY": "hunter2hunter2"},
        offline=True,
    )
    assert not any("hunter2" in str(event) for event in said)
    assert "***" in lines(said)
    config = (await bench.config(image)).model_dump_json()
    assert "hunter2" not in config
    async with bench.files(image) as root:
        assert (root / "length").read_text() == "14\n"
        found = subprocess.run(
            ["grep", "-rl", "hunter2", str(root / "etc"), str(root / "run"), str(root / "tmp")],
            capture_output=True,
            check=False,
        )
        assert found.stdout == b""


async def test_a_dockerfile_that_is_a_link_out_of_the_context_is_not_read(bench):
    victim = bench.path / "victim"
    victim.write_text("FROM scratch\n# geheim\n")
    archive = bench.path / "context.tar"
    os.symlink(victim, bench.context / "Dockerfile")
    subprocess.run(["tar", "-C", str(bench.context), "-cf", str(archive), "."], check=True)
    with pytest.raises(Failure) as caught:
        await bench.build(context=archive, offline=True)
    assert "geheim" not in caught.value.message
    assert caught.value.code == "invalid_argument"


async def test_a_context_tar_that_escapes_is_refused(bench):
    archive = bench.path / "context.tar"
    (bench.context / "Dockerfile").write_text("FROM debian:bookworm-slim\n")
    command = [
        "tar",
        "-C",
        str(bench.context),
        "-P",
        "--transform=s,^f,../../f,",
        "-cf",
        str(archive),
    ]
    bench.write(f="x")
    subprocess.run([*command, "Dockerfile", "f"], check=True)
    with pytest.raises(Failure, match="points out"):
        await bench.build(context=archive, offline=True)


async def test_a_context_packed_without_regard_to_its_ignore_file_is_pruned(bench):
    bench.write(a_dot_log="1", b_dot_txt="2", _dot_dockerignore="*.log\n")
    (bench.context / "Dockerfile").write_text("FROM debian:bookworm-slim\nCOPY . /c\n")
    archive = bench.path / "context.tar"
    subprocess.run(["tar", "-C", str(bench.context), "-czf", str(archive), "."], check=True)
    _, image = await bench.build(context=archive, offline=True)
    async with bench.files(image) as root:
        assert sorted(os.listdir(root / "c")) == [".dockerignore", "Dockerfile", "b.txt"]


def running(marker, told="cmdline"):
    """Return the processes with a marker in their command line, or in what else is told."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{name}/{told}").read_bytes()
                if marker.encode() in line and int(name) != os.getpid():
                    found.append(int(name))
    return found


async def test_a_secret_is_among_the_arguments_and_variables_of_no_process(bench):
    (bench.context / "Dockerfile").write_text(
        "FROM debian:bookworm-slim\n"
        "RUN --mount=type=secret,id=KEY test -s /run/secrets/KEY && echo started"
        " && exec sleep 987653\n"
    )
    request = ports.BuildRequest(
        context=bench.context,
        reference=f"{bench.address}/app:x",
        secrets={"KEY": "hunter2hunter2"},
        offline=True,
    )
    async with contextlib.aclosing(bench.builder.build(request)) as events:
        async for event in events:
            if event == ports.BuildLog("started"):
                break
        assert running("987653")
        for told in ("cmdline", "environ"):
            assert running("hunter2", told) == []


async def test_a_build_that_is_given_up_ends_everything_it_started(bench, kept):
    (bench.context / "Dockerfile").write_text(
        "FROM debian:bookworm-slim\nRUN echo started; exec sleep 987654\n"
    )
    request = ports.BuildRequest(
        context=bench.context, reference=f"{bench.address}/app:x", offline=True
    )
    async with contextlib.aclosing(bench.builder.build(request)) as events:
        async for event in events:
            if event == ports.BuildLog("started"):
                break
    async with asyncio.timeout(120):
        while running("987654"):
            await asyncio.sleep(0.1)
    # The next build tidies what the killed one left in the storage.
    await bench.build("FROM debian:bookworm-slim\nRUN echo next\n", offline=True)
    said = await bench.builder._storage.run("containers", "--quiet")
    assert said == ""


async def test_a_build_beyond_its_time_is_ended(bench):
    (bench.context / "Dockerfile").write_text("FROM debian:bookworm-slim\nRUN exec sleep 987655\n")
    with pytest.raises(Failure) as caught:
        await bench.build(offline=True, timeout_s=4)
    assert caught.value.code == "deadline_exceeded"
    assert running("987655") == []


async def test_two_builds_at_once_do_not_disturb_each_other(bench):
    other = bench.path / "other"
    other.mkdir()
    (other / "Dockerfile").write_text("FROM debian:bookworm-slim\nRUN sleep 1; echo b > /x\n")
    (bench.context / "Dockerfile").write_text("FROM debian:bookworm-slim\nRUN echo a > /x\n")
    (_, first), (_, second) = await asyncio.gather(
        bench.build(offline=True), bench.build(context=other, offline=True)
    )
    assert first != second


async def test_an_image_of_the_platform_can_be_a_base(bench):
    _, image = await bench.build(
        "FROM debian:bookworm-slim\nRUN echo base > /base\n", offline=True
    )
    _, above = await bench.build(f"FROM {image}\nRUN cat /base > /copy\n", offline=True)
    async with bench.files(above) as root:
        assert (root / "copy").read_text() == "base\n"


async def test_the_settings_of_this_host_stay_out_of_the_image(bench, kept):
    conf = bench.path / "pip.conf"
    conf.write_text("[global]\nindex-url = http://mirror.invalid/simple\n")
    settings = buildah.RunSettings(
        proxies={"HTTP_PROXY": "http://proxy.invalid:1"}, mounts={"/etc/pip.conf": conf}
    )
    local = bases.Bases(bases_here.directory())
    bench.builder = buildah.BuildahBuilder(kept / "cache", kept / "run", local, settings=settings)
    said, image = await bench.build(
        "FROM python:3.11-slim\nRUN pip config list && echo proxy $HTTP_PROXY\n",
        offline=True,
        no_cache=True,
    )
    assert any("mirror.invalid" in line for line in lines(said))
    assert "proxy http://proxy.invalid:1" in lines(said)
    assert "invalid" not in (await bench.config(image)).model_dump_json()
    async with bench.files(image) as root:
        found = subprocess.run(
            ["grep", "-rl", "mirror.invalid", str(root / "etc")], capture_output=True, check=False
        )
        assert found.stdout == b""


async def test_run_steps_see_their_own_processes_and_nothing_that_listens_here(bench):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connect = f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)"
        said, _ = await bench.build(
            f"""
            FROM python:3.11-slim
            RUN ls /proc | grep -c '^[0-9]' > /count && echo "processes $(cat /count)"
            RUN python -c "{connect}" && echo reached || echo "out of reach"
            """,
            offline=True,
        )
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()
    shown = lines(said)
    (count,) = (int(line.split()[1]) for line in shown if line.startswith("processes "))
    assert count < 16
    assert "out of reach" in shown


async def test_the_layer_cache_is_kept_within_its_bounds(bench, kept, tmp_path):
    place = tmp_path / "cache"
    local = bases.Bases(bases_here.directory())

    def builder(**bounds):
        time = Later()
        made = buildah.BuildahBuilder(
            place, tmp_path / "run", local, cache=storage.CacheBounds(**bounds), time=time
        )
        return made, time

    bench.builder, _ = builder()
    await bench.build("FROM scratch\nCOPY Dockerfile /a\n")
    steps = bench.builder._storage
    first = await steps._cached()
    assert first
    bench.builder, time = builder(most_age_s=3_600)
    time.ms += 1_800_000
    await bench.build("FROM scratch\nCOPY Dockerfile /a\n# again\n")
    assert {one.image for one in first} <= {one.image for one in await steps._cached()}
    time.ms += 7_200_000
    await bench.build("FROM scratch\nCOPY Dockerfile /b\n")
    assert {one.image for one in first}.isdisjoint({one.image for one in await steps._cached()})
    bench.builder, time = builder(most_bytes=1)
    time.ms += 100_000_000
    before = {one.image for one in await steps._cached()}
    await bench.build("FROM scratch\nCOPY Dockerfile /c\n")
    assert before.isdisjoint({one.image for one in await steps._cached()})


class Later(SystemClock):
    """The host's clock, moved on by a test."""

    ms = 0

    def now_ms(self):
        return super().now_ms() + self.ms


async def test_more_than_the_registry_has_room_for_is_not_pushed(bench):
    bench.write(big=os.urandom(300_000).hex())
    with pytest.raises(Failure, match="new content") as caught:
        await bench.build("FROM scratch\nCOPY big /big\n", push_limit_bytes=100_000)
    assert caught.value.code == "insufficient_capacity"
    await bench.build("FROM scratch\nCOPY big /big\n", push_limit_bytes=1_000_000)
    # What is there already needs no room.
    await bench.build("FROM scratch\nCOPY big /big\n", push_limit_bytes=1_000)


@pytest.mark.parametrize("megabytes", [10, 30, 50, 70, 90])
async def test_a_full_disk_ends_a_build_in_words_and_leaves_nothing_of_it(
    bench, kept, tmp_path, megabytes
):
    """20 MB meet the end of the disk while the context is unpacked, committed, saved or packed."""
    bench.write(big=os.urandom(10 << 20).hex())
    small = tmp_path / "small"
    small.mkdir()
    (kept / "cache" / "work").mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(small)]
    subprocess.run(mount, check=True)
    try:
        local = bases.Bases(bases_here.directory())
        bench.builder = buildah.BuildahBuilder(small / "cache", tmp_path / "run", local)
        with pytest.raises(Failure) as caught:
            await bench.build("FROM scratch\nCOPY big /big\n")
        assert (caught.value.code, "disk is full" in caught.value.message) == (
            "insufficient_capacity",
            True,
        ), caught.value.message
        assert list((small / "cache" / "work").iterdir()) == []
        packed = small / "cache" / "packed"
        assert not packed.exists() or list(packed.glob("new-*")) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)
