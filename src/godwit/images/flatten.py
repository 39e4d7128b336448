"""Flattening layers into a directory, in a process whose root is that directory.

So the caller's event loop stays free, a deadline ends it, and a mistake in reading hostile
layers still could not reach outside. Called by `store.py`, and by the builder for contexts.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from godwit.base import processes
from godwit.base.errors import Failure
from godwit.images import layers


async def flatten(
    files: Sequence[layers.LayerFile],
    into: Path,
    *,
    limits: layers.Limits,
    timeout_s: float,
    ordinary: bool = False,
) -> layers.Flattened:
    """Apply layers, lowest first, to an existing empty directory, in a process of its own.

    Args as `layers.apply`.

    Raises:
        Failure: `invalid_argument` for a damaged or hostile layer, `insufficient_capacity`
            for a full disk, `unavailable` when this host cannot just now, `deadline_exceeded`.
    """
    job = {
        "root": str(into),
        "layers": [{**dataclasses.asdict(layer), "path": str(layer.path)} for layer in files],
        "limits": dataclasses.asdict(limits),
        "ordinary": ordinary,
    }
    try:
        finished = await processes.run(
            [sys.executable, "-P", "-m", "godwit.images.unpack"],
            stdin=json.dumps(job).encode(),
            timeout_s=timeout_s,
        )
    except processes.ProgramFailed as error:
        if "no answer" in error.reason:
            raise Failure(
                "deadline_exceeded", f"unpacking took longer than {timeout_s:g} s"
            ) from error
        raise
    answer = json.loads(finished.stdout)
    if "error" in answer:
        raise Failure(answer["error"]["code"], answer["error"]["message"])
    return layers.Flattened(**answer)
