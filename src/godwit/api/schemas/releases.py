"""Releases."""

from typing import Literal

from pydantic import Field

from godwit.api.schemas.common import In, Json, Out, Text
from godwit.base import clock
from godwit.control import records, releases


class CreateRelease(In):
    """A deploy that begins; `image` is the same as `image_ref`."""

    image_ref: Text = Field("", max_length=1024)
    image: Text = Field("", max_length=1024)
    config: Json = {}
    strategy: Text = Field("", max_length=32)
    description: Text = Field("", max_length=2000)

    def wanted(self) -> releases.NewRelease:
        """Return what the service is asked."""
        return releases.NewRelease(
            image_ref=self.image_ref or self.image,
            config=self.config,
            strategy=self.strategy,
            description=self.description,
        )


class UpdateRelease(In):
    """How a deploy stands or ended."""

    status: Literal["running", "complete", "failed", "interrupted"]
    error: Text = Field("", max_length=2000)


class Release(Out):
    """A release."""

    id: str
    version: int
    status: str
    strategy: str
    description: str
    error: str
    user: str
    image_ref: str
    created_at: str
    updated_at: str
    config: Json

    @classmethod
    def of(cls, release: records.Release) -> "Release":
        """Return a release as the API shows it."""
        return cls(
            id=release.id,
            version=release.version,
            status=release.status,
            strategy=release.strategy,
            description=release.description,
            error=release.error,
            user=release.user,
            image_ref=release.image_ref,
            created_at=clock.rfc3339(release.created_at_ms),
            updated_at=clock.rfc3339(release.updated_at_ms),
            config=release.config,
        )


class ReleaseList(Out):
    """Releases, newest first."""

    releases: list[Release]


class ReleaseDetail(Release):
    """A release with its definition (`config`) and the ids of the machines that run it."""

    machines: list[str]

    @classmethod
    def detailed(cls, release: records.Release, machines: list[str]) -> "ReleaseDetail":
        """Return a release as the API shows it alone."""
        return cls(**Release.of(release).model_dump(), machines=machines)
