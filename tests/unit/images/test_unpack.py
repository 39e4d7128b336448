"""Whose fault it is that an image cannot be unpacked."""

import errno

import pytest

from godwit.images import unpack


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "insufficient_capacity"),
        (errno.EDQUOT, "insufficient_capacity"),
        (errno.EIO, "unavailable"),
        (errno.EMFILE, "unavailable"),
        (errno.ENFILE, "unavailable"),
        (errno.ENOMEM, "unavailable"),
        (errno.EROFS, "unavailable"),
        (errno.ENAMETOOLONG, "invalid_argument"),
        (errno.ENOTDIR, "invalid_argument"),
        (errno.ELOOP, "invalid_argument"),
    ],
)
def test_what_the_host_cannot_is_not_said_to_be_the_image_s_fault(
    monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    def fail(_: object) -> None:
        raise OSError(number, "it went wrong")

    monkeypatch.setattr(unpack, "_work", fail)
    error = unpack._answer({})["error"]
    assert error["code"] == code
