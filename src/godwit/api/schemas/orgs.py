"""Organizations, their audit rows and usage."""

from typing import Any

from godwit.api.schemas.common import In, Out, ShortText
from godwit.base import clock
from godwit.control import records
from godwit.wire import host_rpc


class CreateOrg(In):
    """A new organization."""

    slug: ShortText
    name: ShortText = ""


class CrossNetworkReplays(In):
    """Whether apps of an organization may replay requests into any of its networks."""

    allowed: bool


class Org(Out):
    """An organization."""

    id: str
    internal_numeric_id: int
    slug: str
    name: str
    created_at: str
    cross_network_replays: bool

    @classmethod
    def of(cls, org: records.Organization) -> "Org":
        """Return an organization as the API shows it."""
        return cls(
            id=org.id,
            internal_numeric_id=org.number,
            slug=org.slug,
            name=org.name,
            created_at=clock.rfc3339(org.created_at_ms),
            cross_network_replays=org.replays_across_networks,
        )


class OrgList(Out):
    """Organizations by slug."""

    orgs: list[Org]


class AuditRow(Out):
    """One mutation."""

    id: str
    at: str
    principal: str
    org_id: str | None
    action: str
    target: str
    detail: dict[str, Any]

    @classmethod
    def of(cls, row: records.AuditRow) -> "AuditRow":
        """Return a row as the API shows it."""
        return cls(
            id=row.id,
            at=clock.rfc3339(row.at_ms),
            principal=row.principal,
            org_id=row.org_id,
            action=row.action,
            target=row.target,
            detail=row.detail,
        )


class AuditPage(Out):
    """Newest first; continue with `before` = the last id."""

    rows: list[AuditRow]


class Usage(Out):
    """Intervals of use; those of silent hosts are missing."""

    intervals: list[host_rpc.UsageInterval]
    silent_hosts: list[str]
