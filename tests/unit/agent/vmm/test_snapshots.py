"""What makes saved files a snapshot, and what makes them none."""

from pathlib import Path

import pytest

from godwit.agent.vmm import hypervisor, places, snapshots
from godwit.base import errors

MACHINE = "148ed193b95948"


def saved(**other) -> snapshots.Saved:
    facts = {"machine_id": MACHINE, "instance_id": "01K8", "build": "q", "cpu": "c"}
    return snapshots.Saved.model_validate({**facts, "state_bytes": 0, **other})


@pytest.fixture
def kept(tmp_path):
    return snapshots.Snapshots(places.Places(tmp_path / "store", tmp_path / "run", Path("/no")))


def save(kept: snapshots.Snapshots, *, memory: bool) -> hypervisor.Snapshot:
    files = kept.begin(MACHINE)
    files.state.write_bytes(b"state")
    (files.state.parent.parent / "scratch.ext4").touch()
    if memory:
        kept.memory(MACHINE).write_bytes(b"memory")
    whole = files if memory else hypervisor.Snapshot(files.state, None)
    kept.keep(saved(), whole)
    return whole


@pytest.mark.parametrize("memory", [False, True])
def test_what_was_kept_can_be_used_by_its_own_version(kept, memory):
    files = save(kept, memory=memory)
    assert kept.usable(saved()) == files
    assert kept.find(MACHINE, "01K8") is not None
    assert kept.find(MACHINE, "01K9") is None
    assert kept.find("ffffffffffffff", "01K8") is None


@pytest.mark.parametrize("other", [{"build": "q2"}, {"cpu": "c2"}, {"instance_id": "01K9"}])
def test_what_another_vmm_cpu_or_version_saved_is_unusable(kept, other):
    save(kept, memory=True)
    with pytest.raises(errors.Failure) as caught:
        kept.usable(saved(**other))
    assert caught.value.code == "failed_precondition"


@pytest.mark.parametrize("name", ["snapshot/state", "memory"])
@pytest.mark.parametrize("content", [None, b"", b"longer than before"])
def test_missing_or_cut_files_are_damaged(kept, name, content):
    files = save(kept, memory=True)
    path = files.state.parent.parent / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(errors.Failure, match="damaged"):
        kept.usable(saved())


def test_a_state_of_the_right_size_and_other_bytes_is_damaged(kept):
    files = save(kept, memory=True)
    files.state.write_bytes(b"steta")
    with pytest.raises(errors.Failure, match="damaged"):
        kept.usable(saved())


def test_files_without_the_last_word_are_no_snapshot(kept):
    kept.begin(MACHINE).state.write_bytes(b"state")
    assert kept.find(MACHINE, "01K8") is None


def test_a_note_that_cannot_be_read_is_none(kept):
    files = save(kept, memory=False)
    files.state.with_name("saved.json").write_text('{"v": 1, "torn')
    assert kept.find(MACHINE, "01K8") is None


@pytest.mark.parametrize("memory", [False, True])
def test_a_spent_snapshot_is_none_and_its_memory_may_be_in_use(kept, memory):
    save(kept, memory=True)
    kept.spend(MACHINE)
    assert kept.find(MACHINE, "01K8") is None
    for _ in range(2):
        kept.remove(MACHINE, memory=memory)
    assert kept.memory(MACHINE).exists() is not memory


def test_the_processor_is_known_by_what_it_can_do():
    assert len(snapshots.host_cpu()) == 16
