"""Deploys: what is asked, how one goes, what it would do."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from godwit.api.schemas.common import Json, Out, ShortText, Text
from godwit.base import clock
from godwit.control import machine_actions
from godwit.control.deploys import order, service, view
from godwit.wire.deploys import Options

_LONGEST_S = 86_400.0
_MOST = 1_000

Names = Annotated[list[ShortText], Field(max_length=_MOST)]
Seconds = Annotated[float, Field(gt=0, le=_LONGEST_S)]


class DeployIn(BaseModel):
    """A body taken: strict types; what is false or 0 is meant, what is left out is not."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class DeployOptions(DeployIn):
    """How to deploy; what is left out is the definition's, or the default.

    `max_unavailable` from 1 on is a number of machines, below it a share of those that run.
    `release_command_timeout_s` 0 sets no limit.
    """

    strategy: ShortText | None = None
    max_unavailable: float | None = Field(None, gt=0, le=100_000)
    max_concurrent: int | None = Field(None, ge=1, le=1_000)
    wait_timeout_s: Seconds | None = None
    release_command_timeout_s: float | None = Field(None, ge=0, le=_LONGEST_S)
    skip_release_command: bool = False
    smoke_checks: bool = True
    ha: bool = True
    update_only: bool = False
    regions: Names = []
    exclude_regions: Names = []
    only_machines: Names = []
    exclude_machines: Names = []
    process_groups: Names = []
    auto_rollback: bool | None = None
    signal: ShortText | None = None
    drain_timeout_s: float | None = Field(None, ge=0, le=3_600)
    description: Text = Field("", max_length=2000)

    def wanted(self) -> Options:
        """Return what the service is asked."""
        given = self.model_dump()
        given["signal"] = machine_actions.stop_signal(self.signal)
        return Options.model_validate(given)


class CreateDeploy(DeployIn):
    """A deploy: `definition` is fly.toml as JSON, with local files put in.

    `secrets` restarts the machines as they are under a new release; it needs neither image nor
    definition.
    """

    kind: Literal["deploy", "secrets"] = "deploy"
    definition: Json = {}
    image: Text = Field("", max_length=1024)
    options: DeployOptions = DeployOptions()
    plan_only: bool = False

    def wanted(self) -> service.NewDeploy:
        """Return what the service is asked."""
        return service.NewDeploy(self.definition, self.image, self.options.wanted(), self.kind)


class CreateRollback(DeployIn):
    """Back to a release by its number; left out, to the last complete one before the present."""

    version: int | None = Field(None, ge=1, lt=2**31)
    options: DeployOptions = DeployOptions()


class PlannedMachine(Out):
    """A machine that is made."""

    region: str
    standby: bool


class PlannedUpdate(Out):
    """A machine that gets the new release."""

    machine_id: str
    region: str
    start: bool


class PlannedGroup(Out):
    """What is done to a process group."""

    group: str
    create: list[PlannedMachine]
    update: list[PlannedUpdate]
    destroy: list[str]


class DeployPlan(Out):
    """What a deploy does."""

    strategy: str
    release_command: str
    groups: list[PlannedGroup]
    unchanged: list[str]
    sentences: list[str]

    @classmethod
    def of(cls, plan: order.Plan) -> "DeployPlan":
        """Return a plan as the API shows it."""
        touched = {
            *(one.group for one in plan.create),
            *(one.group for one in plan.update),
            *(one.group for one in plan.destroy),
        }
        return cls(
            strategy=plan.strategy,
            release_command=plan.release_command,
            groups=[_group(plan, name) for name in sorted(touched)],
            unchanged=list(plan.unchanged),
            sentences=list(plan.sentences),
        )


class PlanOnly(Out):
    """What a deploy would do."""

    plan: DeployPlan


class DeployRelease(Out):
    """The release that a deploy makes."""

    id: str
    version: int
    image: str


class DeployEvent(Out):
    """One thing that happened; `level` is `step`, `state`, `warning` or `error`."""

    number: int
    at: str
    level: str
    group: str
    machine_id: str
    message: str

    @classmethod
    def of(cls, event: view.Event) -> "DeployEvent":
        """Return an event as the API shows it."""
        return cls(
            number=event.number,
            at=clock.rfc3339(event.at_ms),
            level=event.level,
            group=event.group,
            machine_id=event.machine_id,
            message=event.message,
        )


class Deploy(Out):
    """A deploy, and its events after the number that was asked."""

    id: str
    app: str
    kind: str
    status: Literal["running", "complete", "failed", "cancelled"]
    release: DeployRelease
    strategy: str
    user: str
    begun_at: str
    ended_at: str | None
    step: str
    sentence: str
    error: str
    plan: DeployPlan
    events: list[DeployEvent]

    @classmethod
    def of(cls, deploy: service.Deploy) -> "Deploy":
        """Return a deploy as the API shows it."""
        row, ordered = deploy.row, deploy.order
        ended = row.ended_at_ms
        return cls(
            id=row.id,
            app=ordered.app,
            kind=row.kind,
            status=view.status(deploy),
            release=DeployRelease(
                id=ordered.release_id, version=ordered.version, image=ordered.image
            ),
            strategy=ordered.settings.strategy,
            user=ordered.subject,
            begun_at=clock.rfc3339(row.begun_at_ms),
            ended_at=None if ended is None else clock.rfc3339(ended),
            step=view.step(deploy),
            sentence=view.sentence(deploy),
            error=row.message,
            plan=DeployPlan.of(ordered.plan),
            events=[DeployEvent.of(one) for one in view.events(deploy)],
        )


class DeployList(Out):
    """Deploys, newest first, without their events."""

    deploys: list[Deploy]


def _group(plan: order.Plan, name: str) -> PlannedGroup:
    return PlannedGroup(
        group=name,
        create=[
            PlannedMachine(region=one.region, standby=bool(one.standby_for))
            for one in plan.create
            if one.group == name
        ],
        update=[
            PlannedUpdate(machine_id=one.machine_id, region=one.region, start=one.start)
            for one in plan.update
            if one.group == name
        ],
        destroy=[one.machine_id for one in plan.destroy if one.group == name],
    )
