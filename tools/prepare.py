"""Fetch the guest kernel and build the base images ahead of time, into the cache directory.

`godwit up` and `godwit images bootstrap` would do the same when first needed; tests run without
a way out, so this runs before them.
"""

import asyncio
import sys

from godwit.agent.vmm import guestkit
from godwit.base import settings
from godwit.images import bases


async def prepare() -> None:
    """Ensure both."""
    paths = settings.from_process().paths
    kit = await guestkit.ensure(paths.cache, paths.programs)
    print(f"setup: guest kernel {kit.kernel_version}", file=sys.stderr)
    await bases.ensure(paths.cache, told=lambda line: print(f"setup: {line}", file=sys.stderr))


if __name__ == "__main__":
    asyncio.run(prepare())
