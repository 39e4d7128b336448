"""What Buildah says when it fails, in our words; what it is started with."""

import pytest

from godwit.base import processes
from godwit.base.errors import Failure
from godwit.builder import storage


@pytest.mark.parametrize(
    ("reason", "said", "code", "message"),
    [
        (
            "exit 3",
            ["out", 'Error: building at STEP "RUN false": exit status 1'],
            "failed_precondition",
            "the build failed at 'RUN false': exit status 1",
        ),
        (
            "exit 125",
            [
                'Error: building at STEP "FOO ": Build error: Unknown instruction: "FOO" &imagebuilder.Step{x'
            ],
            "failed_precondition",
            "the build failed at 'FOO': Build error: Unknown instruction: \"FOO\"",
        ),
        (
            "exit 125",
            ["Error: writing blob: write /x: no space left on device"],
            "insufficient_capacity",
            "the disk is full: the build does not fit",
        ),
        ("no answer within 3 s", [], "deadline_exceeded", "the build took longer than it may"),
        ("exit 1", ["last words"], "failed_precondition", "the build failed: last words"),
        ("exit -9", [], "failed_precondition", "the build failed: exit -9"),
    ],
)
def test_a_failure_says_what_a_person_needs(reason, said, code, message):
    found = storage.failure(processes.ProgramFailed(["buildah"], reason), said)
    assert (found.code, found.message) == (code, message)


async def test_without_buildah_the_hint_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    one = storage.Storage(tmp_path / "builder", tmp_path / "run")
    with pytest.raises(Failure, match="not installed") as caught:
        async with one.build_place():
            pass
    assert "apt-get install buildah" in caught.value.hint


def test_the_host_s_own_container_settings_play_no_part(tmp_path):
    one = storage.Storage(tmp_path / "builder", tmp_path / "run")
    environment = one._environment({})
    for name in ("HOME", "CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF"):
        assert environment[name].startswith(str(tmp_path))
    assert not any("PROXY" in name.upper() for name in environment)


def test_the_file_system_of_a_path_is_found():
    assert storage._file_system(storage.Path("/proc/self")) == "proc"
