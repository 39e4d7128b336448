"""Apps."""

from typing import Any

from pydantic import model_validator

from godwit.api.schemas.common import In, Out, ShortText
from godwit.control import apps, records


class CreateApp(In):
    """`name` may be left out; `app_name` is the same."""

    name: ShortText = ""
    app_name: ShortText = ""
    org_slug: ShortText = "personal"
    network: ShortText = ""
    app_role_id: ShortText = ""
    idempotency_key: ShortText = ""

    @model_validator(mode="after")
    def _one_name(self) -> "CreateApp":
        if self.name and self.app_name and self.name != self.app_name:
            raise ValueError("give name or app_name, not both")
        return self

    def wanted(self) -> apps.NewApp:
        """Return what the service is asked."""
        return apps.NewApp(
            org_slug=self.org_slug,
            name=self.name or self.app_name,
            network=self.network,
            role=self.app_role_id,
            idempotency_key=self.idempotency_key or None,
        )


class OrgRef(Out):
    """The organization as an app names it."""

    name: str
    slug: str
    internal_numeric_id: int


class App(Out):
    """An app; `cname_target` is the name that a domain of one's own points at."""

    id: str
    internal_numeric_id: int
    name: str
    status: str
    machine_count: int
    volume_count: int = 0
    network: str
    network_cidr: str
    app_role: str = ""
    cname_target: str
    created_at: int
    organization: OrgRef

    @classmethod
    def of(cls, found: apps.AppWithCount, domain: str) -> "App":
        """Return an app as the API shows it, on a platform whose apps answer below a domain."""
        return cls(**fields(found.app, found.machines, domain))


class AppList(Out):
    """Apps by name; `next_cursor` is there when there are more."""

    apps: list[App]
    total_apps: int
    next_cursor: str = ""


def fields(app: records.App, machines: int, domain: str) -> dict[str, Any]:
    """Return an app's public fields."""
    high, low = divmod(app.network_number, 65_536)
    return {
        "id": app.id,
        "internal_numeric_id": app.number,
        "name": app.name,
        "status": app.status,
        "machine_count": machines,
        "network": app.network_name,
        "network_cidr": f"fdaa:{high:x}:{low:x}::/48",
        "app_role": app.role,
        "cname_target": apps.hostname(app, domain),
        "created_at": app.created_at_ms,
        "organization": OrgRef(
            name=app.org_name, slug=app.org_slug, internal_numeric_id=app.org_number
        ),
    }
