import inspect
from dataclasses import dataclass

from godwit.cli.taking import taking


@dataclass(frozen=True)
class Size:
    cpus: int = 1
    memory: str | None = None


@dataclass(frozen=True)
class Which:
    machines: list[str]


@dataclass(frozen=True)
class Scope:
    regions: str = ""


def command(name: str, *, size: Size, loud: bool = False, scope: Scope) -> None:
    """Keep what came."""
    command.got = (name, size, loud, scope)


def test_every_field_becomes_an_option_where_its_dataclass_stood():
    parameters = inspect.signature(taking(command)).parameters
    assert list(parameters) == ["name", "cpus", "memory", "loud", "regions"]
    assert (parameters["cpus"].default, parameters["cpus"].annotation) == (1, int)


def test_a_field_without_a_default_has_to_be_given():
    def told(which: Which) -> None:
        """Keep nothing."""

    (parameter,) = inspect.signature(taking(told)).parameters.values()
    assert (parameter.name, parameter.default) == ("machines", inspect.Parameter.empty)


def test_the_command_gets_the_dataclasses():
    seen = []
    taking(command, seen=seen.append)(name="x", cpus=2, memory=None, loud=True, regions="fra")
    assert command.got == ("x", Size(2), True, Scope("fra"))
    assert seen == [Size(2), Scope("fra")]
