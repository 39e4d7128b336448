"""Credentials for external registries: taken with their secret, shown without."""

from typing import Annotated

from pydantic import Field

from godwit.api.schemas.common import In, Out, ShortText, Text
from godwit.base import clock
from godwit.control import records, registry_credentials


class RegistryLogin(In):
    """A user name and password at a registry."""

    org_slug: ShortText
    username: Annotated[Text, Field(max_length=255)]
    password: Annotated[Text, Field(max_length=16_384, repr=False)]
    unchecked: bool = False

    def wanted(self, registry: str) -> registry_credentials.Login:
        """Return what the service is asked."""
        return registry_credentials.Login(
            registry=registry,
            username=self.username,
            password=self.password,
            unchecked=self.unchecked,
        )


class Registry(Out):
    """A registry that an organization has credentials for."""

    registry: str
    username: str
    created_at: str
    updated_at: str

    @classmethod
    def of(cls, row: records.RegistryCredential) -> "Registry":
        """Return credentials as the API shows them: without the secret."""
        return cls(
            registry=row.registry,
            username=row.username,
            created_at=clock.rfc3339(row.created_at_ms),
            updated_at=clock.rfc3339(row.updated_at_ms),
        )


class RegistryList(Out):
    """Registries by name."""

    registries: list[Registry]
