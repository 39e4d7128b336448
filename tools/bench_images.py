"""Benchmark: an image's layers to one EROFS file, against `tar x` of the same layers.

Takes the local base `python:3.11-slim` (built first if it is not there), once with its layers
as they are (zstd) and once as a build pushes them (gzip). Both sides get fresh directories on
the same file system, in interleaved rounds; each round starts with nothing left to write back.

Run alone: `python -m tools.bench_images [--cache DIR] [--rounds N]`.
"""

import argparse
import asyncio
import gzip
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import zstandard

from godwit.base import processes, settings
from godwit.images import bases, layers, store
from tools import bench as bench_

_MUST = 2.0
_ROUNDS = 7
_IMAGE = "python:3.11-slim"


def rows(cache: Path | None = None, rounds: int = _ROUNDS) -> list[bench_.Row]:
    """Return one row per compression."""
    return asyncio.run(_rows(cache or settings.from_process().paths.cache, rounds))


def bench() -> list[dict[str, Any]]:
    """Return the rows as plain values."""
    return [asdict(row) for row in rows()]


async def _rows(cache: Path, rounds: int) -> list[bench_.Row]:
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
) -> bench_.Row:
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
    metric = "layers on disk to one EROFS file"
    return bench_.row(name, metric, "s", mine, "tar x", theirs, must=_MUST)


async def _timed(work: Callable[[Path], Awaitable[None]], scratch: Path) -> float:
    into = scratch / "round"
    into.mkdir()
    os.sync()
    began = time.monotonic()
    await work(into)
    took = time.monotonic() - began
    shutil.rmtree(into)
    return took


def _gzip(blobs: Sequence[Path], work: Path) -> list[Path]:
    made = []
    for blob in blobs:
        target = work / f"{blob.name}.tar.gz"
        with blob.open("rb") as packed, gzip.open(target, "wb", compresslevel=6) as sink:
            zstandard.ZstdDecompressor().copy_stream(packed, sink)
        made.append(target)
    return made


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    given = parser.parse_args()
    print(bench_.table(rows(given.cache, given.rounds)))


if __name__ == "__main__":
    main()
