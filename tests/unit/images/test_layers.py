"""Layers: whiteouts, replacement, links, escapes, limits."""

import gzip
import io
import os
import stat
import subprocess
import tarfile

import pytest
import zstandard

from godwit.base.errors import Failure
from godwit.images import layers
from tests.unit.images.making import GID, UID, Tar, apply, listing


def refused(tmp_path, *tars, **more):
    """Return the message with which layers are refused, having checked nothing got out."""
    canary = tmp_path / "canary"
    canary.write_text("untouched")
    with pytest.raises(Failure) as caught:
        apply(tmp_path, *tars, **more)
    assert caught.value.code == "invalid_argument"
    assert canary.read_text() == "untouched"
    assert {p.name for p in tmp_path.iterdir()} <= {"canary", "root", "layer-0", "layer-1"}
    return caught.value.message


def test_files_directories_and_links_keep_mode_time_and_target(tmp_path):
    tar = Tar().dir("./").dir("d", mode=0o750).add("d/f", b"x", mode=0o640)
    root = apply(tmp_path, tar.symlink("d/s", "/etc/passwd").hardlink("h", "d/f"))
    assert listing(root) == {"d": "dir", "d/f": "x", "d/s": "-> /etc/passwd", "h": "x"}
    at = (root / "d/f").stat()
    assert (stat.S_IMODE(at.st_mode), at.st_mtime, at.st_uid, at.st_gid) == (
        0o640,
        1_000_000_000,
        UID,
        GID,
    )
    assert at.st_ino == (root / "h").stat().st_ino
    assert (root / "d").stat().st_mtime == 1_000_000_000
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o750
    assert (root / "d/s").lstat().st_mtime == 1_000_000_000


def test_setuid_and_sticky_bits_are_kept(tmp_path):
    root = apply(tmp_path, Tar().add("su", b"", mode=0o4755).dir("tmp", mode=0o1777))
    assert stat.S_IMODE((root / "su").stat().st_mode) == 0o4755
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777


def test_a_fraction_of_a_second_is_kept(tmp_path):
    tar = Tar().add("f", b"", pax_headers={"mtime": "1234567890.5"})
    assert (apply(tmp_path, tar) / "f").stat().st_mtime_ns == 1_234_567_890_500_000_000


def test_times_out_of_range_are_moved_into_it(tmp_path):
    tar = Tar().add("f", b"", pax_headers={"mtime": "99999999999999999999"})
    assert (apply(tmp_path, tar) / "f").exists()


def test_missing_parents_are_made(tmp_path):
    root = apply(tmp_path, Tar().add("a/b/c", b"x"))
    assert listing(root) == {"a": "dir", "a/b": "dir", "a/b/c": "x"}
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o755


# --- whiteouts


def test_a_whiteout_hides_a_file_and_a_tree_of_lower_layers(tmp_path):
    lower = Tar().add("f", b"1").add("d/x", b"1").add("keep", b"1")
    assert listing(apply(tmp_path, lower, Tar().whiteout("f").whiteout("d"))) == {"keep": "1"}


@pytest.mark.parametrize("first", [True, False])
def test_a_whiteout_spares_what_its_own_layer_has_in_any_order(tmp_path, first):
    upper = Tar().whiteout("d").add("d/new", b"2") if first else Tar().add("d/new", b"2")
    root = apply(tmp_path, Tar().add("d/old", b"1"), upper if first else upper.whiteout("d"))
    assert listing(root) == {"d": "dir", "d/new": "2"}


def test_a_whiteout_of_what_is_not_there_does_nothing(tmp_path):
    assert listing(apply(tmp_path, Tar().whiteout("no").whiteout("a/b"))) == {}


@pytest.mark.parametrize("first", [True, False])
def test_an_opaque_directory_hides_lower_layers_but_not_its_siblings(tmp_path, first):
    lower = Tar().dir("d", mode=0o700).add("d/old", b"1").add("d/sub/old", b"1").add("e", b"1")
    upper = Tar().dir("d")
    upper = upper.opaque("d").add("d/new", b"2") if first else upper.add("d/new", b"2").opaque("d")
    root = apply(tmp_path, lower, upper)
    assert listing(root) == {"d": "dir", "d/new": "2", "e": "1"}


def test_an_opaque_directory_spares_a_lower_directory_that_its_layer_writes_into(tmp_path):
    lower = Tar().add("d/sub/old", b"1").add("d/old", b"1")
    root = apply(tmp_path, lower, Tar().add("d/sub/new", b"2").opaque("d"))
    assert listing(root) == {"d": "dir", "d/sub": "dir", "d/sub/new": "2"}


def test_whiteouts_reach_only_one_name(tmp_path):
    lower = Tar().add("a", b"1").add("ab", b"1").add("d/a", b"1")
    assert listing(apply(tmp_path, lower, Tar().whiteout("a"))) == {
        "ab": "1",
        "d": "dir",
        "d/a": "1",
    }


def test_a_whiteout_through_a_link_stays_inside(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "victim").write_text("untouched")
    lower = Tar().symlink("out", str(tmp_path / "etc")).symlink("up", "../../../..")
    apply(tmp_path, lower, Tar().whiteout("out/victim").whiteout("up/victim").opaque("out"))
    assert (tmp_path / "etc" / "victim").read_text() == "untouched"


@pytest.mark.parametrize("name", [".wh.", ".wh..", "d/.wh...", ".wh.x/file", "../.wh.x"])
def test_a_whiteout_that_means_nothing_is_refused(tmp_path, name):
    assert "layer 0" in refused(tmp_path, Tar().add(name))


def test_aufs_bookkeeping_is_skipped(tmp_path):
    assert listing(apply(tmp_path, Tar().dir(".wh..wh.plnk").add(".wh..wh.plnk/1.2", b"x"))) == {}


# --- replacement


def test_a_file_replaces_a_directory_and_a_directory_a_file(tmp_path):
    lower = Tar().add("a/deep/er", b"1").add("b", b"1")
    upper = Tar().add("a", b"2").dir("b").add("b/c", b"2")
    assert listing(apply(tmp_path, lower, upper)) == {"a": "2", "b": "dir", "b/c": "2"}


def test_a_replaced_file_leaves_its_other_names_alone(tmp_path):
    lower = Tar().add("a", b"old").hardlink("b", "a")
    assert listing(apply(tmp_path, lower, Tar().add("a", b"new"))) == {"a": "new", "b": "old"}


def test_a_link_replaces_a_directory_and_is_then_followed(tmp_path):
    lower = Tar().add("lib/old", b"1").add("usr/lib/x", b"1")
    upper = Tar().symlink("lib", "usr/lib").add("lib/new", b"2")
    assert listing(apply(tmp_path, lower, upper)) == {
        "lib": "-> usr/lib",
        "usr": "dir",
        "usr/lib": "dir",
        "usr/lib/x": "1",
        "usr/lib/new": "2",
    }


def test_a_file_over_a_link_replaces_the_link_not_its_target(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    root = apply(tmp_path, Tar().symlink("l", str(victim)), Tar().add("l", b"new"))
    assert listing(root) == {"l": "new"}
    assert victim.read_text() == "untouched"


def test_the_last_of_duplicate_entries_wins(tmp_path):
    tar = Tar().add("f", b"1").add("f", b"2").symlink("f", "x").add("./f", b"3")
    assert listing(apply(tmp_path, tar)) == {"f": "3"}


def test_a_directory_again_changes_its_mode_and_keeps_its_content(tmp_path):
    root = apply(tmp_path, Tar().add("d/f", b"1"), Tar().dir("d", mode=0o700))
    assert listing(root) == {"d": "dir", "d/f": "1"}
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o700


# --- escapes


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/../evil", "./../x"])
def test_a_name_that_points_out_is_refused(tmp_path, name):
    assert "points out of the image" in refused(tmp_path, Tar().add(name, b"x"))


def test_an_absolute_name_stays_inside(tmp_path):
    root = apply(tmp_path, Tar().add("/etc//./passwd", b"x").add("a/../b", b"y"))
    assert listing(root) == {"etc": "dir", "etc/passwd": "x", "b": "y"}


@pytest.mark.parametrize(
    "target", ["/", "..", "../../../../..", "{out}", "/proc/self/cwd", "//x/.."]
)
def test_writing_through_a_link_stays_inside(tmp_path, target):
    out = tmp_path / "out"
    out.mkdir()
    tar = Tar().symlink("l", target.format(out=out)).add("l/evil/f", b"x")
    root = apply(tmp_path, tar)
    assert list(out.iterdir()) == []
    assert not (tmp_path / "evil").exists()
    assert sum(1 for p in root.rglob("f")) == 1


def test_a_chain_of_links_stays_inside(tmp_path):
    tar = Tar().symlink("a", "b/..").symlink("b", "/c/../../..").symlink("c", "..")
    root = apply(tmp_path, tar.add("a/x", b"1").add("b/y", b"1"))
    assert listing(root) == {
        "a": "-> b/..",
        "b": "-> /c/../../..",
        "c": "-> ..",
        "x": "1",
        "y": "1",
    }


def test_links_in_a_circle_are_refused(tmp_path):
    tar = Tar().symlink("a", "b").symlink("b", "a").add("a/x", b"1")
    assert "circle" in refused(tmp_path, tar)


def test_a_link_swapped_for_a_directory_is_noticed(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    tar = Tar().dir("d").add("d/1", b"1").symlink("d", str(out)).add("d/2", b"2")
    apply(tmp_path, tar)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("target", ["{victim}", "../victim", "no/such", "d", "", "l/victim"])
def test_a_hard_link_to_what_is_no_file_of_the_image_is_refused(tmp_path, target):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    tar = Tar().dir("d").symlink("l", str(tmp_path)).hardlink("h", target.format(victim=victim))
    with pytest.raises(Failure):
        apply(tmp_path, tar)
    assert victim.stat().st_nlink == 1


def test_a_hard_link_to_a_symbolic_link_links_the_link(tmp_path):
    root = apply(tmp_path, Tar().symlink("s", "/etc/shadow").hardlink("h", "s"))
    assert listing(root) == {"s": "-> /etc/shadow", "h": "-> /etc/shadow"}


def test_a_hard_link_to_itself_changes_nothing(tmp_path):
    assert listing(apply(tmp_path, Tar().add("f", b"1").hardlink("f", "f"))) == {"f": "1"}


def test_a_hard_link_into_a_lower_layer_works(tmp_path):
    root = apply(tmp_path, Tar().add("f", b"1"), Tar().hardlink("h", "/f"))
    assert listing(root) == {"f": "1", "h": "1"}


def test_the_top_cannot_become_something_else(tmp_path):
    assert "top" in refused(tmp_path, Tar().symlink("./", "/etc"))


def test_entries_below_a_file_are_refused(tmp_path):
    assert "not a directory" in refused(tmp_path, Tar().add("f", b"1").add("f/x", b"1"))


def test_directories_nested_without_end_are_refused(tmp_path):
    assert "too deep" in refused(tmp_path, Tar().add("a/" * 500 + "f", b"1"))


# --- damage


def test_a_truncated_gzip_is_refused(tmp_path):
    packed = gzip.compress(Tar().add("f", os.urandom(200_000)).bytes())
    assert "cut off" in refused(tmp_path, packed[:-1000])


def test_a_gzip_with_a_wrong_checksum_is_refused(tmp_path):
    packed = bytearray(gzip.compress(Tar().add("f", b"x" * 1000).bytes()))
    packed[-6] ^= 1
    assert "cannot be decompressed" in refused(tmp_path, bytes(packed))


def test_a_truncated_zstd_is_refused(tmp_path):
    packed = zstandard.compress(Tar().add("f", os.urandom(200_000)).bytes())
    assert "ends in the middle" in refused(tmp_path, packed[:-1000])


@pytest.mark.parametrize("cut", [100, 512, 700, 1000])
def test_a_truncated_tar_is_refused(tmp_path, cut):
    whole = Tar().add("f", b"x" * 2000).bytes()
    with pytest.raises(Failure) as caught:
        apply(tmp_path, whole[:cut])
    assert "middle" in caught.value.message


def test_noise_is_refused(tmp_path):
    assert "layer 0" in refused(tmp_path, os.urandom(2048))


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_every_compression_gives_the_same_tree(tmp_path, pack):
    assert listing(apply(tmp_path, pack(Tar().add("f", b"x" * 100_000).bytes()))) == {
        "f": "x" * 100_000
    }


def test_several_gzip_members_are_one_stream(tmp_path):
    whole = Tar().add("f", b"x" * 3000).bytes()
    packed = gzip.compress(whole[:1500]) + gzip.compress(whole[1500:]) + bytes(100)
    assert listing(apply(tmp_path, packed)) == {"f": "x" * 3000}


def test_a_layer_that_is_not_what_its_config_says_is_refused(tmp_path):
    path = tmp_path / "layer"
    path.write_bytes(Tar().add("f", b"x").bytes())
    root = tmp_path / "root"
    root.mkdir()
    layer = layers.LayerFile(path, "layer 0", f"sha256:{'0' * 64}")
    with path.open("rb", buffering=0) as file, pytest.raises(Failure, match="config says"):
        layers.apply([(layer, file)], os.fsencode(root), layers.Limits())


# --- limits


def test_a_bomb_is_stopped_by_its_ratio(tmp_path):
    packed = gzip.compress(Tar().add("zeros", bytes(100 << 20)).bytes())
    assert "300 times" in refused(tmp_path, packed)


def test_a_zstd_bomb_is_stopped_by_its_ratio(tmp_path):
    packed = zstandard.compress(Tar().add("zeros", bytes(100 << 20)).bytes())
    assert "300 times" in refused(tmp_path, packed)


def test_a_size_beyond_the_limit_is_refused_before_it_is_written(tmp_path):
    tar = io.BytesIO()
    entry = tarfile.TarInfo("huge")
    entry.size = 1 << 50
    tar.write(entry.tobuf(tarfile.GNU_FORMAT))
    assert "bytes" in refused(tmp_path, tar.getvalue())
    assert list((tmp_path / "root").iterdir()) == []


def test_many_entries_are_refused(tmp_path):
    tar = Tar()
    for number in range(20):
        tar.add(str(number))
    assert "entries" in refused(tmp_path, tar, limits=layers.Limits(max_entries=10))


def test_all_layers_count_together(tmp_path):
    limits = layers.Limits(max_bytes=1500)
    assert "bytes" in refused(
        tmp_path, Tar().add("a", bytes(1000)), Tar().add("b", bytes(1000)), limits=limits
    )


def gnu_sparse(tmp_path, size, style):
    """Return a tar of a file with holes, by GNU tar."""
    source = tmp_path / "source"
    source.mkdir()
    with (source / "holes").open("wb") as file:
        file.write(b"begin")
        file.seek(size - 5)
        file.write(b"final")
    command = ["tar", "-C", str(source), "--sparse", "-c", "holes"]
    command += (
        ["--format=gnu"] if style == "gnu" else ["--format=posix", f"--sparse-version={style}"]
    )
    made = subprocess.run(command, check=True, capture_output=True).stdout
    (source / "holes").unlink()
    source.rmdir()
    return made


@pytest.mark.parametrize("style", ["gnu", "0.0", "0.1", "1.0"])
def test_a_sparse_file_comes_out_as_it_was(tmp_path, style):
    size = 3_000_000
    root = apply(tmp_path, gnu_sparse(tmp_path, size, style))
    content = (root / "holes").read_bytes()
    assert content == b"begin" + bytes(size - 10) + b"final"
    assert (root / "holes").stat().st_blocks * 512 < size


@pytest.mark.parametrize("style", ["gnu", "0.1", "1.0"])
def test_a_sparse_bomb_is_refused(tmp_path, style):
    packed = gnu_sparse(tmp_path, 1 << 40, style)
    assert len(packed) < 100_000
    assert "bytes" in refused(tmp_path, packed)


# --- what is not for an image


def test_attributes_that_would_steer_an_overlay_are_left_out(tmp_path):
    headers = {"SCHILY.xattr.trusted.overlay.redirect": "/x", "SCHILY.xattr.user.ok": "yes"}
    root = apply(tmp_path, Tar().add("f", b"", pax_headers=headers))
    assert os.listxattr(root / "f") == ["user.ok"]


def test_an_ordinary_archive_has_no_whiteouts_and_no_devices(tmp_path):
    root = apply(tmp_path, Tar().add(".wh.x", b"1"), ordinary=True)
    assert listing(root) == {".wh.x": "1"}


def test_an_ordinary_archive_with_a_pipe_is_refused(tmp_path):
    assert "fifo" in refused(tmp_path, Tar().add("p", kind=tarfile.FIFOTYPE), ordinary=True)
