"""What a machine takes of its host's memory: books promise it, its VMM's cgroup holds it. Pure."""

from godwit.wire import host_rpc

_TABLES = 200
"""Page tables take 8 bytes of each 4 KB, once for the VMM and once for the guest's processors,
and the kernel counts them to the VMM: half a percent."""


def memory_mb(resources: host_rpc.Resources, overhead_mb: int) -> int:
    """Return a machine's memory with that of its VMM.

    Args:
        resources: The machine's.
        overhead_mb: What a VMM takes beside its guest's memory, whatever its size.
    """
    return resources.memory_mb + overhead_mb + resources.grown.memory_mb // _TABLES
