"""Who answers a guest's request: this agent its machine's own end, control all the rest.

What a machine does to itself as a matter of course, suspend and stop, works while control is away.
Everything else is control's: it knows tokens, and what a machine may ask without one.
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from godwit.agent import ports
from godwit.agent.machines import config, records
from godwit.agent.rpc.desk import Handler
from godwit.base import errors, principal
from godwit.wire import guest_api

logger = logging.getLogger(__name__)

_STOP_SIGNALS = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGTERM")
_READS = frozenset({"GET", "HEAD"})
_ANSWER_S = 70.0
"""Longer than the longest wait for a machine's state."""


class Answers:
    """Answers requests of this host's machines.

    Args:
        own: What ends a machine, by the last part of the path: `machine.suspend`, `machine.stop`.
        control: For everything else.
    """

    def __init__(self, own: Mapping[str, Handler], control: ports.Control) -> None:
        self._own = own
        self._control = control

    async def answer(
        self,
        machine: records.Machine,
        request: guest_api.GuestRequest,
        owing: Callable[[], None],
    ) -> guest_api.GuestAnswer:
        """Return the answer to a request of that machine.

        Args:
            machine: Who asks.
            request: What.
            owing: Called before anything is changed: if that ends the machine, the answer has to
                be there before.
        """
        try:
            path = urlsplit(request.target).path
        except ValueError:
            return failed(errors.invalid("the request's target is no path"))
        if request.method not in _READS:
            owing()
        try:
            if request.header("authorization") is None:
                verb = path.removeprefix(_path_of(machine))
                if verb in self._own and request.method == "POST":
                    await self._end(machine, verb, request)
                    return guest_api.said(200, '{"ok":true}')
            return await self._control.guest_request(request, _ANSWER_S)
        except errors.Failure as failure:
            return failed(failure)

    async def _end(
        self, machine: records.Machine, verb: str, request: guest_api.GuestRequest
    ) -> None:
        nonce = request.header("fly-machine-lease-nonce")
        asked: dict[str, Any] = {"machine_id": machine.machine_id, "nonce": nonce or None}
        if verb == "stop":
            asked |= _grace(request.body)
        logger.debug("machine %s asks for its own %s", machine.machine_id, verb)
        await self._own[verb](principal.machine(machine.machine_id, machine.org_id), asked)


def failed(failure: errors.Failure) -> guest_api.GuestAnswer:
    """Return a failure as an answer (spec/machines.md §1.1)."""
    said = {"error": f"{failure.code}: {failure.message}", "status": "unknown"}
    if failure.hint:
        said["hint"] = failure.hint
    return guest_api.said(errors.STATUS[failure.code], json.dumps(said))


def refused(status: int, message: str) -> guest_api.GuestAnswer:
    """Return a refusal whose status says more than its code."""
    return guest_api.said(status, json.dumps({"error": message, "status": "unknown"}))


def _path_of(machine: records.Machine) -> str:
    return f"/v1/apps/{machine.app}/machines/{machine.machine_id}/"


def _grace(body: bytes) -> dict[str, Any]:
    """Return the signal and timeout that a stop asks for.

    Raises:
        Failure: `invalid_argument`.
    """
    try:
        given = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError) as error:
        raise errors.invalid("the body is not JSON") from error
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise errors.invalid("body: must be an object")
    found: dict[str, Any] = {}
    if given.get("signal"):
        found["signal"] = config.signal_name(given["signal"])
        if found["signal"] not in _STOP_SIGNALS:
            raise errors.invalid(f"signal: must be one of {', '.join(_STOP_SIGNALS)}")
    if given.get("timeout"):
        timeout_ms = config.duration_ms(given["timeout"])
        if timeout_ms is None or timeout_ms > config.LONGEST_STOP_MS:
            raise errors.invalid("timeout: must be a duration such as 10s, at most 5m")
        found["timeout_ms"] = timeout_ms
    return found
