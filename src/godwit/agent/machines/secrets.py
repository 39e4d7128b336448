"""A machine's secrets on its host: kept sealed, opened for a start or a command and then let go.

What is kept beside the machine's record is what control sent: values sealed with the app's key,
and that key sealed for this host. So a start needs neither control nor keyring. A version of a
machine keeps the secrets it came with; newer ones come with its next version.
"""

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from godwit.agent.machines import holdings, records
from godwit.base import errors
from godwit.durable.database import Writer
from godwit.wire import secrets as sealing
from godwit.wire.secrets import HostSecrets


class Secrets:
    """The sealed copies of one host, and the key that opens them.

    Args:
        database: Where they are kept.
        key: This host's; `None` opens nothing.
    """

    def __init__(self, database: Writer, key: X25519PrivateKey | None = None) -> None:
        self._database = database
        self._key = key

    def check(self, sealed: HostSecrets | None, version: int, app_id: str) -> None:
        """Return if what came with an offer or update can be opened here.

        Raises:
            Failure: `failed_precondition`.
        """
        if sealed is None:
            if version:
                raise errors.Failure("failed_precondition", "the machine's secrets did not come")
            return
        if sealed.owner.app_id != app_id or sealed.version < version:
            raise errors.Failure("failed_precondition", "these are not the machine's secrets")
        self._open(sealed)

    async def keep(
        self, machine: records.Machine, instance_id: str, sealed: HostSecrets | None
    ) -> None:
        """Keep the secrets of a version that is in place or on its way."""
        if sealed is not None:
            await self._database.write(
                lambda tx: holdings.put_secrets(tx, machine, instance_id, sealed)
            )

    async def forget_others(self, machine: records.Machine) -> None:
        """Forget the secrets of every version but the one in place."""
        await self._database.write(
            lambda tx: holdings.forget_secrets(tx, machine.machine_id, but=machine.instance_id)
        )

    async def lack(self, machine: records.Machine, least: int = 0) -> str:
        """Return why a machine cannot start with the secrets it has; empty when it can.

        Args:
            machine: The machine.
            least: The oldest version that will do for this start.
        """
        needed = max(machine.secrets_version, machine.min_secrets_version or 0, least)
        if not needed:
            return ""
        sealed = await self._find(machine)
        if sealed is None:
            return "its secrets are not on this host"
        if sealed.version < needed:
            return f"its secrets here are at version {sealed.version}, it needs {needed}"
        try:
            self._open(sealed)
        except errors.Failure:
            return "its secrets here were sealed for another key of this host"
        return ""

    async def opened(self, machine: records.Machine) -> dict[str, bytes]:
        """Return a machine's secrets by name, in the clear.

        Raises:
            Failure: `failed_precondition` when they do not open here.
        """
        if not machine.secrets_version:
            return {}
        sealed = await self._find(machine)
        if sealed is None:
            raise errors.Failure(
                "failed_precondition", "the machine's secrets are not on this host"
            )
        return self._open(sealed)

    async def _find(self, machine: records.Machine) -> HostSecrets | None:
        return await self._database.read(
            lambda tx: holdings.secrets(tx, machine.machine_id, machine.instance_id)
        )

    def _open(self, sealed: HostSecrets) -> dict[str, bytes]:
        if self._key is None:
            raise errors.Failure(
                "failed_precondition", "this host has no key to open secrets with"
            )
        owner, key_id = sealed.owner, sealed.key.key_id
        key = sealing.open_for_host(self._key, owner, sealed.key)
        return {each.name: sealing.open_value(key, owner, key_id, each) for each in sealed.values}
