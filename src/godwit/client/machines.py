"""Machines of an app: `/v1/apps/{app}/machines`; what else one may ask of one is in `details`."""

from collections.abc import Mapping, Sequence
from typing import Any

from godwit.client.records import Event, Machine, Ran, Waited
from godwit.client.transport import Transport

_LONGEST_POLL_S = 60
_CHANGE_S = 120.0
_MARGIN_S = 15.0
_NONCE = "fly-machine-lease-nonce"


class Machines:
    """Machines, one at a time and by app.

    `nonce` is that of the machine's lease, for those who hold it.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def progress(self, app: str, machine_id: str) -> str:
        """Return in words what the host does with a machine, or why it rests."""
        answer = await self._transport.get(f"/x{path(app, machine_id)}")
        return str((answer or {}).get("sentence") or "")

    async def events(self, app: str, machine_id: str, *, limit: int = 20) -> list[Event]:
        """Return a machine's history, newest first."""
        answer = await self._transport.get(path(app, machine_id, "events"), query={"limit": limit})
        return [Event.model_validate(one) for one in answer or []]

    async def list(
        self,
        app: str,
        *,
        include_deleted: bool = False,
        include_leases: bool = False,
        region: str | None = None,
    ) -> list[Machine]:
        """Return the machines of an app, those destroyed only when asked."""
        query = {
            "include_deleted": True if include_deleted else None,
            "include_leases": True if include_leases else None,
            "region": region,
        }
        pages = self._transport.pages(path(app), query=query)
        return [Machine.model_validate(one) async for page in pages for one in page or []]

    async def get(self, app: str, machine_id: str) -> Machine:
        """Return a machine."""
        return Machine.model_validate(await self._transport.get(path(app, machine_id)))

    async def create(
        self,
        app: str,
        config: dict[str, Any],
        *,
        name: str | None = None,
        region: str | None = None,
        skip_launch: bool = False,
    ) -> Machine:
        """Create a machine, and start it unless told otherwise.

        Raises:
            Failure: `insufficient_capacity`, `manifest_unknown`, `invalid_argument`.
        """
        body: dict[str, Any] = {"config": config}
        if name:
            body["name"] = name
        if region:
            body["region"] = region
        if skip_launch:
            body["skip_launch"] = True
        answer = await self._transport.call("POST", path(app), body=body, timeout_s=_CHANGE_S)
        return Machine.model_validate(answer)

    async def update(
        self,
        app: str,
        machine_id: str,
        config: dict[str, Any],
        *,
        current_version: str = "",
        skip_launch: bool = False,
        nonce: str = "",
    ) -> Machine:
        """Give a machine a new config.

        Raises:
            Failure: `conflict` when `current_version` is not its version any more.
        """
        body: dict[str, Any] = {"config": config}
        if current_version:
            body["current_version"] = current_version
        if skip_launch:
            body["skip_launch"] = True
        answer = await self._transport.call(
            "POST",
            path(app, machine_id),
            body=body,
            headers=lease_header(nonce),
            timeout_s=_CHANGE_S,
        )
        return Machine.model_validate(answer)

    async def start(self, app: str, machine_id: str) -> None:
        """Start a machine; returns before it runs."""
        await self._act(app, machine_id, "start")

    async def suspend(self, app: str, machine_id: str) -> None:
        """Suspend a machine with its memory; returns before it rests."""
        await self._act(app, machine_id, "suspend")

    async def signal(self, app: str, machine_id: str, name: str) -> None:
        """Send a signal to a machine's main process."""
        await self._act(app, machine_id, "signal", body={"signal": name})

    async def stop(
        self, app: str, machine_id: str, *, signal: str | None = None, grace: str | None = None
    ) -> None:
        """Stop a machine; returns before it rests.

        Args:
            app: Whose it is.
            machine_id: Which one.
            signal: `SIGINT` and the like, instead of the config's.
            grace: How long until it is killed, a Go duration, instead of the config's.
        """
        body = {name: value for name, value in (("signal", signal), ("timeout", grace)) if value}
        await self._act(app, machine_id, "stop", body=body)

    async def restart(
        self,
        app: str,
        machine_id: str,
        *,
        force: bool = False,
        grace: str | None = None,
        nonce: str = "",
    ) -> None:
        """Stop and start a machine."""
        await self._transport.call(
            "POST",
            path(app, machine_id, "restart"),
            query={"force_stop": True if force else None, "timeout": grace},
            headers=lease_header(nonce),
            timeout_s=_CHANGE_S,
        )

    async def destroy(
        self, app: str, machine_id: str, *, force: bool = False, nonce: str = ""
    ) -> None:
        """Destroy a machine; one that runs only with `force`."""
        await self._transport.call(
            "DELETE",
            path(app, machine_id),
            query={"force": True, "kill": True} if force else None,
            headers=lease_header(nonce),
            timeout_s=_CHANGE_S,
        )

    async def cordon(self, app: str, machine_id: str) -> None:
        """Take a machine out of the edge's routing."""
        await self._act(app, machine_id, "cordon")

    async def uncordon(self, app: str, machine_id: str) -> None:
        """Put a machine back into the edge's routing."""
        await self._act(app, machine_id, "uncordon")

    async def wait(
        self,
        app: str,
        machine_id: str,
        states: Sequence[str],
        *,
        version: str = "",
        after_event: str = "",
        timeout_s: float = _LONGEST_POLL_S,
    ) -> Waited:
        """Wait for one of several states, at most 60 seconds.

        With the id of an event in `after_event`, what came before it does not count.

        Raises:
            Failure: `deadline_exceeded` when the time is over; ask again.
        """
        poll_s = int(min(max(timeout_s, 1), _LONGEST_POLL_S))
        answer = await self._transport.get(
            path(app, machine_id, "wait"),
            query={
                "state": ",".join(states),
                "version": version or None,
                "from_event_id": after_event or None,
                "timeout": poll_s,
            },
            timeout_s=poll_s + _MARGIN_S,
        )
        return Waited.model_validate(answer or {})

    async def exec(
        self,
        app: str,
        machine_id: str,
        command: Sequence[str],
        *,
        stdin: str = "",
        timeout_s: int = 60,
        container: str = "",
        machine: bool = False,
    ) -> Ran:
        """Run one command in a machine and return how it ended.

        In its main container if it has several, in another one, or beside them in the machine.
        """
        body: dict[str, Any] = {"command": list(command), "timeout": timeout_s}
        if container:
            body["container"] = container
        if machine:
            body["machine"] = True
        if stdin:
            body["stdin"] = stdin
        answer = await self._transport.call(
            "POST", path(app, machine_id, "exec"), body=body, timeout_s=timeout_s + _MARGIN_S
        )
        return Ran.model_validate(answer or {})

    async def _act(
        self, app: str, machine_id: str, verb: str, *, body: dict[str, str] | None = None
    ) -> None:
        await self._transport.call(
            "POST", path(app, machine_id, verb), body=body or None, timeout_s=_CHANGE_S
        )


def path(app: str, machine_id: str = "", verb: str = "") -> str:
    """Return where an app's machines, one of them, or something of it is."""
    parts = ["", "v1", "apps", app, "machines", machine_id, verb]
    return "/".join(parts).rstrip("/")


def lease_header(nonce: str) -> Mapping[str, str]:
    """Return the header that shows one holds the machine's lease; none without a nonce."""
    return {_NONCE: nonce} if nonce else {}
