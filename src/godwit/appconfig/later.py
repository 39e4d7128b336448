"""Sections that are read and kept, but that this release does nothing with yet, or not alone.

`deploy` says so plainly. A feature that arrives removes its line here.
"""

from collections.abc import Iterator

from godwit.appconfig.model import Config
from godwit.appconfig.problems import Path, Problem

Told = tuple[Path, str]
_NAMING = frozenset({"http", "tls", "pg_tls"})
_NAMELESS = (
    "clients do not say which app they want: they reach the port only at an address that is the"
    " app's own, see `godwit ips allocate-v4`"
)
_NAMELESS_DATAGRAMS = (
    "datagrams do not say which app they are for: clients reach the port at an address that is the"
    " app's own, see `godwit ips allocate-v4`, or at the shared one while the port is this app's"
    " there"
)


def without_effect(config: Config) -> list[Problem]:
    """Return what of a config without mistakes has no effect yet, each with what that means."""
    found = [
        *_machine(config),
        *_statics(config),
        *_vm(config),
        *_experimental(config),
        *_build(config),
        *_services(config),
    ]
    return [Problem(path, message, "warning") for path, message in found]


def _machine(config: Config) -> list[Told]:
    table: tuple[tuple[bool, Path, str], ...] = (
        (
            bool(config.mounts),
            ("mounts",),
            "there are no volumes yet: a deploy of this file is refused",
        ),
        (bool(config.metrics), ("metrics",), "nothing collects metrics yet"),
        (
            bool(config.host_dedication_id),
            ("host_dedication_id",),
            "hosts cannot be reserved yet",
        ),
    )
    return [(path, message) for given, path, message in table if given]


def _statics(config: Config) -> Iterator[Told]:
    missing = "there are no buckets: a deploy of this file is refused"
    for index, one in enumerate(config.statics):
        if one.tigris_bucket:
            yield ("statics", index, "tigris_bucket"), missing
        elif not one.guest_path.startswith("/"):
            yield ("statics", index, "guest_path"), f"is no directory of the image, and {missing}"


def _vm(config: Config) -> Iterator[Told]:
    for index, one in enumerate(config.vm):
        path: Path = ("vm", index)
        if one.host_dedication_id:
            yield (*path, "host_dedication_id"), "hosts cannot be reserved yet"


def _experimental(config: Config) -> Iterator[Told]:
    if config.experimental is None:
        return
    table = (
        ("enable_consul", "means nothing here: there is no Consul"),
        ("enable_etcd", "means nothing here: there is no etcd"),
        ("lazy_load_images", "means nothing here: images are always read as they are needed"),
        ("attached", "apps are not attached to others yet"),
    )
    for name, message in table:
        if getattr(config.experimental, name):
            yield ("experimental", name), message


def _build(config: Config) -> Iterator[Told]:
    build = config.build
    if build is None or build.image:
        return
    for name in ("builder", "buildpacks", "builtin"):
        if getattr(build, name):
            yield ("build", name), "only Dockerfiles are built yet"
    for name in ("compression", "compression_level"):
        if getattr(build, name) is not None:
            yield ("build", name), "means nothing here: images stay on this platform's hosts"


def _services(config: Config) -> Iterator[Told]:
    for index, one in enumerate(config.services):
        if one.protocol == "udp":
            yield ("services", index, "protocol"), _NAMELESS_DATAGRAMS
            continue
        for number, port in enumerate(one.ports):
            if not _NAMING & set(port.handlers):
                yield ("services", index, "ports", number, "handlers"), _NAMELESS
