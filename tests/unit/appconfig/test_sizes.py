import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.appconfig import sizes


@pytest.mark.parametrize(
    ("value", "mb"),
    [(512, 512), ("512", 512), ("512mb", 512), ("1gb", 1024), ("2GiB", 2048), ("1.5g", 1536)],
)
def test_memory_is_in_binary_units_and_bare_numbers_are_mb(value, mb):
    assert sizes.memory_mb(value) == mb


@pytest.mark.parametrize(
    ("value", "gb"), [(10, 10), ("10", 10), ("10gb", 10), ("1tb", 1000), ("2500mb", 2)]
)
def test_volumes_are_in_decimal_units_and_bare_numbers_are_gb(value, gb):
    assert sizes.volume_gb(value) == gb


@pytest.mark.parametrize("value", ["", "x", "-1", "0", 0, -5, True, float("nan"), "1kb", "1gg"])
def test_refuses_what_is_no_memory_size(value):
    with pytest.raises(ValueError, match=r"expected a memory size such as 512 \(MB\)"):
        sizes.memory_mb(value)


def test_says_what_it_got():
    with pytest.raises(ValueError) as caught:
        sizes.volume_gb("lots")
    assert str(caught.value) == 'expected a volume size such as 10 (GB) or 10gb, got "lots"'


@given(st.integers(min_value=1, max_value=10**6))
def test_a_number_of_megabytes_means_itself_however_written(mb):
    assert sizes.memory_mb(mb) == sizes.memory_mb(str(mb)) == sizes.memory_mb(f"{mb}MB") == mb


@given(st.text(max_size=30) | st.floats() | st.integers())
def test_any_value_is_a_size_or_a_value_error(value):
    for read in (sizes.memory_mb, sizes.volume_gb):
        try:
            assert read(value) >= 1
        except ValueError as error:
            assert str(error).startswith("expected a ")  # noqa: PT017 - either way is fine
