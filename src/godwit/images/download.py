"""Receiving content: into memory up to a limit, or into a file, resumable and verified.

Called by `registry.py`.
"""

import asyncio
import contextlib
import errno
import hashlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import httpx

from godwit.base import errors
from godwit.base.errors import Failure
from godwit.images import manifests, transport

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


async def small(answer: httpx.Response, limit: int, name: str) -> bytes:
    """Return a whole answer.

    Raises:
        Failure: `invalid_argument` when it is longer than `limit`.
    """
    body = bytearray()
    async for piece in answer.aiter_raw():
        body += piece
        transport.refuse_more_than(limit, len(body), name)
    return bytes(body)


class Partial:
    """A file that grows to one blob over one or several answers.

    What was received stays across attempts; a registry that does not continue where it is
    asked to makes it start again.
    """

    def __init__(self, into: Path, wanted: manifests.Descriptor, name: str) -> None:
        self._path = into
        self._wanted = wanted
        self._name = name
        self._hash = hashlib.sha256()
        self._seen = 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        self._file = self._path.open("wb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()

    def headers(self) -> dict[str, str]:
        """Return what asks for the rest."""
        return {"Range": f"bytes={self._seen}-"} if self._seen else {}

    async def receive(self, answer: httpx.Response) -> None:
        """Take one answer, whole or continued.

        Raises:
            Interrupted: It broke off.
            Failure: `invalid_argument` for wrong content, `insufficient_capacity`.
        """
        if self._seen and not self._continues(answer):
            self._restart()
        async for piece in answer.aiter_raw():
            self._seen += len(piece)
            transport.refuse_more_than(self._wanted.size, self._seen, self._name)
            await asyncio.to_thread(self._take, piece)
        if self._seen < self._wanted.size:
            raise transport.Interrupted(f"{self._name} broke off after {self._seen} bytes")
        found = f"sha256:{self._hash.hexdigest()}"
        if found != self._wanted.digest:
            raise errors.invalid(
                f"{self._name} arrived damaged: its content has the digest {found}"
            )
        self._close()

    def _continues(self, answer: httpx.Response) -> bool:
        claimed = answer.headers.get("content-range", "")
        return answer.status_code == httpx.codes.PARTIAL_CONTENT and claimed.startswith(
            f"bytes {self._seen}-"
        )

    def _restart(self) -> None:
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()
        self._hash = hashlib.sha256()
        self._seen = 0

    def _take(self, piece: bytes) -> None:
        self._hash.update(piece)
        try:
            if self._file is not None:
                self._file.write(piece)
        except OSError as error:
            raise _disk(error) from error

    def _close(self) -> None:
        try:
            if self._file is not None:
                self._file.close()
        except OSError as error:
            raise _disk(error) from error


def _disk(error: OSError) -> Exception:
    if error.errno in _FULL:
        return Failure("insufficient_capacity", "the disk is full: the image does not fit")
    return error
