"""The steps of each strategy, and of the way back.

    rolling     leases, release command, new groups, machines in place, a last look ┃ old ones go
    canary      the same, after a machine of each group that is watched and destroyed
    immediate   leases, release command, new groups, machines without waiting ┃ old ones go
    bluegreen   leases, release command, new groups, new machines, all well, traffic ┃ old ones go

    way back    machines get what they had, what was made is destroyed

Old ones are the machines that were replaced, and those of removed groups. Left of ┃ a deploy can
be cancelled. A plan that has nothing for a step leaves it out. Names are
written down with every run: renaming one is a migration.
"""

from collections.abc import Awaitable, Callable, Mapping

from godwit.control.deploys.journal import Outcome
from godwit.control.deploys.order import Order, Plan
from godwit.control.deploys.steps import (
    bluegreen,
    canary,
    elsewhere,
    machines,
    release_command,
    update,
)
from godwit.control.deploys.work import Work
from godwit.durable.runner import Output, Step

_DAY_S = 86_400.0
_Do = Callable[[Work, Mapping[str, Output]], Awaitable[Output | None]]


def _step(do: _Do, title: str) -> Step[Work]:
    # Its parts have deadlines of their own; silence of the database alone is waited out.
    return Step(do.__name__, title, do, 10 * _DAY_S, patience_s=None, stuck_s=_DAY_S)


_ALL = (
    _step(machines.take_leases, "taking the machines' leases"),
    _step(release_command.release_command, "running the release command"),
    _step(release_command.seed_command, "running the seed command"),
    _step(machines.create_machines, "making machines of new groups"),
    _step(canary.canaries, "trying the release in canaries"),
    _step(update.update_machines, "updating machines"),
    _step(update.update_at_once, "updating machines at once"),
    _step(update.confirm, "looking once more"),
    _step(bluegreen.create_greens, "making new machines"),
    _step(bluegreen.greens_well, "waiting for the new machines"),
    _step(bluegreen.serve_greens, "sending traffic to the new machines"),
    _step(bluegreen.retire_blues, "destroying the old machines"),
    _step(elsewhere.retire_replaced, "destroying machines that were replaced"),
    _step(machines.destroy_removed, "destroying machines of removed groups"),
    _step(update.restore_machines, "rolling back"),
    _step(elsewhere.settle_replaced, "leaving each place to one machine"),
    _step(machines.destroy_made, "destroying what was made"),
    _step(machines.destroy_helpers, "destroying the deploy's own machines"),
)
STEPS: Mapping[str, Step[Work]] = {step.name: step for step in _ALL}

_FORWARD = {
    "rolling": ("update_machines", "confirm", "retire_replaced"),
    "canary": ("canaries", "update_machines", "confirm", "retire_replaced"),
    "immediate": ("update_at_once", "retire_replaced"),
    "bluegreen": ("create_greens", "greens_well", "serve_greens", "retire_blues"),
}


def forward(plan: Plan) -> list[str]:
    """Return the steps that carry out a plan."""
    names: list[str] = []
    if plan.update or plan.destroy:
        names.append("take_leases")
    if plan.release_command:
        names.append("release_command")
    if plan.seed_command:
        names.append("seed_command")
    if plan.create:
        names.append("create_machines")
    if plan.update:
        names += _FORWARD[plan.strategy]
    elif plan.create and plan.strategy != "immediate":
        names.append("confirm")
    if plan.destroy:
        names.append("destroy_removed")
    return names


def way_back(order: Order, outcome: Outcome) -> list[str]:
    """Return the steps back, for a deploy that failed or is cancelled."""
    if order.plan.strategy == "bluegreen":
        return ["destroy_made"]
    stays = order.plan.strategy == "immediate" and outcome == "failed"
    if stays or not order.settings.auto_rollback:
        return ["settle_replaced", "destroy_helpers"]
    return ["restore_machines", "destroy_made"]
