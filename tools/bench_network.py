"""Area `network`: what goes between machines of different hosts, and what hosts know of others.

The mesh, the names that machines ask for, and how long a change takes to other regions.
"""

from tools import bench_catalog, bench_dns, bench_mesh
from tools.bench import Row


def rows() -> list[Row]:
    """Measure everything."""
    return [*bench_mesh.rows(), *bench_dns.rows(), *bench_catalog.rows()]
