"""Network policies: made, replaced, listed, removed, bounded, and told to the hosts concerned."""

from typing import Any

import pytest

from godwit.base import errors
from godwit.control import apps, machines, network_policies, organizations
from godwit.testing.control import OPERATOR
from godwit.wire.network_policies import AppPolicies, NetworkPolicy
from tests.unit.control.conftest import Town

ALL = {"all": True}
RULE = {"direction": "egress", "ports": [{"protocol": "tcp", "port": 443}]}


def policy(name: str = "web", **changes: Any) -> NetworkPolicy:
    given = {"id": "", "name": name, "selector": ALL, "rules": [RULE], **changes}
    return NetworkPolicy.model_validate(given)


async def put(town: Town, **changes: Any) -> NetworkPolicy:
    return await network_policies.put(town.world.ctx, town.acme, "shop", policy(**changes))


async def run(town: Town, app: str = "shop") -> str:
    new = machines.NewMachine(config={"image": "nginx"})
    return (await machines.create(town.world.ctx, town.acme, app, new)).view.machine_id


def heard(town: Town) -> AppPolicies | None:
    return town.world.host.policies.by_app.get(town.shop.id)


async def test_a_policy_is_made_replaced_by_its_id_and_removed(town: Town) -> None:
    ctx, who = town.world.ctx, town.acme
    assert await network_policies.listed(ctx, who, "shop") == []
    made = await put(town)
    other = await put(town, name="other")
    assert await network_policies.listed(ctx, who, "shop") == [made, other]
    replaced = await put(town, id=made.id, name="changed", rules=[RULE, RULE])
    assert replaced.id == made.id
    assert await network_policies.listed(ctx, who, "shop") == [replaced, other]
    assert await network_policies.get(ctx, who, "shop", made.id) == replaced
    await network_policies.remove(ctx, who, "shop", made.id)
    assert await network_policies.listed(ctx, who, "shop") == [other]
    page = await organizations.audit_page(ctx, OPERATOR, org_slug="acme", before="", limit=4)
    assert [one.action.partition(".")[2] for one in page] == ["remove", "put", "put", "put"]
    assert {one.target for one in page} == {made.id, other.id}


async def test_one_that_is_not_there_is_not_found(town: Town) -> None:
    ctx, who = town.world.ctx, town.acme
    await town.world.app("inn", "acme")
    of_other = await network_policies.put(ctx, who, "inn", policy())
    for doing in (
        network_policies.get(ctx, who, "shop", of_other.id),
        network_policies.remove(ctx, who, "shop", of_other.id),
        network_policies.put(ctx, who, "shop", policy(id=of_other.id)),
    ):
        with pytest.raises(errors.Failure) as refused:
            await doing
        assert refused.value.code == "not_found"
    assert len(await network_policies.listed(ctx, who, "inn")) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "name"),
        ({"selector": {}}, "selector"),
        ({"selector": {"machines": [{"id": "x"}]}}, "selector.machines[0].id"),
        ({"selector": {"metadata": {"": "x"}}}, "selector.metadata"),
        ({"rules": []}, "rules"),
    ],
)
async def test_a_policy_that_means_nothing_is_refused_in_words(
    town: Town, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(errors.Failure) as refused:
        await put(town, **changes)
    assert refused.value.code == "invalid_argument"
    assert refused.value.message.startswith(words)


async def test_an_app_has_only_so_many(town: Town) -> None:
    ports = [{"protocol": "tcp", "port": port} for port in range(1, 400)]
    first = await put(town, rules=[{"direction": "egress", "ports": ports}])
    with pytest.raises(errors.Failure, match="bytes in all"):
        await put(town, rules=[{"direction": "egress", "ports": ports}])
    await network_policies.remove(town.world.ctx, town.acme, "shop", first.id)
    for number in range(network_policies.MOST):
        await put(town, name=str(number))
    with pytest.raises(errors.Failure, match="may have 64"):
        await put(town)


async def test_a_machine_is_offered_and_updated_with_its_apps_policies(town: Town) -> None:
    made = await put(town)
    machine_id = await run(town)
    assert heard(town) == AppPolicies(app_id=town.shop.id, version=1, policies=(made,))
    other = await put(town, name="other")
    wanted = machines.NewVersion(config={"image": "nginx"})
    await machines.update(town.world.ctx, town.acme, "shop", machine_id, wanted)
    assert heard(town) == AppPolicies(app_id=town.shop.id, version=2, policies=(made, other))


async def test_an_app_that_never_had_any_tells_nothing(town: Town) -> None:
    await run(town)
    await network_policies.PolicyTeller(town.world.ctx).tell()
    assert town.world.host.policies.by_app == {}
    assert all(verb != "policies.set" for verb, _ in town.world.host.asked)


async def test_a_host_is_told_of_each_change_once_and_again_after_it_was_away(town: Town) -> None:
    teller, host = network_policies.PolicyTeller(town.world.ctx), town.world.host

    async def told() -> int:
        host.asked.clear()
        await teller.tell()
        return sum(verb == "policies.set" for verb, _ in host.asked)

    await run(town)
    await run(town)
    made = await put(town)
    assert town.world.ctx.policies_wanted.is_set()
    assert [await told() for _ in range(3)] == [1, 0, 0]
    assert heard(town) == AppPolicies(app_id=town.shop.id, version=1, policies=(made,))
    host.away = True
    await network_policies.remove(town.world.ctx, town.acme, "shop", made.id)
    assert [await told() for _ in range(2)] == [1, 1]
    host.away = False
    assert [await told() for _ in range(2)] == [1, 0]
    assert heard(town) == AppPolicies(app_id=town.shop.id, version=2)
    town.world.clock.skew_ms += 3_600_000
    assert [await told() for _ in range(2)] == [1, 0]


async def test_a_deleted_apps_policies_are_forgotten(town: Town) -> None:
    await put(town)
    await apps.delete(town.world.ctx, town.acme, "shop")
    async with town.world.store.read() as rows:
        assert await rows.network_policies.of_app(town.shop.id) is None


async def test_they_are_the_apps_own_organizations_alone(town: Town) -> None:
    for doing in (
        network_policies.listed(town.world.ctx, town.rival, "shop"),
        network_policies.put(town.world.ctx, town.rival, "shop", policy()),
        network_policies.remove(town.world.ctx, town.rival, "shop", "npl_1"),
    ):
        with pytest.raises(errors.Failure) as refused:
            await doing
        assert refused.value.code in ("permission_denied", "not_found")
