"""Who asks: every service function takes a `Principal`.

A principal is made by authentication in the API (from a token) or by a process for its
own work; it travels over the bus with each request.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from godwit.base import errors

Scope = Literal[
    "orgs:read",
    "orgs:write",
    "apps:read",
    "apps:write",
    "machines:read",
    "machines:write",
    "machines:exec",
    "logs:read",
    "builds:write",
    "images:pull",
    "images:push",
    "tokens:read",
    "tokens:write",
    "hosts:read",
]

ALL_SCOPES: frozenset[Scope] = frozenset(Scope.__args__)  # type: ignore[attr-defined]


class Principal(BaseModel):
    """Who asks, for which organizations, with which scopes.

    Attributes:
        subject: `user:<email>`, `token:<id>` or `component:<name>`; what the audit row says.
        org_ids: Organizations it may act in; `None` means every one (the operator).
        scopes: What it may do there.
    """

    model_config = ConfigDict(frozen=True)

    subject: str
    org_ids: frozenset[str] | None
    scopes: frozenset[Scope]

    def may_see(self, org_id: str) -> bool:
        """Tell whether the organization's things exist for this principal."""
        return self.org_ids is None or org_id in self.org_ids

    def require(self, scope: Scope, org_id: str | None = None) -> None:
        """Return if the principal has the scope (in that organization).

        Raises:
            Failure: `permission_denied` when it does not.
        """
        if scope not in self.scopes:
            raise errors.Failure(
                "permission_denied",
                f"this token lacks the scope {scope}",
                hint="make a token that has it with `godwit tokens create`",
            )
        if org_id is not None and not self.may_see(org_id):
            raise errors.Failure("permission_denied", "this token is not for that organization")


def component(name: str) -> Principal:
    """Return the principal of one of the platform's own processes."""
    return Principal(subject=f"component:{name}", org_ids=None, scopes=ALL_SCOPES)
