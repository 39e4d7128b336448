"""What a machine's `statics` come to: what its guest serves, and what edges are told. Pure.

Called by `run_spec` and `views`, which must agree on the port: it follows from the config alone.
Control has checked what it took in; what an older release let through is left out here.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from godwit.agent.machines import config as settings
from godwit.wire import facts, guest

FIRST_PORT = 62_080
"""Where a file server listens unless a service does: above what Linux gives to clients."""
_REVISION_DIGITS = 12
_DIGEST = "sha256:"


def told(config: Mapping[str, Any]) -> facts.Statics | None:
    """Return what edges are told of a config's statics; `None` when it has none."""
    prefixes = tuple(directory.url_prefix for directory in _directories(config))
    return facts.Statics(port=_port(config), prefixes=prefixes) if prefixes else None


def served(config: Mapping[str, Any], *, local_ipv4: str, digest: str) -> guest.Statics | None:
    """Return what a guest serves; `None` for nothing.

    Args:
        config: The machine's.
        local_ipv4: Its own, which its host alone reaches.
        digest: Of its image.
    """
    directories = tuple(_directories(config))
    if not directories:
        return None
    return guest.Statics(
        listen=f"{local_ipv4}:{_port(config)}",
        revision=digest.removeprefix(_DIGEST)[:_REVISION_DIGITS],
        directories=directories,
    )


def _directories(config: Mapping[str, Any]) -> Iterator[guest.Directory]:
    for entry in settings.items(config.get("statics")):
        guest_path, url_prefix = (
            str(entry.get(name) or "") for name in ("guest_path", "url_prefix")
        )
        is_whole = guest_path.startswith("/") and url_prefix.startswith("/")
        if is_whole and not entry.get("tigris_bucket"):
            yield guest.Directory(
                guest_path=guest_path,
                url_prefix=url_prefix,
                index_document=str(entry.get("index_document") or ""),
            )


def _port(config: Mapping[str, Any]) -> int:
    services = settings.items(config.get("services"))
    taken = {settings.number(service.get("internal_port"), 0) for service in services}
    port = FIRST_PORT
    while port in taken:
        port += 1
    return port
