"""The golden files are what Python writes and reads; Rust's tests read the same files."""

import json

import pytest

from godwit.wire import channel
from tests.contract import examples


@pytest.mark.parametrize("name", sorted(examples.documents()))
def test_golden_file_is_what_python_writes(name: str) -> None:
    assert (examples.GOLDEN / name).read_text() == examples.render(examples.documents()[name])


def test_no_golden_file_without_an_example() -> None:
    assert {p.name for p in examples.GOLDEN.iterdir()} == set(examples.documents())


@pytest.mark.parametrize("name", sorted(examples.EXAMPLES))
def test_record_reads_back_as_itself(name: str) -> None:
    record = examples.EXAMPLES[name]
    read = type(record).model_validate(json.loads((examples.GOLDEN / f"{name}.json").read_text()))
    assert read == record


@pytest.mark.parametrize("name", sorted(examples.EXAMPLES))
def test_record_of_a_newer_release_is_still_read(name: str) -> None:
    newer = examples.EXAMPLES[name].model_dump(mode="json") | {"added_later": {"x": 1}}
    assert type(examples.EXAMPLES[name]).model_validate(newer) == examples.EXAMPLES[name]


def test_channel_frames_come_out_however_the_bytes_are_cut() -> None:
    stream = b"".join(channel.encode(frame) for frame in examples.FRAMES)
    for cut in range(1, 12):
        decoder = channel.Decoder()
        seen = [f for i in range(0, len(stream), cut) for f in decoder.feed(stream[i : i + cut])]
        assert tuple(seen) == examples.FRAMES


@pytest.mark.parametrize("junk", [b"\xff\xff\xff\xff\x01\0\0\0\0", b"\0\0\0\0\x63\0\0\0\0"])
def test_channel_refuses_garbage(junk: bytes) -> None:
    with pytest.raises(channel.BadFrame):
        list(channel.Decoder().feed(junk))
