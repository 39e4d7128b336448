"""An app's secrets reach its process byte by byte, without control and keyring, and lie nowhere."""

import base64
import contextlib
import hashlib
import json
import os
import secrets
import signal
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from godwit.agent.vmm import running as vmms
from godwit.testing.platform import Platform, eventually

APP = "hello-marsh"
# What looks secret the app's own `/env` does not show; PLAIN it does.
SEEN = """\
import hashlib, os, pathlib
def digest(variables):
    return hashlib.sha256(variables.get(b"TLS_KEY", b"")).hexdigest()
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    if (folder / "cmdline").read_bytes() == b"python3\\0app.py\\0":
        pairs = (folder / "environ").read_bytes().split(b"\\0")
        print(digest(dict(pair.split(b"=", 1) for pair in pairs if b"=" in pair)))
print(digest(os.environb))
"""


def marker() -> bytes:
    """Return bytes that are nowhere by chance, and can be in a variable and in a line."""
    return bytes(one or 1 for one in secrets.token_bytes(30)).replace(b"\n", b"\t")


@dataclass(frozen=True)
class Planted:
    """Two secrets: one of every byte there can be, one of plain text."""

    mark: bytes = field(default_factory=marker)
    plain: str = field(default_factory=lambda: f"geheim {secrets.token_hex(20)}")

    @property
    def every_byte(self) -> bytes:
        return self.mark + bytes(range(1, 256))

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.every_byte).hexdigest()

    def needles(self) -> list[bytes]:
        """Return both in the clear, in base64 wherever in a text they begin, hex and JSON."""
        found = []
        for value in (self.mark, self.plain.encode()):
            found += [value, value.hex().encode()]
            found.append(json.dumps(os.fsdecode(value))[1:-1].encode())
            found += [
                base64.b64encode(b"\0" * before + value)[4 * bool(before) : -4]
                for before in range(3)
            ]
        return list(dict.fromkeys(found))


@pytest.fixture(scope="module")
def planted(platform: Platform, launched) -> Planted:
    """Return secrets that an app's machine was given."""
    made = Planted()
    before = platform.deployed(APP)["instance_id"]
    platform.godwit(
        "secrets", "import", "--stage", "-a", APP, stdin=f'# from .env\nPLAIN="{made.plain}"\n'
    )
    assert platform.deployed(APP)["instance_id"] == before
    platform.godwit("secrets", "set", "TLS_KEY=-", "-a", APP, stdin=os.fsdecode(made.every_byte))
    assert platform.deployed(APP)["instance_id"] != before
    return made


def digests(platform: Platform) -> list[str]:
    """Return the digest of what the app's process has, then of what a command beside it has."""
    machine = platform.deployed(APP)["id"]
    done = platform.exec(APP, machine, "python3", "-c", SEEN)
    assert done["exit_code"] == 0, done
    return list(done["stdout"].split())


def statuses(platform: Platform) -> dict[str, str]:
    listed = platform.json("secrets", "list", "-a", APP)
    return {one["name"]: one["status"] for one in listed}


def shown(platform: Platform) -> str | None:
    """Return what the app itself says its plain secret is."""
    with contextlib.suppress(httpx.HTTPError, ValueError):
        answer = platform.get(APP, "/env")
        if answer.status_code == 200:
            return str(answer.json().get("PLAIN"))
    return None


def started(platform: Platform) -> bool:
    """Tell whether the machine is started by word of its host, not of who heard from it last."""
    with contextlib.suppress(AssertionError, httpx.HTTPError):
        found = platform.deployed(APP)
        return bool(found["state"] == "started" and found["host_status"] == "ok")
    return False


def another_vmm(platform: Platform, machine: str, former: int) -> bool:
    """Tell whether a machine runs in another VMM than that one."""
    with contextlib.suppress(ValueError):
        return platform.vmm_pid(machine) != former
    return False


def test_a_process_has_every_byte_after_a_restart_too(
    platform: Platform, planted: Planted
) -> None:
    assert statuses(platform) == {"PLAIN": "deployed", "TLS_KEY": "deployed"}
    assert digests(platform) == [planted.digest] * 2
    assert shown(platform) == planted.plain
    machine = platform.deployed(APP)["id"]
    former = platform.vmm_pid(machine)
    platform.godwit("machine", "restart", machine, "-a", APP)
    eventually(lambda: another_vmm(platform, machine, former))
    eventually(lambda: started(platform))
    assert eventually(lambda: shown(platform)) == planted.plain
    assert digests(platform) == [planted.digest] * 2


@contextlib.contextmanager
def hanging(platform: Platform, *names: str) -> Iterator[None]:
    """Stop components, so that nothing they are asked is answered."""
    stopped = [platform.component(name) for name in names]
    for process in stopped:
        process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in stopped:
            process.signal(signal.SIGCONT)


def test_a_machine_starts_with_them_while_control_and_keyring_are_away(
    platform: Platform, planted: Planted
) -> None:
    machine = platform.deployed(APP)["id"]
    former = platform.vmm_pid(machine)
    with hanging(platform, "control", "keyring"):
        os.kill(former, signal.SIGKILL)
        eventually(lambda: another_vmm(platform, machine, former))
        assert eventually(lambda: shown(platform)) == planted.plain
    eventually(lambda: started(platform))
    assert digests(platform) == [planted.digest] * 2


def files(*tops: Path) -> Iterator[Path]:
    """Yield every regular file; files come and go while the platform is up."""
    for top in tops:
        for folder, _, names in os.walk(top):
            for path in (Path(folder) / name for name in names):
                with contextlib.suppress(FileNotFoundError):
                    if stat.S_ISREG(path.lstat().st_mode):
                        yield path


def pieces(path: Path, overlap: int = 512) -> Iterator[bytes]:
    """Yield what a file holds, without its holes; every needle is whole in one of the pieces."""
    with path.open("rb", buffering=0) as file:
        at, before = 0, b""
        while True:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # Nothing but a hole is left.
                return
            before = before if start == at else b""
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            data = os.pread(file.fileno(), min(end - start, 1 << 24), start)
            if not data:
                return
            yield before + data
            at, before = start + len(data), data[-overlap:]


def holding(needles: list[bytes], *tops: Path) -> list[str]:
    """Return the files that hold one of the needles."""
    found = []
    for path in files(*tops):
        with contextlib.suppress(FileNotFoundError):
            if any(needle in piece for piece in pieces(path) for needle in needles):
                found.append(str(path))
    return found


def test_no_file_of_the_platform_holds_them(platform: Platform, planted: Planted) -> None:
    everything = (platform.data.parent, platform.run)
    assert any("agent.db" in name for name in holding([APP.encode()], platform.data / "agent"))
    assert holding(planted.needles(), *everything) == []


def test_no_answer_holds_them_but_the_one_that_is_to(platform: Platform, planted: Planted) -> None:
    app, machine = f"/v1/apps/{APP}", platform.deployed(APP)["id"]
    paths = (
        *(
            app,
            f"{app}/machines",
            f"{app}/machines/{machine}",
            f"{app}/machines/{machine}/versions",
        ),
        *(f"{app}/machines/{machine}/events", f"{app}/secrets", f"{app}/secrets/PLAIN"),
        *(f"/x{app}/secrets", f"/x{app}/releases", f"/x{app}/deploys", "/x/v1/audit"),
    )
    with platform.api as api:
        for path in paths:
            answer = api.get(path)
            assert answer.status_code == 200, f"{path}: {answer.text}"
            assert not [one for one in planted.needles() if one in answer.content], path
        revealed = api.get(f"{app}/secrets", params={"show_secrets": "true"}).json()["secrets"]
        assert {"PLAIN": planted.plain}.items() <= {
            one["name"]: one.get("value") for one in revealed
        }.items()
    said = platform.godwit("logs", "-a", APP, "--no-tail")
    assert not [one for one in planted.needles() if one in os.fsencode(said)]


def cores(*tops: Path) -> set[Path]:
    """Return what is named as a core file is."""
    return {path for path in files(*tops) if path.name.partition(".")[0] == "core"}


def another_agent(platform: Platform, former: int) -> bool:
    """Tell whether another agent than that one runs."""
    with contextlib.suppress(AssertionError):
        return platform.component("agent").pid != former
    return False


def test_nobody_who_has_them_in_memory_leaves_a_core_file(
    platform: Platform, planted: Planted
) -> None:
    agent = platform.component("agent")
    holders = [
        *(platform.component(name).pid for name in ("agent", "control", "keyring")),
        platform.vmm_pid(platform.deployed(APP)["id"]),
        *vmms.shims(platform.settings.paths.store / "machines").values(),
    ]
    assert len(holders) > 4
    for pid in holders:
        folder = Path("/proc") / str(pid)
        limits = (folder / "limits").read_text().splitlines()
        (core,) = (line.split()[4:6] for line in limits if line.startswith("Max core file"))
        assert core == ["0", "0"], vmms.command_line(pid)
        assert int((folder / "coredump_filter").read_text(), 16) == 0, vmms.command_line(pid)
    directory = Path(f"/proc/{agent.pid}/cwd").readlink()
    before = cores(platform.data, platform.run), set(directory.glob("core*"))
    agent.signal(signal.SIGABRT)
    assert agent.wait(60)
    eventually(lambda: another_agent(platform, agent.pid))
    assert (cores(platform.data, platform.run), set(directory.glob("core*"))) == before
    eventually(lambda: started(platform))


def test_one_that_is_removed_is_gone_with_the_next_deploy(
    platform: Platform, planted: Planted
) -> None:
    platform.godwit("secrets", "unset", "TLS_KEY", "--stage", "-a", APP)
    assert statuses(platform) == {"PLAIN": "deployed"}
    assert digests(platform) == [planted.digest] * 2
    platform.godwit("secrets", "deploy", "-a", APP)
    assert digests(platform) == [hashlib.sha256(b"").hexdigest()] * 2
    assert shown(platform) == planted.plain
