"""Which machine takes a request: refusals, limits, wake."""

import asyncio
import time

import httpx
import pytest

from tests.host import rust_components as parts
from tests.host.conftest import until
from tests.host.edge_lab import (  # noqa: F401
    CONNECTED,
    HELLO,
    PATIENT,
    QUICK,
    REFUSED,
    Lab,
    echo,
    make_lab,
)
from tests.host.rust_components import Request, WebApp, response, web_app

pytestmark = pytest.mark.host


async def test_a_refused_connection_is_a_502_after_the_time_to_reach_it(lab: Lab) -> None:
    # Of the times that it could be, it is the one to reach a machine.
    lab.limits = PATIENT.model_copy(update={"reach_ms": 1_000})
    lab.machine("m1")
    await lab.start()
    begun = time.monotonic()
    got = await lab.get()
    assert got.status_code == 502
    assert f"[PC01] the app refused the connection on port {lab.app_port}" in got.text
    assert 0.9 < time.monotonic() - begun < PATIENT.reach_ms / 1_000


async def test_a_machine_that_listens_late_is_waited_for(lab: Lab) -> None:
    fact = lab.machine("m1")
    await lab.start()
    waiting = parts.spawn(lab.get())
    await lab.counts(REFUSED, 1)
    async with web_app(fact.local_ipv4, lab.app_port):
        assert (await waiting).status_code == 200


async def test_another_machine_takes_what_one_refuses(lab: Lab) -> None:
    lab.machine("m1")
    good = lab.machine("m2")
    async with web_app(good.local_ipv4, lab.app_port) as app:
        await lab.start()
        async with httpx.AsyncClient(timeout=parts.PATIENCE_S) as client:
            for _ in range(30):
                assert (await client.get(lab.url, headers=HELLO)).status_code == 200
    assert len(app.requests) == 30


async def test_a_cordoned_or_unhealthy_machine_gets_nothing(lab: Lab) -> None:
    apps = []
    for machine_id, changes in {
        "m1": {},
        "m2": {"cordoned": True},
        "m3": {"service": {"passing": False}},
    }.items():
        fact = lab.machine(machine_id, **changes)
        apps.append(WebApp(fact.local_ipv4, lab.app_port))
        await apps[-1].start()
    await lab.start()
    for _ in range(20):
        assert (await lab.get()).status_code == 200
    assert [len(app.requests) for app in apps] == [20, 0, 0]
    for app in apps:
        await app.stop()


async def test_a_stopped_machine_is_started_for_a_request(lab: Lab) -> None:
    fact = lab.machine("m1", state="stopped")
    app = WebApp(fact.local_ipv4, lab.app_port)

    async def wake(machine_id: str) -> None:
        await asyncio.sleep(0.2)
        lab.agent.say(fact.model_copy(update={"state": "started"}))
        # The process takes a moment from its start to its first accept.
        asyncio.get_running_loop().call_later(0.2, lambda: parts.spawn(app.start()))

    lab.agent.on_wake = wake
    await lab.start()
    got = await asyncio.gather(*(lab.get() for _ in range(20)))
    assert {answer.status_code for answer in got} == {200}
    assert lab.agent.wakes == ["m1"]
    await app.stop()


async def test_an_app_that_listens_late_after_its_start_has_what_is_left_of_the_time_to_start(
    lab: Lab,
) -> None:
    fact = lab.machine("m1", state="stopped")
    app = WebApp(fact.local_ipv4, lab.app_port)

    async def wake(_: str) -> None:
        lab.agent.say(fact.model_copy(update={"state": "started"}))
        # Longer than a machine that runs already is given.
        asyncio.get_running_loop().call_later(1.5, lambda: parts.spawn(app.start()))

    lab.agent.on_wake = wake
    lab.limits = QUICK.model_copy(update={"wake_ms": 60_000})
    await lab.start()
    assert (await lab.get()).status_code == 200
    await app.stop()


async def test_a_machine_that_starts_and_never_listens_is_a_503_that_says_so(lab: Lab) -> None:
    fact = lab.machine("m1", state="stopped")

    async def wake(_: str) -> None:
        lab.agent.say(fact.model_copy(update={"state": "started"}))

    lab.agent.on_wake = wake
    lab.limits = QUICK
    await lab.start()
    got = await lab.get()
    assert got.status_code == 503
    told = f"a machine of hello has started, but the app refused the connection on port {lab.app_port}"
    assert f"[PM05] {told}" in got.text


async def test_a_machine_that_cannot_start_is_a_503(lab: Lab) -> None:
    lab.machine("m1", state="stopped")
    await lab.start()
    got = await lab.get()
    assert got.status_code == 503
    assert "[PM02] a machine of hello could not be started: no room" in got.text


async def test_a_wake_without_an_answer_ends_with_its_deadline(lab: Lab) -> None:
    async def never(_: str) -> None:
        await asyncio.sleep(60)

    lab.agent.on_wake = never
    lab.limits = QUICK.model_copy(update={"wake_ms": 500})
    lab.machine("m1", state="suspended")
    await lab.start()
    got = await lab.get()
    assert got.status_code == 503
    assert "[PM03]" in got.text


async def test_the_next_sleeper_is_asked_when_one_cannot_start(lab: Lab) -> None:
    lab.machine("m1", state="stopped")
    second = lab.machine("m2", state="stopped")

    async def wake(machine_id: str) -> str | None:
        if machine_id == "m1":
            return "no room"
        lab.agent.say(second.model_copy(update={"state": "started"}))
        return None

    lab.agent.on_wake = wake
    async with web_app(second.local_ipv4, lab.app_port):
        await lab.start()
        assert (await lab.get()).status_code == 200


async def test_a_machine_that_stopped_a_moment_ago_is_started_again(lab: Lab) -> None:
    """The edge still believes that it runs: no 502, but patience until the fact comes."""
    fact = lab.machine("m1")
    app = WebApp(fact.local_ipv4, lab.app_port)

    async def wake(_: str) -> None:
        await app.start()
        lab.agent.say(fact.model_copy(update={"state": "started"}))

    lab.agent.on_wake = wake
    await lab.start()
    waiting = parts.spawn(lab.get())
    await lab.counts(REFUSED, 1)
    lab.agent.say(fact.model_copy(update={"state": "stopped"}))
    assert (await waiting).status_code == 200
    assert lab.agent.wakes == ["m1"]
    await app.stop()


async def test_the_hard_limit_is_exact_and_the_rest_waits(lab: Lab) -> None:
    limits = {"soft_limit": 2, "hard_limit": 3}
    made = [lab.machine(f"m{n}", service=limits) for n in range(2)]
    full = asyncio.Event()

    async def slow(_: Request) -> bytes:
        if sum(app.active for app in apps) == 6:
            full.set()
        await full.wait()
        await asyncio.sleep(0.05)
        return response()

    apps = [WebApp(fact.local_ipv4, lab.app_port, slow) for fact in made]
    for app in apps:
        await app.start()
    await lab.start()
    pool = httpx.Limits(max_connections=60)
    async with httpx.AsyncClient(timeout=2 * parts.PATIENCE_S, limits=pool) as client:
        got = await asyncio.gather(*(client.get(lab.url, headers=HELLO) for _ in range(120)))
    assert {answer.status_code for answer in got} == {200}
    assert [app.most_active for app in apps] == [3, 3]
    metrics = await lab.metrics()
    assert metrics["godwit_edge_waiting"] == 0
    assert all(v == 0 for k, v in metrics.items() if k.startswith("fly_app_concurrency"))
    for app in apps:
        await app.stop()


async def test_sustained_overload_is_a_503(lab: Lab) -> None:
    over = asyncio.Event()

    async def stuck(_: Request) -> bytes:
        await over.wait()
        return response()

    lab.limits = QUICK.model_copy(update={"queue_ms": 300, "queue_length": 5})
    fact = lab.machine("m1", service={"soft_limit": 1, "hard_limit": 1})
    async with web_app(fact.local_ipv4, lab.app_port, stuck) as app:
        await lab.start()
        first = parts.spawn(lab.get())
        await until(lambda: app.active == 1)
        got = await asyncio.gather(*(lab.get() for _ in range(9)))
        over.set()
        assert (await first).status_code == 200
    assert [answer.status_code for answer in got] == [503] * 9
    assert all("[PR04] every machine of hello is at its hard limit" in x.text for x in got)


async def test_machines_below_their_soft_limit_go_first(lab: Lab) -> None:
    gate = asyncio.Event()

    async def held(_: Request) -> bytes:
        await gate.wait()
        return response()

    made = [lab.machine(f"m{n}", service={"soft_limit": 4, "hard_limit": 20}) for n in range(3)]
    apps = [WebApp(fact.local_ipv4, lab.app_port, held) for fact in made]
    for app in apps:
        await app.start()
    await lab.start()
    async with httpx.AsyncClient(timeout=2 * parts.PATIENCE_S) as client:
        waiting = []
        for number in range(1, 13):
            waiting.append(parts.spawn(client.get(lab.url, headers=HELLO)))
            await until(lambda number=number: sum(app.active for app in apps) == number)
        assert [app.active for app in apps] == [4, 4, 4]
        gate.set()
        await asyncio.gather(*waiting)
    for app in apps:
        await app.stop()


async def test_a_machine_that_is_just_starting_is_enough(lab: Lab) -> None:
    """Until its checks pass others take the load, and no third machine is started for it."""
    gate = asyncio.Event()

    async def answer(request: Request) -> bytes:
        if request.path == "/held":
            await gate.wait()
        return response()

    async def wake(machine_id: str) -> str | None:
        lab.machine(machine_id, service={"soft_limit": 1, "passing": False})
        return None

    lab.agent.on_wake = wake
    fact = lab.machine("m1", service={"soft_limit": 1})
    for machine_id in ("m2", "m3"):
        lab.machine(machine_id, state="stopped", service={"soft_limit": 1})
    async with web_app(fact.local_ipv4, lab.app_port, answer) as app:
        await lab.start()
        held = parts.spawn(lab.get("/held"))
        await until(lambda: app.active == 1)
        assert (await lab.get()).status_code == 200
        await until(lambda: lab.agent.wakes)
        (woken,) = lab.agent.wakes
        page = ""
        while "<td>failing</td>" not in page:
            page = (await lab.status("/status")).text
        for _ in range(5):
            assert (await lab.get()).status_code == 200
        assert lab.agent.wakes == [woken]
        ready = lab.machine(woken, service={"soft_limit": 1})
        async with web_app(ready.local_ipv4, lab.app_port) as other:
            while not other.requests:
                assert (await lab.get()).status_code == 200
        gate.set()
        assert (await held).status_code == 200


@pytest.mark.parametrize(("concurrency", "connections"), [("requests", 1), ("connections", 10)])
async def test_only_requests_concurrency_keeps_connections(
    lab: Lab, concurrency: str, connections: int
) -> None:
    fact = lab.machine("m1", service={"concurrency": concurrency})
    lab.changes["workers"] = 1
    async with web_app(fact.local_ipv4, lab.app_port) as app:
        await lab.start()
        async with httpx.AsyncClient(timeout=parts.PATIENCE_S) as client:
            for _ in range(10):
                assert (await client.get(lab.url, headers=HELLO)).status_code == 200
    assert app.connections == connections


async def test_a_connection_that_the_app_closed_fails_no_request(lab: Lab) -> None:
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port, echo) as app:
        app.close_silently = True
        await lab.start()
        async with httpx.AsyncClient(timeout=parts.PATIENCE_S) as client:
            for _ in range(200):
                assert (await client.get(lab.url, headers=HELLO)).status_code == 200


async def test_a_kept_connection_goes_where_each_request_and_the_view_lead(lab: Lab) -> None:
    """The edge remembers where the last request of a connection led: no longer than that is so."""
    one, two = lab.machine("m1"), lab.machine("m2", app="other")
    async with (
        web_app(one.local_ipv4, lab.app_port, echo) as first,
        web_app(two.local_ipv4, lab.app_port, echo) as second,
    ):
        await lab.start()
        async with httpx.AsyncClient(timeout=parts.PATIENCE_S) as client:

            async def ask(name: str) -> int:
                host = {"Host": f"{name}.godwit.localhost"}
                return (await client.get(lab.url, headers=host)).status_code

            for name in ("hello", "hello", "Hello", "other", "other", "hello"):
                assert await ask(name) == 200
            assert (len(first.requests), len(second.requests)) == (4, 2)
            lab.machine("m3", app="third")
            await lab.knows(3)
            assert await ask("hello") == 200
            moved = one.model_copy(update={"app": "other", "app_id": "app_other"})
            lab.agent.say(moved)
            await lab.shows(lambda view: view["apps"] == 2)
            assert await ask("hello") == 404
            assert await ask("other") == 200
        assert len(first.requests) + len(second.requests) == 8
        assert (await lab.metrics())[CONNECTED] == 1
