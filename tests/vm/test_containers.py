"""Several containers in one machine: what they share and what they do not, and their order."""

import asyncio
import dataclasses
from pathlib import Path

import pytest

from godwit.agent import ports
from godwit.wire import guest, guest_containers, host_rpc
from tests.host import network_lab as lab
from tests.vm import vm_lab
from tests.vm.guest import make_image

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

FOREVER = "while :; do sleep 0.1; done"
NEVER = {"restart": "no", "max_retries": 0}
SIZE = host_rpc.Resources(memory_mb=256)


def container(name: str, script: str, *, user: str = "", **more) -> guest.Container:
    process = guest.Process(argv=("sh", "-c", script), env={"PATH": vm_lab.PATH}, user=user)
    usual = {"image": "root", "process": process, "stop_timeout_ms": 20_000, **NEVER}
    return guest.Container(name=name, **{**usual, **more})


def after(name: str, condition: str = "started") -> dict[str, object]:
    return {
        "depends_on": (guest_containers.Dependency(container=name, condition=condition),),
    }


def check(question: guest_containers.Question, **more) -> dict[str, object]:
    usual = {"interval_s": 1, "timeout_s": 20, "grace_s": 0, "stops": False}
    thresholds = {"success_threshold": 1, "failure_threshold": 1}
    made = guest_containers.HealthCheck(
        name="up", question=question, **{**usual, **thresholds, **more}
    )
    return {"healthchecks": (made,)}


def of(
    machine: vm_lab.Machine,
    *containers: guest.Container,
    volumes: tuple[guest.SharedVolume, ...] = (),
    images: tuple[Path, ...] = (),
) -> vm_lab.Machine:
    """Give a machine containers in place of its process."""
    made = {"process": None, "containers": containers, "volumes": volumes}
    spec = machine.plan.run_spec.model_copy(update=made)
    machine.plan = dataclasses.replace(machine.plan, run_spec=spec, images=images)
    return machine


def another_image(here: vm_lab.Host, name: str) -> Path:
    """Return an image that can be told from the machine's own."""
    folder = here.places.store / name
    folder.mkdir(parents=True)
    return make_image(folder, {"etc/image": name})


def said(machine: vm_lab.Machine, line: str) -> bool:
    return f'"m":"{line}"' in machine.log()


@lab.own_namespace
async def test_containers_meet_at_loopback_and_see_neither_files_nor_processes_of_each_other():
    async with vm_lab.host() as here:
        serve = "busybox httpd -f -p 127.0.0.1:8080 -h /srv"
        web = container("web", f"echo mine >/srv/made; {serve}")
        side = container("side", FOREVER, image="image1")
        copies = here.templates()
        machine = of(here.machine(5), web, side, images=(another_image(here, "two"),))
        for kind in ("cold", "warm"):
            assert (await machine.boot()).start_kind == kind
            asked = "busybox wget -q -O - http://127.0.0.1:8080/made"
            fetched = await machine.run(f"until {asked}; do sleep 0.1; done", container="side")
            assert fetched.stdout == "mine\n", (fetched, machine.log())
            files = await machine.run("cat /etc/image; ls /srv", container="side")
            assert files.stdout.split() == ["two", "dos", "plain"]
            look = "cd /proc; cat [0-9]*/comm; echo to $(cat 1/comm); cat /etc/hostname"
            inside = (await machine.run(look, container="side")).stdout
            assert "godwit-init" not in inside
            assert "busybox" not in inside, "the other one's server"
            assert "to exe\n" in inside
            assert machine.id in inside
            beside = await machine.run("cat /proc/1/comm; ls /.fly/containers; ls /srv")
            assert beside.stdout.split() == ["init", "side", "web", "dos", "plain"]
            wrong = await machine.run("touch /dev/shm/x; ls /dev/shm", container="web")
            assert wrong.stdout == "x\n", wrong
            assert (await machine.run("ls /dev/shm", container="side")).stdout == ""
            listed = {each.command for each in await machine.session.ps()}
            assert {serve, "godwit-container"} <= listed, listed
            assert (await machine.run("ls /.fly", container="side")).stdout == "api\noidc\n"
            if kind == "cold":
                await here.start_warm(machine, copies)
        await copies.close()


@lab.own_namespace
async def test_one_waits_for_another_to_be_healthy_and_for_a_third_to_have_done_its_work():
    async with vm_lab.host() as here:
        db = container(
            "db",
            f"sleep 2; touch /tmp/ready; echo ready; {FOREVER}",
            **check(guest_containers.ExecQuestion(argv=("ls", "/tmp/ready"))),
        )
        prepare = container("prepare", "echo prepared", **after("db", "healthy"))
        web = container("web", f"echo up; {FOREVER}", **after("prepare", "exited_successfully"))
        machine = of(here.machine(5), web, prepare, db)
        await machine.boot()
        await machine.says("web | up")
        lines = [line for line in machine.log().splitlines() if " | " in line]
        order = [line.split('"m":"')[1].split('"')[0] for line in lines]
        assert order == ["db | ready", "prepare | prepared", "web | up"]
        assert said(machine, "godwit-init: container prepare exited with code 0")


@lab.own_namespace
async def test_the_shim_is_told_what_each_container_does():
    async with vm_lab.host() as here:
        first = container("first", "sleep 3; exit 3", restart="on-failure", max_retries=9)
        waits = container("waits", FOREVER, **after("later"))
        later = container("later", FOREVER, **after("prepare", "exited_successfully"))
        prepare = container("prepare", "sleep 1")
        machine = of(here.machine(5), first, waits, later, prepare)
        await machine.boot()
        wanted = {
            "first": "starting",
            "waits": "started",
            "later": "started",
            "prepare": "stopped",
        }
        async with asyncio.timeout(vm_lab.BOOT_S):
            seen: list[dict[str, str]] = []
            async for status in machine.session.changes():
                seen.append({one.name: one.state for one in status.containers})
                if seen[-1] == wanted:
                    break
        before = {"waits": "created", "prepare": "started"}.items()
        assert any(before <= one.items() for one in seen), seen


@lab.own_namespace
async def test_one_that_fails_starts_again_in_a_root_that_is_as_it_was():
    async with vm_lab.host() as here:
        count = "echo x >>/tmp/starts; echo start $(cat /tmp/starts | wc -l)"
        script = f"{count}; [ $(cat /tmp/starts | wc -l) = 3 ] || exit 4; {FOREVER}"
        web = container("web", script, restart="on-failure", max_retries=5)
        side = container("side", FOREVER, user="app")
        machine = of(here.machine(5), web, side)
        await machine.boot()
        await machine.says("web | start 3")
        assert said(machine, "godwit-init: container web exited with code 4, starts again in 1 s")
        assert said(machine, "godwit-init: container web exited with code 4, starts again in 2 s")
        who = await machine.run("id -u; ls /tmp/starts", container="side", user="app")
        assert who.stdout == "1000\n"


@lab.own_namespace
async def test_the_machine_ends_with_the_first_that_ends_for_good():
    async with vm_lab.host() as here:
        machine = of(
            here.machine(5),
            container("web", FOREVER),
            container("side", "sleep 1; exit 7", restart="on-failure", max_retries=1),
        )
        await machine.boot()
        record = await machine.ended()
        assert record.guest.exit_code == 7
        assert said(machine, "godwit-init: container side exited with code 7")


@lab.own_namespace
async def test_a_stop_goes_from_those_that_depend_to_those_they_depend_on():
    async with vm_lab.host() as here:
        web = container(
            "web",
            f"trap 'sleep 1; echo web done; exit 5' USR1; echo up; {FOREVER}",
            stop_signal="SIGUSR1",
            **after("db"),
        )
        db = container("db", f"trap 'echo db done; exit 6' TERM; echo up; {FOREVER}")
        machine = of(here.machine(5), web, db)
        await machine.boot()
        await machine.says("web | up")
        await machine.says("db | up")
        await machine.session.stop("SIGTERM", 60_000)
        record = await machine.ended()
        assert record.guest.exit_code == 5
        log = machine.log()
        assert log.index('"m":"web | web done"') < log.index('"m":"db | db done"')


@lab.own_namespace
async def test_one_whose_check_fails_is_stopped_and_that_is_a_failure():
    async with vm_lab.host() as here:
        serve = "busybox httpd -p 8080 -h /srv; echo serving"
        web = container(
            "web",
            f"trap 'exit 0' TERM; {serve}; {FOREVER}",
            restart="on-failure",
            max_retries=5,
            stop_signal="SIGTERM",
            **check(
                guest_containers.HttpQuestion(port=8080, method="GET", path="/plain"),
                grace_s=60,
                stops=True,
            ),
        )
        # A check that fails at once, and one that passes until its file is gone.
        asked = guest_containers.ExecQuestion(argv=("ls", "/tmp/well"))
        side = container(
            "side",
            f"touch /tmp/well; echo up; {FOREVER}",
            restart="on-failure",
            max_retries=5,
            **check(asked, grace_s=1, stops=True),
        )
        late = container("late", f"echo late; {FOREVER}", **after("web", "healthy"))
        machine = of(here.machine(5), web, side, late)
        await machine.boot()
        await machine.says("late | late")
        await machine.run("busybox rm /tmp/well", container="side")
        await machine.says("godwit-init: check up of container side fails, it is stopped")
        async with asyncio.timeout(vm_lab.BOOT_S):
            while machine.log().count('"m":"side | up"') < 2:
                await asyncio.sleep(0.05)
        assert machine.log().count('"m":"web | serving"') == 1


@lab.own_namespace
async def test_volumes_are_shared_in_memory_and_on_disk_or_are_images_that_are_read():
    async with vm_lab.host() as here:
        binds = (
            guest_containers.Bind(volume="fast", path="/srv/fast"),
            guest_containers.Bind(volume="big", path="/data/deep/big"),
        )
        script = "echo one >/srv/fast/made; echo two >/data/deep/big/made; echo wrote"
        web = container("web", f"{script}; {FOREVER}", user="app", binds=binds)
        read = guest_containers.Bind(volume="read", path="/srv/read")
        side = container("side", FOREVER, binds=(binds[0], read), image="image1")
        volumes = (
            guest.SharedVolume(name="fast", memory_mb=2),
            guest.SharedVolume(name="big"),
            guest.SharedVolume(name="read", image="image2"),
        )
        images = (another_image(here, "two"), another_image(here, "three"))
        machine = of(here.machine(5), web, side, volumes=volumes, images=images)
        await machine.boot()
        await machine.says("web | wrote")
        seen = await machine.run("cat /srv/fast/made; ls /data", container="side")
        assert seen.stdout == "one\n", seen
        size = await machine.run("busybox df -k /srv/fast | tail -n 1", container="web")
        assert size.stdout.split()[1] == "2048"
        seen = await machine.run("cat /etc/image /srv/read/etc/image", container="side")
        assert seen.stdout.split() == ["two", "three"], seen
        refused = await machine.run("echo mine >/srv/read/etc/image", container="side")
        assert "Read-only file system" in refused.stderr
        beside = await machine.run("cat /.fly/volumes/big/made")
        assert beside.stdout == "two\n"


@lab.own_namespace
async def test_a_volume_with_a_size_is_full_at_that_size_and_empty_at_each_boot():
    async with vm_lab.host() as here:
        binds = (
            guest_containers.Bind(volume="small", path="/small"),
            guest_containers.Bind(volume="large", path="/large"),
        )
        web = container("web", FOREVER, binds=binds)
        side = container("side", FOREVER, binds=binds[:1], user="app", image="image1")
        volumes = (
            guest.SharedVolume(name="small", disk="own1"),
            guest.SharedVolume(name="large", disk="own2"),
        )
        images = (another_image(here, "two"),)
        copies = here.templates()
        machine = of(here.machine(5), web, side, volumes=volumes, images=images)
        sizes = (8 << 20, 64 << 20)
        machine.plan = dataclasses.replace(machine.plan, volume_bytes=sizes)
        write = "dd if=/dev/zero of={} bs=64k count={} 2>&1"
        for kind in ("cold", "warm"):
            assert (await machine.boot()).start_kind == kind
            assert (await machine.run("ls -A /small /large", container="web")).stdout.split() == [
                "/large:",
                "/small:",
            ]
            # 6 MB go into the 8 that it has, 9 do not, whoever writes.
            assert (
                await machine.run(write.format("/small/a", 96), container="side")
            ).exit_code == 0
            full = await machine.run(write.format("/small/b", 144), container="web")
            assert full.exit_code == 1
            assert "No space left on device" in full.stdout
            assert (
                await machine.run(write.format("/large/b", 144), container="web")
            ).exit_code == 0
            if kind == "cold":
                await here.start_warm(machine, copies)
        await machine.close()
        await here.vmm.suspend(machine.id, machine.plan.instance_id)
        await here.vmm.discard(machine.id, machine.plan.slot, keep="all")
        await here.vmm.resume(machine.plan)
        machine.session = await here.vmm.connect(machine.id)
        await machine.phase("running")
        assert "a\n" in (await machine.run("ls /small", container="side")).stdout
        await copies.close()


@lab.own_namespace
async def test_what_cannot_be_started_is_said_with_its_name():
    async with vm_lab.host() as here:
        broken = container("web", FOREVER).model_copy(
            update={"process": guest.Process(argv=("nothing",), env={"PATH": vm_lab.PATH})}
        )
        machine = of(here.machine(5), broken)
        await machine.host.network.plumb(machine.plumbing)
        await here.vmm.prepare(machine.plan)
        await here.vmm.spawn(machine.plan)
        machine.session = await here.vmm.connect(machine.id)
        record = await machine.ended()
        assert record.failure is not None
        assert record.failure.message.startswith("container web: no such program: nothing")


@lab.own_namespace
async def test_a_command_in_a_container_that_is_not_there_is_refused():
    async with vm_lab.host() as here:
        machine = of(here.machine(5), container("web", FOREVER))
        await machine.boot()
        with pytest.raises(Exception, match="the machine has no container db"):
            await machine.run("true", container="db")
        orphan = await machine.run("(sleep 0.2 & ) ; echo $$; cat /proc/1/comm", container="web")
        assert orphan.exit_code == 0, orphan
        fine = await machine.run("sleep 1; ls -d /proc/[0-9]* | wc -l", container="web")
        assert fine.exit_code == 0


@lab.own_namespace
async def test_as_many_images_as_there_may_be_containers_each_on_its_own_disk():
    async with vm_lab.host() as here:
        names = [f"c{number}" for number in range(1, len(ports.IMAGE_DISKS) + 1)]
        images = tuple(another_image(here, name) for name in names)
        copies = here.templates()
        machine = of(
            here.machine(5, resources=SIZE, swap_bytes=64 << 20, cache_bytes=64 << 20),
            *(
                container(name, FOREVER, image=disk)
                for name, disk in zip(names, ports.IMAGE_DISKS, strict=True)
            ),
            images=images,
        )
        for kind in ("cold", "warm"):
            assert (await machine.boot()).start_kind == kind
            for name in names:
                seen = await machine.run("cat /etc/image; ls -d /.fly/cache", container=name)
                assert seen.stdout == f"{name}\n/.fly/cache\n", (seen, machine.log())
            if kind == "cold":
                await here.start_warm(machine, copies)
        await copies.close()


@lab.own_namespace
async def test_containers_run_on_after_a_suspend():
    async with vm_lab.host() as here:
        db = container("db", f"echo kept >/tmp/state; echo up; {FOREVER}", image="image1")
        web = container("web", FOREVER, **after("db"))
        machine = of(here.machine(5), web, db, images=(another_image(here, "two"),))
        await machine.boot()
        await machine.says("db | up")
        await machine.close()
        await here.vmm.suspend(machine.id, machine.plan.instance_id)
        await here.vmm.discard(machine.id, machine.plan.slot, keep="all")
        await here.vmm.resume(machine.plan)
        machine.session = await here.vmm.connect(machine.id)
        await machine.phase("running")
        seen = await machine.run("cat /tmp/state /etc/image", container="db")
        assert seen.stdout == "kept\ntwo\n", seen
        await machine.session.stop("SIGTERM", 30_000)
        assert (await machine.ended()).guest.signal == 15


@lab.own_namespace
async def test_what_the_host_renews_is_seen_by_all_containers_and_whole():
    async with vm_lab.host() as here:
        web = container("web", FOREVER, user="app")
        side = container("side", FOREVER, image="image1")
        machine = of(here.machine(5), web, side, images=(another_image(here, "two"),))
        await machine.boot()
        for token in ("first", "second " * 500):
            asked = host_rpc.ExecRequest(
                machine_id=machine.id,
                command=("/proc/1/exe", "put", "/.fly/oidc/token"),
                stdin=token,
                timeout_s=vm_lab.BOOT_S,
            )
            assert (await machine.session.exec(asked, {})).exit_code == 0
            for name in ("web", "side"):
                seen = await machine.run("ls /.fly/oidc; cat /.fly/oidc/token", container=name)
                assert seen.stdout == f"token\n{token}", seen
        asked = asked.model_copy(update={"command": ("/proc/1/exe", "put", "/proc/none/token")})
        refused = await machine.session.exec(asked, {})
        assert refused.exit_code == 1
        assert "/proc/none" in refused.stderr
