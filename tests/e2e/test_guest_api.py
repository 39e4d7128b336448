"""`/.fly/api` from inside a machine, through agent, bus and API."""

import base64
import hmac
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from godwit.testing.platform import Platform

ASK = """
import http.client, os, socket, sys
link = http.client.HTTPConnection("flaps")
link.sock = socket.socket(socket.AF_UNIX)
link.sock.connect("/.fly/api")
path = sys.argv[2].format(**os.environ)
link.request(sys.argv[1], path, sys.argv[3] if len(sys.argv) > 3 else None)
answer = link.getresponse()
print(answer.status, answer.read().decode())
"""
OWN = "/v1/apps/{FLY_APP_NAME}/machines/{FLY_MACHINE_ID}"


@pytest.fixture
def one(platform: Platform, launched: dict[str, str]) -> Iterator[tuple[httpx.Client, str]]:
    image = platform.deployed("hello-reed")["config"]["image"]
    config = {
        "image": image,
        "init": {"exec": ["sleep", "600"]},
        "metadata": {"color": "blue"},
        "env": {"AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/hello"},
    }
    with platform.api as api:
        made = api.post("/v1/apps/hello-reed/machines", json={"config": config})
        assert made.status_code == 200, made.text
        machine = made.json()["id"]
        path = f"/v1/apps/hello-reed/machines/{machine}"
        platform.wait("hello-reed", machine, "started")
        yield api, path
        gone = api.delete(path, params={"force": "true"})
        assert gone.status_code == 200, gone.text
        platform.wait("hello-reed", machine, "destroyed")


SIGN = """
import http.client, json, os, socket
def ask(path, body, **headers):
    link = http.client.HTTPConnection("flaps")
    link.sock = socket.socket(socket.AF_UNIX)
    link.sock.connect("/.fly/api")
    link.request("POST", path, json.dumps(body), headers)
    answer = link.getresponse()
    return answer.status, answer.read().decode()
keys = "/v1/apps/%s/secretkeys" % os.environ["FLY_APP_NAME"]
refused, _ = ask(keys + "/session/sign", {"plaintext": "aGk="})
_, token = ask("/v1/tokens/kms", {})
status, signed = ask(keys + "/session/sign", {"plaintext": "aGk="}, Authorization="Bearer " + token)
other, _ = ask(keys + "/session/generate", {"type": "hs256"}, Authorization="Bearer " + token)
print(json.dumps([refused, status, other, json.loads(signed)]))
"""


def ask(one: tuple[httpx.Client, str], *words: str) -> tuple[int, Any]:
    """Ask from inside; return status and body."""
    api, path = one
    command = ["python3", "-c", ASK, *words]
    ran = api.post(f"{path}/exec", json={"command": command, "timeout": 60}).json()
    assert ran["exit_code"] == 0, ran
    status, _, body = ran["stdout"].strip().partition(" ")
    return int(status), json.loads(body) if body else None


def test_a_machine_asks_about_itself_and_suspends_itself(
    one: tuple[httpx.Client, str], platform: Platform
) -> None:
    api, path = one
    status, shown = ask(one, "GET", OWN)
    assert (status, shown["id"]) == (200, path.rpartition("/")[2])
    assert ask(one, "PATCH", f"{OWN}/metadata", '{"metadata":{"role":"leader"}}') == (204, None)
    assert api.get(path).json()["config"]["metadata"] == {"color": "blue", "role": "leader"}
    assert ask(one, "GET", "/v1/apps/{FLY_APP_NAME}/machines")[0] == 403
    assert ask(one, "DELETE", OWN)[0] == 403
    status, refused = ask(one, "POST", "/v1/tokens/oidc")
    assert (status, "sets api.name" in refused["hint"]) == (412, True)
    _, current = ask(one, "GET", "/v1/tokens/current")
    assert current["tokens"][0]["apps"] == ["hello-reed"]
    # The command that asks ends with the machine's sleep, or a moment before.
    command = ["python3", "-c", ASK, "POST", f"{OWN}/suspend"]
    api.post(f"{path}/exec", json={"command": command, "timeout": 60})
    machine = path.rpartition("/")[2]
    platform.wait("hello-reed", machine, "suspended")
    assert api.post(f"{path}/start").status_code == 200
    platform.wait("hello-reed", machine, "started")
    assert ask(one, "GET", f"{OWN}/metadata")[1]["role"] == "leader"


def test_a_machine_that_takes_a_role_is_told_why_there_is_no_token(
    one: tuple[httpx.Client, str],
) -> None:
    api, path = one
    _, _, machine = path.rpartition("/")
    asked = {"instance": machine}
    lines = api.get("/api/v1/apps/hello-reed/logs", params=asked).json()["data"]
    said = [line["attributes"]["message"] for line in lines]
    assert any(
        line.startswith("/.fly/oidc/token comes later: ") and "API has no name" in line
        for line in said
    ), said
    show = {"command": ["sh", "-c", "echo $AWS_WEB_IDENTITY_TOKEN_FILE; ls /.fly"], "timeout": 60}
    assert api.post(f"{path}/exec", json=show).json()["stdout"].split() == [
        "/.fly/oidc/token",
        "api",
        "fly-src.pub",
    ]


def test_a_machine_signs_with_a_key_that_it_never_sees(
    one: tuple[httpx.Client, str], platform: Platform
) -> None:
    api, path = one
    keys = "/v1/apps/hello-reed/secretkeys/session"
    made = api.post(keys, json={"type": "hs256", "value": base64.b64encode(bytes(32)).decode()})
    assert made.status_code == 201, made.text
    ran = api.post(f"{path}/exec", json={"command": ["python3", "-c", SIGN], "timeout": 60}).json()
    assert ran["exit_code"] == 0, ran
    signature = base64.b64encode(hmac.digest(bytes(32), b"hi", "sha256")).decode()
    assert json.loads(ran["stdout"]) == [403, 200, 403, {"signature": signature}]
    assert api.delete(keys).status_code == 200
