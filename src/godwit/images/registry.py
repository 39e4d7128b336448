"""A client for registries: manifests, blobs to disk, uploads; every byte checked.

Speaks the OCI distribution spec v1.1 over HTTPS, or plain HTTP when told so. Called by
`resolver.py`, `store.py` and `publish.py`.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urljoin, urlsplit

import httpx

from godwit.base import clock, errors
from godwit.images import auth, download, manifests, reference, transport

Patience = transport.Patience

_MAX_DOCUMENT: Final = 4 << 20
_AT_ONCE: Final = 3


class RegistryClient:
    """One registry, for one caller with one set of credentials; an async context.

    Every method raises `Failure`: `manifest_unknown` for what is not there or not for these
    credentials, `unavailable` when the registry cannot be reached or fails, `rate_limited`,
    `invalid_argument` for content that is not what its digest says.
    """

    def __init__(
        self,
        registry: str,
        *,
        credentials: auth.Credentials | None = None,
        insecure: bool = False,
        patience: Patience | None = None,
        time: clock.Clock | None = None,
    ) -> None:
        self._registry = registry
        self._transport = transport.Transport(
            registry,
            credentials=credentials,
            insecure=insecure,
            patience=patience,
            time=time,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._transport.close()

    async def check(self) -> None:
        """Return if the registry takes these credentials.

        Raises:
            Failure: `permission_denied` when it refuses them.
        """
        call = transport.Call("GET", "", f"the registry {self._registry}", "")
        try:
            await self._transport.ask(call, _nothing)
        except errors.Failure as failure:
            if failure.code != "manifest_unknown":
                raise
            raise errors.Failure(
                "permission_denied",
                f"the registry {self._registry} does not take this user name and password",
                hint="many want an access token in place of the account's password; check also"
                " that this host and port are a registry",
            ) from failure

    async def manifest(self, repository: str, wanted: str) -> manifests.Document:
        """Return the manifest or index under a tag or digest."""
        call = self._call(
            "GET",
            f"{repository}/manifests/{wanted}",
            repository,
            wanted,
            headers={"Accept": ", ".join(manifests.ACCEPT)},
        )

        async def use(answer: httpx.Response) -> manifests.Document:
            body = await download.small(answer, _MAX_DOCUMENT, call.name)
            return manifests.Document(_sha256(body), answer.headers.get("content-type", ""), body)

        document = await self._transport.ask(call, use)
        if reference.is_digest(wanted) and document.digest != wanted:
            raise errors.invalid(
                f"{self._registry} sent a manifest with digest {document.digest} as {call.name}"
            )
        return document

    async def small_blob(self, repository: str, descriptor: manifests.Descriptor) -> bytes:
        """Return a config, which is small enough for memory."""
        path = f"{repository}/blobs/{descriptor.digest}"
        call = self._call("GET", path, repository, descriptor.digest)

        async def use(answer: httpx.Response) -> bytes:
            return await download.small(answer, _MAX_DOCUMENT, call.name)

        body = await self._transport.ask(call, use)
        if _sha256(body) != descriptor.digest or len(body) != descriptor.size:
            raise errors.invalid(
                f"{call.name} arrived damaged: {len(body)} bytes with the digest {_sha256(body)}"
            )
        return body

    async def blob(self, repository: str, descriptor: manifests.Descriptor, into: Path) -> None:
        """Fetch a layer into a file, going on where it broke off, verified while it comes."""
        name = _name(self._registry, repository, descriptor.digest)
        with download.Partial(into, descriptor, name) as partial:
            call = transport.Call(
                "GET",
                f"{repository}/blobs/{descriptor.digest}",
                name,
                f"repository:{repository}:pull",
                headers=partial.headers,
            )
            await self._transport.ask(call, partial.receive)

    async def blobs(self, repository: str, wanted: Mapping[Path, manifests.Descriptor]) -> None:
        """Fetch several layers, a few at a time."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(into: Path, descriptor: manifests.Descriptor) -> None:
            async with slots:
                await self.blob(repository, descriptor, into)

        try:
            async with asyncio.TaskGroup() as group:
                for into, descriptor in wanted.items():
                    group.create_task(one(into, descriptor))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def has_blob(self, repository: str, digest: str) -> bool:
        """Tell whether a blob is in the repository."""
        call = self._call("HEAD", f"{repository}/blobs/{digest}", repository, digest)
        try:
            await self._transport.ask(call, _nothing)
        except errors.Failure as failure:
            if failure.code == "manifest_unknown":
                return False
            raise
        return True

    async def upload(self, repository: str, descriptor: manifests.Descriptor, file: Path) -> None:
        """Store a blob, unless it is there."""
        if await self.has_blob(repository, descriptor.digest):
            return
        path = f"{repository}/blobs/uploads/"
        start = self._call("POST", path, repository, descriptor.digest, push=True)

        async def use(answer: httpx.Response) -> str:
            location: str = answer.headers.get("location", "")
            return urljoin(str(answer.url), location)

        where = await self._transport.ask(start, use)
        join = "&" if urlsplit(where).query else "?"
        put = self._call(
            "PUT",
            f"{where}{join}digest={descriptor.digest}",
            repository,
            descriptor.digest,
            headers={"Content-Type": "application/octet-stream"},
            body=file,
            push=True,
        )
        await self._transport.ask(put, _nothing)

    async def put_manifest(
        self, repository: str, wanted: str, media_type: str, body: bytes
    ) -> None:
        """Store a manifest under a tag or digest."""
        path = f"{repository}/manifests/{wanted}"
        headers = {"Content-Type": media_type}
        call = self._call("PUT", path, repository, wanted, headers=headers, body=body, push=True)
        await self._transport.ask(call, _nothing)

    async def delete_manifest(self, repository: str, digest: str) -> None:
        """Ensure a manifest is in the repository no more, nor a tag that names it."""
        call = transport.Call(
            "DELETE",
            f"{repository}/manifests/{digest}",
            _name(self._registry, repository, digest),
            f"repository:{repository}:delete",
        )
        try:
            await self._transport.ask(call, _nothing)
        except errors.Failure as failure:
            if failure.code != "manifest_unknown":
                raise

    def _call(
        self,
        method: str,
        path: str,
        repository: str,
        wanted: str,
        *,
        headers: dict[str, str] | None = None,
        body: bytes | Path = b"",
        push: bool = False,
    ) -> transport.Call:
        return transport.Call(
            method,
            path,
            _name(self._registry, repository, wanted),
            f"repository:{repository}:{'pull,push' if push else 'pull'}",
            headers=lambda: headers or {},
            body=body,
        )


def _name(registry: str, repository: str, wanted: str) -> str:
    digest = reference.is_digest(wanted)
    return reference.Reference(
        registry, repository, "" if digest else wanted, wanted if digest else ""
    ).familiar


def _sha256(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


async def _nothing(answer: httpx.Response) -> None:
    del answer
