"""Containers of a `machine_config`: which of them the built image goes to (§1.17). Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from godwit.appconfig import raw
from godwit.appconfig.model import Config
from godwit.appconfig.problems import Path, Problem
from godwit.wire import guest_containers

PLACEHOLDER = "."
"""Stands for the image that a deploy builds or is given."""
Json = dict[str, Any]
_COMMAND = ("exec", "entrypoint", "cmd")


def of(base: Mapping[str, Any]) -> list[Json]:
    """Return the containers of a raw machine config."""
    found = base.get("containers")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def receivers(containers: list[Json], wanted: str) -> list[int]:
    """Return which containers the built image goes to.

    Those with the placeholder in place of an image, or with none, of which there may be several;
    else the one the file names, else `app`, else the first.

    Args:
        containers: At least one.
        wanted: What the file says, empty for nothing.
    """
    open_ones = [at for at, one in enumerate(containers) if _awaits(one)]
    if open_ones:
        return open_ones
    names = [str(one.get("name")) for one in containers]
    return [names.index(wanted) if wanted in names else guest_containers.main_of(names)]


def _awaits(container: Mapping[str, Any]) -> bool:
    return container.get("image") in (None, "", PLACEHOLDER)


def image_of(config: Config) -> str:
    """Return the image that the container names which would get the built one; else nothing."""
    containers = of(raw.base(config))
    if not containers:
        return ""
    (first, *_) = receivers(containers, config.container or "")
    given = containers[first]
    return "" if _awaits(given) else str(given["image"])


def placed(containers: list[Json], wanted: str, image: str, init: Mapping[str, Any]) -> list[Json]:
    """Return the containers with the built image, and with what its process group runs.

    Args:
        containers: At least one.
        wanted: The container that the file names for it.
        image: The image.
        init: Its group's; a container that says by itself what runs stays as it is.
    """
    targets = receivers(containers, wanted)
    command = {name: init[name] for name in _COMMAND if init.get(name)}
    made = []
    for at, one in enumerate(containers):
        given = dict(one)
        if at in targets:
            given["image"] = image
            if not any(given.get(name) for name in _COMMAND):
                given |= command
        made.append(given)
    return made


def renewed(containers: list[Json], config: Config, image: str) -> list[Json]:
    """Return a machine's containers with another image in place of the one that was built.

    Args:
        containers: As a deploy made them.
        config: What it made them of: names those the image goes to.
        image: The image.
    """
    defined = of(raw.base(config)) or containers
    named = {defined[at].get("name") for at in receivers(defined, config.container or "")}
    return [{**one, "image": image} if one.get("name") in named else one for one in containers]


def rest_of_init(init: Mapping[str, Any]) -> Json:
    """Return what of a group's `init` is the machine's own."""
    return {name: value for name, value in init.items() if name not in _COMMAND}


def problems(config: Config) -> Iterator[Problem]:
    """Yield what is wrong with the containers of a file."""
    text = raw.named(config)
    if text and not raw.is_inline(text):
        # The file that it names is read by a deploy.
        return
    try:
        base = raw.parse(text) if text else {}
    except ValueError:
        return
    containers = of(base)
    here: Path = ("machine_config",)
    given = base.get("containers")
    if given and (not isinstance(given, list) or len(containers) != len(given)):
        yield Problem(here, "expected containers to be a list of objects")
        return
    names = [str(one.get("name")) for one in containers]
    if config.container and config.container not in names and not _composes(config):
        has = f"; there are {', '.join(names)}" if names else ": the file has no containers"
        yield Problem(("container",), f'there is no container "{config.container}"{has}')


def _composes(config: Config) -> bool:
    return config.build is not None and config.build.compose is not None
