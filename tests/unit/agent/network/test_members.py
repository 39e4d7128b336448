import json
import os
from pathlib import Path

import pytest

from godwit.agent.network.members import MembersFile, following
from godwit.agent.network.peers import Peer
from godwit.base import errors

ONE = {"v": 1, "host_number": 1, "mesh_key": "A", "endpoints": ["192.0.2.1:1"], "state": "active"}


def write(path: Path, *members: object) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"v": 1, "members": members}))
    new.replace(path)


def test_without_a_file_there_are_no_others(tmp_path):
    assert MembersFile(tmp_path / "members.json").read() == ()


def test_members_are_read_and_read_again_when_they_change(tmp_path):
    path = tmp_path / "members.json"
    file = MembersFile(path)
    write(path, ONE)
    assert file.read() == (Peer(1, "A", "", ("192.0.2.1:1",)),)
    write(path, ONE, {"host_number": 2, "mesh_key": "B", "mesh_next_key": "C"})
    assert file.read()[1] == Peer(2, "B", "C", ())
    path.unlink()
    assert file.read() == ()


def test_an_unchanged_file_is_not_read_again(tmp_path, monkeypatch):
    path = tmp_path / "members.json"
    file = MembersFile(path)
    write(path, ONE)
    once = file.read()
    monkeypatch.setattr(Path, "read_text", lambda _: pytest.fail("read again"))
    assert file.read() is once


@pytest.mark.parametrize(
    "left_out",
    [
        {**ONE, "state": "removed"},
        {**ONE, "mesh_key": ""},
        {"host_number": "of another kind"},
        "no record",
        None,
    ],
)
def test_who_is_no_peer_is_left_out(tmp_path, left_out):
    path = tmp_path / "members.json"
    write(path, left_out, {**ONE, "host_number": 5})
    assert [peer.host_number for peer in MembersFile(path).read()] == [5]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"members": 5}', "null"])
def test_a_damaged_file_is_said_and_changes_nothing(tmp_path, text):
    path = tmp_path / "members.json"
    file = MembersFile(path)
    write(path, ONE)
    file.read()
    path.write_text(text)
    os.utime(path, ns=(1, 1))
    told = []
    with pytest.raises(errors.Failure, match=r"members\.json cannot be read"):
        file.read()
    write(path, ONE)
    assert [peer.host_number for peer in file.read()] == [1]
    assert told == []


async def test_what_the_file_says_is_told(tmp_path):
    path = tmp_path / "members.json"
    told: list[tuple[Peer, ...]] = []
    look = following(MembersFile(path), told.append)
    await look()
    write(path, ONE)
    await look()
    assert [len(each) for each in told] == [0, 1]
