"""Which images of the platform's registry go, and why the others stay: a pure plan.

needed    a release that may be rolled back to, a running deploy, or a machine  ──► stays
young     pushed within `pushed_ms`                                             ──► stays
newest    the last tagged push of an app that is there                          ──► stays
child     of an index that stays                                                ──► stays
otherwise                                                                       ──► goes
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from godwit.base import errors
from godwit.images import reference as references
from godwit.images.registry_disk import Pushed


@dataclass(frozen=True)
class Needed:
    """What is needed of the registry.

    Attributes:
        digests: Wherever they lie.
        tags: `(repository, tag)`.
        apps: Names of the apps that are there.
    """

    digests: frozenset[str] = frozenset()
    tags: frozenset[tuple[str, str]] = frozenset()
    apps: frozenset[str] = frozenset()


@dataclass
class Gathering:
    """Gathers what is needed, reference by reference."""

    registry: str
    _digests: set[str] = field(default_factory=set)
    _tags: set[tuple[str, str]] = field(default_factory=set)
    _apps: set[str] = field(default_factory=set)

    def app(self, name: str) -> None:
        """Take an app that is there."""
        self._apps.add(name)

    def reference(self, text: str) -> None:
        """Take what a release or machine names; other registries' images are none of ours."""
        try:
            parsed = references.parse(text)
        except errors.Failure:
            return
        if parsed.registry == self.registry:
            if parsed.digest:
                self._digests.add(parsed.digest)
            else:
                self._tags.add((parsed.repository, parsed.tag))

    def digest(self, digest: str) -> None:
        """Take an image a machine runs."""
        self._digests.add(digest)

    def done(self) -> Needed:
        """Return all that was gathered."""
        return Needed(frozenset(self._digests), frozenset(self._tags), frozenset(self._apps))


def plan(images: Collection[Pushed], needed: Needed, *, young_from_ms: int) -> tuple[Pushed, ...]:
    """Return the images that go, indexes before what they list.

    Args:
        images: All that are there.
        needed: Of releases and machines.
        young_from_ms: What was pushed from then on stays.
    """
    stay = {
        (one.repository, one.digest)
        for one in images
        if one.pushed_at_ms >= young_from_ms
        or one.digest in needed.digests
        or any((one.repository, tag) in needed.tags for tag in one.tags)
    }
    stay |= {(one.repository, one.digest) for one in _newest(images, needed.apps)}
    listed = _listed(one for one in images if (one.repository, one.digest) in stay)
    goes = [one for one in images if (one.repository, one.digest) not in stay | listed]
    return tuple(sorted(goes, key=lambda one: (not one.children, one.repository, one.digest)))


def _newest(images: Iterable[Pushed], apps: Collection[str]) -> Iterable[Pushed]:
    """Return the last tagged push of every repository whose app is there."""
    newest: dict[str, Pushed] = {}
    for one in images:
        if one.tags and one.repository.partition("/")[0] in apps:
            known = newest.get(one.repository, one)
            newest[one.repository] = max(known, one, key=lambda each: each.pushed_at_ms)
    return newest.values()


def _listed(indexes: Iterable[Pushed]) -> set[tuple[str, str]]:
    return {(one.repository, child) for one in indexes for child in one.children}
