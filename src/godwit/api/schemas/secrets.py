"""Secrets of apps: taken with their values, shown by name and digest (spec/machines.md §1.2)."""

import base64
import binascii
from typing import Annotated, Any

from pydantic import Field, model_validator

from godwit.api.schemas.common import In, Out
from godwit.base import clock, errors
from godwit.control import secret_keys, secret_status
from godwit.control import secrets as app_secrets
from godwit.control.records import AppSecret

_MOST = 1_000


class SetSecrets(In):
    """Secrets to set, by name; `null` removes one.

    `values_base64` is Godwit's own: for values that are not UTF-8. An environment variable holds
    every byte but NUL.
    """

    values: Annotated[dict[str, str | None], Field(max_length=_MOST, repr=False)] = {}
    values_base64: Annotated[dict[str, str], Field(max_length=_MOST, repr=False)] = {}

    def wanted(self) -> app_secrets.Values:
        """Return what the service is asked.

        Raises:
            Failure: `invalid_argument`; a value is never quoted.
        """
        both = sorted(self.values.keys() & self.values_base64.keys())
        if both:
            raise errors.invalid(f"values_base64.{both[0]}: is in values as well")
        found: dict[str, bytes | None] = {
            name: None if value is None else value.encode() for name, value in self.values.items()
        }
        for name, text in self.values_base64.items():
            found[name] = _decoded(f"values_base64.{name}", text)
        return app_secrets.Values(found)


class SetSecret(In):
    """One secret, by one of the two; `value_base64` as in `SetSecrets`."""

    value: Annotated[str | None, Field(repr=False)] = None
    value_base64: Annotated[str | None, Field(repr=False)] = None

    @model_validator(mode="before")
    @classmethod
    def _drop_zero_values(cls, given: Any) -> Any:
        """Leave out `null` alone: an empty value is one, and none at all is a mistake."""
        if isinstance(given, dict):
            return {key: value for key, value in given.items() if value is not None}
        return given

    def wanted(self, name: str) -> app_secrets.Values:
        """Return what the service is asked.

        Raises:
            Failure: `invalid_argument`.
        """
        if self.value is not None and self.value_base64 is not None:
            raise errors.invalid("value_base64: value is given as well")
        if self.value is not None:
            return app_secrets.Values({name: self.value.encode()})
        if self.value_base64 is not None:
            return app_secrets.Values({name: _decoded("value_base64", self.value_base64)})
        raise errors.invalid("value: is required", hint='an empty secret is "value": ""')


class Secret(Out):
    """A secret. `value` only with `show_secrets`; `value_base64` instead when it is not UTF-8."""

    name: str
    digest: str
    created_at: str
    updated_at: str
    value: str | None = None
    value_base64: str | None = None

    @classmethod
    def of(cls, row: AppSecret, shown: bytes | None) -> "Secret":
        """Return a secret as the API shows it."""
        return cls(**_fields(row, shown))


class SecretList(Out):
    """Secrets by name."""

    secrets: list[Secret]

    @classmethod
    def of(cls, found: app_secrets.Secrets) -> "SecretList":
        """Return secrets as the API shows them."""
        return cls(secrets=_shown(found))


class SecretsSet(Out):
    """What was made of a change. `Version` is what older clients read."""

    secrets: list[Secret]
    version: int
    Version: int

    @classmethod
    def of(cls, found: app_secrets.Secrets) -> "SecretsSet":
        """Return the answer to a change."""
        return cls(secrets=_shown(found), version=found.version, Version=found.version)


class SecretSet(Secret):
    """A secret that was set, and the version of the app's secrets with it."""

    version: int
    Version: int

    @classmethod
    def made(cls, found: app_secrets.Secrets, name: str) -> "SecretSet":
        """Return the answer to setting one."""
        row = next(one for one in found.secrets if one.name == name)
        return cls(**_fields(row, None), version=found.version, Version=found.version)


class SecretsVersion(Out):
    """The version of an app's secrets."""

    version: int
    Version: int


class SecretStatus(Out):
    """A secret and which machines have this value of it."""

    name: str
    digest: str
    version: int
    status: str
    created_at: str
    updated_at: str

    @classmethod
    def of(cls, one: secret_status.Status) -> "SecretStatus":
        """Return it as the API shows it."""
        return cls(
            name=one.secret.name,
            digest=one.secret.digest,
            version=one.secret.version,
            status=one.status,
            created_at=clock.rfc3339(one.secret.created_at_ms),
            updated_at=clock.rfc3339(one.secret.updated_at_ms),
        )


class SecretStatuses(Out):
    """An app's secrets at a version: each `deployed`, `staged` or `partial`."""

    version: int
    secrets: list[SecretStatus]


class RootKeys(Out):
    """Root keys of the keyring by name, the oldest first, and how many apps were wrapped again."""

    root_keys: list[str]
    rewrapped: int

    @classmethod
    def of(cls, found: secret_keys.Roots) -> "RootKeys":
        """Return them as the API shows them."""
        return cls(root_keys=list(found.ids), rewrapped=found.rewrapped)


def _shown(found: app_secrets.Secrets) -> list[Secret]:
    return [Secret.of(row, found.shown.get(row.name)) for row in found.secrets]


def _fields(row: AppSecret, shown: bytes | None) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": row.name,
        "digest": row.digest,
        "created_at": clock.rfc3339(row.created_at_ms),
        "updated_at": clock.rfc3339(row.updated_at_ms),
    }
    if shown is not None:
        try:
            fields["value"] = shown.decode()
        except UnicodeDecodeError:
            fields["value_base64"] = base64.b64encode(shown).decode()
    return fields


def _decoded(place: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        # Without its cause, which quotes nothing today but may tomorrow.
        raise errors.invalid(f"{place}: must be base64") from None
