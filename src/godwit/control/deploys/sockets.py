"""Whether an app listens where its services expect it: a warning, nobody is kept from anything.

Asked once a machine is up, where no check of the service tells, and where one is not well
(spec/config-cli.md §3.4). Sockets on the guest's loopback do not count: the edge does not reach
them.
"""

from collections.abc import Collection, Sequence
from typing import Any

from godwit.base import errors
from godwit.control.deploys.work import POLL_S, Work
from godwit.wire import host_rpc
from godwit.wire.host_rpc import GuestProcess, MachineView

_LOOPBACK = ("127.", "[::1]", "[::ffff:127.", "::1")
_SHOWN = 5
_INIT = 1
PATIENCE_S = 20.0
"""How long an app that listens nowhere yet is given: an interpreter takes its time to begin."""


async def warn(work: Work, view: MachineView, group: str, *, patience_s: float = 0.0) -> None:
    """Say so if a started machine does not listen where it is expected to.

    Args:
        work: The run.
        view: The machine.
        group: Whose.
        patience_s: How long it may listen nowhere at all before that is said.
    """
    expected = ports(view.config)
    if not expected or view.state != "started":
        return
    ends = work.ctx.clock.monotonic() + patience_s
    asked = {"machine_id": view.machine_id}
    while True:
        try:
            body = await work.ctx.hosts.call(
                view.host_id, "machine.ps", asked, work.order.who, work.ctx.options.ask_s
            )
        except errors.Failure:
            return
        processes = host_rpc.GuestProcesses.model_validate(body).processes
        told = sentence(expected, processes)
        begins = not any(one.listen_sockets for one in processes if one.pid != _INIT)
        if not told or not begins or work.ctx.clock.monotonic() >= ends:
            break
        await work.ctx.clock.sleep(POLL_S)
    if told:
        await work.say("warning", told, group=group, machine_id=view.machine_id)


def ports(config: dict[str, Any]) -> list[int]:
    """Return the TCP ports that a config's services expect an app at."""
    found = {
        int(one["internal_port"])
        for one in config.get("services") or ()
        if one.get("internal_port") and one.get("protocol", "tcp") == "tcp"
    }
    return sorted(found)


def checked(config: dict[str, Any]) -> bool:
    """Tell whether every service of a config has a check, which knows better."""
    return all(one.get("checks") for one in config.get("services") or ())


def sentence(expected: Sequence[int], processes: Collection[GuestProcess]) -> str:
    """Return what is wrong with where an app listens; empty for nothing."""
    sockets = {
        (socket.address, process.command)
        for process in processes
        for socket in process.listen_sockets
        if socket.proto.startswith("tcp")
    }
    reached = {
        int(address.rpartition(":")[2])
        for address, _ in sockets
        if not address.startswith(_LOOPBACK)
    }
    missing = [port for port in expected if port not in reached]
    if not missing:
        return ""
    wanted = " and ".join(f"0.0.0.0:{port}" for port in missing)
    found = ", ".join(
        f"{address} ({command[:40]})" for address, command in sorted(sockets)[:_SHOWN]
    )
    return (
        f"does not listen on {wanted}, where its service expects it, and gets no requests: it"
        f" listens on {found or 'no port at all'}"
    )
