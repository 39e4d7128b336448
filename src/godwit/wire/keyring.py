"""Between control and the keyring: a Unix socket, one question and its answer per connection.

A message is its length (u32, big endian) and that many bytes of JSON: `Question`, then `Answer`.

    new_key      NewKey      → WrappedKey
    renew_key    RenewKey    → WrappedKey          another key of an app; digests stay comparable
    seal         Seal        → Sealed              plain values in, sealed ones and digests out
    reseal       Reseal      → Sealed              from an app's former key to its present one
    reveal       Reveal      → Revealed            the only way in which a value comes out
    for_host     ForHost     → secrets.SealedKey
    hand_over    HandOver    → secrets.SealedKey   the root keys, for a further keyring
    rewrap       Rewrap      → Wrapped             under the newest root key
    roots        {}          → Roots
    new_root     {}          → Roots
    retire_roots RetireRoots → Roots               those unused go, once no answer can be under way
    make_kms     MakeKms     → MadeKms             a secret key of an app, generated or imported
    use_kms      UseKms      → UsedKms             nothing else is ever done with one
"""

from typing import Any, Literal

from godwit.base import errors
from godwit.wire.kms import KeyType
from godwit.wire.record import Record
from godwit.wire.secrets import Owner, SealedKey, SealedValue

LONGEST_MESSAGE = 8_388_608


class Question(Record):
    """What is asked."""

    v: int = 1
    verb: str
    body: dict[str, Any] = {}


class Problem(Record):
    """A `Failure` on its way."""

    code: errors.Code
    message: str
    hint: str = ""


class Answer(Record):
    """The answer: `body` or `error`."""

    v: int = 1
    body: dict[str, Any] | None = None
    error: Problem | None = None


class WrappedKey(Record):
    """An app's keys as control's database holds them.

    Attributes:
        key_id: Names the key that seals values.
        root_id: The root key that wraps it.
        data: Sealed, base64.
    """

    owner: Owner
    key_id: str
    root_id: str
    data: str


class PlainValue(Record):
    """A value in the clear, base64. Between control and keyring only."""

    name: str
    version: int
    value: str

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """Show no value in logs and traces."""
        return [("name", self.name), ("version", self.version)]


class HandOver(Record):
    """Body of `hand_over`.

    Attributes:
        host_key: The public key of the host with the other keyring, base64.
    """

    host_key: str


class NewKey(Record):
    """Body of `new_key`."""

    owner: Owner


class RenewKey(Record):
    """Body of `renew_key`."""

    key: WrappedKey


class Seal(Record):
    """Body of `seal`."""

    key: WrappedKey
    values: tuple[PlainValue, ...]


class DigestedValue(Record):
    """A sealed value and what users see of it: a keyed digest, 16 hexadecimal digits."""

    sealed: SealedValue
    digest: str


class Sealed(Record):
    """Answer of `seal` and `reseal`, in the order asked."""

    values: tuple[DigestedValue, ...]


class Reseal(Record):
    """Body of `reseal`."""

    former: WrappedKey
    key: WrappedKey
    values: tuple[SealedValue, ...]


class Reveal(Record):
    """Body of `reveal`."""

    key: WrappedKey
    values: tuple[SealedValue, ...]


class Revealed(Record):
    """Answer of `reveal`, in the order asked."""

    values: tuple[PlainValue, ...]


class ForHost(Record):
    """Body of `for_host`."""

    key: WrappedKey
    host_key: str


class Rewrap(Record):
    """Body of `rewrap`."""

    keys: tuple[WrappedKey, ...]


class Wrapped(Record):
    """Answer of `rewrap`, in the order asked."""

    keys: tuple[WrappedKey, ...]


class Roots(Record):
    """The root keys by name, the oldest first; the newest wraps."""

    ids: tuple[str, ...]

    @property
    def newest(self) -> str:
        """Return the one that wraps."""
        return self.ids[-1]


class PreparedRoot(Record):
    """A root key that opens and does not wrap yet: other keyrings are to know it first."""

    id: str


class TakeRoots(Record):
    """Body of `take_roots`: what `hand_over` of another keyring returned for this one's host."""

    sealed: SealedKey


class RetireRoots(Record):
    """Body of `retire_roots`: the root keys that still wrap something."""

    used: tuple[str, ...]


KmsUse = Literal["encrypt", "decrypt", "sign", "verify"]


class MakeKms(Record):
    """Body of `make_kms`.

    Attributes:
        key: The app's, which seals it.
        value: The key to import, base64; `None` generates one.
    """

    key: WrappedKey
    name: str
    type: KeyType
    value: str | None = None

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """Show no value in logs and traces."""
        return [("name", self.name), ("type", self.type)]


class MadeKms(Record):
    """Answer of `make_kms`.

    Attributes:
        data: The key, sealed, base64. `reveal` does not open it.
        public_key: What may be known of it, base64; empty for a symmetric key.
    """

    data: str
    public_key: str = ""


class UseKms(Record):
    """Body of `use_kms`.

    Attributes:
        data: The key, as `make_kms` sealed it.
        text: What to encrypt, decrypt, sign, or whose signature to verify; base64, as the others.
    """

    key: WrappedKey
    name: str
    type: KeyType
    data: str
    use: KmsUse
    text: str
    associated_data: str = ""
    signature: str = ""

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """Show no text in logs and traces."""
        return [("name", self.name), ("type", self.type), ("use", self.use)]


class UsedKms(Record):
    """Answer of `use_kms`: base64; empty after a signature that is right."""

    output: str = ""

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """Show nothing that was decrypted in logs and traces."""
        return []
