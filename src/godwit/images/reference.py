"""Image references as people write them: parsed, and completed the way Docker does.

`python:3.11-slim` means `docker.io/library/python:3.11-slim`; a first component with a dot,
a colon or the name `localhost` is a registry. Pure. Called by `registry.py`, the builder,
the CLI and control.

Source: distribution/reference, reference.go (grammar) and normalize.go (completion).
"""

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Final

from godwit.base import errors

DOCKER_HUB: Final = "docker.io"
_HUB_NAMES: Final = ("docker.io", "index.docker.io", "registry-1.docker.io")
_MAX_REPOSITORY: Final = 255

_HOST: Final = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
    r"|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?"
)
_COMPONENT: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Reference:
    """A complete reference.

    Attributes:
        registry: `docker.io` for Docker Hub, else `host[:port]`.
        repository: `library/python`.
        tag: `latest` unless said otherwise; empty when only a digest was given.
        digest: `sha256:…` or empty; it decides, the tag is then for people.
    """

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        """Return the complete reference, as `parse` reads it."""
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"

    @property
    def familiar(self) -> str:
        """Return the shortest form people write: `python:3.11-slim`."""
        whole = str(self)
        below = whole.removeprefix(f"{DOCKER_HUB}/")
        forms = (below.removeprefix("library/"), below)
        return next((form for form in forms if _reads_as(form, self)), whole)

    @property
    def wanted(self) -> str:
        """Return what to ask the registry for: the digest, else the tag."""
        return self.digest or self.tag

    def with_digest(self, digest: str) -> "Reference":
        """Return the same reference pinned to a digest."""
        return replace(self, digest=digest)


def parse(text: str) -> Reference:
    """Return the complete reference for what a person wrote.

    Raises:
        Failure: `invalid_argument`, saying which part is wrong.
    """
    if "://" in text:
        raise _wrong(text, f"leave out {text.partition('://')[0]}://")
    name, digest = _split_digest(text)
    name, tag = _split_tag(name, text)
    registry, repository = _split_registry(name, text)
    if not repository or any(not _COMPONENT.fullmatch(c) for c in repository.split("/")):
        raise _wrong(text, _about_repository(repository))
    if len(registry) + 1 + len(repository) > _MAX_REPOSITORY:
        raise _wrong(text, f"the name is longer than {_MAX_REPOSITORY} characters")
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    return Reference(registry, repository, tag or ("" if digest else "latest"), digest)


def _reads_as(text: str, meant: Reference) -> bool:
    try:
        return parse(text) == meant
    except errors.Failure:
        return False


def is_digest(text: str) -> bool:
    """Tell whether a string is a digest that Godwit accepts: sha256 in lower-case hex."""
    return _DIGEST.fullmatch(text) is not None


def is_loopback(registry: str) -> bool:
    """Tell whether a registry is on this host, where plain HTTP is the custom."""
    host = registry[1:].partition("]")[0] if registry[:1] == "[" else registry.partition(":")[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_of_the_host(registry: str) -> bool:
    """Tell whether a registry's address leads to the asking host itself, or to its own link.

    Nobody's image is there but the platform's; other services that trust their host are.
    """
    host = registry[1:].partition("]")[0] if registry[:1] == "[" else registry.partition(":")[0]
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return (
        address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or address.is_multicast
    )


def _split_digest(text: str) -> tuple[str, str]:
    name, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _wrong(text, "after @ there must be sha256: and 64 lower-case hex digits")
    return name, digest


def _split_tag(name: str, text: str) -> tuple[str, str]:
    slash = name.rfind("/")
    colon = name.rfind(":")
    if colon <= slash:
        return name, ""
    tag = name[colon + 1 :]
    if not _TAG.fullmatch(tag):
        raise _wrong(text, f"{tag!r} is not a tag: letters, digits, '.', '_', '-', at most 128")
    return name[:colon], tag


def _split_registry(name: str, text: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        return DOCKER_HUB, name
    if not _HOST.fullmatch(first):
        raise _wrong(text, f"{first!r} is not a registry's host[:port]")
    return (DOCKER_HUB if first.lower() in _HUB_NAMES else first), rest


def _about_repository(repository: str) -> str:
    if not repository:
        return "it has no name"
    if repository != repository.lower():
        return "the name must be lower case"
    return "the name may hold lower-case letters, digits, and single '.', '_', '-' or '/' between"


def _wrong(text: str, why: str) -> errors.Failure:
    return errors.invalid(
        f"{text!r} is not an image reference: {why}",
        hint="write it like python:3.11-slim or registry.example.com/team/app:tag",
    )
