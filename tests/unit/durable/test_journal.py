"""The journal: one unfinished operation per subject; its end and what it led to are one commit."""

import json

import pytest

from godwit.base import errors
from godwit.durable import database, journal
from godwit.testing import agents, clock
from godwit.testing.world import Hands, World

INTENT = journal.Intent("m1", "org_a", "start", ("a", "b"), {"x": 1})


class Desk:
    """A journal, and the rows behind it."""

    def __init__(self) -> None:
        self.connection = agents.memory_database()
        self.clock = clock.FakeClock()
        self.journal = journal.Journal(
            agents.InlineDatabase(self.connection, Hands(World())), self.clock
        )

    def rows(self, query: str) -> list[dict[str, object]]:
        return [dict(row) for row in self.connection.execute(query)]


def on_a_desk(body):
    async def whole() -> None:
        desk = Desk()
        try:
            await body(desk)
        finally:
            desk.connection.close()

    clock.run(whole())


def test_begin_writes_the_list_of_steps_down() -> None:
    async def body(desk: Desk) -> None:
        await desk.journal.begin(INTENT)
        (row,) = desk.rows("SELECT * FROM operations")
        assert json.loads(str(row["steps"])) == ["a", "b"]
        assert (row["subject"], row["org_id"], row["kind"]) == ("m1", "org_a", "start")

    on_a_desk(body)


def test_a_second_begin_is_told_what_it_collided_with() -> None:
    async def body(desk: Desk) -> None:
        first = await desk.journal.begin(INTENT)
        with pytest.raises(errors.Failure, match=f"m1 is busy with start .{first.id}.") as busy:
            await desk.journal.begin(INTENT)
        assert busy.value.code == "conflict"

    on_a_desk(body)


def test_unfinished_runs_come_back_with_the_outputs_of_their_steps() -> None:
    async def body(desk: Desk) -> None:
        run = await desk.journal.begin(INTENT)
        run = await desk.journal.done(run, "a", {"path": "/x"})
        (found,) = await desk.journal.unfinished()
        assert found == run
        assert found.done == {"a": {"path": "/x"}}

    on_a_desk(body)


def test_an_ended_run_is_not_unfinished_and_cannot_end_twice() -> None:
    async def body(desk: Desk) -> None:
        run = await desk.journal.begin(INTENT)
        await desk.journal.end(run, "done")
        assert await desk.journal.unfinished() == []
        with pytest.raises(errors.Failure, match="has ended already"):
            await desk.journal.end(run, "done")

    on_a_desk(body)


def test_the_callers_writes_go_with_the_end_or_not_at_all() -> None:
    async def body(desk: Desk) -> None:
        run = await desk.journal.begin(INTENT)

        def broken(tx: database.Transaction) -> None:
            tx.execute("INSERT INTO facts_of_agent VALUES ('state', 'started')")
            raise ValueError("no")

        with pytest.raises(ValueError):
            await desk.journal.end(run, "done", also=broken)
        assert desk.rows("SELECT * FROM facts_of_agent") == []
        assert [left.id for left in await desk.journal.unfinished()] == [run.id]

    on_a_desk(body)


def test_one_operation_ends_and_the_next_begins_in_one_commit() -> None:
    async def body(desk: Desk) -> None:
        run = await desk.journal.begin(INTENT)
        following = await desk.journal.end(
            run, "aborted", "no", then=journal.Intent("m1", "org_a", "fail", ("c",))
        )
        assert following is not None
        assert [left.id for left in await desk.journal.unfinished()] == [following.id]
        rows = desk.rows("SELECT outcome, message FROM operations WHERE ended_at_ms IS NOT NULL")
        assert rows == [{"outcome": "aborted", "message": "no"}]

    on_a_desk(body)


def test_the_same_trouble_is_written_once() -> None:
    async def body(desk: Desk) -> None:
        run = await desk.journal.begin(INTENT)
        for text in ("no route", "no route", "refused", "no route"):
            await desk.journal.trouble(run, "a", text)
        assert await desk.journal.troubles("m1") == [("a", "no route"), ("a", "refused")]

    on_a_desk(body)


def test_a_subjects_history_stays_bounded() -> None:
    async def body(desk: Desk) -> None:
        for _ in range(30):
            run = await desk.journal.begin(INTENT)
            await desk.journal.done(run, "a", {})
            await desk.journal.end(run, "done")
        assert desk.rows("SELECT COUNT(*) AS n FROM operations") == [{"n": 20}]
        assert desk.rows("SELECT COUNT(*) AS n FROM entries") == [{"n": 20}]

    on_a_desk(body)
