"""Run on the host of control: have a second host take a machine that another one has.

`python offer_again.py MACHINE OWNER OWNERS_REGION CLAIMANT CLAIMANTS_REGION`; speaks to both hosts
over their regions' buses with control's own key, as a control would that lost its books.
"""

import asyncio
import os
import sys
from ipaddress import IPv6Address
from pathlib import Path

from godwit.base import settings
from godwit.base.principal import component
from godwit.bus.regions import Hosts, Regions
from godwit.control import guest_sizes, machine_config
from godwit.host import membership
from godwit.wire import host_rpc

CONTROL = component("control")


async def main(machine: str, owner: str, home: str, claimant: str, away: str) -> None:
    """Offer the machine that its owner has to the other host."""
    found = settings.load(Path("/etc/godwit/godwit.toml"), os.environ, {})
    seed = (found.paths.data / "keys" / "control.seed").read_text().strip()
    members = membership.read(found.paths.data).values()
    at = {owner: home, claimant: away}

    async def region_of(host_id: str) -> str | None:
        return at.get(host_id)

    async def taking(_: str) -> list[str]:
        return []

    regions = Regions(seed, "control")
    buses = {
        r: [f"nats://{one}" for one in membership.bus_servers(members, r)] for r in (home, away)
    }
    await regions.keep(buses)
    try:
        for region in (home, away):
            await regions.connection(region).wait_up(30.0)
        hosts = Hosts(regions, region_of, taking)
        asked = {"machine_id": machine}
        body = await hosts.call(owner, "machine.get", asked, CONTROL, 30.0)
        offer = again(host_rpc.MachineView.model_validate(body), away)
        await hosts.call(claimant, "machine.reserve", offer, CONTROL, 60.0)
    finally:
        await regions.close()


def again(view: host_rpc.MachineView, region: str) -> host_rpc.Offer:
    """Return the offer that would have made the machine, in another region."""
    network = int(IPv6Address(view.private_ip)) >> (128 - 16 - 32) & 0xFFFF_FFFF
    return host_rpc.Offer(
        machine_id=view.machine_id,
        instance_id=view.instance_id,
        name=view.name,
        org_id=view.org_id,
        org_slug="personal",
        network_id=view.network_id,
        network_number=network,
        app_id=view.app_id,
        app=view.app,
        region=region,
        image=view.image,
        resources=guest_sizes.resources(machine_config.parse(view.config)),
        config=view.config,
    )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
