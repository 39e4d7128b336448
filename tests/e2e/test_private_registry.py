"""Private registries of others, over TLS: each organization with its own user name and password."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from godwit.base import settings
from godwit.images import auth, bases, publish
from godwit.testing.platform import HOST_V4, Platform
from godwit.testing.registry import Tls, TokenServer, real_registry
from tests.e2e.test_secrets import files

PASSWORD = "geheim"
BOT = auth.Credentials("bot", PASSWORD)
HTPASSWD = "bot:$2b$04$9DiwhWASXaKM2879obOvZe6BsSk6h5xdUQfN2MFYsRZJiOmHQ2Owe\n"
"""bcrypt of the password."""


@dataclass(frozen=True)
class Registry:
    """A registry with one image, for `bot`."""

    address: str
    image: str


@contextlib.asynccontextmanager
async def serving(kind: str, directory: Path, tls: Tls) -> AsyncIterator[str]:
    if kind == "basic":
        made = real_registry(directory, htpasswd=HTPASSWD, host=HOST_V4, tls=tls)
        async with made as address:
            yield address
    else:
        tokens = TokenServer({"bot": PASSWORD}, host=HOST_V4, tls=tls)
        async with (
            tokens.server,
            real_registry(directory, tokens=tokens, host=HOST_V4, tls=tls) as address,
        ):
            yield address


@pytest.fixture(params=["basic", "bearer"])
async def private(
    request: pytest.FixtureRequest,
    platform: Platform,
    *,
    launched: dict[str, str],
    tls: Tls,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Registry]:
    monkeypatch.setenv("SSL_CERT_FILE", platform.environ["SSL_CERT_FILE"])
    cache = settings.load(None, platform.environ, {}).paths.cache
    base = await bases.Bases(cache / "bases").ensure("debian:bookworm-slim", lambda _: None)
    async with serving(request.param, tmp_path, tls) as address:
        image = f"{address}/team/base:1"
        await publish.push(base.layout, image, credentials=BOT)
        yield Registry(address, image)
        for org in ("reed", "marsh"):
            with contextlib.suppress(AssertionError):
                await say(platform, "registries", "logout", address, "--org", org, "--yes")


async def say(platform: Platform, *argv: str, **options: object) -> str:
    """Run the CLI while the registry here is served."""
    return await asyncio.to_thread(platform.godwit, *argv, **options)  # type: ignore[arg-type]


async def login(platform: Platform, private: Registry, password: str, **options: object) -> str:
    argv = ("registries", "login", private.address, "--username", "bot", "--password-stdin")
    return await say(platform, *argv, "--org", "reed", stdin=password, **options)


def run(private: Registry, org: str) -> tuple[str, ...]:
    return ("machine", "run", private.image, "sleep", "600", "--app", f"hello-{org}", "--rm")


async def test_an_organization_runs_its_private_image_and_another_does_not(
    platform: Platform, private: Registry
) -> None:
    refused = await say(platform, *run(private, "reed"), expect=4)
    assert "godwit registries login" in refused
    refused = await login(platform, private, "falsch", expect=5)
    assert "does not take this user name and password" in refused
    assert "falsch" not in refused
    await login(platform, private, PASSWORD)

    machine = (await say(platform, *run(private, "reed"), "--detach")).strip()
    wait = ("machine", "status", machine, "--app", "hello-reed", "--json")
    with platform.api as api:
        await asyncio.to_thread(platform.wait, "hello-reed", machine, "started")
        # The image is on the host now; that gives nobody else a right to it.
        refused = await say(platform, *run(private, "marsh"), expect=4)
        assert "credentials" in refused
        told = await say(platform, *wait)
        api.delete(f"/v1/apps/hello-reed/machines/{machine}", params={"force": "true"})
    secrets_in(platform, told)


async def test_a_build_takes_its_private_base_with_its_organization_s_password(
    platform: Platform, private: Registry, tmp_path: Path
) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "Dockerfile").write_text(f'FROM {private.image}\nCMD ["sleep", "600"]\n')
    app = f"private-{private.address.rpartition(':')[2]}"
    (folder / "fly.toml").write_text(f'app = "{app}"\n')
    await say(platform, "apps", "create", app, "--org", "reed")
    deploy = ("deploy", "--app", app, "--force-host-build", "--detach")
    refused = await say(platform, *deploy, cwd=folder, expect=4)
    assert "godwit registries login" in refused
    await login(platform, private, PASSWORD)
    told = await say(platform, *deploy, cwd=folder)
    await say(platform, "apps", "destroy", app, "--yes")
    secrets_in(platform, told)


def secrets_in(platform: Platform, *said: str) -> None:
    """Fail when the password is anywhere it must not be."""
    hidden = (
        base64.b64encode(f"bot:{PASSWORD}".encode()),
        BOT.pull_token().encode(),
        f'"{PASSWORD}"'.encode(),
    )
    read = set()
    for path in files(platform.data, platform.run):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size < 64 << 20:
                content = path.read_bytes()
                assert not any(secret in content for secret in hidden), path
                read.add(path.name)
    assert read >= {"control.db", "agent.db", "control.log", "agent.log"}
    for text in said:
        assert PASSWORD not in text
