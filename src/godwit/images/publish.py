"""Pushing an image that lies in a directory to a registry.

Called by `godwit images push`, by tests and by the demo for images that were not built here.
"""

from godwit.images import auth, ocilayout, reference, registry


async def push(
    layout: ocilayout.Layout,
    target: str,
    *,
    credentials: auth.Credentials | None = None,
    insecure: bool | None = None,
) -> str:
    """Push a layout's image under a reference and return its digest.

    Args:
        layout: The image.
        target: `localhost:5050/app:tag`.
        credentials: Who pushes.
        insecure: Plain HTTP; `None` means only for a registry on this host.

    Raises:
        Failure: As `RegistryClient`.
    """
    wanted = reference.parse(target)
    plain = reference.is_loopback(wanted.registry) if insecure is None else insecure
    manifest = layout.manifest()
    async with registry.RegistryClient(
        wanted.registry, credentials=credentials, insecure=plain
    ) as client:
        for blob in dict.fromkeys((*manifest.layers, manifest.config)):
            await client.upload(wanted.repository, blob, layout.blob(blob.digest))
        await client.put_manifest(
            wanted.repository, wanted.tag or layout.digest, layout.media_type, layout.document
        )
    return layout.digest
