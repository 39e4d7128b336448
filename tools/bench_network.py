"""Area `network`: what goes between machines of different hosts, and what hosts know of others."""

from tools import bench_catalog, bench_mesh
from tools.bench import Row


def rows() -> list[Row]:
    """Measure everything."""
    return [*bench_mesh.rows(), *bench_catalog.rows()]
