import pytest

from godwit.base import errors
from godwit.cli.held import Held
from godwit.client.api import Api
from godwit.testing.fake_api import FakeApi


@pytest.fixture
async def fake():
    found = FakeApi()
    found.add_app("hello")
    return found


@pytest.fixture
async def api(fake):
    async with Api("http://api.test", fake.token, http=fake.transport(), pauses=fake.clock) as one:
        yield one


def leases(fake):
    return [machine.lease and machine.lease["nonce"] for machine in fake.machines.values()]


async def test_leases_are_held_until_it_is_left(fake, api):
    ids = [fake.add_machine("hello") for _ in range(7)]
    async with Held(api, "hello", fake.clock, description="a test") as held:
        await held.take(ids)
        assert leases(fake) == [f"nonce-{one}" for one in ids]
        assert fake.machines[ids[0]].lease["description"] == "a test"
        assert await held.nonce(ids[3]) == f"nonce-{ids[3]}"
    assert leases(fake) == [None] * 7


async def test_a_lease_is_prolonged_when_it_is_time(fake, api):
    one = fake.add_machine("hello")
    async with Held(api, "hello", fake.clock, description="a test") as held:
        await held.take([one])
        asked = len(fake.calls)
        await held.nonce(one)
        assert len(fake.calls) == asked
        await fake.clock.sleep(60)
        await held.nonce(one)
        assert fake.calls[asked:] == [f"POST /v1/apps/hello/machines/{one}/lease"]


async def test_when_one_is_taken_already_the_others_are_given_back(fake, api):
    mine, theirs = fake.add_machine("hello"), fake.add_machine("hello")
    fake.machines[theirs].lease = {"owner": "token:other", "nonce": "theirs"}
    with pytest.raises(errors.Failure, match="held by token:other"):
        async with Held(api, "hello", fake.clock, description="a test") as held:
            await held.take([mine, theirs])
    assert leases(fake) == [None, "theirs"]


async def test_what_cannot_be_given_back_ends_by_itself(fake, api):
    one, gone = fake.add_machine("hello"), fake.add_machine("hello")
    async with Held(api, "hello", fake.clock, description="a test") as held:
        await held.take([one, gone])
        held.forget(gone)
        fake.refuse("DELETE .*/lease", 500)
        asked = len(fake.calls)
    assert len(fake.calls) == asked + 1


async def test_a_lease_that_ended_and_was_taken_by_another_is_not_used(fake, api):
    one = fake.add_machine("hello")
    async with Held(api, "hello", fake.clock, description="a test") as held:
        await held.take([one])
        fake.machines[one].lease = {"owner": "token:other", "nonce": "theirs"}
        await fake.clock.sleep(60)
        with pytest.raises(errors.Failure, match="held by token:other"):
            await held.nonce(one)
    assert leases(fake) == ["theirs"]
