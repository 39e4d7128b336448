"""Secrets that come with offers and updates: looked at first, kept once, in no answer."""

import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from godwit.base import errors
from godwit.testing import agents
from godwit.wire import secrets as sealing
from tests.unit.agent.bench import USER, Bench, M, N, running
from tests.unit.agent.machines.test_secrets import sealed


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with running(tmp_path) as made:
        yield made


def process(bench: Bench, machine_id: str = M) -> dict[str, str]:
    """Return the text in the environment of the machine's process."""
    return bench.world.vms[machine_id].plan.run_spec.process.env


def rows(folder: Path, table: str = "") -> list[str]:
    """Return the rows of a table, or of all, as text."""
    with contextlib.closing(sqlite3.connect(folder / "agent.db")) as connection:
        return [line for line in connection.iterdump() if f'INSERT INTO "{table}' in line]


async def update(bench: Bench, version: str, **changes: Any) -> dict[str, Any]:
    """Replace the machine's version; its first one rests by then."""
    await bench.reach("started")
    return await bench.call("machine.update", USER, **agents.update(M, version, **changes))


async def test_an_offer_brings_them_and_no_answer_shows_them(bench: Bench, tmp_path: Path) -> None:
    given = sealed(bench, 3, A=b"geheim")
    made = await bench.create(secrets=given, secrets_version=3)
    await bench.reach("started")
    assert process(bench)["A"] == "geheim"
    shown = await bench.call("machine.get", machine_id=M)
    assert shown["secrets_version"] == 3
    said = json.dumps([made, shown])
    assert "geheim" not in said
    assert given.values[0].data not in said
    (row,) = [row for row in rows(tmp_path) if given.values[0].data in row]
    assert 'INSERT INTO "secrets' in row
    assert "geheim" not in "".join(rows(tmp_path))


async def test_an_offer_whose_secrets_do_not_open_makes_no_machine(
    bench: Bench, tmp_path: Path
) -> None:
    for given in (None, sealed(bench, 1, key=X25519PrivateKey.generate(), A=b"1")):
        with pytest.raises(errors.Failure) as refused:
            await bench.create(N, secrets=given, secrets_version=1)
        assert refused.value.code == "failed_precondition"
    assert rows(tmp_path, "machines") == []
    assert rows(tmp_path, "secrets") == []


async def test_an_update_brings_newer_ones_which_lie_beside_what_it_is_begun_with(
    bench: Bench, tmp_path: Path
) -> None:
    await bench.create(secrets=sealed(bench, 1, A=b"1"), secrets_version=1)
    newer = sealed(bench, 2, A=b"2")
    answer = await update(bench, "01NEXT", secrets=newer, secrets_version=2)
    assert answer["secrets_version"] == 2
    await bench.call("machine.wait", machine_id=M, states=["started"], instance_id="01NEXT")
    assert process(bench)["A"] == "2"
    held = [row for row in rows(tmp_path) if newer.values[0].data in row]
    assert len(held) == 1
    assert 'INSERT INTO "secrets' in held[0]


async def test_an_update_whose_secrets_do_not_open_is_refused_and_changes_nothing(
    bench: Bench,
) -> None:
    await bench.create(secrets=sealed(bench, 1, A=b"1"), secrets_version=1)
    another = sealing.Owner(org_id="org_a", app_id="app_b")
    for given in (None, sealed(bench, 2, owner=another, A=b"2"), sealed(bench, 1, A=b"2")):
        with pytest.raises(errors.Failure) as refused:
            await update(bench, "01NEXT", secrets=given, secrets_version=2)
        assert refused.value.code == "failed_precondition"
    assert (await bench.call("machine.get", machine_id=M))["secrets_version"] == 1
    assert process(bench)["A"] == "1"


async def test_the_next_agent_of_the_host_starts_it_with_them(tmp_path: Path) -> None:
    async with running(tmp_path) as first:
        await first.create(secrets=sealed(first, 1, A=b"1"), secrets_version=1)
        await first.reach("started")
    async with running(tmp_path, first) as later:
        await later.call("machine.stop", machine_id=M)
        await later.reach("stopped")
        await later.call("machine.start", machine_id=M)
        await later.reach("started")
        assert process(later)["A"] == "1"
        assert later.world.asked["control.secrets"] == 0


async def test_a_process_that_runs_on_gets_no_newer_ones_and_that_is_said(bench: Bench) -> None:
    await bench.create(secrets=sealed(bench, 1, A=b"1"), secrets_version=1)
    await bench.reach("started")
    for state in ("started", "suspended"):
        if state == "suspended":
            await bench.call("machine.suspend", USER, machine_id=M)
            await bench.reach(state)
        with pytest.raises(errors.Failure, match=f"is {state} with secrets of version 1, not 2"):
            await bench.call("machine.start", USER, machine_id=M, min_secrets_version=2)
    await bench.call("machine.start", USER, machine_id=M, min_secrets_version=1)
    await bench.reach("started")
