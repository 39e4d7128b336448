import pytest

from godwit.base import errors
from godwit.cli import guest
from godwit.cli.rollout.overrides import Size

SMALL = {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (Size(), SMALL),
        (Size("shared-cpu-2x"), {**SMALL, "cpus": 2, "memory_mb": 512}),
        (Size("shared-cpu-2x", memory="1gb"), {**SMALL, "cpus": 2, "memory_mb": 1024}),
        (Size(cpus=4), {**SMALL, "cpus": 4, "memory_mb": 1024}),
        (Size(memory="512"), {**SMALL, "memory_mb": 512}),
    ],
)
def test_sizes_of_machines_that_had_none(size, expected):
    assert guest.of(size) == expected


@pytest.mark.parametrize(
    ("config", "size", "expected"),
    [
        ({}, Size(memory="512"), {**SMALL, "memory_mb": 512}),
        ({"size": "shared-cpu-2x"}, Size(memory="1024"), {**SMALL, "cpus": 2, "memory_mb": 1024}),
        ({"guest": {"memory_mb": 2048}}, Size(cpus=2), {**SMALL, "cpus": 2, "memory_mb": 2048}),
        ({"guest": {"memory_mb": 2048}}, Size("shared-cpu-1x"), SMALL),
        (
            {"guest": {"cpus": 8, "cpu_kind": "shared", "memory_mb": 16_384}},
            Size(cpus=1),
            {**SMALL, "memory_mb": 2048},
        ),
        (
            {"guest": {**SMALL, "kernel_args": ["x=1"], "max_memory_mb": 1024}},
            Size(memory="512"),
            {**SMALL, "memory_mb": 512, "max_memory_mb": 1024, "kernel_args": ["x=1"]},
        ),
        (
            {"guest": {**SMALL, "max_memory_mb": 1024}},
            Size("shared-cpu-2x"),
            {**SMALL, "cpus": 2, "memory_mb": 512},
        ),
    ],
)
def test_a_size_laid_over_what_a_machine_has(config, size, expected):
    assert guest.changed(config, size) == expected


def test_a_size_that_cannot_be_says_which_would_do():
    with pytest.raises(errors.Failure, match="256 to 2048 MB"):
        guest.changed({}, Size(memory="64gb"))
    with pytest.raises(errors.Failure, match="expected shared or performance"):
        guest.of(Size(cpu_kind="huge"))


def test_a_size_in_words():
    assert guest.told(SMALL) == "shared-cpu-1x, 256 MB"
    assert guest.told({"cpu_kind": "performance", "cpus": 2, "memory_mb": 4096}) == (
        "performance-2x, 4096 MB"
    )
    assert guest.shown({"guest": {"cpus": 77}})["cpus"] == 77
