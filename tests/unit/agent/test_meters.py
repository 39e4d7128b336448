"""Counters as the kernel writes them."""

import os

import pytest

from godwit.agent import meters
from tests.host import network_lab as lab

DEVICES = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop
    lo:     100       1    0    0    0     0          0         0      200      1    0    0
   gw5: 123456789012    7    0    0    0     0          0         0 42 3 0 0
 eth0.7: 1 2 3 4 5 6 7 8 9 10 11 12
"""


class Groups:
    def used_us(self, machine_id: str) -> int | None:
        return {"m5": 7}.get(machine_id)

    def generation(self, machine_id: str) -> int:
        return 3 if machine_id == "m5" else 0


def test_traffic_is_read_by_interface():
    found = meters.traffic_of(DEVICES.splitlines())
    assert found == {"lo": (100, 200), "gw5": (123456789012, 42), "eth0.7": (1, 9)}


def test_nothing_is_read_for_no_machines(tmp_path):
    assert meters.HostMeter(Groups(), tmp_path).read({}) == {}


def test_a_machine_of_which_nothing_runs_reads_nothing(tmp_path):
    assert meters.HostMeter(Groups(), tmp_path).read({"m9": 999_999}) == {"m9": meters.Reading()}


def test_disks_count_by_what_they_take_up(tmp_path):
    (tmp_path / "m5").mkdir()
    with (tmp_path / "m5" / "scratch.ext4").open("wb") as disk:
        disk.truncate(1 << 30)
        disk.write(os.urandom(1 << 20))
        disk.flush()
        os.fsync(disk.fileno())
    (tmp_path / "m5" / "exit.json").write_text("x" * 100_000)
    reading = meters.HostMeter(Groups(), tmp_path).read({"m5": 5})["m5"]
    assert 1 << 20 <= reading.disk_bytes < 4 << 20
    assert (reading.cpu_us, reading.cpu_of) == (7, 3)


@pytest.mark.host
@lab.own_namespace
async def test_what_the_host_sends_into_a_tap_is_what_comes_in(tmp_path):
    await lab.ip(
        "tuntap add dev gw5 mode tap vnet_hdr",
        "link set dev gw5 addrgenmode none",
        "link set dev gw5 up",
        "addr add 172.16.0.1/32 dev gw5",
        "neigh add 172.16.0.5 lladdr 02:67:00:00:00:05 dev gw5 nud permanent",
        "route add 172.16.0.5/32 dev gw5",
    )
    meter = meters.HostMeter(Groups(), tmp_path)
    guest = lab.FakeGuest(5)
    try:
        await guest.attached()
        before = meter.read({"m5": 5})["m5"]
        with lab.udp("172.16.0.1") as sender:
            sender.sendto(bytes(1_000), ("172.16.0.5", 9))
        # The kernel counts what a guest has taken.
        assert guest.hear(lambda heard: heard.data == bytes(1_000)) is not None
        assert meter.read({"m5": 5})["m5"].bytes_in >= before.bytes_in + 1_000
        guest.send(lab.udp_packet("172.16.0.5", 1, "172.16.0.1", 9, bytes(2_000)))
        after = meter.read({"m5": 5})["m5"]
        assert after.bytes_out >= before.bytes_out + 2_000
        assert after.bytes_of == before.bytes_of != 0
    finally:
        guest.close()
