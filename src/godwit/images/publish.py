"""Pushing an image that lies in a directory to a registry.

Called by `godwit images push`, by tests and by the demo for images that were not built here.
"""

from godwit.base.errors import Failure
from godwit.images import auth, ocilayout, reference, registry


async def push(
    layout: ocilayout.Layout,
    target: str,
    *,
    credentials: auth.Credentials | None = None,
    insecure: bool | None = None,
    limit_bytes: int | None = None,
) -> str:
    """Push a layout's image under a reference and return its digest.

    Args:
        layout: The image.
        target: `localhost:5050/app:tag`.
        credentials: Who pushes.
        insecure: Plain HTTP; `None` means only for a registry on this host.
        limit_bytes: More is not pushed; content that is there does not count.

    Raises:
        Failure: As `RegistryClient`; `insufficient_capacity` when there is more to push.
    """
    wanted = reference.parse(target)
    plain = reference.is_loopback(wanted.registry) if insecure is None else insecure
    manifest = layout.manifest()
    async with registry.RegistryClient(
        wanted.registry, credentials=credentials, insecure=plain
    ) as client:
        missing = [
            blob
            for blob in dict.fromkeys((*manifest.layers, manifest.config))
            if not await client.has_blob(wanted.repository, blob.digest)
        ]
        _check_size(target, sum(blob.size for blob in missing), limit_bytes)
        for blob in missing:
            await client.upload(wanted.repository, blob, layout.blob(blob.digest))
        await client.put_manifest(
            wanted.repository, wanted.tag or layout.digest, layout.media_type, layout.document
        )
    return layout.digest


def _check_size(target: str, size: int, limit: int | None) -> None:
    if limit is not None and size > limit:
        raise Failure(
            "insufficient_capacity",
            f"{target} has {size >> 20} MB of new content, and the registry has room for"
            f" {limit >> 20} MB more of this organization",
            hint="build a smaller image, or let images go that are not needed",
        )
