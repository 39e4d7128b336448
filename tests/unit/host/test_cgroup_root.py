"""An instance's cgroups are gone after it, and nobody else's."""

from pathlib import Path

import pytest

from godwit.host import cgroup_root


@pytest.mark.parametrize("hierarchies", [("",), ("memory", "cpu", "pids")])
def test_the_groups_of_machines_and_of_their_shims_go_and_others_stay(
    tmp_path: Path, hierarchies: tuple[str, ...]
) -> None:
    for hierarchy in hierarchies:
        for group in ("one/m1/vcpu", "one.shims/m1", "two/m2", "two.shims"):
            (tmp_path / hierarchy / "godwit" / group).mkdir(parents=True)
    cgroup_root.remove("one", tmp_path)
    for hierarchy in hierarchies:
        left = sorted(each.name for each in (tmp_path / hierarchy / "godwit").iterdir())
        assert left == ["two", "two.shims"]
    cgroup_root.remove("two", tmp_path)
    assert not list(tmp_path.rglob("godwit"))
