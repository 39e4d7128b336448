"""Every change, by whichever route, leaves an audit row that says whose it was."""

from godwit.control.records import AuditRow
from tests.unit.api import table
from tests.unit.api.conftest import Served


async def newest(served: Served) -> AuditRow:
    async with served.world.ctx.store.read() as rows:
        return (await rows.audit.page(None, before="", limit=1))[0]


async def test_every_changing_route_leaves_a_row_in_its_organization(served: Served) -> None:
    things = await table.make_things(served)
    for case in table.destroying_last():
        if case.method == "GET":
            continue
        # An earlier case may have stopped it.
        await served.acme.post(things.path(f"{table.ONE}/start"))
        before = await newest(served)
        answer = await table.send(served.operator, case, things)
        assert answer.is_success, (case, answer.text)
        row = await newest(served)
        assert row.id != before.id, case
        assert row.org_id, case
        assert row.principal.startswith("token:"), case


async def test_no_read_leaves_a_row(served: Served) -> None:
    things = await table.make_things(served)
    before = await newest(served)
    for case in table.CASES:
        if case.method == "GET":
            await table.send(served.acme, case, things)
    assert await newest(served) == before
