import pytest

from godwit.appconfig import guests
from godwit.appconfig.guests import Guest


def test_the_default_is_the_smallest():
    assert guests.resolve() == Guest(cpu_kind="shared", cpus=1, memory_mb=256)


def test_presets_are_those_of_the_specification():
    table = {name: (one.cpus, one.memory_mb) for name, one in guests.PRESETS.items()}
    assert table["shared-cpu-8x"] == (8, 2048)
    assert table["performance-1x"] == (1, 2048)
    assert table["performance-16x"] == (16, 32768)
    assert len(table) == 14


def test_settings_lie_over_the_preset():
    found = guests.resolve(size="shared-cpu-2x", memory_mb=4096)
    assert found == Guest(cpu_kind="shared", cpus=2, memory_mb=4096)


def test_memory_that_is_not_given_grows_with_the_cpus():
    assert guests.resolve(cpus=4).memory_mb == 1024
    assert guests.resolve(cpu_kind="performance").memory_mb == 2048


def test_memory_that_is_not_given_shrinks_to_what_the_cpus_may_have():
    assert guests.resolve(size="performance-16x", cpu_kind="shared", cpus=1).memory_mb == 2048


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"cpus": 3}, "shared CPUs come in 1, 2, 4, 6, 8; got 3; the nearest is 2"),
        (
            {"memory_mb": 128},
            "1 shared CPU goes with 256 to 2048 MB of memory; got 128; the nearest is 256",
        ),
        (
            {"memory_mb": 300},
            "memory with shared CPUs comes in steps of 256 MB; got 300; the nearest is 256",
        ),
        (
            {"size": "performance-2x", "memory_mb": 2048},
            "2 performance CPUs go with 4096 to 16384 MB of memory; got 2048; the nearest is 4096",
        ),
        (
            {"size": "performance-2x", "memory_mb": 4500},
            "memory with performance CPUs comes in steps of 1024 MB; got 4500; the nearest is 4096",
        ),
        ({"size": "l40s"}, '"l40s" is a GPU size, and no host here has GPUs'),
    ],
)
def test_a_combination_that_does_not_exist_is_told_with_what_would(wish, message):
    with pytest.raises(ValueError) as caught:
        guests.resolve(**wish)
    assert str(caught.value) == message


def test_an_unknown_size_is_answered_with_the_sizes_there_are():
    with pytest.raises(ValueError, match='there is no size "huge"; sizes are shared-cpu-1x, '):
        guests.resolve(size="huge")
