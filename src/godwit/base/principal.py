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
    "secrets:read",
    "secrets:write",
    "secrets:read_values",
    "secrets:use",
    "keyring:rotate",
    "logs:read",
    "builds:write",
    "images:pull",
    "images:push",
    "tokens:read",
    "tokens:write",
    "hosts:read",
    "hosts:write",
]

ALL_SCOPES: frozenset[Scope] = frozenset(Scope.__args__)  # type: ignore[attr-defined]
_OF_ONE_APP = ("apps:", "machines:", "secrets:", "logs:", "builds:", "images:")
APP_SCOPES = frozenset(scope for scope in ALL_SCOPES if scope.startswith(_OF_ONE_APP))
"""What somebody may be allowed who acts on some apps alone: all else is about organizations."""


class Principal(BaseModel):
    """Who asks, for which organizations, with which scopes.

    Attributes:
        subject: `user:<email>`, `token:<id>` or `component:<name>`; what the audit row says.
        org_ids: Organizations it may act in; `None` means every one (the operator).
        scopes: What it may do there.
        app_ids: The apps that it may act on, all of these organizations for `None`.
        machine_id: Not `None`: it is a machine that asks for itself, and may do nothing else.
    """

    model_config = ConfigDict(frozen=True)

    subject: str
    org_ids: frozenset[str] | None
    scopes: frozenset[Scope]
    app_ids: frozenset[str] | None = None
    machine_id: str | None = None

    def may_see(self, org_id: str, app_id: str | None = None) -> bool:
        """Tell whether the organization's things, or an app's, exist for this principal."""
        if self.app_ids is not None and app_id not in self.app_ids:
            return False
        return self.org_ids is None or org_id in self.org_ids

    def require(
        self,
        scope: Scope,
        org_id: str | None = None,
        *,
        app_id: str | None = None,
        machine_id: str | None = None,
    ) -> None:
        """Return if the principal has the scope (in that organization).

        Args:
            scope: What is needed.
            org_id: Where.
            app_id: On which app of it; `None` when it is about the whole organization.
            machine_id: The one machine it is about; `None` when it is about anything else.

        Raises:
            Failure: `permission_denied` when it does not.
        """
        if self.machine_id is not None and self.machine_id != machine_id:
            raise errors.Failure(
                "permission_denied",
                "a machine may only act on itself without a token",
                hint="send a token as `Authorization: Bearer …`",
            )
        if scope not in self.scopes:
            raise errors.Failure(
                "permission_denied",
                f"this token lacks the scope {scope}",
                hint="make a token that has it with `godwit tokens create`",
            )
        if org_id is not None and not self.may_see(org_id, app_id):
            what = "organization" if self.app_ids is None else "app"
            raise errors.Failure("permission_denied", f"this token is not for that {what}")


def machine(machine_id: str, org_id: str) -> Principal:
    """Return the principal of a machine whose own process asks, without a token."""
    return Principal(
        subject=f"machine:{machine_id}",
        org_ids=frozenset({org_id}),
        scopes=frozenset({"machines:read", "machines:write"}),
        machine_id=machine_id,
    )


def component(name: str) -> Principal:
    """Return the principal of one of the platform's own processes."""
    return Principal(subject=f"component:{name}", org_ids=None, scopes=ALL_SCOPES)
