"""Basic authentication, for the routes that registries and their clients use."""

import base64
import binascii

from fastapi import Request


def credentials(request: Request) -> tuple[str, str]:
    """Return user and password of a request, empty when it has none that can be read."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(given, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return user, password
