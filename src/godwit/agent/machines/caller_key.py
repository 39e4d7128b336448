"""The file by which a machine's processes check `Fly-Src`: the cluster's public key, in hex.

Machine and containers have it from each start on. Source: spec/network.md §1.8.
"""

import base64

from godwit.wire import fly_src, guest

_MODE = 0o444


def added(spec: guest.RunSpec, public_key: str) -> guest.RunSpec:
    """Return what init is told with the file; without a key, what it was told before."""
    if not public_key:
        return spec
    content = base64.b64encode(public_key.encode()).decode()
    file = guest.File(path=fly_src.GUEST_FILE, content_base64=content, mode=_MODE)
    containers = tuple(
        one.model_copy(update={"files": (*one.files, file)}) for one in spec.containers
    )
    return spec.model_copy(update={"files": (*spec.files, file), "containers": containers})
