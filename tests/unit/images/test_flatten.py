"""Flattening in a process of its own."""

import pytest

from godwit.base.errors import Failure
from godwit.images import flatten, layers
from tests.unit.images.making import Tar, listing


async def run(tmp_path, tar, **more):
    path, root = tmp_path / "layer", tmp_path / "root"
    path.write_bytes(tar.bytes())
    root.mkdir()
    file = layers.LayerFile(path, "layer 0")
    given = {"limits": layers.Limits(), "timeout_s": 30} | more
    return await flatten.flatten([file], root, **given), root


async def test_the_tree_and_its_numbers_come_back(tmp_path):
    done, root = await run(tmp_path, Tar().dir("d").add("d/f", b"123"))
    assert listing(root) == {"d": "dir", "d/f": "123"}
    assert (done.entries, done.size_bytes, done.newest_ns) == (2, 3, 10**18)


async def test_a_refusal_keeps_its_code_and_words(tmp_path):
    with pytest.raises(Failure, match=r"layer 0: '\.\./x' points out") as caught:
        await run(tmp_path, Tar().add("../x"))
    assert caught.value.code == "invalid_argument"


async def test_a_deadline_ends_it(tmp_path):
    with pytest.raises(Failure) as caught:
        await run(tmp_path, Tar().add("f"), timeout_s=0.001)
    assert caught.value.code == "deadline_exceeded"


async def test_a_name_that_cannot_be_made_is_the_image_s_fault(tmp_path):
    with pytest.raises(Failure, match="cannot be made") as caught:
        await run(tmp_path, Tar().add("x" * 300))
    assert caught.value.code == "invalid_argument"


async def test_names_that_take_too_much_memory_are_the_image_s_fault(tmp_path):
    deep = "/".join(["d" * 250] * 15)
    tar = Tar()
    for number in range(6_000):
        tar.symlink(f"{deep}/{number}", "t" * 4_000)
    with pytest.raises(Failure, match="more memory") as caught:
        await run(tmp_path, tar, limits=layers.Limits(max_memory_bytes=32 << 20))
    assert caught.value.code == "invalid_argument"


async def test_an_attribute_that_cannot_be_named_is_the_image_s_fault(tmp_path):
    tar = Tar().add("f", pax_headers={"SCHILY.xattr.user.a\0b": "x"})
    with pytest.raises(Failure, match="NUL in its name") as caught:
        await run(tmp_path, tar)
    assert caught.value.code == "invalid_argument"
