"""godwit-edge under the supervisor: the supervising process is replaced, and no client notices."""

import asyncio
import os
from pathlib import Path

import pytest

from godwit.host import running, supervisor
from godwit.host.components import Component
from tests.host import rust_components as parts
from tests.host.edge_lab import echo
from tests.host.front_lab import SHARED, FrontLab, make_front  # noqa: F401
from tests.host.rust_components import web_app
from tests.host.test_edge_restart import Clients

pytestmark = pytest.mark.host


def edge(front: FrontLab, run: Path) -> Component:
    config = run / "edge.json"
    config.write_text(front.config().model_dump_json())
    return Component(
        "edge",
        (str(parts.program("godwit-edge")), "--config", str(config)),
        hand_over=Path(front.changes["handover_socket"]),
    )


def supervised(run: Path, component: Component) -> supervisor.Supervisor:
    return supervisor.Supervisor((component,), run, run / "log", dict(os.environ))


async def test_a_successor_of_the_supervising_process_refuses_nobody(
    front: FrontLab, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for folder in ("pids", "n", "log"):
        (run / folder).mkdir(parents=True)
    fact = front.machine("m1", services=[front.service(7070, "http")])
    component = edge(front, run)
    async with web_app(fact.local_ipv4, front.app_port, echo):
        first = supervised(run, component)
        await first.start()
        await front.listens(SHARED, 7070)
        async with Clients(7070) as clients:
            await first.stop(handing_over=True)
            (former,) = supervisor.predecessors(run, [component]).values()
            await clients.more(50)
            assert await asyncio.to_thread(supervisor.end_leftovers, run, 5, ["edge"]) == []
            second = supervised(run, component)
            await second.start()
            await clients.more(50)
            await supervisor.retire(former)
            await clients.more(50)
        assert clients.bad == []
        present = running.read(run / "pids" / "edge.json")
        assert present is not None
        assert present != former
        await second.stop()
        assert not present.alive
    assert list((run / "pids").iterdir()) == []
