"""The data directory on real file systems: reflinks found by trying, a store where there are none."""

import shutil
from pathlib import Path

import pytest

from godwit.base import processes, settings
from godwit.host import layout, mounts

pytestmark = pytest.mark.host


@pytest.fixture
async def data(tmp_path: Path):
    yield tmp_path / "data"
    await layout.unmount_store(tmp_path / "data")


def configured(data: Path) -> settings.Settings:
    paths = {"data": str(data), "run": str(data.parent / "r"), "cache": str(data.parent / "c")}
    return settings.Settings.model_validate({"paths": paths})


async def test_the_store_has_reflinks_whatever_the_disk_is(data: Path) -> None:
    await layout.prepare(configured(data))
    assert layout.supports_reflink(data / "store")
    assert (data / "store" / "images").is_dir()


async def test_prepare_twice_keeps_identity_and_content(data: Path) -> None:
    first, _ = await layout.prepare(configured(data))
    (data / "store" / "kept").write_text("x")
    await layout.unmount_store(data)
    second, keys = await layout.prepare(configured(data))
    assert second == first
    assert (data / "store" / "kept").read_text() == "x"
    assert keys.seed("host").stat().st_mode & 0o777 == 0o600


async def test_no_file_with_a_secret_is_readable_by_others(data: Path) -> None:
    made = configured(data)
    await layout.prepare(made)
    secret = [p for p in (data / "keys").iterdir() if p.suffix in (".seed", ".token", ".secret")]
    assert len(secret) == 8
    for path in [*secret, *(p for p in made.paths.run.iterdir() if p.is_file())]:
        assert path.stat().st_mode & 0o077 == 0, path


async def test_a_disk_without_room_is_told_before_anything_is_made(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    await processes.run(["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", str(small)])
    try:
        with pytest.raises(Exception, match="needs at least 2048 MB"):
            await layout.prepare(configured(small / "data"))
    finally:
        await processes.run(["umount", str(small)])
        shutil.rmtree(small)


async def test_what_the_operator_mounted_is_used_as_it_is_and_stays(tmp_path: Path) -> None:
    data = tmp_path / "data"
    store = data / "store"
    store.mkdir(parents=True)
    await processes.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(store)])
    try:
        await layout.prepare(configured(data))
        assert not (data / "store.xfs").exists()
        assert (store / "images").is_dir()
        await layout.unmount_store(data)
        assert mounts.at(store) == mounts.Mount(store, "tmpfs", "tmpfs")
    finally:
        await processes.run(["umount", str(store)])


async def test_the_store_that_was_made_here_is_known_as_ours(data: Path) -> None:
    await layout.prepare(configured(data))
    own = layout.own_mount(data)
    if layout.supports_reflink(data):
        assert own is None
    else:
        assert own is not None
        assert own.kind == "xfs"
    await layout.unmount_store(data)
    assert mounts.at(data / "store") is None
