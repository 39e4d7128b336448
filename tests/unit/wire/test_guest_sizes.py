"""The table of guest sizes (spec/machines.md §6), its formula, and what its errors say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.wire import guest_sizes
from godwit.wire.host_rpc import Resources

TABLE = """\
shared-cpu-1x 1 256 2048
shared-cpu-2x 2 512 4096
shared-cpu-4x 4 1024 8192
shared-cpu-6x 6 1536 12288
shared-cpu-8x 8 2048 16384
performance-1x 1 2048 8192
performance-2x 2 4096 16384
performance-4x 4 8192 32768
performance-6x 6 12288 49152
performance-8x 8 16384 65536
performance-10x 10 20480 81920
performance-12x 12 24576 98304
performance-14x 14 28672 114688
performance-16x 16 32768 131072
"""
ROWS = [line.split() for line in TABLE.splitlines()]
kinds = st.sampled_from(["shared", "performance"])


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_preset_has_the_memory_of_the_specification_and_grows_as_far(row):
    name, cpus, default_mb, most_mb = row[0], *map(int, row[1:])
    found = guest_sizes.preset(name)
    assert (found.cpus, found.memory_mb) == (cpus, default_mb)
    assert guest_sizes.check(found.cpu_kind, cpus, most_mb).memory_mb == most_mb
    allowed = guest_sizes.memory_range(found.cpu_kind, cpus)
    assert (allowed[0], allowed[-1]) == (default_mb, most_mb)


def test_there_are_no_other_presets():
    assert list(guest_sizes.PRESETS) == [row[0] for row in ROWS]
    assert guest_sizes.PRESETS[guest_sizes.DEFAULT_PRESET] == Resources()


@pytest.mark.parametrize("name", guest_sizes.GPU_PRESETS)
def test_gpu_sizes_are_refused_in_a_sentence(name):
    with pytest.raises(guest_sizes.Mistake, match=f'"{name}" is a GPU size, and no host here'):
        guest_sizes.preset(name)


@given(st.text(max_size=24))
def test_any_other_name_is_a_mistake_in_the_size(name):
    if name in guest_sizes.PRESETS:
        return
    with pytest.raises(guest_sizes.Mistake) as caught:
        guest_sizes.preset(name)
    assert caught.value.field == "size"


def test_a_name_that_is_nearly_right_is_set_right():
    for typed, meant in (("shared-cpu-3x", "shared-cpu-"), ("Performance-2X", "performance-2x")):
        with pytest.raises(guest_sizes.Mistake) as caught:
            guest_sizes.preset(typed)
        assert str(caught.value.nearest).startswith(meant)


@given(kinds, st.integers(-5, 300), st.integers(-5_000, 2_000_000), st.sampled_from([0, 256]))
def test_the_nearest_of_every_mistake_is_right_and_nothing_is_nearer(kind, cpus, memory_mb, step):
    mistake = mistake_in(kind, cpus, memory_mb, step)
    if mistake is None:
        return
    nearest = mistake.nearest
    assert isinstance(nearest, int)
    assert f"the nearest is {nearest}" in str(mistake)
    rules = guest_sizes.RULES[kind]
    if mistake.field == "cpus":
        assert abs(nearest - cpus) == min(abs(each - cpus) for each in rules.cpus)
        return
    assert mistake_in(kind, cpus, nearest, step) is None
    every = range(cpus * rules.least_mb, cpus * rules.most_mb + 1, step or rules.step_mb)
    assert abs(nearest - memory_mb) == min(abs(each - memory_mb) for each in every)


def mistake_in(kind, cpus: int, memory_mb: int, step: int) -> guest_sizes.Mistake | None:
    try:
        guest_sizes.check(kind, cpus, memory_mb, step_mb=step)
    except guest_sizes.Mistake as mistake:
        return mistake
    return None


@given(kinds, st.sampled_from([1, 2, 4, 6, 8]), st.data())
def test_a_machine_grows_from_its_memory_up_to_what_its_cpus_allow(kind, cpus, data):
    allowed = guest_sizes.memory_range(kind, cpus)
    begins, grows = data.draw(st.sampled_from(allowed)), data.draw(st.sampled_from(allowed))
    if grows >= begins:
        found = guest_sizes.check(kind, cpus, begins, max_memory_mb=grows)
        assert found.memory_mb == begins
    else:
        with pytest.raises(guest_sizes.Mistake) as caught:
            guest_sizes.check(kind, cpus, begins, max_memory_mb=grows)
        assert (caught.value.field, caught.value.nearest) == ("max_memory_mb", begins)
