"""Fetching an image as it is into a directory, in the layout Buildah and Skopeo call `dir:`.

Called by the builder for base images: so credentials, deadlines, retries and the checking of
digests are ours, and the building program needs no access to any registry.

Source: containers/image, directory/directory_transport.go.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from godwit.images import auth, manifests, reference, registry, resolver
from godwit.wire import host_rpc

_VERSION: Final = "Directory Transport Version: 1.1\n"


@dataclass(frozen=True)
class Found:
    """An image in its registry, not fetched yet.

    Attributes:
        config_digest: Digest of its config, which is what engines call the image's id.
    """

    image: host_rpc.ImageRef
    digest: str
    manifest: manifests.Manifest

    @property
    def config_digest(self) -> str:
        """Return the digest of its config: the id under which engines store it."""
        return self.manifest.config.digest


async def find(
    text: str,
    *,
    insecure: bool,
    credentials: auth.Credentials | None = None,
    patience: registry.Patience | None = None,
) -> Found:
    """Look an image up.

    Args:
        text: Its reference.
        insecure: Whether its registry speaks plain HTTP.
        credentials: Who asks, where the image is not public.
        patience: How long and how often to ask.

    Raises:
        Failure: As `resolver.resolve`.
    """
    wanted = reference.parse(text)
    async with registry.RegistryClient(
        wanted.registry, credentials=credentials, insecure=insecure, patience=patience
    ) as client:
        located = await resolver.locate(client, wanted.repository, wanted.wanted, name=text)
    image = host_rpc.ImageRef(
        reference=text,
        registry=wanted.registry,
        repository=wanted.repository,
        tag=wanted.tag,
        digest=located.requested,
        insecure=insecure,
    )
    return Found(image, located.digest, located.manifest)


async def fetch(found: Found, into: Path, *, credentials: auth.Credentials | None = None) -> None:
    """Fetch an image into an existing empty directory.

    Raises:
        Failure: As `RegistryClient`.
    """
    image = found.image
    async with registry.RegistryClient(
        image.registry, credentials=credentials, insecure=image.insecure
    ) as client:
        document = await client.manifest(image.repository, found.digest)
        manifests.config(
            await client.small_blob(image.repository, found.manifest.config), image.reference
        )
        await client.blobs(
            image.repository,
            {
                into / blob.digest.removeprefix("sha256:"): blob
                for blob in (*found.manifest.layers, found.manifest.config)
            },
        )
    (into / "manifest.json").write_bytes(document.body)
    (into / "version").write_text(_VERSION)
