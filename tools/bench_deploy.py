"""The deploy area: four machines replaced under steady load through the edge, nothing fails.

Rows `deploy.rolling` and `deploy.bluegreen`: short requests on kept and fresh connections, bodies,
requests of 30 s, WebSockets. The rate is what this load asks, not what the edge can do.
`deploy.control` is in `bench_control`.
"""

import sys

from godwit.testing import platform as testing
from godwit.testing.load import Shape, Tally
from godwit.testing.rollouts import Steady
from tools import bench_control
from tools.bench import Row, row
from tools.bench_use import Use

_MACHINES = 4
_SHAPE = Shape(clients=2, pause_s=0.3, slow=4, slow_s=30.0)


def rows() -> list[Row]:
    """Bring a platform up, deploy both ways under load, count what failed."""
    with testing.world(), testing.platform() as up:
        up.godwit("images", "bootstrap")
        image = Use.of(up).image
        org = testing.ORGANIZATIONS[0]
        steady = Steady.make(up, "steady", org, image, _MACHINES)
        found = bench_control.rows()
        for version, strategy in enumerate(("rolling", "bluegreen"), 2):
            with steady.under_load(_SHAPE) as tally:
                seconds = steady.deploy(strategy, version=version)
            print(f"deploy.{strategy}: {tally.sentence()}", file=sys.stderr, flush=True)
            found += _rows(f"deploy.{strategy}", tally, seconds)
        return found


def _rows(bench: str, tally: Tally, seconds: float) -> list[Row]:
    return [
        row(bench, "failed requests", "requests", [tally.failed], must=0),
        row(bench, "requests", "requests", [tally.requests]),
        row(bench, "rate", "requests/s", [tally.rate]),
        row(bench, "WebSockets reopened", "connections", [tally.reopened]),
        row(bench, "slowest short answer", "s", [tally.slowest_s]),
        row(bench, "deploy", "s", [seconds]),
    ]
