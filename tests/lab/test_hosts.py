"""Godwit whole in the lab: an app deployed on a host answers a client, also after the worst."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from godwit.base import errors
from godwit.testing.platform import eventually
from lab import plan
from lab.laboratory import Lab
from tests.lab.conftest import made

ROOT = Path(__file__).resolve().parents[2]
URL = "http://hello.godwit.test/"
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def lab(root: Path) -> Iterator[Lab]:
    """Return a region with a host on which `examples/hello` runs."""
    settings = {"host.memory_mb": 2_048, "api.rate_limits": False}
    with made(plan.simple("h1", ("fra",), settings=settings), root) as up:
        host = up.host("fra-1")
        host.start()
        host.godwit("images", "bootstrap")
        folder = host.tree.directory / "home" / "hello"
        shutil.copytree(ROOT / "examples" / "hello", folder)
        launch = ("launch", "--name", "hello", "--org", "personal", "--yes", "--offline")
        host.godwit(*launch, "--force-host-build", "--no-ha", cwd=folder)
        yield up
        host.stop()


def answer(lab: Lab) -> str:
    """Return what a client in the region gets; nothing while nobody answers."""
    try:
        return lab.node("fra-c1").get(URL, at=lab.host("fra-1").addresses)
    except errors.Failure:
        return ""


def test_a_client_is_answered_by_the_machine_in_its_region(lab: Lab) -> None:
    (machine,) = lab.host("fra-1").json("machine", "list", "--app", "hello")
    said = eventually(lambda: answer(lab))
    assert said == f"Hello from hello, region fra, machine {machine['id']}!\n"


def test_a_client_cut_off_is_answered_again_after_it_was_healed(lab: Lab) -> None:
    lab.cut("fra-c1")
    with pytest.raises(errors.Failure, match="exit 28"):
        lab.node("fra-c1").get(URL, at=lab.host("fra-1").addresses, timeout_s=1)
    lab.heal("fra-c1")
    assert eventually(lambda: answer(lab))


def test_requests_are_answered_while_a_component_hangs_or_was_killed(lab: Lab) -> None:
    host = lab.host("fra-1")
    before = host.components()
    assert {"agent", "bus", "control", "dns", "edge"} <= set(before)
    host.signal("bus", "STOP")
    host.signal("agent", "KILL")
    try:
        assert re.match("Hello from hello", answer(lab))
    finally:
        host.signal("bus", "CONT")
    eventually(lambda: host.components().get("agent", before["agent"]) != before["agent"])
    with pytest.raises(errors.Failure, match="no router runs on fra-1; agent, bus"):
        host.signal("router", "KILL")


@pytest.mark.full
def test_a_host_whose_clock_is_an_hour_ahead_serves_as_any_other(lab: Lab) -> None:
    host = lab.host("fra-1")
    host.stop()
    host.set_clock(3_600)
    host.start()
    assert eventually(lambda: answer(lab))
    (machine,) = host.json("machine", "list", "--app", "hello")
    assert host.godwit("machine", "exec", "--app", "hello", machine["id"], "--", "true") == ""
    host.stop()
    host.set_clock(0)
    host.start()
    assert eventually(lambda: answer(lab))


def test_a_host_that_lost_its_power_serves_again_when_it_is_back(lab: Lab) -> None:
    host = lab.host("fra-1")
    (before,) = host.json("machine", "list", "--app", "hello")
    # What a machine that really loses power may lose besides is not the lab's to show.
    host.exec("sync", "--file-system", str(host.tree.directory / "data"))
    host.lose_power()
    assert answer(lab) == ""
    lab.give_power(host)
    host.start()
    said = eventually(lambda: answer(lab))
    assert before["id"] in said
