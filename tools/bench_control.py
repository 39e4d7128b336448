"""Deploys: what control itself adds to each machine, beside waiting for it.

`deploy.control` runs rolling and bluegreen deploys on simulated hosts, whose machines are there at
once, on a real SQLite database that syncs: what is left is control's own work.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from godwit.testing import clock
from godwit.testing.control import world
from godwit.testing.deploys import Yard
from tools.bench import Row, row

MACHINES = 20
_ROUNDS = 3
_MUST_MS = 150.0
_CHECK = {"interval": "10s", "timeout": "2s", "method": "GET", "path": "/"}
_DEFINITION: dict[str, Any] = {
    "app": "shop",
    "http_service": {"internal_port": 8080, "checks": [_CHECK]},
}


def rows() -> list[Row]:
    """Return the rows of control's own work."""
    return [
        row(
            "deploy.control",
            f"{strategy}, {MACHINES} machines, per machine",
            "ms",
            clock.run(_control_ms(strategy)),
            must=_MUST_MS,
        )
        for strategy in ("rolling", "bluegreen")
    ]


async def _control_ms(strategy: str) -> list[float]:
    """Return the milliseconds per machine of some deploys."""
    with tempfile.TemporaryDirectory() as directory:
        async with world(Path(directory)) as around:
            acme = await around.organization("acme")
            await around.app("shop", "acme")
            yard = Yard(around, around.of(acme))
            yard.host.memory_mb = 1_000_000
            await yard.deploy(_DEFINITION, "nginx:0")
            await _grow(yard)
            taken = []
            for number in range(_ROUNDS):
                began = time.perf_counter()
                done = await yard.deploy(_DEFINITION, f"nginx:{number + 1}", strategy=strategy)
                taken.append((time.perf_counter() - began) * 1000 / MACHINES)
                assert done.row.outcome == "complete", done.row.message
            return taken


async def _grow(yard: Yard) -> None:
    """Make as many machines as the deploys are about, each a copy of the first."""
    config = next(iter(yard.host.machines.values())).config
    for _ in range(MACHINES - len(yard.host.machines)):
        await yard.make_machine(config)
