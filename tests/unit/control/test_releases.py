"""Releases."""

import pytest

from godwit.base import errors
from godwit.control import apps, releases
from tests.unit.control.conftest import Town


async def test_releases_are_numbered_within_their_app(town: Town) -> None:
    ctx = town.world.ctx
    await town.world.app("second", "acme")
    for app, version in (("shop", 1), ("second", 1), ("shop", 2)):
        wanted = releases.NewRelease(image_ref="nginx", config={"app": app}, strategy="rolling")
        assert (await releases.create(ctx, town.acme, app, wanted)).version == version
    found = await releases.newest(ctx, town.acme, "shop", limit=5)
    assert [release.version for release in found] == [2, 1]
    assert (found[0].status, found[0].strategy, found[0].config) == (
        "running",
        "rolling",
        {"app": "shop"},
    )
    assert (await apps.get(ctx, town.acme, "shop")).app.status == "deployed"


async def test_a_release_ends_by_its_number_or_id(town: Town) -> None:
    ctx = town.world.ctx
    made = await releases.create(ctx, town.acme, "shop", releases.NewRelease("nginx"))
    failed = await releases.set_status(ctx, town.acme, "shop", "1", status="failed", error="no")
    assert (failed.id, failed.status, failed.error) == (made.id, "failed", "no")
    await releases.set_status(ctx, town.acme, "shop", made.id, status="complete")
    assert (await releases.newest(ctx, town.acme, "shop", limit=1))[0].status == "complete"


async def test_a_release_of_another_app_is_not_found(town: Town) -> None:
    ctx = town.world.ctx
    made = await releases.create(ctx, town.acme, "shop", releases.NewRelease("nginx"))
    await town.world.app("second", "acme")
    for which in (made.id, "1", "9" * 30, "rel_x"):
        with pytest.raises(errors.Failure) as caught:
            await releases.set_status(ctx, town.acme, "second", which, status="complete")
        assert caught.value.code == "not_found"
