import io
import tarfile

import httpx
import pytest

from godwit.base.errors import Failure
from godwit.client.api import Api
from godwit.client.builds import BuildOptions
from godwit.testing.fake_api import FakeApi
from godwit.testing.fake_machine import Script, managed_config


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


async def test_apps(fake, api):
    assert (await api.apps.get("hello")).organization.slug == "personal"
    assert [one.name for one in await api.apps.list("personal")] == ["hello"]
    made = await api.apps.create("other", "personal")
    assert made.name == "other"
    await api.apps.delete("other")
    assert "other" not in fake.apps
    assert fake.calls[-1] == "DELETE /v1/apps/other?force=true"


async def test_an_app_that_is_not_there_is_told_with_what_to_do(api):
    for ask in (api.apps.get, api.apps.delete):
        with pytest.raises(Failure) as caught:
            await ask("nope")
        assert caught.value.code == "not_found"
        assert caught.value.message == 'there is no app "nope" that this token may see'


async def test_a_name_that_is_taken(api):
    with pytest.raises(Failure) as caught:
        await api.apps.create("hello", "personal")
    assert caught.value.code == "already_exists"


async def test_a_machine_from_beginning_to_end(fake, api):
    made = await api.machines.create("hello", managed_config("a:1"), name="web", region="lcl")
    assert (made.state, made.name, made.group()) == ("started", "web", "app")
    assert made.managed()
    assert made.image_ref.short() == "a:1"
    changed = await api.machines.update(
        "hello", made.id, managed_config("a:2"), current_version=made.version
    )
    assert changed.version != made.version
    with pytest.raises(Failure) as caught:
        await api.machines.update(
            "hello", made.id, managed_config("a:3"), current_version=made.version
        )
    assert caught.value.code == "conflict"
    await api.machines.cordon("hello", made.id)
    assert (await api.machines.get("hello", made.id)).cordoned
    await api.machines.uncordon("hello", made.id)
    with pytest.raises(Failure) as caught:
        await api.machines.destroy("hello", made.id)
    assert caught.value.code == "failed_precondition"
    await api.machines.stop("hello", made.id, signal="SIGTERM", grace="3s")
    assert fake.bodies[-1][1] == {"signal": "SIGTERM", "timeout": "3s"}
    assert (await api.machines.wait("hello", made.id, ["stopped"])).state == "stopped"
    await api.machines.start("hello", made.id)
    await api.machines.restart("hello", made.id, force=True, grace="1s")
    assert fake.calls[-1].endswith("restart?force_stop=true&timeout=1s")
    await api.machines.destroy("hello", made.id, force=True)
    assert await api.machines.list("hello") == []
    assert len(await api.machines.list("hello", include_deleted=True)) == 1


async def test_waiting_is_cut_to_what_the_api_allows(fake, api):
    machine = fake.add_machine("hello")
    await api.machines.wait("hello", machine, ["started", "failed"], version="v", timeout_s=900)
    assert fake.calls[-1].endswith("wait?state=started%2Cfailed&version=v&timeout=60")
    await api.machines.wait("hello", machine, ["started"], timeout_s=0.1)
    assert fake.calls[-1].endswith("timeout=1")


async def test_exec_and_events(fake, api):
    machine = fake.add_machine("hello")
    ran = await api.machines.exec("hello", machine, ["echo", "a"], stdin="x", timeout_s=5)
    assert (ran.exit_code, ran.stdout) == (0, "echo a\n")
    assert fake.bodies[-1][1] == {"command": ["echo", "a"], "timeout": 5, "stdin": "x"}
    fake.scripts["old:1"] = Script(exit_code=3)
    await api.machines.start("hello", machine)
    events = await api.machines.events("hello", machine)
    assert [one.type for one in events] == ["exit", "start", "launch"]
    assert events[0].exit()["exit_code"] == 3


async def test_orgs_tokens_and_platform(fake, api):
    assert (await api.orgs.create("acme", "Acme")).slug == "acme"
    assert [one.slug for one in await api.orgs.list()] == ["personal", "acme"]
    made = await api.tokens.create("ci", org_slug="acme", scopes=["apps:read"], expiry="1h")
    assert made.token == "gw_new"
    assert fake.bodies[-1][1] == {
        "name": "ci",
        "org_slug": "acme",
        "scopes": ["apps:read"],
        "expiry": "1h",
    }
    assert [one.id for one in await api.tokens.list()] == [made.id]
    await api.tokens.revoke(made.id)
    assert await api.tokens.list() == []
    assert (await api.tokens.current())[0]["org_slug"] == "personal"
    assert (await api.platform.regions()).nearest == "lcl"
    assert (await api.hosts.list())[0].host_id == "a1b2c3d4"


async def test_releases(fake, api):
    fake.releases["hello"] = [
        {"id": "rel_1", "version": 1, "status": "complete", "image": "a:1"},
        {"id": "rel_2", "version": 2, "status": "failed", "error": "why", "config": {"app": "x"}},
    ]
    found = await api.releases.list("hello")
    assert [(one.version, one.status) for one in found] == [(2, "failed"), (1, "complete")]
    assert (found[0].error, found[0].config) == ("why", {"app": "x"})


async def test_logs_go_on_where_they_were(fake, api):
    fake.log("hello", "m1", "one")
    fake.log("hello", "m2", "two")
    page = await api.logs.page("hello")
    assert [one.message for one in page.lines] == ["one", "two"]
    fake.log("hello", "m1", "three")
    page = await api.logs.page("hello", next_token=page.next_token, instance="m1")
    assert [one.message for one in page.lines] == ["three"]


async def context():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("Dockerfile"))
    yield buffer.getvalue()


async def test_a_build_sends_the_context_and_tells_what_happens(fake, api):
    options = BuildOptions(args={"A": "1"}, target="x", offline=True)
    events = [one async for one in api.builds.build("hello", context(), options)]
    assert [one.type for one in events] == ["log", "notice", "image"]
    assert events[-1].digest.startswith("sha256:")
    assert fake.contexts == [["Dockerfile"]]
    path, _, query = fake.calls[0].partition("?")
    assert path == "POST /x/v1/apps/hello/builds"
    assert dict(httpx.QueryParams(query)) == {
        "dockerfile": "Dockerfile",
        "target": "x",
        "args": '{"A": "1"}',
        "offline": "true",
    }


async def test_a_build_that_fails_says_why(fake, api):
    fake.build_answers = [
        {"type": "log", "line": "STEP 1"},
        {"type": "error", "message": "STEP 2 failed", "hint": "fix it"},
    ]
    with pytest.raises(Failure) as caught:
        async for _ in api.builds.build("hello", context(), BuildOptions()):
            pass
    assert (caught.value.message, caught.value.hint) == ("STEP 2 failed", "fix it")


async def test_a_build_that_ends_without_an_image_is_no_build(fake, api):
    fake.build_answers = [{"type": "log", "line": "STEP 1"}]
    with pytest.raises(Failure, match="ended without an image"):
        async for _ in api.builds.build("hello", context(), BuildOptions()):
            pass


async def test_a_build_may_be_refused(fake, api):
    fake.refuse("builds", 412, {"error": "failed_precondition: several organizations"})
    with pytest.raises(Failure, match="several organizations"):
        async for _ in api.builds.build("hello", context(), BuildOptions()):
            pass
