"""Apps, their networks and their facts."""

import pytest

from godwit.base import errors
from godwit.control import apps, machines, removal
from godwit.testing.control import OPERATOR
from tests.unit.control.conftest import Town


async def new(town: Town, **wanted: str) -> apps.App:
    return await apps.create(town.world.ctx, OPERATOR, apps.NewApp(**wanted))  # type: ignore[arg-type]


async def code_of(coroutine) -> str:
    with pytest.raises(errors.Failure) as caught:
        await coroutine
    return caught.value.code


async def test_networks_are_numbered_on_first_use_and_never_again(town: Town) -> None:
    second = await new(town, org_slug="acme", name="second")
    other = await new(town, org_slug="acme", name="third", network="backend")
    foreign = await new(town, org_slug="rival", name="fourth")
    assert (town.shop.network_number, town.shop.network_name) == (1, "default")
    assert second.network_id == town.shop.network_id
    assert other.network_number == 2
    assert foreign.network_number == 3
    await removal.delete_app(town.world.ctx, OPERATOR, "third", force=False)
    fifth = await new(town, org_slug="acme", name="fifth", network="another")
    assert fifth.network_number == 4


async def test_a_name_is_taken_whoever_has_it(town: Town) -> None:
    for org in ("acme", "rival"):
        with pytest.raises(apps.NameTaken):
            await new(town, org_slug=org, name="shop")


async def test_a_former_name_stays_with_its_organization(town: Town) -> None:
    await removal.delete_app(town.world.ctx, town.acme, "shop", force=False)
    with pytest.raises(apps.NameTaken):
        await new(town, org_slug="rival", name="shop")
    again = await new(town, org_slug="acme", name="shop")
    assert again.id != town.shop.id


async def test_an_unknown_app_is_not_found_and_a_foreign_one_forbidden(town: Town) -> None:
    ctx = town.world.ctx
    assert await code_of(apps.get(ctx, town.rival, "nothing")) == "not_found"
    assert await code_of(apps.get(ctx, town.rival, "shop")) == "permission_denied"
    assert (
        await code_of(removal.delete_app(ctx, town.rival, "shop", force=True))
        == "permission_denied"
    )


async def test_an_idempotency_key_gives_the_first_app_again(town: Town) -> None:
    first = await new(town, org_slug="acme", name="once", idempotency_key="k")
    assert await new(town, org_slug="acme", name="once", idempotency_key="k") == first
    assert (await new(town, org_slug="acme", idempotency_key="k")).id == first.id
    wanted = new(town, org_slug="acme", name="twice", idempotency_key="k")
    assert await code_of(wanted) == "invalid_argument"
    other = await new(town, org_slug="rival", name="twice", idempotency_key="k")
    assert other.id != first.id


@pytest.mark.parametrize("name", ["-a", "a-", "A", "a.b", "a" * 64, "ü", "a b"])
async def test_wrong_names_are_refused_with_the_rule(town: Town, name: str) -> None:
    with pytest.raises(errors.Failure, match="lower-case"):
        await new(town, org_slug="acme", name=name)


async def test_no_name_gets_one(town: Town) -> None:
    assert (await new(town, org_slug="acme")).name.count("-") == 2


async def test_an_app_is_deployed_from_its_first_machine(town: Town) -> None:
    ctx = town.world.ctx
    assert (await apps.get(ctx, town.acme, "shop")).app.status == "pending"
    wanted = machines.NewMachine(config={"image": "nginx"})
    await machines.create(ctx, town.acme, "shop", wanted)
    found = await apps.get(ctx, town.acme, "shop")
    assert (found.app.status, found.machines) == ("deployed", 1)


async def test_deleting_waits_for_running_machines_unless_forced(town: Town) -> None:
    ctx = town.world.ctx
    wanted = machines.NewMachine(config={"image": "nginx"})
    await machines.create(ctx, town.acme, "shop", wanted)
    assert (
        await code_of(removal.delete_app(ctx, town.acme, "shop", force=False))
        == "failed_precondition"
    )
    await removal.delete_app(ctx, town.acme, "shop", force=True)
    assert await code_of(apps.get(ctx, town.acme, "shop")) == "not_found"
    assert ctx.upkeep_wanted.is_set()


async def test_an_app_whose_machines_have_just_stopped_can_be_deleted(town: Town) -> None:
    ctx = town.world.ctx
    wanted = machines.NewMachine(config={"image": "nginx"})
    made = await machines.create(ctx, town.acme, "shop", wanted)
    await town.world.host.exit(made.view.machine_id, 0)
    await removal.delete_app(ctx, town.acme, "shop", force=False)


async def test_pages_go_on_after_the_last_name(town: Town) -> None:
    for name in ("b", "c", "a"):
        await new(town, org_slug="acme", name=name)
    first = await apps.page(town.world.ctx, town.acme, "acme", role=None, after="", limit=3)
    assert [found.app.name for found in first.apps] == ["a", "b", "c"]
    assert (first.total, first.next_name) == (4, "c")
    rest = await apps.page(town.world.ctx, town.acme, "acme", role=None, after="c", limit=3)
    assert [found.app.name for found in rest.apps] == ["shop"]
    assert rest.next_name is None


async def test_each_change_leaves_an_audit_row(town: Town) -> None:
    await removal.delete_app(town.world.ctx, town.acme, "shop", force=False)
    async with town.world.store.read() as rows:
        found = await rows.audit.page(town.acme.org_ids, before="", limit=10)
    actions = [(row.action, row.target, row.principal) for row in found]
    assert ("apps.delete", "shop", town.acme.subject) in actions
    assert ("apps.create", "shop", OPERATOR.subject) in actions
