"""Tokens for AWS: there from the start, renewed, and never what a start waits or fails for."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from godwit.agent import token_files
from godwit.agent.machines import records, web_identity
from godwit.base import errors
from godwit.images.config import ImageConfig
from godwit.testing import agents
from godwit.testing.world import FakeControl
from tests.unit.agent.bench import Bench, M, running

ROLE = {"env": {"AWS_ROLE_ARN": "arn:aws:iam::1:role/app"}}
WITHIN_S = 60


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with running(tmp_path) as made:
        yield made


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.01)


def put(bench: Bench) -> str:
    """Return the token that was put into the machine while it ran."""
    vm = bench.world.vms.get(M)
    return "" if vm is None else vm.files.get(web_identity.TOKEN_FILE, "")


def asked(bench: Bench) -> list[dict[str, Any]]:
    return [json.loads(one.body) for one in bench.world.guests_asked]


async def test_a_token_is_there_from_the_start_and_another_after_a_resume(bench: Bench) -> None:
    await bench.create(config=ROLE)
    await bench.reach("started")
    spec = bench.world.vms[M].plan.run_spec
    (file,) = spec.files
    assert (file.path, file.mode) == ("/.fly/oidc/token", 0o444)
    assert base64.b64decode(file.content_base64) == b"token 1"
    assert spec.process is not None
    assert spec.process.env["AWS_WEB_IDENTITY_TOKEN_FILE"] == file.path
    assert spec.process.env["AWS_ROLE_SESSION_NAME"] == f"hello-{M}"
    await until(lambda: put(bench))
    assert all(one == {"aud": "sts.amazonaws.com"} for one in asked(bench))
    before = put(bench)
    await bench.call("machine.suspend", machine_id=M)
    await bench.reach("suspended")
    await bench.call("machine.start", machine_id=M)
    await bench.reach("started")
    await until(lambda: put(bench) not in ("", before))


async def test_it_is_renewed_before_it_ends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_files, "_RENEW_S", 0.05)
    await bench.create(config=ROLE)
    await bench.reach("started")
    await until(lambda: put(bench))
    first = put(bench)
    await until(lambda: put(bench) != first)


async def test_without_a_token_a_machine_starts_and_its_log_says_why(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_files, "_AGAIN_S", 0.02)
    bench.world.no_oidc = "failed_precondition: this platform's API has no name"
    await bench.create(config=ROLE)
    await bench.reach("started")
    assert bench.world.vms[M].plan.run_spec.files == ()
    await until(lambda: len(asked(bench)) > 3)
    log = bench.parts.vmm.logs_directory(M) / "agent.jsonl"
    said = [json.loads(line)["m"] for line in log.read_text().splitlines()]
    told = [line for line in said if "/.fly/oidc/token" in line]
    assert told == [
        f"/.fly/oidc/token comes later: {bench.world.no_oidc}",
        f"/.fly/oidc/token is not renewed: {bench.world.no_oidc}",
    ]
    bench.world.no_oidc = ""
    await until(lambda: put(bench))


async def test_a_machine_that_takes_no_role_has_none(bench: Bench) -> None:
    await bench.create(config={"env": {"AWS_REGION": "eu-west-1"}})
    await bench.reach("started")
    spec = bench.world.vms[M].plan.run_spec
    assert (spec.files, asked(bench)) == ((), [])
    assert spec.process is not None
    assert "AWS_WEB_IDENTITY_TOKEN_FILE" not in spec.process.env


def machine(**config: Any) -> records.Machine:
    offer = agents.offer(M, config=config, instance_id="01VERSION")
    return records.from_offer(offer, 2, 0)


def test_what_an_environment_says_itself_stays() -> None:
    role = {"AWS_ROLE_ARN": "arn"}
    assert set(web_identity.variables(machine(), role)) == {
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_ROLE_SESSION_NAME",
    }
    named = web_identity.variables(machine(), role | {"AWS_ROLE_SESSION_NAME": "mine"})
    assert named["AWS_ROLE_SESSION_NAME"] == "mine"
    own = role | {"AWS_WEB_IDENTITY_TOKEN_FILE": "/secrets/token"}
    assert web_identity.variables(machine(), own) == {}
    assert web_identity.variables(machine(), {"AWS_ROLE_ARN": ""}) == {}
    long = machine().model_copy(update={"app": "a" * 63})
    name = web_identity.variables(long, role)["AWS_ROLE_SESSION_NAME"]
    assert (len(name), name.endswith(f"-{M}")) == (64, True)


@pytest.mark.parametrize(
    "config",
    [
        {"env": {"AWS_ROLE_ARN": "arn"}},
        {"processes": [{"env": {"AWS_ROLE_ARN": "arn"}}]},
        {"containers": [{"name": "a", "secrets": [{"env_var": "AWS_ROLE_ARN", "name": "R"}]}]},
    ],
)
def test_a_role_may_be_named_anywhere(config: dict[str, Any]) -> None:
    assert web_identity.is_wanted(machine(**config), ())


def test_a_role_may_be_in_an_image_or_a_secret() -> None:
    assert not web_identity.is_wanted(machine(), ())
    assert web_identity.is_wanted(machine(), ("AWS_ROLE_ARN",))
    image = ImageConfig(cmd=("serve",), env=("AWS_ROLE_ARN=arn",))
    inside = machine().model_copy(update={"image_config": image})
    assert web_identity.is_wanted(inside, ())


async def test_what_the_api_answers_is_said(bench: Bench) -> None:
    bench.world.no_oidc = "no name"
    with pytest.raises(errors.Failure, match=r"^no name$"):
        await web_identity.fetch(FakeControl(bench.hands), M, 1.0)
