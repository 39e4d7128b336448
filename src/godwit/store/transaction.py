"""One transaction: every table's rows on one connection. Implements `control.rows.Rows`."""

from functools import cached_property

from godwit.store.lanes import Connection
from godwit.store.rows import (
    addresses,
    apps,
    hosts,
    identity,
    joining,
    journal,
    kms,
    meta,
    network_policies,
    placements,
    registries,
    releases,
    relocations,
    runs,
    secrets,
    standbys,
    udp_claims,
)


class Transaction:
    """The rows of one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @cached_property
    def meta(self) -> meta.MetaTable:
        """The database's own row."""
        return meta.MetaTable(self._connection)

    @cached_property
    def organizations(self) -> identity.OrganizationTable:
        """Organizations."""
        return identity.OrganizationTable(self._connection)

    @cached_property
    def networks(self) -> identity.NetworkTable:
        """Networks."""
        return identity.NetworkTable(self._connection)

    @cached_property
    def users(self) -> identity.UserTable:
        """People."""
        return identity.UserTable(self._connection)

    @cached_property
    def tokens(self) -> identity.TokenTable:
        """API tokens."""
        return identity.TokenTable(self._connection)

    @cached_property
    def registry_credentials(self) -> registries.RegistryCredentialTable:
        """Credentials for external registries."""
        return registries.RegistryCredentialTable(self._connection)

    @cached_property
    def app_secrets(self) -> secrets.AppSecretTable:
        """Apps' secrets."""
        return secrets.AppSecretTable(self._connection)

    @cached_property
    def kms_keys(self) -> kms.KmsKeyTable:
        """Apps' secret keys."""
        return kms.KmsKeyTable(self._connection)

    @cached_property
    def network_policies(self) -> network_policies.NetworkPolicyTable:
        """Network policies of apps."""
        return network_policies.NetworkPolicyTable(self._connection)

    @cached_property
    def hosts(self) -> hosts.HostTable:
        """Hosts."""
        return hosts.HostTable(self._connection)

    @cached_property
    def join_tokens(self) -> joining.JoinTokenTable:
        """Tokens that let a server join."""
        return joining.JoinTokenTable(self._connection)

    @cached_property
    def apps(self) -> apps.AppTable:
        """Apps."""
        return apps.AppTable(self._connection)

    @cached_property
    def addresses(self) -> addresses.AddressTable:
        """Public addresses of apps."""
        return addresses.AddressTable(self._connection)

    @cached_property
    def udp_claims(self) -> udp_claims.UdpClaimTable:
        """UDP ports at addresses that apps share."""
        return udp_claims.UdpClaimTable(self._connection)

    @cached_property
    def releases(self) -> releases.ReleaseTable:
        """Releases."""
        return releases.ReleaseTable(self._connection)

    @cached_property
    def placements(self) -> placements.PlacementTable:
        """Where machines live."""
        return placements.PlacementTable(self._connection)

    @cached_property
    def standbys(self) -> standbys.StandbyTable:
        """Which machine stands by for which."""
        return standbys.StandbyTable(self._connection)

    @cached_property
    def relocations(self) -> relocations.RelocationTable:
        """Machines that are wanted elsewhere."""
        return relocations.RelocationTable(self._connection)

    @cached_property
    def runs(self) -> runs.RunTable:
        """Deploys."""
        return runs.RunTable(self._connection)

    @cached_property
    def audit(self) -> journal.AuditTable:
        """What was changed."""
        return journal.AuditTable(self._connection)

    @cached_property
    def outbox(self) -> journal.OutboxTable:
        """Facts on their way out."""
        return journal.OutboxTable(self._connection)

    @cached_property
    def publications(self) -> journal.PublicationTable:
        """How far each region was told of them."""
        return journal.PublicationTable(self._connection)
