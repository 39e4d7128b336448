"""Process groups, and which sections apply to which (spec/config-cli.md §1.11)."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from godwit.appconfig.model import Config

DEFAULT = "app"


class Grouped(Protocol):
    """A section with a `processes` key."""

    @property
    def processes(self) -> list[str]:
        """The groups it names."""


G = TypeVar("G", bound=Grouped)


def names(config: Config) -> list[str]:
    """Return the groups in order of their names; `app` alone when there is no section."""
    return sorted(config.processes) or [DEFAULT]


def default(config: Config) -> str:
    """Return the group that sections without `processes` mean."""
    found = names(config)
    return DEFAULT if DEFAULT in found else found[0]


def applies(config: Config, section: Grouped, group: str) -> bool:
    """Tell whether a section is for a group: it names it, or names none and it is the default."""
    if section.processes:
        return group in section.processes
    return group == default(config)


def of(config: Config, sections: Sequence[G], group: str) -> list[G]:
    """Return the sections that are for a group."""
    return [section for section in sections if applies(config, section, group)]
