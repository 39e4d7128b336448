"""Deploys of an app, which control carries through: `/x/v1/apps/{app}/deploys`."""

from dataclasses import dataclass, field
from typing import Any, Literal

from godwit.client.records import Deploy, DeployPlan
from godwit.client.transport import Transport
from godwit.wire.deploys import Options

_WAIT_S = 30
_ANSWER_S = 30.0
_PLANNING_S = 120.0
"""Control may have to look an image up at a registry before it can answer."""

Kind = Literal["deploy", "secrets"]


@dataclass(frozen=True)
class Order:
    """What is to be deployed.

    Attributes:
        definition: fly.toml as JSON, with the files it names put in.
        image: What to run.
    """

    definition: dict[str, Any]
    image: str
    options: Options = field(default_factory=Options)
    kind: Kind = "deploy"

    def body(self) -> dict[str, Any]:
        """Return what is sent."""
        return {
            "kind": self.kind,
            "definition": self.definition,
            "image": self.image,
            "options": said(self.options),
        }


def said(options: Options) -> dict[str, Any]:
    """Return options as they are sent: only what was said."""
    found = options.model_dump(mode="json")
    return {name: value for name, value in found.items() if value not in (None, [], "")}


class Deploys:
    """Deploys: begun here, carried through by the platform."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def begin(self, app: str, order: Order) -> Deploy:
        """Begin a deploy.

        Raises:
            ApiFailure: 409 `conflict` while another one is under way; the config, the image or
                the machines are such that it cannot be. Nothing was touched then.
        """
        answer = await self._transport.call(
            "POST", _path(app), body=order.body(), timeout_s=_PLANNING_S
        )
        return Deploy.model_validate(answer)

    async def plan(self, app: str, order: Order) -> DeployPlan:
        """Return what a deploy would do, and do nothing.

        Raises:
            ApiFailure: As `begin`.
        """
        answer = await self._transport.call(
            "POST", _path(app), body={**order.body(), "plan_only": True}, timeout_s=_PLANNING_S
        )
        return DeployPlan.model_validate(answer.get("plan") or {})

    async def list(self, app: str, *, limit: int = 25) -> list[Deploy]:
        """Return the newest deploys first, without their events."""
        answer = await self._transport.get(_path(app), query={"limit": limit})
        return [Deploy.model_validate(one) for one in answer.get("deploys") or []]

    async def get(self, app: str, deploy_id: str, *, after: int = 0, wait_s: int = 0) -> Deploy:
        """Return a deploy with its events after a number.

        Args:
            app: Whose.
            deploy_id: Which.
            after: Events up to this number are left out.
            wait_s: How long to wait for a newer one, at most 30.
        """
        wait_s = min(wait_s, _WAIT_S)
        answer = await self._transport.get(
            f"{_path(app)}/{deploy_id}",
            query={"after": after, "wait_s": wait_s},
            timeout_s=wait_s + _ANSWER_S,
        )
        return Deploy.model_validate(answer)

    async def cancel(self, app: str, deploy_id: str) -> None:
        """Have a deploy stop and go back."""
        await self._transport.call("POST", f"{_path(app)}/{deploy_id}/cancel")

    async def roll_back(
        self, app: str, version: int | None, options: Options | None = None
    ) -> Deploy:
        """Begin a deploy of an earlier release; `None` for the last that was complete.

        Raises:
            ApiFailure: 404 when there is none; 409 as `begin`.
        """
        body: dict[str, Any] = {"options": said(options or Options())}
        if version is not None:
            body["version"] = version
        answer = await self._transport.call(
            "POST", f"/x/v1/apps/{app}/rollback", body=body, timeout_s=_PLANNING_S
        )
        return Deploy.model_validate(answer)


def _path(app: str) -> str:
    return f"/x/v1/apps/{app}/deploys"
