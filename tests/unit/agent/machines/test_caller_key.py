"""The file by which a machine's processes check who asks them."""

import base64

from godwit.agent.machines import caller_key
from godwit.wire import fly_src, guest
from tests.contract.examples import CONTAINED, RUN_SPEC

KEY = "ab" * 32


def found(files: tuple[guest.File, ...]) -> list[tuple[str, int]]:
    return [
        (base64.b64decode(file.content_base64).decode(), file.mode)
        for file in files
        if file.path == fly_src.GUEST_FILE
    ]


def test_a_machine_has_it_beside_its_own_files() -> None:
    made = caller_key.added(RUN_SPEC, KEY)
    assert found(made.files) == [(KEY, 0o444)]
    assert made.files[:-1] == RUN_SPEC.files
    assert made.model_copy(update={"files": RUN_SPEC.files}) == RUN_SPEC


def test_so_has_each_container() -> None:
    made = caller_key.added(CONTAINED, KEY)
    assert len(made.containers) == len(CONTAINED.containers) > 1
    assert [found(one.files) for one in made.containers] == [[(KEY, 0o444)]] * len(made.containers)


def test_a_file_of_the_machines_own_does_not_stand_in_for_it() -> None:
    own = guest.File(path=fly_src.GUEST_FILE, content_base64="eA==")
    made = caller_key.added(RUN_SPEC.model_copy(update={"files": (own,)}), KEY)
    assert found(made.files)[-1] == (KEY, 0o444), "files are written in order, the last one stays"


def test_without_a_key_nothing_changes() -> None:
    assert caller_key.added(CONTAINED, "") == CONTAINED
