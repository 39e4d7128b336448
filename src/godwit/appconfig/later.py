"""Sections that are read and kept, but that this release does nothing with yet.

`deploy` says so plainly. A feature that arrives removes its line here.
"""

from collections.abc import Iterator

from godwit.appconfig.model import Config, HttpOptions, Section
from godwit.appconfig.problems import Path, Problem

Told = tuple[Path, str]
_NAMING = frozenset({"http", "tls", "pg_tls"})
_NAMELESS = (
    "clients do not say which app they want: they reach the port only at an address that is the"
    " app's own, see `godwit ips allocate-v4`"
)
_UNHEEDED = {
    "compress": "the edge does not compress answers yet",
    "idle_timeout": "the edge does not cut idle connections to machines yet",
    "replay_cache": "the edge keeps replays by path, not by session yet",
}


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
    http = config.http_service
    if http is not None:
        yield from _options(("http_service",), http)
    for index, one in enumerate(config.services):
        if one.protocol == "udp":
            yield ("services", index, "protocol"), _NAMELESS
            continue
        for number, port in enumerate(one.ports):
            path: Path = ("services", index, "ports", number)
            yield from _options(path, port)
            if not _NAMING & set(port.handlers):
                yield (*path, "handlers"), _NAMELESS


def _options(path: Path, section: Section) -> Iterator[Told]:
    """Yield the options of a port that the edge does not heed yet."""
    options = getattr(section, "http_options", None)
    if not isinstance(options, HttpOptions):
        return
    for name, message in _UNHEEDED.items():
        if getattr(options, name):
            yield (*path, "http_options", name), message
