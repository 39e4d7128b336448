"""What a builder is: a context and a Dockerfile in, an image in a registry out.

`buildah.py` builds on the host; a builder in a microVM will have the same face. The caller is
control's composition root (`godwit.cmd.control`) and, for tests and the demo, anybody.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from godwit.images.auth import Credentials

Compression = Literal["gzip", "zstd"]


@dataclass(frozen=True)
class BuildRequest:
    """One build.

    Attributes:
        context: A directory, or a tar of one (plain, gzip or zstd); never changed.
        reference: Where the image is pushed: `127.0.0.1:5050/app:tag`.
        credentials: For that registry: to push, and to pull bases from it.
        registries: For other registries, by `host[:port]`: to pull bases.
        dockerfile: Path within the context.
        ignorefile: Path within the context; empty for the usual places.
        target: Stage to build; empty for the last.
        args: Values for ARG.
        secrets: For `RUN --mount=type=secret,id=NAME`; never in the image or the log.
        labels: Labels of the image.
        no_cache: Run every step again.
        offline: Do not ask any registry but the platform's for bases.
        compression_level: `None` for the format's usual one.
        push_limit_bytes: More is not pushed; content that is there does not count. `None`: no
            limit.
        timeout_s: For the whole build.
    """

    context: Path
    reference: str
    org_id: str = ""
    app: str = ""
    credentials: Credentials | None = None
    registries: Mapping[str, Credentials] = field(default_factory=dict, repr=False)
    dockerfile: str = "Dockerfile"
    ignorefile: str = ""
    target: str = ""
    args: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    no_cache: bool = False
    offline: bool = False
    compression: Compression = "gzip"
    compression_level: int | None = None
    push_limit_bytes: int | None = None
    timeout_s: float = 3600.0


@dataclass(frozen=True)
class BuildLog:
    """A line that the build printed."""

    message: str

    def as_dict(self) -> dict[str, object]:
        """Return it as it goes over the API."""
        return {"type": "log", "message": self.message}


@dataclass(frozen=True)
class BuildNotice:
    """A sentence of the builder's own: which base is used, what is pushed."""

    message: str

    def as_dict(self) -> dict[str, object]:
        """Return it as it goes over the API."""
        return {"type": "notice", "message": self.message}


@dataclass(frozen=True)
class BuildImage:
    """The end of a build that succeeded.

    Attributes:
        reference: Where it was pushed.
        digest: Of the manifest in the registry.
    """

    reference: str
    digest: str

    def as_dict(self) -> dict[str, object]:
        """Return it as it goes over the API."""
        return {"type": "image", "reference": self.reference, "digest": self.digest}


BuildEvent = BuildLog | BuildNotice | BuildImage


class Builder(Protocol):
    """Builds and pushes."""

    def build(self, request: BuildRequest) -> AsyncGenerator[BuildEvent]:
        """Yield what happens; the last event is the `BuildImage`.

        Closing the generator early (`contextlib.aclosing`) ends the build and everything it
        started.

        Raises:
            Failure: `invalid_argument` for a context or Dockerfile that cannot be built,
                `failed_precondition` for a step that failed, `manifest_unknown` and
                `unavailable` for a base image, `insufficient_capacity`, `deadline_exceeded`.
        """
