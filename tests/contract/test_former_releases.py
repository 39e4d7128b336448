"""What former releases wrote is still read: records on disk and on sockets, snapshots, templates.

The journals are in `tests/unit/agent/machines/test_former_journals.py`, the Rust side in
`rust/crates/wire/tests/former.rs`.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from godwit.agent.vmm import places, snapshots, templates
from godwit.wire import channel, facts
from tests.contract import examples
from tests.data import generate

DATA = Path(generate.__file__).parent
RELEASES = sorted(path.name for path in DATA.glob("release-*"))


def golden(release: str, name: str) -> Any:
    return json.loads((DATA / release / "golden" / name).read_text())


def records() -> list[tuple[str, str]]:
    return [
        (release, path.stem)
        for release in RELEASES
        for path in sorted((DATA / release / "golden").iterdir())
        if path.stem in examples.EXAMPLES
    ]


@pytest.mark.parametrize(("release", "name"), records())
def test_its_records_are_read(release: str, name: str) -> None:
    written = golden(release, f"{name}.json")
    read = type(examples.EXAMPLES[name]).model_validate(written).model_dump(mode="json")
    # Nothing is lost or read as something else; what came later has its default.
    assert _has(read, written)


@pytest.mark.parametrize("release", RELEASES)
def test_its_frames_and_lines_are_read(release: str) -> None:
    for each in golden(release, "channel.json"):
        (frame,) = channel.Decoder().feed(bytes.fromhex(each["frame_hex"]))
        assert (frame.kind.name, frame.stream) == (each["kind"], each["stream"])
        assert frame.payload.hex() == each["payload_hex"]
    for each in golden(release, "local_frames.json"):
        assert facts.LocalFrame.model_validate(each).type == each["type"]


@pytest.mark.parametrize("release", RELEASES[1:])
def test_its_suspended_machines_and_templates_are_found(release: str, tmp_path: Path) -> None:
    where = places.Places(tmp_path, tmp_path, tmp_path / "shim")
    for folder, name in (
        (where.directory(generate.SAVED.machine_id) / "snapshot", "saved.json"),
        (where.templates / "digest.token", "template.json"),
    ):
        folder.mkdir(parents=True)
        shutil.copy(DATA / release / name, folder)
    saved = snapshots.Snapshots(where).find("148ed193b95948", "01K8RS0000000000000000000A")
    assert saved == generate.SAVED
    assert templates._read(where.templates / "digest.token" / "template.json") == generate.MADE


def _has(read: Any, written: Any) -> bool:
    if isinstance(written, dict):
        return all(name in read and _has(read[name], value) for name, value in written.items())
    if isinstance(written, list):
        return len(read) == len(written) and all(map(_has, read, written))
    return bool(read == written)
