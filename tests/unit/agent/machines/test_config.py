"""Lenient reading: Go's zero values and nonsense mean "unset"."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.agent.machines import config

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("10s", 10_000),
        ("1m30s", 90_000),
        ("1.5s", 1_500),
        ("300ms", 300),
        (10_000_000_000, 10_000),
        ("", None),
        (0, None),
        (None, None),
        ("soon", None),
        ("10", None),
        (True, None),
        ("10s soon", None),
    ],
)
def test_durations(value: Any, expected: int | None) -> None:
    assert config.duration_ms(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("SIGTERM", "SIGTERM"),
        ("term", "SIGTERM"),
        (15, "SIGTERM"),
        (9, "SIGKILL"),
        ("", None),
        (0, None),
        (None, None),
        ("SIGNONSENSE", None),
        (True, None),
    ],
)
def test_signals(value: Any, expected: str | None) -> None:
    assert config.signal_name(value) == expected


def test_how_to_stop_is_the_requests_then_the_configs_then_sigint_and_five_seconds() -> None:
    given_config = {"stop_config": {"signal": "SIGTERM", "timeout": "20s"}}
    assert config.stop({}) == config.Stop(signal="SIGINT", timeout_ms=5_000)
    assert config.stop(given_config) == config.Stop(signal="SIGTERM", timeout_ms=20_000)
    asked = config.stop(given_config, "SIGQUIT", 1_000)
    assert asked == config.Stop(signal="SIGQUIT", timeout_ms=1_000)


def test_nobody_waits_longer_than_five_minutes_for_a_stop() -> None:
    assert config.stop({"stop_config": {"timeout": "2h"}}).timeout_ms == 300_000


def test_the_scratch_disk_is_eight_gigabytes_unless_said() -> None:
    assert config.scratch_bytes({}) == 8 * 1024**3
    assert config.scratch_bytes({"rootfs": {"size_gb": 2}}) == 2 * 1024**3
    assert config.scratch_bytes({"rootfs": {"size_gb": 0}}) == 8 * 1024**3


def test_a_cache_drive_is_as_large_as_asked_and_none_unless_asked() -> None:
    assert config.cache_bytes({"cache_drive": {"size_mb": 64}}) == 64 * 1024**2
    for given_drive in ({}, None, {"size_mb": 0}, {"size_mb": "1"}):
        assert config.cache_bytes({"cache_drive": given_drive}) == 0


def test_swap_is_as_large_as_asked_and_none_unless_asked() -> None:
    assert config.swap_bytes({"init": {"swap_size_mb": 512}}) == 512 * 1024**2
    for given_init in ({}, None, {"swap_size_mb": 0}, {"swap_size_mb": "1"}):
        assert config.swap_bytes({"init": given_init}) == 0


def test_kernel_arguments_are_the_guests_then_inits_and_never_the_platforms() -> None:
    given_config = {
        "init": {"kernel_args": ["debug", "console=tty1"]},
        "guest": {"kernel_args": ["quiet"]},
    }
    assert config.kernel_arguments(given_config) == ("quiet", "debug")
    assert config.kernel_arguments({}) == ()


@pytest.mark.parametrize(
    ("given_config", "expected"),
    [
        ({}, "never"),
        ({"rootfs": {"persist": "restart"}}, "restart"),
        ({"rootfs": {"persist": "always"}, "guest": {"persist_rootfs": "restart"}}, "always"),
        ({"rootfs": {"persist": "never"}, "guest": {"persist_rootfs": "always"}}, "never"),
        ({"rootfs": {"persist": ""}, "guest": {"persist_rootfs": "always"}}, "always"),
        ({"rootfs": {"size_gb": 2}, "guest": {"persist_rootfs": 2}}, "restart"),
        ({"guest": {"persist_rootfs": 0}}, "never"),
        ({"guest": {"persist_rootfs": 1}}, "never"),
        ({"rootfs": {"persist": 3}}, "always"),
        ({"rootfs": {"persist": True}}, "never"),
        ({"rootfs": {"persist": ["always"]}}, "never"),
    ],
)
def test_how_long_a_root_lasts(given_config: dict[str, Any], expected: str) -> None:
    assert config.persist(given_config) == expected


@given(st.dictionaries(st.text(), JSON), JSON)
def test_no_config_is_too_strange_to_read(extra: dict[str, Any], value: Any) -> None:
    for key in (
        "restart",
        "stop_config",
        "metadata",
        "dns",
        "rootfs",
        "auto_destroy",
        "init",
        "guest",
    ):
        strange = {**extra, key: value}
        config.restart(strange)
        config.stop(strange, value, value)
        config.metadata(strange)
        config.scratch_bytes(strange)
        config.swap_bytes(strange)
        config.persist(strange)
        config.kernel_arguments(strange)
        assert config.auto_destroy(strange) in (True, False)
        assert config.process_group(strange)
        config.in_dns(strange)


def test_a_price_stops_nobody() -> None:
    priced = {"restart": {"policy": "spot-price", "gpu_bid_price": 0.5, "max_retries": 3}}
    found = config.restart(priced)
    assert (found.policy, found.max_retries) == ("on-failure", 3)
