"""The edge's overview for operators: a page to read, and the same as JSON."""

import html.parser

import httpx
import pytest

from tests.host.backhaul_lab import Servers, make_servers  # noqa: F401
from tests.host.edge_lab import Lab, make_lab  # noqa: F401
from tests.host.rust_components import web_app

pytestmark = pytest.mark.host


class Page(html.parser.HTMLParser):
    """Which elements a page has, the cells of its tables, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "!doctype"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th", "caption", "h1"):
            self.cells.append(data)


async def overview(lab: Lab) -> tuple[dict[str, object], Page]:
    """Return what the edge says of itself, in both forms."""
    url = f"http://127.0.0.1:{lab.status_port}/status"
    async with httpx.AsyncClient() as client:
        told = await client.get(url, headers={"Accept": "application/json"})
        read = await client.get(url, headers={"Accept": "text/html,*/*;q=0.8"})
    assert told.headers["content-type"] == "application/json"
    assert read.headers["content-type"] == "text/html; charset=utf-8"
    return told.json(), Page(read.text)


async def test_an_operator_sees_machines_hosts_ports_and_refusals(servers: Servers) -> None:
    near, far = await servers.add("fra"), await servers.add("iad")
    fact = near.machine("m1")
    near.machine("m2", state="stopped")
    far.machine("m3", app="other<b>")
    async with web_app(fact.local_ipv4, near.lab.app_port):
        await servers.start()
        assert (await near.get()).status_code == 200
        assert (await near.get(headers={"Host": "nobody.example"})).status_code == 404
        told, page = await overview(near.lab)
    machines = told["machines"]
    assert isinstance(machines, list)
    assert [(m["id"], m["state"], m["health"], m["in_flight"]) for m in machines] == [
        ("m1", "started", "passing", 0),
        ("m2", "stopped", "-", 0),
    ]
    assert told["apps"] == [{"name": "hello", "machines": 2, "started": 1, "in_flight": 0}]
    assert told["phase"] == "serving"
    hosts = told["hosts"]
    assert isinstance(hosts, list)
    assert [(host["id"], host["region"]) for host in hosts] == [(far.host_id, "iad")]
    refused = told["refused_requests"]
    assert isinstance(refused, list)
    assert [(line["status"], line["count"]) for line in refused] == [(404, 1)]
    assert page.open == []
    assert page.fetched == []
    wanted = {"m1", "m2", "hello", "404", far.host_id, f"127.0.0.1:{near.lab.port}"}
    assert wanted <= set(page.cells)


async def test_what_fails_its_checks_is_seen(lab: Lab) -> None:
    lab.machine("m1", service={"passing": False})
    await lab.start()
    told, page = await overview(lab)
    machines = told["machines"]
    assert isinstance(machines, list)
    assert machines[0]["health"] == "failing"
    assert "failing" in page.cells
