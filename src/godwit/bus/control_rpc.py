"""Hosts ask control: the few requests that go the other way, in the envelopes of `wire.host_rpc`.

Who asks is in the subject, `godwit.control.rpc.<host_id>.<verb>`: the bus lets a host publish
under its own id alone, so nothing in the request itself has to be believed.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from nats.aio.msg import Msg
from pydantic import ValidationError

from godwit.base import errors, tasks
from godwit.base.principal import Principal
from godwit.bus import answering
from godwit.bus.connection import Connection
from godwit.wire import guest_api, host_rpc
from godwit.wire.secrets import HostSecrets

Handler = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Takes the host's id and the body."""

_PREFIX = "godwit.control.rpc."
_MOST_AT_ONCE = 64
_MOST_OF_GUESTS = 512


class Client:
    """A host's side."""

    def __init__(self, connection: Connection, host_id: str) -> None:
        self._connection = connection
        self._host_id = host_id

    async def pull_token(self, machine_id: str, reference: str) -> str | None:
        """Return what opens an image's registry for a machine of this host, now.

        Raises:
            Failure: What control said, or `unavailable` / `deadline_exceeded`.
        """
        body = {"machine_id": machine_id, "reference": reference}
        token = (await self._call("pull_token", body)).get("token")
        return str(token) if token is not None else None

    async def guest_request(
        self, request: guest_api.GuestRequest, timeout_s: float
    ) -> guest_api.GuestAnswer:
        """Return the API's answer to what a process in a machine of this host asked.

        Raises:
            Failure: What control said, or `unavailable` / `deadline_exceeded`.
        """
        asked = request.model_dump(mode="json")
        body = await self._call(guest_api.VERB, asked, timeout_s)
        try:
            return guest_api.GuestAnswer.model_validate(body)
        except ValidationError as error:
            message = "control's answer to a machine cannot be read"
            raise errors.Failure("unavailable", message) from error

    async def secrets(self, machine_id: str) -> HostSecrets | None:
        """Return the newest secrets of a machine's app, sealed for this host.

        Raises:
            Failure: What control said, or `unavailable` / `deadline_exceeded`.
        """
        sealed = (await self._call("secrets", {"machine_id": machine_id})).get("secrets")
        try:
            return None if sealed is None else HostSecrets.model_validate(sealed)
        except ValidationError as error:
            message = "control's answer to secrets cannot be read"
            raise errors.Failure("unavailable", message) from error

    async def deed(self, deed: guest_api.Deed) -> None:
        """Have it written down what a machine of this host did to itself.

        Raises:
            Failure: What control said, or `unavailable` / `deadline_exceeded`.
        """
        await self._call(guest_api.DEED, deed.model_dump(mode="json"))

    async def release(self, release: str) -> None:
        """Say which release of Godwit this host runs.

        Raises:
            Failure: What control said, or `unavailable` / `deadline_exceeded`.
        """
        await self._call("release", {"release": release})

    async def mesh_keys(self, key: str, next_key: str) -> None:
        """Have everybody know this host in the mesh by these keys, the next one beforehand.

        Raises:
            Failure: What control said, or `unavailable` / `deadline_exceeded`.
        """
        await self._call("mesh_keys", {"key": key, "next_key": next_key})

    async def endpoints(self, endpoints: Sequence[str]) -> None:
        """Have everybody look for this host's WireGuard there, the best first.

        Raises:
            Failure: What control said, or `unavailable` / `deadline_exceeded`.
        """
        await self._call("endpoints", {"endpoints": list(endpoints)})

    async def _call(
        self, verb: str, body: dict[str, Any], timeout_s: float = 10.0
    ) -> dict[str, Any]:
        nobody = Principal(
            subject=f"component:host-{self._host_id}", org_ids=frozenset(), scopes=frozenset()
        )
        request = host_rpc.Request(principal=nobody, body=body, timeout_s=timeout_s)
        subject = f"{_PREFIX}{self._host_id}.{verb}"
        answer = await self._connection.request(
            subject, request.model_dump_json().encode(), timeout_s
        )
        try:
            reply = host_rpc.Reply.model_validate_json(answer.data)
        except ValidationError as error:
            message = f"control's answer to {verb} cannot be read"
            raise errors.Failure("unavailable", message) from error
        if reply.error is not None:
            raise errors.Failure(reply.error.code, reply.error.message, hint=reply.error.hint)
        return reply.body or {}


async def serve(
    connection: Connection, owned: tasks.Tasks, handlers: Mapping[str, Handler]
) -> None:
    """Answer hosts from now on, across reconnections; one of the replicas of control does.

    What machines ask has places of its own: it may wait long, and hosts do not stand behind it.
    """
    of_hosts = answering.Answerer(owned, running=_MOST_AT_ONCE)
    of_guests = answering.Answerer(owned, running=_MOST_OF_GUESTS, waiting=0)

    async def answer(message: Msg) -> None:
        host_id, _, verb = message.subject.removeprefix(_PREFIX).partition(".")
        handler = handlers.get(verb)
        answerer = of_guests if verb == guest_api.VERB else of_hosts
        bound = None if handler is None else _bound(handler, host_id)
        await answering.respond(message, await answerer.answer(bound, verb, message.data))

    async def receive(message: Msg) -> None:
        owned.spawn(answer(message), name=message.subject)

    await answering.subscribe(connection, f"{_PREFIX}>", receive, group="control")


def _bound(handler: Handler, host_id: str) -> answering.Handler:
    async def answer(_: Principal, body: dict[str, Any]) -> dict[str, Any]:
        return await handler(host_id, body)

    return answer
