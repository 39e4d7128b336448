"""What a request must pass beside the table: config, version, room on the host. Pure."""

from collections.abc import Mapping
from typing import Any

from godwit.agent.machines import config, lifecycle, records, views
from godwit.base import errors
from godwit.wire import host_rpc


def judge(
    verdict: lifecycle.Verdict, machine: records.Machine, given: Mapping[str, Any]
) -> lifecycle.Verdict:
    """Return the table's verdict, or another one where the machine's config forbids it.

    What cannot be suspended is refused, or stopped where the asker said that would do.
    """
    if not isinstance(verdict, lifecycle.Run) or verdict.kind != "suspend":
        return verdict
    reason = config.unsuspendable(machine.config)
    if reason is None:
        return verdict
    if given.get("or_stop"):
        return lifecycle.Run("stop", verdict.at_once)
    return lifecycle.Refuse("failed_precondition", reason)


def check_version(present: str, given: Mapping[str, Any]) -> None:
    """Check that an update is about the version that is there.

    Raises:
        Failure: `conflict`.
    """
    expected = given.get("update", {}).get("current_version")
    if expected and expected != present:
        raise errors.Failure(
            "conflict",
            f"the machine is at version {present}, not {expected}",
            hint="read the machine again and repeat the update",
        )


def needs(
    kind: lifecycle.Kind, machine: records.Machine, given: Mapping[str, Any]
) -> host_rpc.Resources | None:
    """Return what an operation must hold of the host before it begins; `None` for nothing.

    An update of a running machine holds the larger of both versions.
    """
    if lifecycle.COURSES[kind].target != "started":
        return None
    if kind != "update":
        return machine.resources
    wanted = host_rpc.Update.model_validate(given["update"]).resources
    return views.larger(wanted, machine.resources) if machine.state == "started" else wanted
