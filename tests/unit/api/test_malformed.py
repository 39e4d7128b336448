"""Whatever comes, the answer is never a 500: bodies, queries, paths and headers of every kind."""

import json
import random

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.api import table
from tests.unit.api.conftest import Served

HOSTILE_BODIES: list[bytes] = [
    b"",
    b" ",
    b"\x00",
    b"{",
    b"}",
    b"[]",
    b"null",
    b"true",
    b"0",
    b'""',
    b"{}",
    b"[[]]",
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf{}",
    b'{"name": }',
    b'{"name": "a",}',
    b"{'name': 'a'}",
    b"NaN",
    b'{"config": NaN}',
    b'{"config": {"image": "x", "n": Infinity}}',
    b'{"config": {"image": "x", "n": 1e999}}',
    b'{"config": {"image": "x", "n": ' + b"9" * 5000 + b"}}",
    b'{"name": "\\ud800"}',
    b'{"config": {"image": "\\udfff\\ud800"}}',
    b'{"\\ud800": 1}',
    b'{"name": "\\u0000"}',
    b'{"config": {"image": "x\\u0000"}}',
    b'{"config": {"image": "x", "env": {"\\u0000": "1"}}}',
    b"[" * 5000,
    b"[" * 900 + b"]" * 900,
    b'{"config":' * 200 + b"1" + b"}" * 200,
    b'{"a":' * 5000,
    b'{"name": "' + b"a" * 100_000 + b'"}',
    b'{"config": {"image": "' + b"x/" * 5000 + b'"}}',
    b'{"config": {"image": ":::@@@"}}',
    b'{"config": {"image": "../../etc"}}',
    b'{"config": {"image": "http://a/b"}}',
    b'{"command": "ls"}',
    b'{"cmd": "unbalanced \'"}',
    b'{"command": ["a\\u0000b"]}',
    b'{"command": [[]], "timeout": "x"}',
    b'{"command": ["a"], "timeout": -1}',
    b'{"command": ["a"], "timeout": 1e100}',
    b'{"signal": 0}',
    b'{"signal": -9}',
    b'{"signal": 9.5}',
    b'{"signal": true}',
    b'{"signal": "SIGWHAT"}',
    b'{"timeout": "1 year"}',
    b'{"timeout": -1}',
    b'{"timeout": 99999999999999999999}',
    b'{"ttl": -1}',
    b'{"ttl": 99999999999999999999, "description": {}}',
    b'{"description": "\\u0000", "ttl": true}',
    b'{"metadata": {"a": {"b": 1}}}',
    b'{"metadata": {"": "x", "\\ud800": null}}',
    b'{"metadata": {"a": "\\u0000"}, "machine_version": 7}',
    b'{"metadata": {"a": "b"}, "updated_at": "yesterday"}',
    b'{"value": ["x"], "updated_at": 0}',
    b'{"limit_mb": 1e9}',
    b'{"limit_mb": -5, "amount_mb": -5}',
    b'{"amount_mb": 99999999999999999999}',
    b'{"lease_ttl": -1, "min_secrets_version": "x", "config": {"image": "x"}}',
    b'{"lease_ttl": 1e99, "config": {"image": "x", "standbys": ["x", 1]}}',
    b'{"config": {"image": "x", "standbys": ["0123456789abcd"], "services": [{}]}}',
    b'{"org_slug": "acme", "count": -1, "weights": []}',
    b'{"org_slug": "acme", "compute": {"cpus": "many"}, "region": "\\u0000"}',
    b'{"name": "x", "selector": {"all": "yes"}, "rules": [{}]}',
    b'{"name": "x", "selector": {"all": true}, "rules": [{"action": "deny", "direction": "in"}]}',
    b'{"slug": "-x"}',
    b'{"slug": "UPPER"}',
    b'{"expiry": "0s"}',
    b'{"expiry": "9999999h"}',
    b'{"scopes": ["root"]}',
    b'{"scopes": "apps:read"}',
    b'{"status": "great"}',
    b'{"org_slug": {"$ne": 1}}',
    b'{"org_slug": "acme", "name": "' + "ü".encode() + b'"}',
]
WRONG_VALUES = [
    None,
    True,
    0,
    -1,
    2**70,
    1.5,
    "",
    "x",
    "\u0000",
    [],
    [[]],
    {},
    {"a": 1},
    ["x"] * 50,
]
CONFIG_FIELDS = [
    "image", "env", "init", "guest", "size", "services", "mounts", "checks", "restart", "schedule",
    "auto_destroy", "metadata", "processes", "containers", "files", "metrics", "dns", "rootfs",
    "stop_config", "standbys", "volumes",
]  # fmt: skip


def changing(cases: list[table.Case]) -> list[table.Case]:
    return [case for case in cases if case.json is not None or case.method in ("POST", "PATCH")]


def is_proper(answer: httpx.Response) -> bool:
    """A refusal has a sentence; an answer is one."""
    if answer.status_code < 400:
        return True
    return answer.status_code < 500 and bool(answer.json()["error"])


async def test_hostile_bodies_on_every_route_get_no_500(served: Served) -> None:
    things = await table.make_things(served)
    kinds = random.Random(1)
    sent = 0
    for case in changing(table.CASES):
        for body in HOSTILE_BODIES:
            answer = await served.acme.request(
                case.method,
                things.path(case.path),
                params=case.query,
                content=body,
                headers={"Content-Type": kinds.choice(["application/json", "text/plain", ";;"])},
            )
            assert is_proper(answer), (case.path, body[:80], answer.status_code, answer.text)
            sent += 1
    assert sent >= 900


@pytest.mark.parametrize("field", CONFIG_FIELDS)
async def test_every_wrong_config_is_refused_or_returned_as_it_is(
    served: Served, field: str
) -> None:
    await table.make_things(served)
    wrong = [*WRONG_VALUES, [{}], [{"a": 1}], {"a": {"b": None}}, [None], {"x": []}]
    for value in wrong:
        config = {"image": "nginx", field: value}
        answer = await served.acme.post("/v1/apps/shop/machines", json={"config": config})
        assert is_proper(answer), (value, answer.text)
        if answer.status_code == 200:
            assert answer.json()["config"] == config
        else:
            assert answer.status_code == 400
            assert f"config.{field}" in answer.json()["error"] or field == "image"


NASTY_QUERY = ["", "x", "-1", "9" * 30, "true", "\u0000", "ü,,'--"]


async def test_nasty_queries_get_no_500(served: Served) -> None:
    things = await table.make_things(served)
    document = served.app.openapi()
    for case in table.destroying_last():
        operation = document["paths"][case.path][case.method.lower()]
        names = [p["name"] for p in operation.get("parameters", []) if p["in"] == "query"]
        for name in [*names, "metadata.x"]:
            for value in NASTY_QUERY:
                query = {"timeout": "1", **case.query, name: value}
                answer = await served.acme.request(
                    case.method, things.path(case.path), params=query, json=case.json
                )
                assert is_proper(answer), (case.path, query, answer.text)


NASTY_PATHS = [
    "%00", "%2e%2e", "..%2f", "%ff", "a%20b", "A", "-", "x" * 300, "%F0%9F%92%A9", "a;b", "a%0d%0a",
    "null", "0", "%25", "'", '"', "<script>",
]  # fmt: skip


async def test_nasty_paths_get_no_500(served: Served) -> None:
    for case in table.CASES:
        if "{" not in case.path:
            continue
        for part in NASTY_PATHS:
            names = (
                "org_slug",
                "app_name",
                "machine_id",
                "terminal_id",
                "token_id",
                "host_token_id",
                "key",
                "release",
                "registry",
                "host_id",
                "deploy_id",
                "secret_name",
                "policy_id",
                "ip",
            )
            path = case.path.format(**dict.fromkeys(names, part))
            answer = await served.acme.request(
                case.method, path, params=case.query, json=case.json, content=case.content
            )
            assert answer.status_code in (400, 403, 404, 405), (path, answer.text)


async def test_a_body_over_the_limit_is_refused_before_it_is_read(served: Served) -> None:
    await table.make_things(served)
    big = json.dumps({"config": {"image": "x", "env": {"A": "a" * 400_000}}}).encode()
    answer = await served.acme.post("/v1/apps/shop/machines", content=big)
    assert answer.status_code == 413
    assert "over" in answer.json()["error"]

    async def endless():
        for _ in range(100):
            yield b" " * 65_536

    answer = await served.acme.post("/v1/apps/shop/machines", content=endless())
    assert answer.status_code == 413


async def test_a_body_needs_no_content_type(served: Served) -> None:
    body = json.dumps({"name": "typed", "org_slug": "acme"}).encode()
    for at, kind in enumerate(("", "text/plain", "application/x-www-form-urlencoded")):
        answer = await served.acme.post(
            "/v1/apps",
            content=body.replace(b"typed", f"typed{at}".encode()),
            headers={"Content-Type": kind} if kind else {},
        )
        assert answer.status_code == 201, answer.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip
KNOWN_KEYS = st.sampled_from(
    ["config", "name", "region", "image", "services", "ports", "protocol", "internal_port", "guest",
     "checks", "env", "files", "guest_path", "raw_value", "handlers", "command", "cmd", "signal",
     "timeout", "org_slug", "slug", "scopes", "expiry", "status", "skip_launch", "restart", "policy"]
)  # fmt: skip
KEYED = st.recursive(
    JSON,
    lambda inner: st.dictionaries(KNOWN_KEYS, inner, max_size=6) | st.lists(inner, max_size=3),
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(body=KEYED, at=st.integers(min_value=0))
async def test_no_json_value_gets_a_500(served: Served, body: object, at: int) -> None:
    cases = changing(table.CASES)
    case = cases[at % len(cases)]
    if (await served.acme.get("/v1/apps/shop")).status_code == 404:
        await table.make_things(served)
    machines = (await served.acme.get("/v1/apps/shop/machines")).json()
    machine_id = machines[0]["id"] if machines else "0" * 14
    things = table.Things(machine_id, "tok_x", "dep_x", "0" * 32, "join_x", "npl_x", served)
    path = things.path(case.path)
    text = json.dumps(body).encode()
    answer = await served.acme.request(case.method, path, params=case.query, content=text)
    assert is_proper(answer), (case, answer.text)
