"""The registry client against a server that does what the test says."""

import dataclasses
import hashlib
import json
import time

import pytest

from godwit.base.errors import Failure
from godwit.images import auth, manifests, registry
from godwit.testing.registry import Answer, ScriptedServer

BODY = b"0123456789" * 50_000
DIGEST = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
BLOB = manifests.Descriptor("application/vnd.oci.image.layer.v1.tar", DIGEST, len(BODY))
QUICK = registry.Patience(connect_s=2, silence_s=2, attempts=3, pause_s=0.001)


def client(server, **more):
    return registry.RegistryClient(server.address, insecure=True, patience=QUICK, **more)


def script(*answers):
    """Return a handler that gives these answers in turn, the last one for ever."""
    left = list(answers)

    def handler(request):
        answer = left.pop(0) if len(left) > 1 else left[0]
        return answer(request) if callable(answer) else answer

    return handler


def ranged(request):
    start = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
    if not start:
        return Answer(200, BODY)
    headers = {"Content-Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"}
    return Answer(206, BODY[start:], headers)


async def fetch(tmp_path, handler):
    async with ScriptedServer(handler) as server, client(server) as one:
        await one.blob("app", BLOB, tmp_path / "blob")
        return server.requests


async def test_a_blob_arrives_whole(tmp_path):
    await fetch(tmp_path, script(Answer(200, BODY)))
    assert (tmp_path / "blob").read_bytes() == BODY


async def test_a_blob_that_breaks_off_is_continued(tmp_path):
    first = Answer(200, BODY, cut_after=123_456)
    requests = await fetch(tmp_path, script(first, ranged))
    assert (tmp_path / "blob").read_bytes() == BODY
    assert [r.headers.get("range") for r in requests] == [None, "bytes=123456-"]


async def test_a_registry_that_cannot_continue_starts_again(tmp_path):
    first = Answer(200, BODY, cut_after=100_000)
    await fetch(tmp_path, script(first, Answer(200, BODY)))
    assert (tmp_path / "blob").read_bytes() == BODY


async def test_a_wrong_range_is_not_trusted(tmp_path):
    def other(request):
        return Answer(206, BODY[7:], {"Content-Range": "bytes 7-9/10"})

    with pytest.raises(Failure):
        await fetch(tmp_path, script(Answer(200, BODY, cut_after=1000), other))


async def test_a_blob_that_keeps_breaking_off_is_given_up(tmp_path):
    with pytest.raises(Failure) as caught:
        await fetch(tmp_path, script(Answer(200, BODY, cut_after=0)))
    assert caught.value.code == "unavailable"


@pytest.mark.parametrize(
    ("body", "why"), [(BODY[:-1] + b"x", "damaged"), (BODY + b"more", "longer than")]
)
async def test_wrong_content_is_refused(tmp_path, body, why):
    with pytest.raises(Failure, match=why) as caught:
        await fetch(tmp_path, script(Answer(200, body)))
    assert caught.value.code == "invalid_argument"


async def test_a_short_blob_with_a_short_length_is_refused(tmp_path):
    with pytest.raises(Failure, match="broke off"):
        await fetch(tmp_path, script(Answer(200, BODY[:100])))


async def ask(handler, **more):
    async with ScriptedServer(handler) as server, client(server, **more) as one:
        return await one.manifest("app", "1"), server.requests


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, "manifest_unknown"),
        (401, "manifest_unknown"),
        (403, "manifest_unknown"),
        (429, "rate_limited"),
        (500, "unavailable"),
        (503, "unavailable"),
        (418, "unavailable"),
    ],
)
async def test_every_refusal_has_its_code(status, code):
    with pytest.raises(Failure) as caught:
        await ask(script(Answer(status)))
    assert caught.value.code == code


async def test_a_busy_registry_is_asked_again():
    document, requests = await ask(script(Answer(503), Answer(429), Answer(200, b"{}")))
    assert document.body == b"{}"
    assert len(requests) == 3


async def test_a_manifest_without_end_is_refused():
    with pytest.raises(Failure, match="longer than"):
        await ask(script(Answer(200, bytes(5 << 20))))


async def test_a_manifest_under_a_digest_must_have_it():
    async with ScriptedServer(script(Answer(200, b"{}"))) as server, client(server) as one:
        with pytest.raises(Failure, match="sent a manifest"):
            await one.manifest("app", DIGEST)


async def test_a_config_must_have_its_digest():
    async with ScriptedServer(script(Answer(200, b"{}"))) as server, client(server) as one:
        with pytest.raises(Failure, match="damaged"):
            await one.small_blob("app", manifests.Descriptor("", DIGEST, 2))


async def test_nobody_there_is_told_quickly():
    async with ScriptedServer(script(Answer())) as server:
        gone = server.address
    began = time.monotonic()
    patient = dataclasses.replace(QUICK, connect_s=60, silence_s=60)
    async with registry.RegistryClient(gone, insecure=True, patience=patient) as one:
        with pytest.raises(Failure, match="cannot be reached") as caught:
            await one.manifest("app", "1")
    assert caught.value.code == "unavailable"
    assert time.monotonic() - began < patient.connect_s


async def test_plain_http_is_spoken_only_when_told():
    async with (
        ScriptedServer(script(Answer(200, b"{}"))) as server,
        registry.RegistryClient(
            server.address, patience=registry.Patience(silence_s=0.3, attempts=1)
        ) as one,
    ):
        with pytest.raises(Failure) as caught:
            await one.manifest("app", "1")
    assert caught.value.code == "unavailable"


async def test_a_redirect_is_followed_without_the_credentials(tmp_path):
    elsewhere = ScriptedServer(script(Answer(200, BODY)))
    async with elsewhere:
        target = {"Location": f"http://{elsewhere.address}/blob?sig=1"}
        async with ScriptedServer(script(Answer(307, b"", target))) as server:
            async with client(server, credentials=auth.Credentials(token="geheim")) as one:
                await one.blob("app", BLOB, tmp_path / "blob")
            assert server.requests[0].headers["authorization"] == "Bearer geheim"
    assert "authorization" not in elsewhere.requests[0].headers


async def test_redirects_in_a_circle_end():
    def again(request):
        return Answer(302, b"", {"Location": request.path})

    with pytest.raises(Failure, match="circle"):
        await ask(again)


def token_script(tokens, *, password=None):
    """Return a registry with a token server beside it."""

    def handler(request):
        if request.path == "/token":
            expected = auth.Credentials("u", password).basic() if password else None
            if request.headers.get("authorization") != expected:
                return Answer(401)
            assert request.query["scope"] == ["repository:app:pull"]
            return Answer(200, json.dumps({tokens: "t0k"}).encode())
        if request.headers.get("authorization") == "Bearer t0k":
            return Answer(200, b"{}")
        realm = f'Bearer realm="http://{request.headers["host"]}/token",service="s"'
        return Answer(401, b"", {"WWW-Authenticate": realm})

    return handler


@pytest.mark.parametrize("field", ["token", "access_token"])
async def test_a_token_is_fetched_without_credentials(field):
    document, _ = await ask(token_script(field))
    assert document.body == b"{}"


async def test_a_token_is_fetched_with_a_password_and_kept():
    given = auth.Credentials("u", "p")
    async with (
        ScriptedServer(token_script("token", password="p")) as server,
        client(server, credentials=given) as one,
    ):
        await one.manifest("app", "1")
        await one.manifest("app", "1")
        assert [r.path for r in server.requests].count("/token") == 1


async def test_a_wrong_password_is_said_so():
    with pytest.raises(Failure, match="no access") as caught:
        await ask(token_script("token", password="p"), credentials=auth.Credentials("u", "no"))
    assert "password" in caught.value.hint


async def test_a_basic_challenge_gets_the_password():
    def handler(request):
        if request.headers.get("authorization") == auth.Credentials("u", "p").basic():
            return Answer(200, b"{}")
        return Answer(401, b"", {"WWW-Authenticate": 'Basic realm="r"'})

    document, requests = await ask(handler, credentials=auth.Credentials("u", "p"))
    assert document.body == b"{}"
    assert len(requests) == 2


async def test_a_token_that_never_helps_is_not_fetched_for_ever():
    def handler(request):
        if request.path == "/token":
            return Answer(200, b'{"token": "no"}')
        realm = f'Bearer realm="http://{request.headers["host"]}/token"'
        return Answer(401, b"", {"WWW-Authenticate": realm})

    with pytest.raises(Failure) as caught:
        await ask(handler)
    assert caught.value.code == "manifest_unknown"


@pytest.mark.parametrize("nonsense", [b"<html>", b"{", b"[]", b'{"token": 1}', b""])
async def test_a_token_server_that_talks_nonsense_is_said_so(nonsense):
    def handler(request):
        if request.path == "/token":
            return Answer(200, nonsense)
        realm = f'Bearer realm="http://{request.headers["host"]}/token"'
        return Answer(401, b"", {"WWW-Authenticate": realm})

    with pytest.raises(Failure):
        await ask(handler)
