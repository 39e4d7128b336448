import pytest

from godwit.agent import ports, slots


def test_a_plumbing_and_its_slot_agree_on_the_taps_name():
    plumbing = ports.Plumbing("148ed193b95948", "org_a", "net_a", 1, 7)
    assert plumbing.tap == slots.tap_name(7)


@pytest.mark.parametrize("slot", [0, 1, slots.LAST_SLOT + 1, -5])
def test_slots_outside_the_address_range_are_refused(slot):
    with pytest.raises(ValueError, match="not within"):
        slots.tap_name(slot)


def test_the_longest_tap_name_fits_an_interface():
    assert len(slots.tap_name(slots.LAST_SLOT)) < 16


def test_hardware_addresses_are_unicast_local_and_one_per_slot():
    macs = [slots.guest_mac(slot) for slot in (2, 3, slots.LAST_SLOT)] + [slots.gateway_mac()]
    assert len(set(macs)) == len(macs)
    for mac in macs:
        first = int(mac.split(":")[0], 16)
        assert first & 1 == 0
        assert first & 2 == 2
