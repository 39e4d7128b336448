"""Making layers and layouts, and reading them back."""

import hashlib
import os

import pytest

from godwit.base.errors import Failure
from godwit.images import layerpack, ocilayout
from tests.unit.images.making import apply, listing


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
async def test_a_tree_comes_back_from_its_layer(tmp_path, codec):
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "d" / "f").write_text("1")
    os.link(tree / "d" / "f", tree / "h")
    (tree / "s").symlink_to("d/f")
    blob = await layerpack.pack(tree, tmp_path / "blob", codec=codec)
    content = blob.path.read_bytes()
    assert blob.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert blob.size == len(content)
    root = apply(tmp_path, content)
    assert listing(root) == listing(tree)
    assert (root / "h").stat().st_ino == (root / "d" / "f").stat().st_ino


async def test_only_changes_are_in_a_layer_and_what_is_gone_is_hidden(tmp_path):
    tree = tmp_path / "tree"
    for name in ("same", "changed", "gone", "d/gone", "dgone/x", "odd [*] \n name"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("1")
    lower = await layerpack.pack(tree, tmp_path / "lower", codec="zstd")
    before = layerpack.survey(tree)
    (tree / "changed").write_text("two")
    (tree / "new").write_text("3")
    for name in ("gone", "d/gone", "dgone/x"):
        (tree / name).unlink()
    (tree / "dgone").rmdir()
    upper = await layerpack.pack_changes(tree, before, tmp_path / "upper", codec="zstd")
    assert upper.size < lower.size + 1000
    root = apply(tmp_path, lower.path.read_bytes(), upper.path.read_bytes())
    assert listing(root) == listing(tree)


async def test_a_layout_is_read_as_it_was_written(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "f").write_text("1")
    blob = await layerpack.pack(tree, tmp_path / "blob", codec="zstd")
    config = {"created": "2026-01-01T00:00:00Z", "config": {"Cmd": ["x"]}}
    made = ocilayout.write(tmp_path / "layout", [blob], config=config, names=["a", "b:1"])
    found = ocilayout.read(tmp_path / "layout")
    assert found == made
    assert found.config().runtime.cmd == ("x",)
    assert found.config().diff_ids == (blob.diff_id,)
    assert found.blob(found.manifest().layers[0].digest).read_bytes() == blob.path.read_bytes()


def test_what_is_no_layout_is_refused(tmp_path):
    with pytest.raises(Failure, match="not an OCI layout"):
        ocilayout.read(tmp_path)


def test_a_damaged_manifest_is_refused(tmp_path):
    made = ocilayout.write(tmp_path / "layout", [], config={}, names=["a"])
    made.blob(made.digest).write_bytes(b"{}")
    with pytest.raises(Failure, match="damaged"):
        ocilayout.read(tmp_path / "layout")
