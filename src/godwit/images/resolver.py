"""From what a person wrote to an image that exists: digest, platform, labels, config.

Called by control before it offers a machine, by the builder for base images, and by the
store. Asks the registry for the manifest, and for the config when an image is inspected, so
that an image for another platform is refused before anything is placed.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from godwit.base import encoded, errors
from godwit.images import auth, manifests, reference, registry
from godwit.images import config as of_image
from godwit.images.config import ImageConfig
from godwit.wire import host_rpc

_LABELS_BYTES = 32_768


@dataclass(frozen=True)
class Inspected:
    """An image as its registry describes it.

    Attributes:
        document: Its OCI config as it lies in the registry; what `config` was read from.
        size_bytes: Of its layers as they travel.
    """

    image: host_rpc.ImageRef
    config: ImageConfig
    document: bytes
    size_bytes: int


@dataclass(frozen=True)
class Located:
    """The one manifest to run: an index has been followed to this platform's image.

    Attributes:
        requested: Digest of what the reference names, index or manifest.
        digest: Digest of the manifest.
    """

    requested: str
    digest: str
    manifest: manifests.Manifest


class Resolver:
    """Resolves for control, with what one organization may show to the image's registry.

    References are written by tenants, and control may ask what they may not: so plain HTTP and
    addresses of the host itself are for the platform's own registry and no other.

    Args:
        own: `host[:port]` of that registry; bearer tokens are for it alone.
        own_insecure: It speaks plain HTTP.
        patience: How long and how often to ask.
        within_s: For all of it: a registry that drips must hold no request for ever.
    """

    def __init__(
        self,
        own: str,
        *,
        own_insecure: bool | None = None,
        patience: registry.Patience | None = None,
        within_s: float = 60.0,
    ) -> None:
        self._own = own
        self._within_s = within_s
        self._own_insecure = own_insecure
        self._patience = patience

    async def resolve(self, text: str, token: str | None) -> host_rpc.ImageRef:
        """Return the image a reference means now, one that a machine can be made of.

        Raises:
            Failure: As `resolve`; `invalid_argument` for one that says too much of how it runs.
        """
        found = await self.inspect(text, token)
        said = (found.config.entrypoint, found.config.cmd, found.config.env)
        if encoded.size(said) > of_image.MOST_BYTES:
            raise errors.invalid(
                f"{text}: its entrypoint, command and environment have {encoded.size(said)} bytes,"
                f" at most {of_image.MOST_BYTES} are taken",
                hint="put long values into a file of the image",
            )
        return found.image

    async def config_document(self, text: str, token: str | None) -> bytes:
        """Return the OCI config of the image a reference means now; fails like `resolve`."""
        found = await self.inspect(text, token)
        return found.document

    async def inspect(self, text: str, token: str | None) -> Inspected:
        """Return the image a reference means now, with its config; fails like `resolve`.

        Args:
            text: The reference.
            token: A pull token; a login is never shown to the platform's own registry.
        """
        asked = reference.parse(text).registry
        ours = asked == self._own
        mine = token if auth.is_login(token) != ours else None
        if not ours and reference.is_of_the_host(asked):
            raise errors.invalid(
                f"{text!r}: {asked} is an address of the platform's own host",
                hint=f"the platform's registry is {self._own}; others need a public name",
            )
        try:
            async with asyncio.timeout(self._within_s):
                return await inspect(
                    text,
                    credentials=auth.of_pull_token(mine),
                    insecure=self._own_insecure if ours else False,
                    patience=self._patience,
                )
        except TimeoutError as error:
            raise errors.Failure(
                "deadline_exceeded", f"the registry {asked} did not tell of {text} in time"
            ) from error

    async def check(self, host: str, token: str) -> None:
        """Return if a registry takes the user and password of a pull token.

        Raises:
            Failure: `permission_denied`, `unavailable`, `deadline_exceeded`.
        """
        try:
            async with (
                asyncio.timeout(self._within_s),
                registry.RegistryClient(
                    host, credentials=auth.of_pull_token(token), patience=self._patience
                ) as client,
            ):
                await client.check()
        except TimeoutError as error:
            raise errors.Failure(
                "deadline_exceeded", f"the registry {host} did not answer in time"
            ) from error


async def resolve(
    text: str,
    *,
    credentials: auth.Credentials | None = None,
    insecure: bool | None = None,
    patience: registry.Patience | None = None,
) -> host_rpc.ImageRef:
    """Return the image a reference means now.

    Args:
        text: `python:3.11-slim`, `localhost:5050/app:tag`, `…@sha256:…`.
        credentials: Who asks, where the image is not public.
        insecure: Plain HTTP; `None` means only for a registry on this host.
        patience: How long and how often to ask.

    Raises:
        Failure: `invalid_argument` (not a reference, other platform), `manifest_unknown`,
            `unavailable`, `rate_limited`.
    """
    found = await inspect(text, credentials=credentials, insecure=insecure, patience=patience)
    return found.image


async def inspect(
    text: str,
    *,
    credentials: auth.Credentials | None = None,
    insecure: bool | None = None,
    patience: registry.Patience | None = None,
) -> Inspected:
    """Return the image a reference means now, with its config; fails like `resolve`."""
    wanted = reference.parse(text)
    plain = reference.is_loopback(wanted.registry) if insecure is None else insecure
    async with registry.RegistryClient(
        wanted.registry, credentials=credentials, insecure=plain, patience=patience
    ) as client:
        located = await locate(client, wanted.repository, wanted.wanted, name=text)
        body = await client.small_blob(wanted.repository, located.manifest.config)
        config = manifests.config(body, text)
    image = host_rpc.ImageRef(
        reference=text,
        registry=wanted.registry,
        repository=wanted.repository,
        tag=wanted.tag,
        digest=located.requested,
        labels=labels_told(config.runtime.labels),
        insecure=plain,
    )
    size = sum(layer.size for layer in located.manifest.layers)
    return Inspected(image, config.runtime, body, size)


def labels_told(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels that are told of an image: one with a file in it would fill an answer."""
    told: dict[str, str] = {}
    left = _LABELS_BYTES
    for name, value in labels.items():
        needed = encoded.size({name: value})
        if needed <= left:
            told[name] = value
            left -= needed
    return told


async def locate(
    client: registry.RegistryClient, repository: str, wanted: str, *, name: str
) -> Located:
    """Return the manifest for this platform under a tag or digest.

    Raises:
        Failure: As `resolve`.
    """
    document = await client.manifest(repository, wanted)
    requested = document.digest
    parsed = manifests.parse(document.body, document.content_type, name)
    if isinstance(parsed, manifests.Index):
        document = await client.manifest(repository, manifests.choose(parsed, name).digest)
        parsed = manifests.parse(document.body, document.content_type, name)
    if isinstance(parsed, manifests.Index):
        raise manifests.nested(name)
    return Located(requested, document.digest, parsed)
