"""The doctor's sentences and verdicts, on hosts made of fakes."""

import base64
import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from godwit.agent.vmm import probe
from godwit.agent.vmm.firecracker import programs
from godwit.base import processes
from godwit.base.settings import Control, Host, Listen, Paths, Settings
from godwit.control import residence
from godwit.host import doctor, mounts, running

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
        choice=firecracker("1.16.1"),
        reflinks=lambda _: True,
        mount_flags=lambda _: HARDENED,
        free_bytes=lambda _: 100 * GIGABYTE,
        open_files=lambda: 1_048_576,
    )
    names = set(Listen.model_fields) - {"mesh", "backhaul", "flycast"}
    listen = Listen(**dict.fromkeys(names, "127.0.0.1:0"))
    settings = Settings(paths=Paths(data=data, run=tmp_path / "run"), listen=listen)
    return Lab(settings, look, programs)


async def test_a_host_that_can_everything_has_only_good_findings(lab: Lab) -> None:
    found = await doctor.examine(lab.settings, lab.look)
    assert [finding.verdict for finding in found] == ["ok"] * 15
    assert len({finding.subject for finding in found}) == 15
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


@pytest.mark.parametrize(
    ("reflinks", "verdict", "word"),
    [(True, "ok", "with reflinks"), (False, "limited", "no reflinks")],
)
async def test_a_store_that_the_operator_mounted_is_told_as_what_it_is(
    lab: Lab, reflinks: bool, verdict: str, word: str
) -> None:
    store = lab.settings.paths.data / "store"
    store.mkdir()
    mount = mounts.Mount(store, "/dev/sdb1", "btrfs")
    found = await lab.finding(
        "store",
        mounted=lambda path: mount if path == store else None,
        reflinks=lambda _: reflinks,
        mount_flags=lambda _: HARDENED,
    )
    assert found.verdict == verdict
    assert f"{store} is btrfs from /dev/sdb1, mounted by hand" in found.sentence
    assert word in found.sentence
    assert "loop" not in found.sentence


def firecracker(version: str):
    async def choice(wanted: str, found: probe.Accelerator, store: Path) -> programs.Choice:
        here = programs.Programs(Path("/f"), Path("/j"), version, "10.0.0")

        async def finding() -> programs.Programs:
            return here

        return await programs.choose(wanted, found, store, finding)

    return choice


async def test_the_vmm_is_named_with_the_reason_for_it(lab: Lab) -> None:
    found = await lab.finding("vmm", choice=firecracker("1.16.1"))
    assert found.sentence == (
        "machines run under Firecracker: firecracker 1.16.1 and KVM are here"
    )
    found = await lab.finding("vmm", which=lambda _: None)
    assert found.sentence == "machines run under QEMU: firecracker is not on the PATH"
    lying = accelerator("tcg", "a guest hung")
    found = await lab.finding("vmm", choice=firecracker("1.16.1"), accelerator=lying)
    assert found.sentence == "machines run under QEMU: Firecracker needs KVM: a guest hung"
    assert found.verdict == "ok"


async def test_a_vmm_that_was_chosen_and_cannot_be_keeps_up_from_working(lab: Lab) -> None:
    lab.settings = lab.settings.model_copy(update={"host": Host(vmm="firecracker")})
    lying = accelerator("tcg", "a guest hung")
    found = await lab.finding("vmm", choice=firecracker("1.16.1"), accelerator=lying)
    assert found.verdict == "missing"
    assert found.sentence.startswith("vmm is firecracker, which needs KVM: a guest hung; set")


async def test_kvm_is_not_tried_where_emulation_was_chosen(lab: Lab) -> None:
    async def never() -> probe.Accelerator:
        raise AssertionError("a guest was tried")

    lab.settings = lab.settings.model_copy(update={"host": Host(accelerator="tcg")})
    found = await lab.finding("virtualization", accelerator=never)
    assert found.verdict == "limited"
    assert "host.accelerator is tcg" in found.sentence


async def test_kvm_that_was_chosen_and_runs_no_guest_keeps_up_from_working(lab: Lab) -> None:
    lab.settings = lab.settings.model_copy(update={"host": Host(accelerator="kvm")})
    assert (await lab.finding("virtualization")).verdict == "ok"
    found = await lab.finding("virtualization", accelerator=accelerator("tcg", "a guest hung"))
    assert found.verdict == "missing"
    assert "a guest hung" in found.sentence
    assert "set it to auto" in found.sentence


HARDENED = os.ST_NOSUID


@pytest.mark.parametrize(
    ("flags", "verdict", "said"),
    [
        (HARDENED, "ok", "copies disks by reference"),
        (os.ST_NODEV, "limited", "without nosuid: mount a file system of its own"),
    ],
)
async def test_a_store_of_the_disks_own_lends_no_images_rights(
    lab: Lab, flags: int, verdict: str, said: str
) -> None:
    found = await lab.finding("store", reflinks=lambda _: True, mount_flags=lambda _: flags)
    assert found.verdict == verdict
    assert said in found.sentence


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
        assert f"127.0.0.1:{taken} for {name} (Address already in use, held by " in found.sentence
        assert f"(pid {os.getpid()})" in found.sentence
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


@pytest.mark.parametrize(("used", "verdict"), [(0.5, "ok"), (0.9, "limited")])
async def test_images_at_rest_are_counted_and_their_disk_is_looked_at(
    lab: Lab, used: float, verdict: str
) -> None:
    image = lab.settings.paths.store / "images" / f"sha256-{'a' * 64}" / "image.erofs"
    write(image, "x" * (3 << 20))
    found = await lab.finding("images", used_share=lambda _: used)
    assert found.verdict == verdict
    assert "1 at rest, 3 MB" in found.sentence


URL = "postgresql://godwit:geheim@db/godwit"


@pytest.mark.parametrize(
    ("database", "reason", "verdict", "sentence"),
    [
        (None, "", "ok", "SQLite in the data directory"),
        (URL, "", "ok", "PostgreSQL database godwit at db:5432"),
        (URL, "refused", "missing", "does not answer: refused"),
        ("postgresql://godwit:geheim@db", "", "missing", "malformed"),
    ],
)
async def test_it_says_where_controls_rows_are(
    lab: Lab, database: str | None, reason: str, verdict: str, sentence: str
) -> None:
    lab.settings = lab.settings.model_copy(update={"control": Control(database=database)})
    found = await lab.finding("database", connects=lambda _: reason)
    assert (found.verdict, sentence in found.sentence) == (verdict, True), found
    assert "geheim" not in found.sentence


async def test_it_says_where_they_were_moved_to(lab: Lab) -> None:
    files = residence.Files(lab.settings.paths.data / "control")
    files.residence.parent.mkdir()
    residence.write(files.residence, residence.Residence(url=URL, moved_from="SQLite"))
    found = await lab.finding("database", connects=lambda _: "")
    assert found.sentence == "control's rows are in PostgreSQL database godwit at db:5432"
    elsewhere = Control(database="postgresql://other/godwit")
    lab.settings = lab.settings.model_copy(update={"control": elsewhere})
    found = await lab.finding("database", connects=lambda _: "")
    assert (found.verdict, "was moved to" in found.sentence) == ("missing", True)


def key(letter: str) -> str:
    return base64.b64encode(letter.encode() * 32).decode()


def joined(lab: Lab, *others: tuple[int, str], said: str | None) -> None:
    """Make the host a member beside others; `said` is what `wg` says of them."""
    identity = {"host_id": "h", "host_number": 65_537, "region": "lcl", "zone": "0000"}
    identity |= {"epoch": 1, "public_key": "U"}
    write(lab.settings.paths.data / "host.json", json.dumps(identity))
    members = [
        {"host_id": f"host-{letter}", "host_number": number, "mesh_key": key(letter)}
        for number, letter in others
    ]
    write(lab.settings.paths.data / "members.json", json.dumps({"v": 1, "members": members}))
    own = f"private\t{key('Z')}\t51820\toff\n"
    failed = (1, "", "Unable to access interface: No such device")
    lab.programs.answers["wg show"] = failed if said is None else (0, own + said, "")
    lab.programs.answers["ip -j"] = (2, "", "RTNETLINK answers: Network is unreachable")


def seen(letter: str, ago_s: int) -> str:
    return (
        f"{key(letter)}\t(none)\t192.0.2.1:51820\t(none)\t{int(time.time()) - ago_s}\t1\t1\t25\n"
    )


async def test_a_host_that_is_alone_needs_no_mesh(lab: Lab) -> None:
    assert (await lab.finding("mesh")).sentence == "there are no other hosts"
    joined(lab, (65_537, "A"), said=None)
    assert (await lab.finding("mesh")).sentence == "there are no other hosts"


async def test_other_hosts_that_are_heard_are_counted(lab: Lab) -> None:
    joined(lab, (65_538, "A"), (65_539, "B"), said=seen("A", 5) + seen("B", 100))
    found = await lab.finding("mesh")
    assert (found.verdict, found.sentence) == ("ok", "all 2 other hosts are heard")
    assert ("wg", "show", "mesh10001", "dump") in lab.programs.asked


async def test_a_host_that_is_not_heard_is_named_with_what_to_open(lab: Lab) -> None:
    joined(lab, (65_538, "A"), (65_539, "B"), (65_540, "C"), said=seen("A", 5) + seen("B", 999))
    found = await lab.finding("mesh")
    assert found.verdict == "limited"
    assert "2 of 3 other hosts are not heard" in found.sentence
    assert "host-B at 192.0.2.1:51820, host-C at no known address" in found.sentence
    assert "to port 51820 of this one" in found.sentence


@pytest.mark.parametrize(("mtu", "verdict"), [(1_500, "ok"), (1_499, "limited")])
async def test_a_way_that_is_too_narrow_is_said(lab: Lab, mtu: int, verdict: str) -> None:
    joined(lab, (65_538, "A"), said=seen("A", 5))
    lab.programs.answers["ip -j"] = (0, '[{"dst": "192.0.2.1", "dev": "eth7"}]', "")
    write(lab.look.root / "sys/class/net/eth7/mtu", f"{mtu}\n")
    found = await lab.finding("mesh")
    assert found.verdict == verdict
    assert ("set host.mtu to 1419 on all hosts" in found.sentence) == (verdict == "limited")
    assert ("ip", "-j", "route", "get", "192.0.2.1") in lab.programs.asked


async def test_a_mesh_that_is_not_there_is_said(lab: Lab) -> None:
    joined(lab, (65_538, "A"), said=None)
    found = await lab.finding("mesh")
    assert found.verdict == "limited"
    assert "mesh10001 is not there" in found.sentence


async def test_a_members_file_that_cannot_be_read_is_said(lab: Lab) -> None:
    joined(lab, (65_538, "A"), said="")
    write(lab.settings.paths.data / "members.json", "{")
    found = await lab.finding("mesh")
    assert found.verdict == "limited"
    assert "members.json cannot be read" in found.sentence


async def test_a_record_that_cannot_be_used_is_said(lab: Lab) -> None:
    joined(lab, (65_538, "A"), (65_539, "A"), said=seen("A", 5))
    found = await lab.finding("mesh")
    assert found.verdict == "limited"
    assert "host-A is left out of the mesh: another has the key" in found.sentence
