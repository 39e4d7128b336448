"""What a guest looks like to Firecracker, held to `golden/`.

After an intended change: `PYTHONPATH=. python tests/unit/agent/vmm/firecracker/test_config.py`.
"""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.agent.vmm import hypervisor
from godwit.agent.vmm.firecracker import bodies, config
from godwit.base import errors
from godwit.testing import firecracker_bodies as fields
from godwit.wire import host_rpc

GOLDEN = Path(__file__).parent / "golden" / "cold_boot.json"
RATES = hypervisor.Rates(network_bytes_s=125_000_000)


def guest(**resources) -> hypervisor.Guest:
    return hypervisor.Guest(
        name="148ed193b95948",
        slot=5,
        uid=2_000_005,
        resources=host_rpc.Resources(**resources),
        channel=Path("/run/godwit/m/148ed193b95948.channel"),
        monitor=Path("/run/godwit/m/148ed193b95948.vmm"),
        devices=hypervisor.Devices(Path("/store/root.erofs"), Path("/store/scratch.ext4"), "gw5"),
    )


GROWING = guest(max_memory_mb=512)


def shown(made: bodies.Body) -> str:
    return json.dumps(json.loads(made.json_text()), indent=2) + "\n"


def test_a_cold_boot_is_what_it_was():
    assert shown(config.cold_boot(GROWING, "gw5", RATES)) == GOLDEN.read_text()


def test_only_a_guest_that_may_grow_has_a_balloon_and_that_does_not_give_way():
    assert config.cold_boot(guest(), "gw5", RATES).balloon is None
    made = config.cold_boot(GROWING, "gw5", RATES).balloon
    assert made is not None
    assert (made.deflate_on_oom, made.free_page_reporting) == (False, True)


@given(
    cpus=st.integers(1, 32),
    memory_mb=st.integers(128, 65_536),
    iops=st.integers(0, 100_000),
    rate=st.integers(0, 1 << 34),
    burst=st.integers(0, 1 << 40),
)
def test_every_guest_is_told_in_words_that_firecracker_takes(cpus, memory_mb, iops, rate, burst):
    rates = hypervisor.Rates(iops, rate, burst, rate)
    made = config.cold_boot(guest(cpus=cpus, memory_mb=memory_mb), "gw5", rates)
    fields.CONFIG.check(json.loads(made.json_text()))
    fields.SNAPSHOT_LOAD.check(json.loads(config.restore("gw5").json_text()))
    disks, network = config.rates_of_a_clone(rates)
    for disk in disks:
        fields.DRIVE_UPDATE.check(json.loads(disk.json_text()))
    fields.NETWORK_UPDATE.check(json.loads(network.json_text()))


@given(rate=st.integers(1, 1 << 34), burst=st.integers(0, 1 << 40))
def test_a_bucket_fills_at_its_rate_and_holds_the_burst(rate, burst):
    limiter = config.disk_limiter(hypervisor.Rates(0, rate, burst))
    assert limiter is not None
    assert limiter.bandwidth is not None
    assert limiter.ops is None
    assert limiter.bandwidth.size == rate + burst
    filled = limiter.bandwidth.size * 1_000 / limiter.bandwidth.refill_time
    assert rate <= filled <= rate * 1.01


def test_a_lifted_limit_is_no_limiter_and_lifts_a_clones():
    free = hypervisor.Rates(0, 0, 0, 0)
    assert config.disk_limiter(free) is None
    assert config.network_limiter(free) is None
    disks, network = config.rates_of_a_clone(free)
    off = {"size": 0, "refill_time": 0}
    for limiter in (disks[0].rate_limiter, network.rx_rate_limiter, network.tx_rate_limiter):
        assert limiter is not None
        assert json.loads(limiter.json_text()) == {"bandwidth": off, "ops": off}


def test_more_processors_than_firecracker_has_are_refused_in_words():
    with pytest.raises(errors.Failure, match="at most 32 vCPUs, not 33"):
        config.cold_boot(guest(cpus=33), "gw5", RATES)


def test_the_order_of_the_disks_is_told_as_they_are_given():
    made = config.cold_boot(guest(), "gw5", RATES)
    named = ",".join(drive.drive_id for drive in made.drives)
    assert f"godwit.disks={named}" in config.kernel_arguments().split()
    assert [drive.is_root_device for drive in made.drives] == [True, False]


def test_a_machines_kernel_arguments_come_behind_the_platforms():
    given = dataclasses.replace(guest(), kernel_arguments=("debug",))
    made = config.cold_boot(given, "gw5", RATES)
    assert made.boot_source.boot_args == f"{config.kernel_arguments()} debug"


def test_only_a_root_that_lasts_is_synced():
    for lasting, how in ((False, "Unsafe"), (True, "Writeback")):
        given = dataclasses.replace(guest(), lasting_root=lasting)
        made = config.cold_boot(given, "gw5", RATES)
        assert [drive.cache_type for drive in made.drives] == ["Unsafe", how]


def test_swap_is_one_more_disk_of_the_guest_and_of_its_clone():
    made = config.cold_boot(dataclasses.replace(guest(), disks=("swap",)), "gw5", RATES)
    assert [drive.drive_id for drive in made.drives] == ["root", "scratch", "swap"]
    assert made.boot_source.boot_args is not None
    assert "godwit.disks=root,scratch,swap" in made.boot_source.boot_args.split()
    assert [drive.is_read_only for drive in made.drives] == [True, False, False]
    disks, _network = config.rates_of_a_clone(RATES, ("swap",))
    assert [disk.drive_id for disk in disks] == ["root", "scratch", "swap"]


def test_images_of_containers_are_disks_that_are_only_read():
    given = dataclasses.replace(guest(), disks=("cache", "image1", "image2", "own1"))
    made = config.cold_boot(given, "gw5", RATES)
    assert [drive.is_read_only for drive in made.drives] == [
        *(True, False, False),
        *(True, True, False),
    ]
    told = made.boot_source.boot_args or ""
    assert "godwit.disks=root,scratch,cache,image1,image2,own1" in told


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(shown(config.cold_boot(GROWING, "gw5", RATES)))
