"""The look at an app's public name at the end of a deploy."""

import asyncio
import io
import socket

import pytest

from godwit.cli.output import Output
from godwit.cli.rollout import names
from godwit.cli.session import Session


def told(tmp_path, domain):
    stderr = io.StringIO()
    environ = {"HOME": str(tmp_path), "GODWIT_APPS_DOMAIN": domain}
    here = Session(environ=environ, directory=tmp_path, out=Output(io.StringIO(), stderr))
    asyncio.run(names.warn(here, "hello"))
    return stderr.getvalue()


@pytest.mark.parametrize("found", [True, False])
def test_a_name_that_leads_nowhere_is_warned_of(tmp_path, monkeypatch, found):
    asked = []

    async def has_address(hostname):
        asked.append(hostname)
        return found

    monkeypatch.setattr(names, "has_address", has_address)
    said = told(tmp_path, "apps.example.org")
    assert asked == ["hello.apps.example.org"]
    wanted = "" if found else "warning: hello.apps.example.org has no address in the DNS"
    assert said.startswith(wanted)
    assert bool(said) != found


def test_names_of_this_computer_are_not_asked_for(tmp_path, monkeypatch):
    async def has_address(hostname):
        raise AssertionError(hostname)

    monkeypatch.setattr(names, "has_address", has_address)
    assert told(tmp_path, "godwit.localhost") == ""


def test_a_name_is_found_or_not(monkeypatch):
    assert asyncio.run(names.has_address("localhost"))

    def unknown(*given, **named):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert not asyncio.run(names.has_address("hello.example.org"))
