"""What is mounted where, and whose mount the store is."""

from pathlib import Path

import pytest

from godwit.host import layout, mounts

TABLE = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:26 / /srv/with\\040space rw - tmpfs tmpfs rw
31 22 7:0 / /srv/store rw,nodev shared:9 master:2 - xfs /dev/loop0 rw
32 22 7:1 / /srv/store rw - btrfs /dev/loop1 rw
"""


def table(tmp_path: Path, text: str = TABLE) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("directory", "found"),
    [
        ("/", mounts.Mount(Path("/"), "/dev/sda1", "ext4")),
        ("/srv/with space", mounts.Mount(Path("/srv/with space"), "tmpfs", "tmpfs")),
        ("/srv/store", mounts.Mount(Path("/srv/store"), "/dev/loop1", "btrfs")),
        ("/srv", None),
    ],
)
def test_the_uppermost_mount_is_found(
    tmp_path: Path, directory: str, found: mounts.Mount | None
) -> None:
    assert mounts.at(Path(directory), table(tmp_path)) == found


def test_this_process_s_own_table_is_read() -> None:
    assert mounts.at(Path("/proc")) is not None


def test_a_plain_directory_is_nobody_s_mount(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store.xfs").touch()
    assert layout.own_mount(tmp_path) is None
