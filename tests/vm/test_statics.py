"""Files that a machine's own file server hands out to its host, and to nobody else."""

import asyncio
import dataclasses

import httpx
import pytest

from godwit.wire import guest
from tests.host import network_lab as lab
from tests.vm import vm_lab

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

PORT = 62_080
# A process that ends meanwhile has no name any more.
NOT_IT = '[ "$(cat $each/comm 2>/dev/null)" != exe ]'
PID = f"$(cd /proc; for each in [0-9]*; do {NOT_IT} || echo $each; done)"
STATICS = guest.Statics(
    listen=f"0.0.0.0:{PORT}",
    revision="abc",
    directories=(
        guest.Directory(guest_path="/srv/public", url_prefix="/static"),
        guest.Directory(guest_path="/srv/docs", url_prefix="/docs", index_document="index.html"),
    ),
)
FILES = """
mkdir -p /srv/public/img /srv/docs
echo secret > /srv/secret; echo style > /srv/public/style.css; echo docs > /srv/docs/index.html
chmod 600 /srv/public/style.css
busybox ln -s ../secret /srv/public/up; busybox ln -s img /srv/public/pictures
busybox ln -s /srv/public /srv/linked; busybox mkfifo /srv/public/pipe
echo png > /srv/public/img/a.png
dd if=/dev/zero of=/srv/public/big bs=1M count=64 2>/dev/null
"""


def with_statics(machine: vm_lab.Machine) -> vm_lab.Machine:
    """Have a machine serve files at its address."""
    served = STATICS.model_copy(update={"listen": f"{machine.four}:{PORT}"})
    spec = machine.plan.run_spec.model_copy(update={"statics": served})
    machine.plan = dataclasses.replace(machine.plan, run_spec=spec)
    return machine


@lab.own_namespace
async def test_a_machine_hands_out_its_files_and_nothing_else():
    async with vm_lab.host() as here:
        machine, other = with_statics(here.machine(5)), here.machine(6)
        await machine.boot()
        made = await machine.run(FILES)
        assert made.exit_code == 0, made
        base = f"http://{machine.four}:{PORT}"
        async with httpx.AsyncClient(base_url=base, timeout=vm_lab.BOOT_S) as host:
            got = await host.get("/static/style.css")
            assert (got.status_code, got.text) == (200, "style\n")
            assert got.headers["content-type"] == "text/css; charset=utf-8"
            assert got.headers["etag"].startswith('"abc-')
            known = await host.get(
                "/static/style.css", headers={"if-none-match": got.headers["etag"]}
            )
            assert known.status_code == 304
            assert (await host.get("/docs/")).text == "docs\n"
            assert (await host.get("/docs")).headers["location"] == "/docs/"
            head = await host.head("/static/big")
            assert head.headers["content-length"] == str(64 << 20)
            for path in (
                *("/static/", "/static/img/", "/static/missing", "/srv/secret", "/"),
                *("/static/up", "/static/pictures/a.png", "/static/pipe"),
                *("/static/%2e%2e/secret", "/static/..%2fsecret", "/static/img/..%2f..%2fsecret"),
                *("/static/%252e%252e/secret", "/static//style.css", "/docs/../secret"),
            ):
                raw = httpx.URL(base).copy_with(raw_path=path.encode())
                assert (await host.get(raw)).status_code == 404, path

        # Clients that read slowly cost it no memory.
        readers = [await asyncio.open_connection(machine.four, PORT) for _ in range(100)]
        for _, writer in readers:
            writer.write(b"GET /static/big HTTP/1.1\r\n\r\n")
        for reader, _ in readers:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        resident = await machine.run(f"busybox grep VmRSS /proc/{PID}/status")
        assert int(resident.stdout.split()[1]) < 4_000, resident
        for _, writer in readers:
            writer.close()

        # It has no rights but to read, and one that is killed is started again.
        who = await machine.run(f"busybox grep -E '^(Uid|CapEff|CapPrm)' /proc/{PID}/status")
        found = dict(line.split("\t", 1) for line in who.stdout.splitlines())
        assert found["Uid:"].split() == ["65534"] * 4
        assert {int(found[name], 16) for name in ("CapEff:", "CapPrm:")} == {1 << 2}
        assert (await machine.run(f"kill -9 {PID}")).exit_code == 0
        async with httpx.AsyncClient(base_url=base, timeout=vm_lab.BOOT_S) as host:
            assert (await host.get("/static/style.css")).text == "style\n"

        # A machine of the same network does not come there.
        await other.boot()
        asked = "busybox nc -w 20 {} {} </dev/null >/dev/null 2>&1"
        await machine.run("busybox nc -ll -p 81 -e /bin/id >/dev/null 2>&1 </dev/null &")
        async with asyncio.timeout(vm_lab.BOOT_S):
            while (await other.run(asked.format(machine.six, 81))).exit_code:
                pass
        for address in (machine.four, machine.six):
            assert (await other.run(asked.format(address, PORT))).exit_code == 1, address
