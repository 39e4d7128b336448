"""Hosts: the servers of the cluster, and the images at rest on them. For the operator."""

from godwit.client.records import (
    Host,
    HostImages,
    JoinToken,
    LostMachine,
    MeshPeer,
    RemovedImage,
)
from godwit.client.transport import Transport

_PRUNE_S = 90.0


class Hosts:
    """The servers; every method raises `permission_denied` for all but the operator."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def get(self, host_id: str) -> Host:
        """Return one, a removed one too.

        Raises:
            Failure: `not_found`.
        """
        return Host.model_validate(await self._transport.get(f"/x/v1/hosts/{host_id}"))

    async def mesh(self, host_id: str) -> list[MeshPeer]:
        """Return how a host reaches all others.

        Raises:
            Failure: `not_found`, `failed_precondition` when it was removed, `unavailable` or
                `deadline_exceeded` while it does not answer.
        """
        answer = await self._transport.get(f"/x/v1/hosts/{host_id}/mesh")
        return [MeshPeer.model_validate(one) for one in answer.get("peers") or []]

    async def set(self, host_id: str, verb: str) -> None:
        """Have a host be what a verb says: `cordon`, `uncordon`, `drain`.

        Raises:
            Failure: `not_found`, `failed_precondition` when it was removed.
        """
        await self._transport.call("POST", f"/x/v1/hosts/{host_id}/{verb}")

    async def remove(self, host_id: str, *, force: bool) -> list[LostMachine]:
        """Take every right from a host; return the machines that are lost with it.

        Raises:
            Failure: `not_found`, `failed_precondition` when it has machines and `force` is not
                set.
        """
        answer = await self._transport.call(
            "DELETE", f"/x/v1/hosts/{host_id}", query={"force": "true" if force else "false"}
        )
        return [LostMachine.model_validate(one) for one in answer.get("lost") or []]

    async def create_token(
        self, *, region: str = "", ttl_s: int | None = None, control: bool = False
    ) -> JoinToken:
        """Make a token for one server, which may run control if that is said.

        Raises:
            Failure: `failed_precondition` while there is no joining endpoint.
        """
        body: dict[str, object] = {"region": region}
        if ttl_s is not None:
            body["ttl_seconds"] = ttl_s
        if control:
            body["control"] = True
        return JoinToken.model_validate(
            await self._transport.call("POST", "/x/v1/host-tokens", body=body)
        )

    async def tokens(self) -> list[JoinToken]:
        """Return the tokens that servers may still join with."""
        answer = await self._transport.get("/x/v1/host-tokens")
        return [JoinToken.model_validate(one) for one in answer.get("tokens") or []]

    async def revoke_token(self, token_id: str) -> None:
        """Make a token worthless.

        Raises:
            Failure: `not_found`.
        """
        await self._transport.call("DELETE", f"/x/v1/host-tokens/{token_id}")

    async def images(self, host_id: str) -> HostImages:
        """Return the images at rest on a host.

        Raises:
            Failure: `permission_denied` for all but the operator, `not_found`, `unavailable`.
        """
        answer = await self._transport.get(f"/x/v1/hosts/{host_id}/images")
        return HostImages.model_validate(answer)

    async def prune_images(self, host_id: str, *, dry_run: bool = False) -> list[RemovedImage]:
        """Remove the images of a host that nothing needs; return them.

        Raises:
            Failure: As `images`; `failed_precondition` while the host does not know yet
                what releases need.
        """
        answer = await self._transport.call(
            "POST",
            f"/x/v1/hosts/{host_id}/images/prune",
            query={"dry_run": "true" if dry_run else "false"},
            timeout_s=_PRUNE_S,
        )
        return [RemovedImage.model_validate(one) for one in answer.get("removed") or []]

    async def list(self) -> list[Host]:
        """Return the hosts."""
        answer = await self._transport.get("/x/v1/hosts")
        return [Host.model_validate(one) for one in answer.get("hosts") or []]
