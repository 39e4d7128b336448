"""Secret keys: what each type makes, against vectors of others; and that none comes out."""

import secrets
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st
from nacl import public

from godwit.base import errors
from godwit.keyring import kms, roots, vault
from godwit.testing.control import SettableClock
from godwit.wire import keyring
from godwit.wire.kms import KeyType
from godwit.wire.secrets import Owner, SealedValue, to_bytes, to_text

OWNER = Owner(org_id="org_a", app_id="app_a")
P256 = ec.generate_private_key(ec.SECP256R1())
PKCS8 = serialization.PrivateFormat.PKCS8
SEC1 = serialization.PrivateFormat.TraditionalOpenSSL
PLAIN = serialization.NoEncryption()


@pytest.fixture
def keeper(tmp_path: Path) -> vault.Vault:
    return vault.Vault(roots.Roots.load(tmp_path / "keyring", SettableClock()))


class Key:
    """A secret key of an app, as control asks for it."""

    def __init__(self, keeper: vault.Vault, app: keyring.WrappedKey, kind: KeyType) -> None:
        self.keeper, self.app, self.kind = keeper, app, kind
        self.made = keyring.MadeKms(data="")

    async def make(self, value: bytes | None = None) -> "Key":
        given = None if value is None else to_text(value)
        asked = keyring.MakeKms(key=self.app, name="k", type=self.kind, value=given)
        self.made = await self.keeper.make_kms(asked)
        return self

    async def use(
        self, use: keyring.KmsUse, text: bytes, *, associated: bytes = b"", signature: bytes = b""
    ) -> bytes:
        asked = keyring.UseKms(
            key=self.app,
            name="k",
            type=self.kind,
            data=self.made.data,
            use=use,
            text=to_text(text),
            associated_data=to_text(associated),
            signature=to_text(signature),
        )
        return to_bytes((await self.keeper.use_kms(asked)).output)


async def app_key(keeper: vault.Vault) -> keyring.WrappedKey:
    return await keeper.new_key(keyring.NewKey(owner=OWNER))


@pytest.mark.parametrize("kind", list(kms.SIGNING))
async def test_what_a_key_signs_it_verifies_and_nothing_else(
    keeper: vault.Vault, kind: KeyType
) -> None:
    app = await app_key(keeper)
    key, other = await Key(keeper, app, kind).make(), await Key(keeper, app, kind).make()
    signature = await key.use("sign", b"text")
    assert await key.use("verify", b"text", signature=signature) == b""
    wrong = [
        (key, b"texT", signature),
        (key, b"text", signature[:-1]),
        (key, b"text", b""),
        (key, b"text", bytes([signature[0] ^ 1]) + signature[1:]),
        (other, b"text", signature),
    ]
    for one, text, said in wrong:
        with pytest.raises(errors.Failure, match="not that of this text"):
            await one.use("verify", text, signature=said)
    with pytest.raises(errors.Failure, match=f"of type {kind}, which does not encrypt"):
        await key.use("encrypt", b"text")


@pytest.mark.parametrize("kind", list(kms.ENCRYPTING))
async def test_what_a_key_encrypts_it_alone_decrypts(keeper: vault.Vault, kind: KeyType) -> None:
    app = await app_key(keeper)
    key, other = await Key(keeper, app, kind).make(), await Key(keeper, app, kind).make()
    for text in (b"", b"text", bytes(70_000)):
        sealed = await key.use("encrypt", text)
        assert text not in sealed or not text
        assert await key.use("encrypt", text) != sealed
        assert await key.use("decrypt", sealed) == text
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for one, text in ((key, changed), (key, sealed[:20]), (key, b""), (other, sealed)):
        with pytest.raises(errors.Failure, match="was not encrypted by this key"):
            await one.use("decrypt", text)
    with pytest.raises(errors.Failure, match=f"of type {kind}, which does not sign"):
        await key.use("sign", b"text")


async def test_associated_data_is_bound_or_refused(keeper: vault.Vault) -> None:
    app = await app_key(keeper)
    key = await Key(keeper, app, "xaes256gcm").make()
    sealed = await key.use("encrypt", b"text", associated=b"row 1")
    assert await key.use("decrypt", sealed, associated=b"row 1") == b"text"
    for other in (b"", b"row 2"):
        with pytest.raises(errors.Failure, match="with this associated data"):
            await key.use("decrypt", sealed, associated=other)
    box = await Key(keeper, app, "nacl_secretbox").make()
    with pytest.raises(errors.Failure, match="type nacl_secretbox takes none"):
        await box.use("encrypt", b"text", associated=b"row 1")


@pytest.mark.parametrize(
    ("key", "associated", "sealed"),
    [
        (1, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (3, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ],
)
def test_xaes256gcm_is_that_of_its_specification(key: int, associated: bytes, sealed: str) -> None:
    nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX"
    made = kms.xaes_seal(bytes([key]) * 32, nonce, b"XAES-256-GCM", associated)
    assert made.hex() == sealed
    cipher = kms.ENCRYPTING["xaes256gcm"]
    assert cipher.decrypt(bytes([key]) * 32, nonce + made, associated) == b"XAES-256-GCM"


@pytest.mark.parametrize(
    ("kind", "signature"),
    [
        ("hs256", "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"),
        (
            "hs512",
            (
                "e37b6a775dc87dbaa4dfa9f96e5e3ffddebd71f8867289865df5a32d20cdc944"
                "b6022cac3c4982b10d5eeb55c3e4de15134676fb6de0446065c97440fa8c6a58"
            ),
        ),
    ],
)
def test_hmacs_are_those_of_rfc_4231(kind: KeyType, signature: str) -> None:
    """Case 7: a key and a text that are longer than a block."""
    text = (
        b"This is a test using a larger than block-size key and a larger than block-size data."
        b" The key needs to be hashed before being used by the HMAC algorithm."
    )
    key = kms.SIGNING[kind].load(b"\xaa" * 131)
    assert kms.SIGNING[kind].sign(key, text).hex() == signature
    if kind == "hs512":
        short = kms.SIGNING["nacl_auth"].sign(bytes(32), text)
        assert short == kms.SIGNING["hs512"].sign(bytes(32), text)[:32]


async def test_a_public_key_is_told_and_others_can_use_it(keeper: vault.Vault) -> None:
    app = await app_key(keeper)
    signs = await Key(keeper, app, "nacl_sign").make()
    told = ed25519.Ed25519PublicKey.from_public_bytes(to_bytes(signs.made.public_key))
    told.verify(await signs.use("sign", b"text"), b"text")
    ecdsa = await Key(keeper, app, "es256").make()
    signature = await ecdsa.use("sign", b"text")
    halves = [int.from_bytes(half) for half in (signature[:32], signature[32:])]
    spki = serialization.load_der_public_key(to_bytes(ecdsa.made.public_key))
    assert isinstance(spki, ec.EllipticCurvePublicKey)
    spki.verify(encode_dss_signature(*halves), b"text", ec.ECDSA(hashes.SHA256()))
    box = await Key(keeper, app, "nacl_box").make()
    sealed = public.SealedBox(public.PublicKey(to_bytes(box.made.public_key))).encrypt(b"text")
    assert await box.use("decrypt", sealed) == b"text"
    symmetric = [await Key(keeper, app, kind).make() for kind in ("hs256", "xaes256gcm")]
    assert {one.made.public_key for one in symmetric} == {""}


def _form(value: object) -> str:
    """Return a parameter's part of a test's name, which must not hold what is random."""
    return f"{len(value)}-bytes" if isinstance(value, bytes) else str(value)


SEED = bytes(range(32))
ED = ed25519.Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("hs256", bytes(32)),
        ("hs512", bytes(4_096)),
        ("nacl_auth", bytes(32)),
        ("nacl_sign", SEED),
        ("nacl_sign", SEED + ED),
        ("nacl_box", bytes(32)),
        ("es256", P256.private_numbers().private_value.to_bytes(32)),
        ("es256", P256.private_bytes(serialization.Encoding.DER, PKCS8, PLAIN)),
        ("es256", P256.private_bytes(serialization.Encoding.PEM, PKCS8, PLAIN)),
        ("es256", P256.private_bytes(serialization.Encoding.DER, SEC1, PLAIN)),
    ],
    ids=_form,
)
async def test_a_key_is_imported_in_every_usual_form(
    keeper: vault.Vault, kind: KeyType, value: bytes
) -> None:
    key = await Key(keeper, await app_key(keeper), kind).make(value)
    if kind == "es256":
        point = P256.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        assert to_bytes(key.made.public_key) == point
    elif kind == "nacl_sign":
        assert to_bytes(key.made.public_key) == ED


@pytest.mark.parametrize(
    ("kind", "value", "why"),
    [
        ("hs256", bytes(31), "at least 32 bytes, not 31"),
        ("hs384", bytes(47), "at least 48 bytes, not 47"),
        ("nacl_auth", bytes(33), "has 32 bytes, not 33"),
        ("nacl_secretbox", b"", "has 32 bytes, not 0"),
        ("nacl_sign", SEED + SEED, "is not its public key"),
        ("nacl_sign", SEED[:31], "has 32 bytes, not 31"),
        ("es256", bytes(32), "no scalar of P-256"),
        ("es256", b"\xff" * 32, "no scalar of P-256"),
        ("es256", b"-----BEGIN PRIVATE KEY-----", "no private key of P-256"),
        (
            "es256",
            ec.generate_private_key(ec.SECP384R1()).private_bytes(
                serialization.Encoding.PEM, PKCS8, PLAIN
            ),
            "no private key of P-256",
        ),
    ],
    ids=_form,
)
async def test_what_is_no_key_is_refused(
    keeper: vault.Vault, kind: KeyType, value: bytes, why: str
) -> None:
    with pytest.raises(errors.Failure, match=why) as refused:
        await Key(keeper, await app_key(keeper), kind).make(value)
    assert refused.value.code == "invalid_argument"


@given(st.sampled_from(list(kms.KINDS)), st.binary(max_size=200))
def test_any_bytes_are_a_key_or_are_refused(kind: KeyType, value: bytes) -> None:
    try:
        kept = kms.KINDS[kind].load(value)
    except errors.Failure:
        return
    assert kms.KINDS[kind].load(kept) == kept


async def test_no_verb_lets_a_key_out_nor_takes_it_for_another(keeper: vault.Vault) -> None:
    app = await app_key(keeper)
    value = secrets.token_bytes(32)
    key = await Key(keeper, app, "hs256").make(value)
    for name in ("k", "kms"):
        sealed = SealedValue(name=name, version=1, data=key.made.data)
        with pytest.raises(errors.Failure, match="does not open"):
            await keeper.reveal(keyring.Reveal(key=app, values=(sealed,)))
    other = Key(keeper, app, "nacl_auth")
    other.made = key.made
    with pytest.raises(errors.Failure, match="does not open"):
        await other.use("sign", b"text")
    stranger = Key(keeper, await app_key(keeper), "hs256")
    stranger.made = key.made
    with pytest.raises(errors.Failure, match="does not open"):
        await stranger.use("sign", b"text")


async def test_a_key_outlives_the_renewal_of_its_apps_key_and_of_the_root_key(
    keeper: vault.Vault,
) -> None:
    app = await app_key(keeper)
    key = await Key(keeper, app, "hs256").make()
    signature = await key.use("sign", b"text")
    key.app = await keeper.renew_key(keyring.RenewKey(key=app))
    await keeper.new_root()
    (key.app,) = (await keeper.rewrap(keyring.Rewrap(keys=(key.app,)))).keys
    assert await key.use("sign", b"text") == signature
