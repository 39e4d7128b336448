import pytest

from godwit.base.errors import Failure
from godwit.client.api import Api
from godwit.client.deploys import Order, said
from godwit.testing.fake_api import FakeApi
from godwit.wire.deploys import Options

ORDER = Order({"app": "hello"}, "nginx:1")


@pytest.fixture
def fake():
    made = FakeApi()
    made.add_app("hello")
    return made


@pytest.fixture
async def api(fake):
    async with Api(
        "http://api.test", fake.token, http=fake.transport(), pauses=fake.clock
    ) as opened:
        yield opened


def test_options_say_only_what_was_said():
    assert said(Options(release_command_timeout_s=0.0, regions=("a",))) == {
        "release_command_timeout_s": 0.0,
        "regions": ["a"],
        "skip_release_command": False,
        "smoke_checks": True,
        "ha": True,
        "update_only": False,
    }


async def test_a_deploy_from_beginning_to_end(fake, api):
    fake.deploys.held = 2
    begun = await api.deploys.begin("hello", ORDER)
    assert (begun.status, begun.release.version, begun.app) == ("running", 1, "hello")
    with pytest.raises(Failure) as caught:
        await api.deploys.begin("hello", ORDER)
    assert caught.value.code == "conflict"
    assert (await api.deploys.get("hello", begun.id, wait_s=90)).events == []
    assert fake.calls[-1].endswith("after=0&wait_s=30"), "the platform waits 30 s at most"
    ended = await api.deploys.get("hello", begun.id)
    assert ended.status == "complete"
    assert [one.level for one in ended.events] == ["step", "state", "step"]
    last = await api.deploys.get("hello", begun.id, after=2)
    assert [one.number for one in last.events] == [3]
    (listed,) = await api.deploys.list("hello")
    assert (listed.id, listed.events) == (begun.id, [])


async def test_a_plan_does_nothing(fake, api):
    plan = await api.deploys.plan("hello", ORDER)
    assert plan.groups[0].create[0].region == "lcl"
    assert plan.sentences
    assert fake.releases == {}


async def test_a_deploy_is_cancelled(fake, api):
    fake.deploys.held = 9
    begun = await api.deploys.begin("hello", ORDER)
    await api.deploys.cancel("hello", begun.id)
    assert (await api.deploys.get("hello", begun.id)).status == "cancelled"


async def test_back_to_an_earlier_release(fake, api):
    await api.deploys.begin("hello", ORDER)
    await api.deploys.begin("hello", Order({"app": "hello"}, "nginx:2"))
    again = await api.deploys.roll_back("hello", None)
    assert (again.release.version, again.release.image) == (3, "nginx:1")
    named = await api.deploys.roll_back("hello", 2, Options(strategy="immediate"))
    assert named.release.image == "nginx:2"
    with pytest.raises(Failure) as caught:
        await api.deploys.roll_back("hello", 77)
    assert caught.value.code == "not_found"


async def test_one_release(fake, api):
    await api.deploys.begin("hello", ORDER)
    assert (await api.releases.get("hello", 1)).config == {"app": "hello"}
    with pytest.raises(Failure):
        await api.releases.get("hello", 2)
