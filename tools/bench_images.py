"""Benchmark: an image's layers to one EROFS file, against `tar x` of the same layers.

Takes the local base `python:3.11-slim` (built first if it is not there), once with its layers
as they are (zstd) and once as a build pushes them (gzip). Both sides get fresh directories on
the same file system, in interleaved rounds; each round starts with nothing left to write back.

Run alone: `python tools/bench_images.py [--cache DIR] [--rounds N]`.
"""

import argparse
import asyncio
import gzip
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import zstandard

from godwit.base import processes
from godwit.images import bases, layers, store

_MUST = 2.0
_ROUNDS = 7
_IMAGE = "python:3.11-slim"


def bench(cache: Path | None = None, rounds: int = _ROUNDS) -> list[dict[str, Any]]:
    """Return one row per compression."""
    return asyncio.run(_bench(cache or _cache(), rounds))


async def _bench(cache: Path, rounds: int) -> list[dict[str, Any]]:
    base = await bases.Bases(cache / "bases").ensure(_IMAGE, print)
    manifest, config = base.layout.manifest(), base.layout.config()
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        work = Path(scratch)
        zstd = [base.layout.blob(layer.digest) for layer in manifest.layers]
        return [
            await _row("machine.image_to_erofs", zstd, config.diff_ids, work, rounds),
            await _row(
                "machine.image_to_erofs_gzip", _gzip(zstd, work), config.diff_ids, work, rounds
            ),
        ]


async def _row(
    name: str, blobs: Sequence[Path], diff_ids: Sequence[str], work: Path, rounds: int
) -> dict[str, Any]:
    files = [
        layers.LayerFile(blob, blob.name, diff_id)
        for blob, diff_id in zip(blobs, diff_ids, strict=True)
    ]

    async def ours(into: Path) -> None:
        await store.convert(
            files, into / "image.erofs", digest=f"sha256:{'0' * 64}", limits=layers.Limits()
        )

    async def peer(into: Path) -> None:
        for blob in blobs:
            await processes.run(["tar", "-x", "-f", str(blob), "-C", str(into)], timeout_s=120)

    # One round of each that does not count: page cache and directories are then the same.
    await _timed(peer, work)
    await _timed(ours, work)
    mine, theirs = [], []
    for _ in range(rounds):
        theirs.append(await _timed(peer, work))
        mine.append(await _timed(ours, work))
    value, peer_value = statistics.median(mine), statistics.median(theirs)
    ratio = value / peer_value
    return {
        "bench": name,
        "metric": "layers on disk to one EROFS file",
        "value": round(value, 3),
        "unit": "s",
        "peer": "tar x",
        "peer_value": round(peer_value, 3),
        "ratio": round(ratio, 3),
        "must": _MUST,
        "aim": None,
        "met_must": ratio <= _MUST,
        "met_aim": None,
        "spread": {"value": _spread(mine), "peer": _spread(theirs)},
    }


async def _timed(work: Callable[[Path], Awaitable[None]], scratch: Path) -> float:
    into = scratch / "round"
    into.mkdir()
    os.sync()
    began = time.monotonic()
    await work(into)
    took = time.monotonic() - began
    shutil.rmtree(into)
    return took


def _spread(values: Sequence[float]) -> list[float]:
    return [round(min(values), 3), round(max(values), 3)]


def _gzip(blobs: Sequence[Path], work: Path) -> list[Path]:
    made = []
    for blob in blobs:
        target = work / f"{blob.name}.tar.gz"
        with blob.open("rb") as packed, gzip.open(target, "wb", compresslevel=6) as sink:
            zstandard.ZstdDecompressor().copy_stream(packed, sink)
        made.append(target)
    return made


def _cache() -> Path:
    return Path("/var/cache/godwit")


def main() -> None:
    """Print the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=_cache())
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    given = parser.parse_args()
    print(json.dumps(bench(given.cache, given.rounds), indent=2))


if __name__ == "__main__":
    main()
