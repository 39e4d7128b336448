"""Carries root keys between keyrings: for control, to the one of this host.

They are sealed for this host, and opened by the keyring alone.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from pydantic import ValidationError

from godwit.base import errors
from godwit.base.principal import Principal
from godwit.wire import keyring


class Keyring(Protocol):
    """The one of this host."""

    async def roots(self) -> keyring.Roots:
        """Return which root keys there are."""

    async def take_roots(self, asked: keyring.TakeRoots) -> keyring.Roots:
        """Know the root keys of another keyring as well."""


class KeyringDesk:
    """Where that is asked."""

    def __init__(self, own: Keyring) -> None:
        self._own = own

    def handlers(self) -> Mapping[str, Any]:
        """Return every verb and its handler."""
        return {"keyring.roots": self.roots, "keyring.take": self.take}

    async def roots(self, who: Principal, body: dict[str, Any]) -> keyring.Roots:
        """Return the names of the root keys of this host's keyring.

        Raises:
            Failure: `permission_denied` for all but control, `unavailable`.
        """
        del body
        _for_control(who)
        return await self._own.roots()

    async def take(self, who: Principal, body: dict[str, Any]) -> keyring.Roots:
        """Have this host's keyring know what another one knows.

        Raises:
            Failure: `permission_denied` for all but control, `invalid_argument`, `unavailable`,
                `failed_precondition` when they are not sealed for this host.
        """
        _for_control(who)
        try:
            asked = keyring.TakeRoots.model_validate(body)
        except ValidationError:
            raise errors.invalid("root keys come sealed for this host") from None
        return await self._own.take_roots(asked)


def _for_control(who: Principal) -> None:
    if who.subject != "component:control":
        raise errors.Failure("permission_denied", "root keys are control's to hand around")
