"""`/v1/apps/{app}/secretkeys` on the wire: bytes in both spellings, what is shown and what never."""

import base64
import hashlib
import hmac
from typing import Any

import pytest

from tests.unit.api.conftest import Served

KEYS = "/v1/apps/shop/secretkeys"
VALUE = bytes(range(32))


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
async def shop(served: Served) -> Served:
    await served.acme.post("/v1/apps", json={"name": "shop", "org_slug": "acme"})
    return served


async def test_a_key_is_imported_shown_without_itself_used_and_deleted(shop: Served) -> None:
    made = await shop.acme.post(f"{KEYS}/tokens", json={"type": "hs256", "value": coded(VALUE)})
    assert made.status_code == 201, made.text
    assert made.json() | {"created_at": "", "updated_at": ""} == {
        "name": "tokens",
        "type": "hs256",
        "version": 1,
        "created_at": "",
        "updated_at": "",
    }
    signed = await shop.acme.post(f"{KEYS}/tokens/sign", json={"plaintext": coded(b"text")})
    signature = hmac.digest(VALUE, b"text", hashlib.sha256)
    assert (signed.status_code, signed.json()) == (200, {"signature": coded(signature)})
    right = {"plaintext": coded(b"text"), "signature": coded(signature)}
    verified = await shop.acme.post(f"{KEYS}/tokens/verify", json=right)
    assert (verified.status_code, verified.content) == (204, b"")
    wrong = await shop.acme.post(f"{KEYS}/tokens/verify", json=right | {"plaintext": ""})
    assert (wrong.status_code, "not that of this text" in wrong.text) == (400, True)
    gone = await shop.acme.delete(f"{KEYS}/tokens")
    assert (gone.status_code, gone.json()) == (200, {"version": 2})
    for method, path in (("GET", "tokens"), ("DELETE", "tokens"), ("POST", "tokens/sign")):
        body: Any = {"plaintext": ""} if method == "POST" else None
        answer = await shop.acme.request(method, f"{KEYS}/{path}", json=body)
        assert answer.status_code == 404, answer.text


async def test_bytes_are_base64_or_numbers_and_always_answered_as_base64(shop: Served) -> None:
    assert (await shop.acme.post(f"{KEYS}/k/generate", json={"type": "xaes256gcm"})).is_success
    asked = {"plaintext": [0, 255, 7], "associated_data": [1]}
    sealed = (await shop.acme.post(f"{KEYS}/k/encrypt", json=asked)).json()["ciphertext"]
    for spelled in (sealed, list(base64.b64decode(sealed))):
        body = {"ciphertext": spelled, "associated_data": "AQ=="}
        opened = await shop.acme.post(f"{KEYS}/k/decrypt", json=body)
        assert opened.json() == {"plaintext": coded(bytes([0, 255, 7]))}
    for bad in ("*", [256], [-1], ["geheim"], [[1]], {"a": 1}, 7, True, "geheim"):
        answer = await shop.acme.post(f"{KEYS}/k/encrypt", json={"plaintext": bad})
        assert answer.status_code == 400, (bad, answer.text)
        assert "geheim" not in answer.text
        assert "must be base64, or a list of bytes" in answer.text


async def test_keys_are_listed_by_type_and_version_with_public_keys_alone(shop: Served) -> None:
    for name, kind in (("b", "nacl_sign"), ("a", "hs256"), ("c", "es256")):
        assert (await shop.acme.post(f"{KEYS}/{name}/generate", json={"type": kind})).is_success
    listed = (await shop.acme.get(KEYS)).json()["secret_keys"]
    assert [(one["name"], "public_key" in one) for one in listed] == [
        ("a", False),
        ("b", True),
        ("c", True),
    ]
    shown = {"name", "type", "public_key", "created_at", "updated_at"}
    assert set().union(*(one.keys() for one in listed)) == shown
    some = await shop.acme.get(KEYS, params={"types": "es256,hs256", "min_version": "3"})
    assert [one["name"] for one in some.json()["secret_keys"]] == ["a", "c"]
    late = await shop.acme.get(KEYS, params={"min_version": "4"})
    assert (late.status_code, "version 4 is not there" in late.text) == (412, True)
    unknown = await shop.acme.get(KEYS, params={"types": "rsa"})
    assert (unknown.status_code, "nacl_secretbox" in unknown.text) == (400, True)


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        ("k", {"value": "AA=="}, "type"),
        ("k", {"type": "rsa", "value": "AA=="}, "type"),
        ("k", {"type": "hs256"}, "value"),
        ("k", {"type": "hs256", "value": "AA=="}, "at least 32 bytes, not 1"),
        ("k/generate", {}, "type"),
        ("a%2Cb/generate", {"type": "hs256"}, "is no name for a secret key"),
        ("of-another-type/generate", {"type": "nacl_auth"}, "is of type hs512, and stays so"),
        ("of-another-type/encrypt", {"plaintext": "AA=="}, "which does not encrypt"),
    ],
)
async def test_a_mistake_is_named(shop: Served, path: str, body: dict[str, Any], why: str) -> None:
    await shop.acme.post(f"{KEYS}/of-another-type/generate", json={"type": "hs512"})
    answer = await shop.acme.post(f"{KEYS}/{path}", json=body)
    assert answer.status_code == 400, answer.text
    assert why in answer.text


async def test_who_may_only_read_cannot_use_a_key(shop: Served) -> None:
    await shop.acme.post(f"{KEYS}/k/generate", json={"type": "hs256"})
    reader = shop.client(await shop.world.token("acme", scopes=("secrets:read",)))
    assert (await reader.get(f"{KEYS}/k")).status_code == 200
    refused = await reader.post(f"{KEYS}/k/sign", json={"plaintext": ""})
    assert (refused.status_code, "secrets:use" in refused.text) == (403, True)
