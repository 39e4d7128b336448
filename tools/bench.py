"""`make bench`: measures areas against their peers, prints tables, writes build/bench.json.

Each area is a module `tools/bench_<area>.py` with `rows() -> list[Row]`; a peer is always
measured in the same run, in interleaved rounds, and medians are compared. `make bench
AREA=machine` runs one area.
"""

import importlib
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
AREAS = ("machine", "deploy", "api", "network", "edge")


@dataclass(frozen=True)
class Row:
    """One figure beside its peer's.

    Attributes:
        ratio: `value / peer_value`, or the value itself where there is no peer.
        must: The ratio (or value) that may not be exceeded; `None` when only an aim is set.
    """

    bench: str
    metric: str
    value: float
    unit: str
    peer: str | None
    peer_value: float | None
    ratio: float | None
    must: float | None
    aim: float | None
    met_must: bool | None
    met_aim: bool | None
    spread: str


def row(  # noqa: PLR0917
    bench: str,
    metric: str,
    unit: str,
    values: Sequence[float],
    peer: str | None = None,
    peers: Sequence[float] = (),
    *,
    must: float | None = None,
    aim: float | None = None,
) -> Row:
    """Return the row of several rounds: medians, their ratio, and the spread."""
    value = statistics.median(values)
    peer_value = statistics.median(peers) if peers else None
    ratio = value / peer_value if peer_value else None
    judged = ratio if ratio is not None else value
    return Row(
        bench=bench,
        metric=metric,
        value=round(value, 4),
        unit=unit,
        peer=peer,
        peer_value=None if peer_value is None else round(peer_value, 4),
        ratio=None if ratio is None else round(ratio, 3),
        must=must,
        aim=aim,
        met_must=None if must is None else judged <= must,
        met_aim=None if aim is None else judged <= aim,
        spread=f"{min(values):.3g}..{max(values):.3g}"
        + (f" / {min(peers):.3g}..{max(peers):.3g}" if peers else ""),
    )


def paired(figures: Row, values: Sequence[float], peers: Sequence[float]) -> Row:
    """Return the row judged by the median of each round's own ratio.

    For what depends on the rest of the machine, which changes from round to round and is the same
    for both within one.
    """
    ratio = statistics.median(a / b for a, b in zip(values, peers, strict=True))
    return replace(
        figures,
        ratio=round(ratio, 3),
        met_must=None if figures.must is None else ratio <= figures.must,
        met_aim=None if figures.aim is None else ratio <= figures.aim,
    )


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a text table."""
    heads = ("bench", "metric", "value", "peer", "ratio", "must", "aim", "spread")
    lines = [
        (
            r.bench,
            r.metric,
            f"{r.value:g} {r.unit}",
            "-" if r.peer_value is None else f"{r.peer_value:g} {r.unit} ({r.peer})",
            "-" if r.ratio is None else f"{r.ratio:.2f}",
            "-" if r.must is None else f"{r.must:g} {'met' if r.met_must else 'MISSED'}",
            "-" if r.aim is None else f"{r.aim:g} {'met' if r.met_aim else 'missed'}",
            r.spread,
        )
        for r in rows
    ]
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (heads, *lines)
    )


def main(areas: Sequence[str]) -> int:
    """Measure, print, write; return 1 when a figure that must be met is not."""
    unknown = [area for area in areas if area not in AREAS]
    if unknown:
        print(f"no such area: {', '.join(unknown)}; there are: {', '.join(AREAS)}")
        return 2
    sys.path.insert(0, str(ROOT))
    rows: list[Row] = []
    for area in areas or AREAS:
        rows += importlib.import_module(f"tools.bench_{area}").rows()
        print(table(rows), flush=True)
    out = ROOT / "build" / "bench.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps([asdict(r) for r in rows], indent=2) + "\n")
    return int(any(r.met_must is False for r in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
