"""Which kernel arguments machines may have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.base import kernel_arguments


@pytest.mark.parametrize(
    "argument",
    [
        *("debug", "quiet", "loglevel=7", "transparent_hugepage=never", "mitigations=off"),
        *("init_on_alloc=1", "panic_on_warn=1", "zswap.enabled=1", "a='b'"),
    ],
)
def test_what_is_the_apps_own_affair_is_taken(argument: str) -> None:
    assert kernel_arguments.mistake([argument]) is None


@pytest.mark.parametrize(
    "argument",
    [
        *("console=ttyS1", "init=/bin/sh", "rdinit=/x", "root=/dev/vda", "panic=0", "reboot=k"),
        *("tsc_early_khz=1", "tsc-early-khz=1", "tsc=unstable", "acpi=off", "mem=1G", "--"),
        *("nr_cpus=1", "godwit.disks=scratch,root", "virtio_mmio.device=1K@0", "virtio-blk.x=1"),
        *("module.sig_enforce=1", "noresume", "memmap=exactmap"),
    ],
)
def test_what_the_platform_says_stands(argument: str) -> None:
    assert (
        kernel_arguments.mistake(["debug", argument]) == f"{argument!r} is the platform's to say"
    )
    assert kernel_arguments.usable(["debug", argument, "quiet"]) == ("debug", "quiet")


@pytest.mark.parametrize("argument", ["", " ", "a b", "a\n", "a\0", 'a="b', "ü", "a\tb"])
def test_an_argument_is_one_word(argument: str) -> None:
    mistake = kernel_arguments.mistake([argument])
    assert mistake is not None
    assert "is not one argument" in mistake


def test_all_together_have_an_end() -> None:
    fits = ["a" * 511, "b" * 512]
    assert kernel_arguments.mistake(fits) is None
    assert kernel_arguments.mistake([*fits, "c"]) == "have 1026 bytes, at most 1024 are taken"
    assert kernel_arguments.usable([*fits, "c"]) == tuple(fits)


@given(st.lists(st.text(), max_size=8))
def test_what_is_left_of_anything_is_no_mistake(arguments: list[str]) -> None:
    found = kernel_arguments.usable(arguments)
    assert kernel_arguments.mistake(found) is None
    if kernel_arguments.mistake(arguments) is None:
        assert found == tuple(arguments)
