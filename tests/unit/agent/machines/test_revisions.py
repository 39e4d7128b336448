"""Revisions: they grow, also over a kill, and the end of a block is on disk before it is used."""

from godwit.agent.machines import revisions, store
from godwit.base import tasks
from godwit.testing import agents, clock
from godwit.testing.world import Hands, World


def test_they_grow_over_kills_and_over_the_end_of_a_block(monkeypatch) -> None:
    monkeypatch.setattr(revisions, "_BLOCK", 10)

    async def whole() -> None:
        connection = agents.memory_database()
        the_clock = clock.FakeClock()
        newest = 0
        for life in range(5):
            async with tasks.Tasks("test") as owned:
                database = agents.InlineDatabase(connection, Hands(World()))
                these = revisions.Revisions(store.Store(database), owned)
                await these.load()
                for _ in range(life * 13):
                    taken = these.take()
                    assert taken > newest
                    newest = taken
                    await the_clock.sleep(0.01)
        connection.close()

    clock.run(whole())
