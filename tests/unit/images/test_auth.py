"""Challenges and credentials."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.base.errors import Failure
from godwit.images import auth


def test_a_bearer_challenge_is_taken_apart():
    (one,) = auth.challenges(
        'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
        'scope="repository:library/x:pull,push"'
    )
    assert one.scheme == "bearer"
    assert one.parameters == {
        "realm": "https://auth.docker.io/token",
        "service": "registry.docker.io",
        "scope": "repository:library/x:pull,push",
    }


def test_several_challenges_keep_their_order_and_parameters():
    header = 'Basic realm="a, bearer b", BEARER realm="https://t/", service=s'
    found = auth.challenges(header)
    assert [one.scheme for one in found] == ["basic", "bearer"]
    assert found[1].parameters == {"realm": "https://t/", "service": "s"}


def test_quotes_in_a_parameter_are_unescaped():
    (one,) = auth.challenges(r'Basic realm="a\"b"')
    assert one.parameters["realm"] == 'a"b'


@given(st.text(max_size=200))
def test_any_header_is_read_without_an_error(header):
    auth.challenges(header)


@pytest.mark.parametrize("realm", ["", "ftp://x/", "https://", "http://auth.example.com/", "x"])
def test_a_token_server_without_tls_or_name_is_refused(realm):
    challenge = auth.Challenge("bearer", {"realm": realm})
    with pytest.raises(Failure):
        auth.token_query(challenge, "s", insecure=False)


def test_a_token_server_of_a_registry_without_tls_needs_none():
    challenge = auth.Challenge("bearer", {"realm": "http://127.0.0.1:4280/token", "service": "r"})
    with pytest.raises(Failure, match="does not use TLS"):
        auth.token_query(challenge, "s", insecure=False)
    assert auth.token_query(challenge, "repository:a:pull", insecure=True) == (
        "http://127.0.0.1:4280/token",
        {"scope": "repository:a:pull", "service": "r"},
    )


def test_a_platform_token_is_a_password_with_any_user():
    assert auth.Credentials(token="t").basic() == "Basic eDp0"
    assert auth.Credentials("u", "p").basic() == "Basic dTpw"


def test_secrets_are_not_printed():
    assert "geheim" not in repr(auth.Credentials("u", "geheim", "geheim"))


@given(st.text(), st.text())
def test_a_login_travels_as_one_string_and_comes_back(username, password):
    given = auth.Credentials(username, password)
    text = given.pull_token()
    assert auth.is_login(text)
    assert auth.of_pull_token(text) == given
    assert text.isascii()


def test_a_platform_token_travels_as_it_is():
    assert auth.Credentials(token="e.y.J").pull_token() == "e.y.J"
    assert auth.of_pull_token("e.y.J") == auth.Credentials(token="e.y.J")
    assert not auth.is_login("e.y.J")
    assert auth.of_pull_token(None) is None
    assert auth.of_pull_token("") is None


@pytest.mark.parametrize("broken", ["login:", "login:x", "login:e30=", "login:WzFd", "login:é"])
def test_a_login_that_cannot_be_read_is_refused_without_being_shown(broken):
    with pytest.raises(Failure, match="cannot be read") as caught:
        auth.of_pull_token(broken)
    assert broken not in caught.value.message


def test_credentials_are_not_shown():
    for one in (auth.Credentials("bot", "geheim"), auth.Credentials(token="geheim")):
        assert "geheim" not in repr(one)
