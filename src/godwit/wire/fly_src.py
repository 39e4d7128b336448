"""What `Fly-Src` is signed and checked with: the cluster's Ed25519 key, by its files.

Control makes it (`control.fly_src_key`), every host's edge signs with it, every machine finds the
public half in a file of its own.
"""

KEY_FILE = "fly-src.key"
"""Below `<data>/keys`: PEM, PKCS #8."""
PUBLIC_FILE = "fly-src.pub"
"""Beside it: the 32 bytes of its public half, in hex."""
GUEST_FILE = "/.fly/fly-src.pub"
"""Where a machine has the same."""
