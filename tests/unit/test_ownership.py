"""Whose it is stands on every row and record: what cannot be added later is there now."""

import pytest
from pydantic import BaseModel

from godwit.store import tables
from godwit.testing import agents
from godwit.wire import facts, host_rpc, shim

OF_THE_PLATFORM = {
    "meta": "the database's own epoch",
    "counters": "numbers given out",
    "organizations": "is the organization",
    "users": "may belong to several",
    "tokens": "may be for several: token_organizations",
    "hosts": "serve everybody",
    "join_tokens": "bring servers, which serve everybody",
    "outbox": "drained at once; the fact in it says whose it is",
    "publications": "how far each region was told of everybody's",
}
OF_THE_AGENT = {
    "schema": "version of each component's tables",
    "entries": "of an operation, which says whose it is",
    "facts_of_agent": "about the agent itself",
    "deeds": "told to control, which knows whose the machine is, and dropped then",
}


def test_every_table_of_control_says_whose_its_rows_are() -> None:
    every = tables.METADATA.tables.values()
    assert {one.name for one in every if "org_id" not in one.c} == set(OF_THE_PLATFORM)


def test_every_table_of_the_agent_says_whose_its_rows_are() -> None:
    connection = agents.memory_database()
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    names = [row[0] for row in connection.execute(query)]
    lacking = {
        name
        for name in names
        if "org_id" not in {row[1] for row in connection.execute(f"PRAGMA table_info({name})")}
    }
    connection.close()
    assert len(names) > len(OF_THE_AGENT)
    assert lacking == set(OF_THE_AGENT)


@pytest.mark.parametrize(
    "record",
    [
        facts.AppFact,
        facts.MachineFact,
        host_rpc.LogEntry,
        host_rpc.MachineView,
        host_rpc.Offer,
        host_rpc.UsageInterval,
        shim.ShimConfig,
    ],
)
def test_every_record_says_whose_it_is(record: type[BaseModel]) -> None:
    assert record.model_fields["org_id"].is_required()
