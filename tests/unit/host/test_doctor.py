"""The doctor's sentences and verdicts, on hosts made of fakes."""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from godwit.agent.vmm import probe
from godwit.base import processes
from godwit.base.settings import Host, Listen, Paths, Settings
from godwit.host import doctor, running

GIGABYTE = 1024**3
MEMINFO = "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\nHugePages_Total: 0\n"


@dataclass
class Programs:
    """Programs that answer as they are told: first two words to exit code, output and error."""

    answers: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    asked: list[tuple[str, ...]] = field(default_factory=list)
    given: list[bytes] = field(default_factory=list)

    async def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", check: bool = True
    ) -> processes.Finished:
        self.asked.append(tuple(argv))
        self.given.append(stdin)
        code, out, err = self.answers.get(" ".join(argv[:2]), (0, "", ""))
        assert not check
        if code == 127:
            raise processes.ProgramFailed(argv, "not installed")
        return processes.Finished(tuple(argv), code, out.encode(), err.encode())


def accelerator(kind: str, reason: str):
    async def found() -> probe.Accelerator:
        return probe.Accelerator(kind, reason)

    return found


@dataclass
class Lab:
    """A host that can do everything, to be broken by a test."""

    settings: Settings
    look: doctor.Instruments
    programs: Programs

    async def finding(self, subject: str, **changed: object) -> doctor.Finding:
        found = await doctor.examine(self.settings, replace(self.look, **changed))
        (one,) = [finding for finding in found if finding.subject == subject]
        return one


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    root, data = tmp_path / "root", tmp_path / "data"
    data.mkdir()
    write(root / "proc/meminfo", MEMINFO)
    write(root / "proc/sys/net/ipv4/ip_forward", "0\n")
    write(root / "proc/sys/net/ipv6/conf/all/forwarding", "0\n")
    write(root / "sys/fs/cgroup/cgroup.controllers", "cpu memory\n")
    programs = Programs({"ip -4": (0, "default via 192.0.2.1 dev eth0\n", "")})
    look = doctor.Instruments(
        root=root,
        lacking=lambda _: [],
        which=lambda name: f"/usr/bin/{name}",
        run=programs.run,
        accelerator=accelerator("kvm", "a guest ran to its end"),
        reflinks=lambda _: True,
        free_bytes=lambda _: 100 * GIGABYTE,
        open_files=lambda: 1_048_576,
    )
    listen = Listen(**dict.fromkeys(Listen.model_fields, "127.0.0.1:0"))
    settings = Settings(paths=Paths(data=data, run=tmp_path / "run"), listen=listen)
    return Lab(settings, look, programs)


async def test_a_host_that_can_everything_has_only_good_findings(lab: Lab) -> None:
    found = await doctor.examine(lab.settings, lab.look)
    assert [finding.verdict for finding in found] == ["ok"] * 11
    assert len({finding.subject for finding in found}) == 11
    assert doctor.verdict(found) == "ok"


async def test_findings_are_plain_data(lab: Lab) -> None:
    found = await lab.finding("cgroups")
    assert found.as_json() == {
        "subject": "cgroups",
        "verdict": "ok",
        "sentence": "cgroup version 2 limits each machine",
    }


async def test_what_up_lacks_is_told_in_full(lab: Lab) -> None:
    found = await lab.finding("requirements", lacking=lambda _: ["no root", "no taps"])
    assert (found.verdict, found.sentence) == ("missing", "no root; no taps")


async def test_emulation_is_a_limit_and_says_why_and_what_it_costs(lab: Lab) -> None:
    found = await lab.finding("virtualization", accelerator=accelerator("tcg", "no /dev/kvm"))
    assert found.verdict == "limited"
    assert found.sentence.startswith("KVM runs no guest here (no /dev/kvm); machines are emulated")


async def test_kvm_that_runs_a_guest_is_said_so(lab: Lab) -> None:
    found = await lab.finding("virtualization")
    assert (found.verdict, found.sentence) == ("ok", "KVM runs guests: a guest ran to its end")


@pytest.mark.parametrize(
    ("subject", "program"), [("virtualization", "qemu-system-x86_64"), ("nftables", "nft")]
)
async def test_a_program_that_is_not_there_is_not_tried(
    lab: Lab, subject: str, program: str
) -> None:
    found = await lab.finding(subject, which=lambda name: None if name == program else name)
    assert (found.verdict, found.sentence) == ("missing", f"{program} is not installed")
    assert program not in {argv[0] for argv in lab.programs.asked}


@pytest.mark.parametrize(
    ("made", "verdict", "word"),
    [
        (("cgroup.controllers",), "ok", "version 2"),
        (("memory/tasks", "cpu/tasks"), "ok", "version 1"),
        (("memory/tasks",), "missing", "neither"),
        ((), "missing", "neither"),
    ],
)
async def test_either_version_of_cgroups_will_do(
    lab: Lab, tmp_path: Path, made: tuple[str, ...], verdict: str, word: str
) -> None:
    root = tmp_path / "other"
    write(root / "proc/meminfo", MEMINFO)
    for name in made:
        write(root / "sys/fs/cgroup" / name)
    found = await lab.finding("cgroups", root=root)
    assert found.verdict == verdict
    assert word in found.sentence


async def test_a_disk_without_reflinks_is_a_limit_that_up_mends(lab: Lab) -> None:
    found = await lab.finding("store", reflinks=lambda _: False)
    assert found.verdict == "limited"
    assert "`godwit up` makes an xfs file" in found.sentence


async def test_a_data_directory_that_is_not_there_yet_is_judged_by_the_nearest(
    lab: Lab, tmp_path: Path
) -> None:
    tried = []
    lab.settings = Settings(
        paths=Paths(data=tmp_path / "a" / "b", run=tmp_path / "run"), listen=lab.settings.listen
    )
    found = await lab.finding("store", reflinks=lambda path: not tried.append(path))
    assert tried == [tmp_path]
    assert str(tmp_path) in found.sentence
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("free", "verdict"), [(1, "missing"), (2, "limited"), (19, "limited"), (20, "ok")]
)
async def test_room_on_the_disk(lab: Lab, free: int, verdict: str) -> None:
    found = await lab.finding("disk", free_bytes=lambda _: free * GIGABYTE)
    assert found.verdict == verdict
    assert found.sentence.startswith(f"{free} GB free ")


async def test_more_memory_promised_than_there_is_is_a_limit(lab: Lab) -> None:
    lab.settings = lab.settings.model_copy(update={"host": Host(memory_mb=4097)})
    found = await lab.finding("memory")
    assert found.verdict == "limited"
    assert found.sentence == "4097 MB are promised to machines, 4096 MB are available"


async def test_memory_that_is_there_may_be_promised(lab: Lab) -> None:
    lab.settings = lab.settings.model_copy(update={"host": Host(memory_mb=4096)})
    assert (await lab.finding("memory")).verdict == "ok"


async def test_few_open_files_limit_the_edge(lab: Lab) -> None:
    found = await lab.finding("open files", open_files=lambda: 65_535)
    assert found.verdict == "limited"
    assert "65535 files" in found.sentence


async def test_the_kernel_is_asked_about_rules_without_changing_them(lab: Lab) -> None:
    lab.programs.answers["nft --check"] = (1, "", "Operation not supported\n")
    found = await lab.finding("nftables")
    assert found.verdict == "missing"
    assert found.sentence.endswith("Operation not supported")
    asked = [argv for argv in lab.programs.asked if argv[0] == "nft"]
    assert asked == [("nft", "--check", "-f", "-")]


@pytest.mark.parametrize("lacking", ["ipv4/ip_forward", "ipv6/conf/all/forwarding"])
async def test_forwarding_of_both_families_must_be_settable(lab: Lab, lacking: str) -> None:
    path = lab.look.root / "proc/sys/net" / lacking
    path.unlink()
    found = await lab.finding("forwarding")
    assert (found.verdict, found.sentence) == ("missing", f"{path} cannot be set")


@pytest.mark.parametrize(
    ("ways", "verdict", "end"),
    [
        (("-4",), "ok", "over IPv4"),
        (("-6",), "ok", "over IPv6"),
        (("-4", "-6"), "ok", "over IPv4 and IPv6"),
        ((), "limited", "no world outside"),
    ],
)
async def test_the_ways_out(lab: Lab, ways: tuple[str, ...], verdict: str, end: str) -> None:
    lab.programs.answers = {f"ip {way}": (0, "default via x\n", "") for way in ways}
    found = await lab.finding("uplink")
    assert found.verdict == verdict
    assert found.sentence.endswith(end)


async def test_a_host_without_the_ip_program_is_still_examined(lab: Lab) -> None:
    lab.programs.answers = {"ip -4": (127, "", "")}
    assert (await lab.finding("uplink")).verdict == "limited"


@pytest.mark.parametrize(("name", "verdict"), [("lo", "ok"), ("nowhere0", "missing")])
async def test_a_named_uplink_must_be_an_interface(lab: Lab, name: str, verdict: str) -> None:
    lab.settings = lab.settings.model_copy(update={"host": Host(uplink=name)})
    found = await lab.finding("uplink")
    assert found.verdict == verdict
    assert name in found.sentence
    assert "ip" not in {argv[0] for argv in lab.programs.asked}


@pytest.fixture
def taken() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def listening(lab: Lab, **addresses: str) -> Settings:
    listen = lab.settings.listen.model_copy(update=addresses)
    return lab.settings.model_copy(update={"listen": listen})


async def test_ports_that_others_hold_are_named_with_what_they_are_for(
    lab: Lab, taken: int
) -> None:
    lab.settings = listening(lab, api=f"127.0.0.1:{taken}", bus=f"127.0.0.1:{taken}")
    found = await lab.finding("ports")
    assert found.verdict == "missing"
    for name in ("api", "bus"):
        assert f"127.0.0.1:{taken} for {name} (Address already in use)" in found.sentence
    assert "edge" not in found.sentence


async def test_an_address_of_another_host_is_told(lab: Lab) -> None:
    lab.settings = listening(lab, edge="192.0.2.1:8080")
    found = await lab.finding("ports")
    assert found.verdict == "missing"
    assert "192.0.2.1:8080 for edge" in found.sentence


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="needs IPv6")
async def test_an_address_in_brackets_is_tried_as_ipv6(lab: Lab) -> None:
    lab.settings = listening(lab, edge="[::]:0")
    assert (await lab.finding("ports")).verdict == "ok"


async def test_ports_are_godwits_own_while_it_is_up(lab: Lab, taken: int) -> None:
    lab.settings = listening(lab, api=f"127.0.0.1:{taken}")
    lab.settings.paths.run.mkdir()
    running.write(lab.settings.paths.run / "host.json", running.of(os.getpid()))
    found = await lab.finding("ports")
    assert (found.verdict, found.sentence) == ("ok", "Godwit is up here and holds its ports")


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        (("ok", "ok"), "ok"),
        (("limited", "ok"), "limited"),
        (("missing", "limited", "ok"), "missing"),
    ],
)
def test_the_verdict_is_the_worst(verdicts: tuple[str, ...], worst: str) -> None:
    assert doctor.verdict([doctor.Finding("x", one, "y") for one in verdicts]) == worst


async def test_every_finding_of_a_broken_host_is_a_sentence(lab: Lab, tmp_path: Path) -> None:
    write(tmp_path / "bare/proc/meminfo", MEMINFO)
    broken = replace(
        lab.look, root=tmp_path / "bare", which=lambda _: None, lacking=lambda _: ["no root"]
    )
    found = await doctor.examine(lab.settings, broken)
    assert doctor.verdict(found) == "missing"
    assert all(finding.sentence and "\n" not in finding.sentence for finding in found)
