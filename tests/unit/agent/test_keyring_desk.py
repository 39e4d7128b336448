"""Root keys are carried to this host's keyring for control alone."""

import pytest

from godwit.agent.keyring_desk import KeyringDesk
from godwit.base import errors
from godwit.base.principal import Principal, component
from godwit.wire import keyring
from godwit.wire.secrets import SealedKey

OPERATOR = Principal(subject="user:op", org_ids=None, scopes=frozenset({"hosts:write"}))


class Own:
    """A keyring that notes what it is given."""

    def __init__(self) -> None:
        self.taken: list[keyring.TakeRoots] = []

    async def roots(self) -> keyring.Roots:
        return keyring.Roots(ids=("root_1",))

    async def take_roots(self, asked: keyring.TakeRoots) -> keyring.Roots:
        self.taken.append(asked)
        return keyring.Roots(ids=("root_1", "root_2"))


async def test_what_control_hands_around_comes_to_the_keyring_as_it_is() -> None:
    own, sealed = Own(), SealedKey(key_id="roots", host_key="k", data="d")
    desk = KeyringDesk(own)
    assert (await desk.roots(component("control"), {})).ids == ("root_1",)
    asked = keyring.TakeRoots(sealed=sealed)
    answer = await desk.take(component("control"), asked.model_dump(mode="json"))
    assert (answer.ids, own.taken) == (("root_1", "root_2"), [asked])
    with pytest.raises(errors.Failure, match="sealed for this host"):
        await desk.take(component("control"), {"sealed": "x"})


@pytest.mark.parametrize("who", [OPERATOR, component("edge")])
async def test_nobody_else_hands_root_keys_around(who: Principal) -> None:
    desk = KeyringDesk(Own())
    for verb in desk.handlers().values():
        with pytest.raises(errors.Failure) as caught:
            await verb(who, {})
        assert caught.value.code == "permission_denied"
