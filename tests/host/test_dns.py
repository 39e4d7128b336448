"""godwit-dns as a real process in a network namespace: names, networks, outside, floods."""

import asyncio
import contextlib
import socket
import statistics
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from godwit.wire import components
from tests.host import dns_wire as dns
from tests.host import rust_components as parts
from tests.host.dns_wire import AAAA, NXDOMAIN, TXT, A, Asker, FakeResolver
from tests.host.network_lab import ip, output, own_namespace
from tests.host.rust_components import FakeAgent, Running

pytestmark = pytest.mark.host

ONE, TWO = "fdaa:0:1:a7b:1:0:99:2", "fdaa:0:2:a7b:1:0:99:2"


@dataclass
class Lab:
    """A DNS server, its agent and resolvers outside, in this thread's namespace."""

    folder: Path
    agent: FakeAgent
    changes: dict[str, Any] = field(default_factory=dict)
    resolvers: list[FakeResolver] = field(default_factory=list)
    askers: list[Asker] = field(default_factory=list)
    server: Running | None = None

    async def start(self) -> Running:
        upstreams = [f"127.0.0.1:{resolver.port}" for resolver in self.resolvers]
        config = components.DnsConfig.model_validate(
            {
                "host_id": parts.HOST,
                "region": "lcl",
                "addresses": ["[fdaa::3]:53"],
                "upstreams": upstreams,
                "agent_socket": str(self.agent.path),
                "bus": {"servers": ["nats://127.0.0.1:1"], "seed_file": "/nonexistent"},
                "view_file": str(self.folder / "view.json"),
            }
            | self.changes
        )
        self.server = await parts.start("godwit-dns", config, self.folder)
        return self.server

    def log(self) -> str:
        """Return what the server has said so far."""
        log = self.folder / "godwit-dns.log"
        return log.read_text() if log.exists() else ""

    async def resolver(self, answering: dns.Answering) -> FakeResolver:
        made = FakeResolver(answering)
        await made.start()
        self.resolvers.append(made)
        return made

    def asker(self, source: str) -> Asker:
        made = Asker(source)
        self.askers.append(made)
        return made

    def machine(self, machine_id: str, number: int, network: int = 1, **changes: Any) -> str:
        """Return the address of a machine that the agent tells of."""
        address = f"fdaa:0:{network:x}:a7b:1:0:{number:x}:2"
        given = {"private_ip": address, "network_number": network, "org_id": f"org_{network}"}
        self.agent.say(parts.machine(machine_id, "172.16.0.5", 80, **(given | changes)))
        return address


async def give_addresses(*addresses: str) -> None:
    """Put addresses on loopback and wait until the kernel routes to them, which it does later."""
    await ip("link set lo up", *(f"addr add {a}/128 dev lo nodad" for a in addresses))
    async with asyncio.timeout(dns.PATIENCE_S):
        while True:
            routes = await output("ip", "-6", "route", "show", "table", "local")
            if all(f"local {address} dev lo" in routes for address in addresses):
                return
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def lab(tmp_path: Path, *, addressed: bool = True) -> AsyncIterator[Lab]:
    """Set up addresses as a host has them; guests' ones are this host's own here."""
    addresses = [ONE, TWO] + (["fdaa::3"] if addressed else [])
    await give_addresses(*addresses)
    agent = FakeAgent(tmp_path / "a.sock")
    await agent.start()
    made = Lab(tmp_path / "dns", agent)
    try:
        yield made
    finally:
        for asker in made.askers:
            asker.close()
        if made.server is not None:
            await made.server.kill()
        for resolver in made.resolvers:
            await resolver.stop()
        await agent.stop()


async def until_answered(asker: Asker, name: str, *addresses: str) -> None:
    """Ask until the answer is this."""
    async with asyncio.timeout(dns.PATIENCE_S):
        while sorted((await asker.ask(name)).addresses) != sorted(addresses):
            await asyncio.sleep(0.02)


@own_namespace
async def test_names_of_an_app_follow_its_machines(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        first = it.machine("m1", 1, process_group="web", metadata={"role": "primary"})
        second = it.machine("m2", 2)
        await it.start()
        one = it.asker(ONE)
        await until_answered(one, "hello.internal", first, second)
        for name, wanted in {
            "HELLO.Internal": {first, second},
            "lcl.hello.internal": {first, second},
            "m1.vm.hello.internal": {first},
            "web.process.hello.internal": {first},
            "primary.role.kv._metadata.hello.internal": {first},
        }.items():
            answer = await one.ask(name)
            assert set(answer.addresses) == wanted, name
            assert {ttl for _, ttl, _ in answer.answers} == {5}
            assert answer.flags & dns.AA
        assert len((await one.ask("top1.nearest.of.hello.internal")).addresses) == 1
        assert (await one.ask("vms.hello.internal", TXT)).text == "m1 lcl,m2 lcl"
        assert (await one.ask("_apps.internal", TXT)).text == "hello"
        it.machine("m2", 2, state="stopped")
        await until_answered(one, "hello.internal", first)
        assert (await one.ask("all.vms.hello.internal", TXT)).text == "m1 lcl,m2 lcl"


@own_namespace
async def test_no_answer_crosses_networks(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        ours = it.machine("m1", 1)
        theirs = it.machine("m2", 2, network=2, app="theirs")
        await it.start()
        one, two = it.asker(ONE), it.asker(TWO)
        await until_answered(one, "hello.internal", ours)
        await until_answered(two, "theirs.internal", theirs)
        for asker, name in [
            (one, "theirs.internal"),
            (two, "hello.internal"),
            (two, "m1.vm.hello.internal"),
            (two, "vms.hello.internal"),
        ]:
            assert (await asker.ask(name)).code == NXDOMAIN
        assert (await two.ask("_apps.internal", TXT)).text == "theirs"


@own_namespace
async def test_what_does_not_exist_is_told_with_the_zones_soa(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        address = it.machine("m1", 1)
        await it.start()
        one = it.asker(ONE)
        await until_answered(one, "hello.internal", address)
        for name, kind, code in [
            ("none.internal", AAAA, NXDOMAIN),
            ("hello.internal", A, dns.NOERROR),
            ("hello.flycast", AAAA, dns.NOERROR),
            ("2.0.a.a.d.f.ip6.arpa", 12, NXDOMAIN),
        ]:
            answer = await one.ask(name, kind)
            assert (answer.code, answer.answers) == (code, []), name
            ((authority, ttl, data),) = answer.authorities
            assert (authority, ttl, int.from_bytes(data[-4:])) == (dns.SOA, 5, 5)


@own_namespace
async def test_many_addresses_are_cut_over_udp_and_whole_over_tcp(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        addresses = [it.machine(f"m{n}", n) for n in range(1, 101)]
        await it.start()
        one = it.asker(ONE)
        async with asyncio.timeout(dns.PATIENCE_S):
            while len((await one.ask_tcp("hello.internal"))[0].addresses) < 100:
                await asyncio.sleep(0.02)
        plain = await one.raw(dns.query("hello.internal"))
        wide = await one.raw(dns.query("hello.internal", edns=4096))
        for data, limit in [(plain, 512), (wide, 1232)]:
            cut = dns.read(data)
            assert cut.flags & dns.TC
            assert limit - 28 < len(data) <= limit
            assert set(cut.addresses) < set(addresses)
        first, second = await one.ask_tcp("hello.internal", "none.internal")
        assert sorted(first.addresses) == sorted(addresses)
        assert second.code == NXDOMAIN
        assert (await one.ask("hello.internal")).addresses != first.addresses


@own_namespace
async def test_who_is_in_no_network_is_refused(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        await it.resolver(lambda asked, _: [dns.reply(asked)])
        await it.start()
        for source in ["::1", "fdaa::3"]:
            for name in ["hello.internal", "example.com"]:
                assert (await it.asker(source).ask(name)).code == dns.REFUSED
        assert it.resolvers[0].asked == []


@own_namespace
async def test_broken_queries_get_a_code_and_break_nothing(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        address = it.machine("m1", 1)
        await it.start()
        one = it.asker(ONE)
        good = dns.query("hello.internal")
        for bad, code in [
            (good[:-1], dns.FORMERR),
            (good[:12], dns.FORMERR),
            (good[:4] + b"\0\2" + good[6:] + good[12:], dns.FORMERR),
            (good[:12] + b"\xc0\x0c" + good[-4:], dns.FORMERR),
            (good[:2] + b"\x28\0" + good[4:], dns.NOTIMP),
        ]:
            answer = dns.read(await one.raw(bad))
            assert (answer.code, answer.id) == (code, int.from_bytes(good[:2])), bad
        for ignored in [b"", b"\0" * 11, good[:2] + b"\x81\0" + good[4:]]:
            with pytest.raises(TimeoutError):
                await one.raw(ignored, 0.1)
        for kind in [252, 251]:
            assert (await one.ask("hello.internal", kind)).code == dns.REFUSED
        await until_answered(one, "hello.internal", address)


def outside(asked: bytes, _: bool) -> list[bytes]:
    return [dns.reply(asked, dns.record("www.example.com", A, 60, b"\xc0\0\2\1"))]


@own_namespace
async def test_names_outside_are_asked_upstream_and_kept(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        resolver = await it.resolver(outside)
        await it.start()
        one, two = it.asker(ONE), it.asker(TWO)
        first = await one.ask("www.example.com", A)
        assert [(kind, data) for kind, _, data in first.answers] == [(A, b"\xc0\0\2\1")]
        assert first.flags & dns.RA
        assert not first.flags & dns.AA
        async with asyncio.timeout(dns.PATIENCE_S):
            while (again := await two.ask("WWW.Example.com", A)).answers[0][1] == 60:
                await asyncio.sleep(0.1)
        assert again.question[1:4] == b"WWW"
        assert [data for _, _, data in again.answers] == [b"\xc0\0\2\1"]
        assert 50 < again.answers[0][1] < 60
        assert len(resolver.asked) == 1
        await one.ask("www.example.com", AAAA)
        assert len(resolver.asked) == 2
        numbers = {int.from_bytes(asked[:2]) for asked, _ in resolver.asked}
        assert len(numbers) == len(set(resolver.sources)) == 2
        assert (await one.ask("x.example.com", A, flags=0)).code == dns.REFUSED


@own_namespace
async def test_what_does_not_exist_outside_is_kept_as_its_soa_says(tmp_path: Path) -> None:
    def nothing(asked: bytes, _: bool) -> list[bytes]:
        soa = dns.soa("example.com", 300, 1 if b"short" in asked else 300)
        return [dns.reply(asked, code=NXDOMAIN, authorities=(soa,))]

    async with lab(tmp_path) as it:
        resolver = await it.resolver(nothing)
        await it.start()
        one = it.asker(ONE)
        for _ in range(5):
            assert (await one.ask("long.example.com", A)).code == NXDOMAIN
        assert len(resolver.asked) == 1
        async with asyncio.timeout(dns.PATIENCE_S):
            while len(resolver.asked) < 3:
                assert (await one.ask("short.example.com", A)).code == NXDOMAIN
                await asyncio.sleep(0.1)
        assert (await one.ask("long.example.com", A)).code == NXDOMAIN
        assert len(resolver.asked) == 3


@own_namespace
async def test_a_cut_answer_is_fetched_over_tcp(tmp_path: Path) -> None:
    def large(asked: bytes, over_tcp: bool) -> list[bytes]:
        if not over_tcp:
            return [dns.reply(asked, flags=dns.TC)]
        records = [dns.record("big.example.com", A, 60, bytes([10, 0, 0, n])) for n in range(200)]
        return [dns.reply(asked, *records)]

    async with lab(tmp_path) as it:
        resolver = await it.resolver(large)
        await it.start()
        one = it.asker(ONE)
        (whole,) = await one.ask_tcp("big.example.com", kind=A)
        assert len(whole.answers) == 200
        assert [over_tcp for _, over_tcp in resolver.asked] == [False, True]
        cut = await one.ask("big.example.com", A)
        assert cut.flags & dns.TC


@own_namespace
async def test_words_that_do_not_answer_the_question_are_passed_over(tmp_path: Path) -> None:
    def poisoned(asked: bytes, _: bool) -> list[bytes]:
        evil = dns.record("www.example.com", A, 60, b"\x06\x06\x06\x06")
        other_id = bytes([asked[0] ^ 1]) + asked[1:]
        other_name = dns.query("www.example.org", A)
        return [
            dns.reply(other_id, evil),
            dns.reply(asked[:2] + other_name[2:], evil),
            b"\0" * 5,
            asked,
            *outside(asked, False),
        ]

    async with lab(tmp_path) as it:
        await it.resolver(poisoned)
        await it.start()
        answer = await it.asker(ONE).ask("www.example.com", A)
        assert [data for _, _, data in answer.answers] == [b"\xc0\0\2\1"]


@own_namespace
async def test_the_next_resolver_is_asked_when_one_fails(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        failing = await it.resolver(lambda asked, _: [dns.reply(asked, code=dns.SERVFAIL)])
        silent = await it.resolver(lambda _asked, _: [])
        good = await it.resolver(outside)
        await it.start()
        one = it.asker(ONE)
        assert (await one.ask("www.example.com", A)).code == 0
        assert [len(each.asked) for each in (failing, silent, good)] == [1, 1, 1]
        assert (await one.ask("other.example.com", A)).code == 0
        # The good one is remembered.
        assert [len(each.asked) for each in (failing, silent, good)] == [1, 1, 2]


@own_namespace
async def test_silence_outside_ends_as_a_failure_in_time(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        silent = await it.resolver(lambda _asked, _: [])
        address = it.machine("m1", 1)
        await it.start()
        one, other = it.asker(ONE), it.asker(ONE)
        waiting = asyncio.get_running_loop().create_task(one.ask("www.example.com", A))
        await until_answered(other, "hello.internal", address)
        assert (await waiting).code == dns.SERVFAIL
        # As often as there is time for, before a guest's own resolver gives up.
        assert len(silent.asked) == 2


@own_namespace
async def test_edns_goes_along(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        resolver = await it.resolver(outside)
        await it.start()
        one = it.asker(ONE)
        await one.ask("a.example.com", A, edns=4096, dnssec=True)
        await one.ask("b.example.com", A)
        with_edns, without = (asked for asked, _ in resolver.asked)
        assert int.from_bytes(with_edns[10:12]) == 1
        assert with_edns[-11:] == b"\0\0\x29\x04\xd0\0\0\x80\0\0\0"
        assert int.from_bytes(without[10:12]) == 0


@own_namespace
async def test_a_flood_costs_nobody_else_an_answer(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        resolver = await it.resolver(lambda _asked, _: [])
        address = it.machine("m1", 1)
        theirs = it.machine("m2", 2, network=2, app="theirs")
        server = await it.start()
        one, two = it.asker(ONE), it.asker(TWO)
        await until_answered(one, "hello.internal", address)
        await until_answered(two, "theirs.internal", theirs)
        before = server.memory_mb()
        loop, sent = asyncio.get_running_loop(), 0
        ends = loop.time() + 3
        slow: list[float] = []

        async def flood() -> None:
            nonlocal sent
            while loop.time() < ends or sent <= 10_000:
                for _ in range(50):
                    name = f"n{sent}.example.com" if sent % 2 else f"n{sent}.internal"
                    with contextlib.suppress(BlockingIOError):
                        one.socket.send(dns.query(name))
                    sent += 1
                await asyncio.sleep(0)

        flooding = loop.create_task(flood())
        while not flooding.done():
            begun = loop.time()
            assert (await two.ask_again("theirs.internal")).addresses == [theirs]
            slow.append(loop.time() - begun)
            await asyncio.sleep(0.02)
        await flooding
        assert statistics.median(slow) < 1
        assert len(resolver.asked) < 2_000
        assert server.memory_mb() - before < 16


@own_namespace
async def test_it_is_ready_before_its_address_is_there(tmp_path: Path) -> None:
    async with lab(tmp_path, addressed=False) as it:
        address = it.machine("m1", 1)
        await it.start()
        await give_addresses("fdaa::3")
        await until_answered(it.asker(ONE), "hello.internal", address)


@own_namespace
async def test_it_waits_for_an_address_that_is_taken(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        address = it.machine("m1", 1)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as taken:
            taken.bind(("fdaa::3", 53))
            starting = asyncio.get_running_loop().create_task(it.start())
            async with asyncio.timeout(dns.PATIENCE_S):
                while "cannot answer on [fdaa::3]:53 yet" not in it.log():
                    await asyncio.sleep(0.02)
            assert not starting.done()
        await starting
        await until_answered(it.asker(ONE), "hello.internal", address)


@own_namespace
async def test_it_answers_from_its_last_view_alone(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        address = it.machine("m1", 1)
        server = await it.start()
        await until_answered(it.asker(ONE), "hello.internal", address)
        server.terminate()
        assert await server.ended() == 0
        await it.agent.stop()
        await it.start()
        assert (await it.asker(ONE).ask("hello.internal")).addresses == [address]


@own_namespace
async def test_idle_and_greedy_tcp_guests_are_limited(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        address = it.machine("m1", 1)
        theirs = it.machine("m2", 2, network=2, app="theirs")
        await it.start()
        await until_answered(it.asker(ONE), "hello.internal", address)
        held = [
            await asyncio.open_connection("fdaa::3", 53, local_addr=(ONE, 0)) for _ in range(20)
        ]
        closed = [reader for reader, _ in held[16:]]
        async with asyncio.timeout(dns.PATIENCE_S):
            assert [await reader.read() for reader in closed] == [b""] * 4
        (answer,) = await it.asker(TWO).ask_tcp("theirs.internal")
        assert answer.addresses == [theirs]
        for _, writer in held:
            writer.close()


@own_namespace
async def test_dig_understands_it(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        address = it.machine("m1", 1)
        await it.start()
        await until_answered(it.asker(ONE), "hello.internal", address)
        for more in [[], ["+tcp"], ["+bufsize=512"]]:
            process = await asyncio.create_subprocess_exec(
                "dig", "@fdaa::3", "-b", ONE, "+short", "+time=3", *more, "AAAA", "hello.internal",
                stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            async with asyncio.timeout(dns.PATIENCE_S):
                printed, _ = await process.communicate()
            assert printed.decode().strip() == address
