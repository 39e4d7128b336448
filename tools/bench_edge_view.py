"""Rows of area `edge`: what the edge's picture of the world costs, and how fresh it is.

Memory and instructions are the catalog's own, in a program that holds nothing else
(`rust/crates/catalog/examples/weigh.rs`); instructions are counted by valgrind. Freshness is that
of a reader of the bus, as `bench_catalog` measures it: routing changes with the view.
"""

import re
import subprocess
import tempfile
from pathlib import Path

from tools import bench_catalog
from tools.bench import Row, row

_MANY = 100_000
_FEW = 1_000
_LOOKUPS = 400_000
_MACHINE_BYTES, _NAME_BYTES = 700, 300
_GROWTH = 1.1
_ROUNDS = 5


def rows() -> list[Row]:
    """Measure everything."""
    return [*_memory(), _lookups(), *bench_catalog.rows_here()]


def _memory() -> list[Row]:
    program = bench_catalog.example("godwit-catalog", "weigh")
    found = []
    for thing, must in (("machine", _MACHINE_BYTES), ("name", _NAME_BYTES)):
        argv = [program, f"{thing}s", str(_MANY)]
        weighed = [
            float(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
            for _ in range(_ROUNDS)
        ]
        metric = f"memory per {thing}, of {_MANY}"
        found.append(row("edge.memory", metric, "bytes", weighed, must=must))
    return found


def _lookups() -> Row:
    """Compare what it takes to find an app by a host name, among many and among few.

    Each process seeds its hash tables anew, so that to fill them does not cost two the same: so
    many lookups that this is no matter.
    """
    many, few = ([_instructions(names) for _ in range(_ROUNDS)] for names in (_MANY, _FEW))
    peer = f"of {_FEW} names"
    metric = f"per lookup, of {_MANY} names"
    return row("edge.routing", metric, "instructions", many, peer, few, must=_GROWTH)


def _instructions(names: int) -> float:
    """Count what one lookup takes: by the difference that more of them make."""
    once, twice = (_counted(names, lookups) for lookups in (_LOOKUPS, 2 * _LOOKUPS))
    return (twice - once) / _LOOKUPS


def _counted(names: int, lookups: int) -> int:
    program = bench_catalog.example("godwit-catalog", "weigh")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind"
        argv = [
            *("valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"),
            *(program, "lookups", str(names), str(lookups)),
        ]
        subprocess.run(argv, check=True, capture_output=True)
        total = re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.MULTILINE)
    assert total is not None
    return int(total[1])
