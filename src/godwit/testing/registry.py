"""Registries for tests: Debian's docker-registry as a process, a token server, a liar.

`RealRegistry` is the real program on loopback with its files in a directory of the test.
`TokenServer` gives out tokens the way the distribution spec says, signed with a key of its
own. `ScriptedServer` answers what a test tells it, broken answers included.
"""

import asyncio
import base64
import contextlib
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from godwit.testing import loopback

_READY_S = 60.0
_ISSUER = "godwit-test"
_SERVICE = "godwit-registry"


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What to say.

    Attributes:
        cut_after: Close the connection after that many bytes of the body.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None


Handler = Callable[[Request], Answer]


class ScriptedServer:
    """An HTTP server on loopback whose answers a test decides.

    Args:
        handler: Answers a request.
        host: Where to listen.
        tls: For HTTPS.

    Attributes:
        requests: All that was asked.
    """

    def __init__(
        self, handler: Handler, *, host: str = "127.0.0.1", tls: "Tls | None" = None
    ) -> None:
        self._handler = handler
        self._host = host
        self._tls = tls
        self._server: asyncio.Server | None = None
        self.requests: list[Request] = []

    @property
    def address(self) -> str:
        """Return `host:port`."""
        if self._server is None:
            raise RuntimeError("the server is not running")
        return f"{self._host}:{self._server.sockets[0].getsockname()[1]}"

    @property
    def url(self) -> str:
        """Return its address with the scheme."""
        return f"{'https' if self._tls else 'http'}://{self.address}"

    async def __aenter__(self) -> Self:
        context = self._tls.server_context() if self._tls else None
        self._server = await asyncio.start_server(self._serve, self._host, 0, ssl=context)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await _read(reader)
            self.requests.append(request)
            answer = self._handler(request)
            length = {"Content-Length": str(len(answer.body))}
            lines = [f"HTTP/1.1 {answer.status} Scripted", "Connection: close"]
            lines += [f"{k}: {v}" for k, v in {**length, **answer.headers}.items()]
            body = b"" if request.method == "HEAD" else answer.body[: answer.cut_after]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *rest = head.strip().split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in rest)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    parts = urlsplit(target)
    return Request(method, parts.path, parse_qs(parts.query), headers, body)


class TokenServer:
    """Gives tokens for a registry to whoever knows the password; counts how many.

    Attributes:
        users: User names to passwords; anonymous askers get a token only for `public`.
        public: Repositories that anybody may pull.
        given: How many tokens were given out.
    """

    def __init__(
        self,
        users: Mapping[str, str],
        *,
        public: frozenset[str] = frozenset(),
        host: str = "127.0.0.1",
        tls: "Tls | None" = None,
    ) -> None:
        self.users = users
        self.public = public
        self.given = 0
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = _self_signed(self._key)
        self.server = ScriptedServer(self._answer, host=host, tls=tls)

    def token(self, repository: str, actions: list[str]) -> str:
        """Return a token that a registry with this server's certificate accepts."""
        now = datetime.now(UTC)
        der = self.certificate.public_bytes(serialization.Encoding.DER)
        claims = {
            "iss": _ISSUER,
            "aud": _SERVICE,
            "sub": "",
            "iat": now,
            "nbf": now - timedelta(seconds=10),
            "exp": now + timedelta(minutes=5),
            "access": [{"type": "repository", "name": repository, "actions": actions}],
        }
        chain = {"x5c": [base64.b64encode(der).decode()]}
        return jwt.encode(claims, self._key, algorithm="ES256", headers=chain)

    def _answer(self, request: Request) -> Answer:
        scopes = request.query.get("scope", [""])
        _, _, rest = scopes[0].partition(":")
        repository, _, actions = rest.rpartition(":")
        if not self._known(request.headers.get("authorization", "")) and (
            actions != "pull" or repository not in self.public
        ):
            return Answer(401, b'{"errors": []}')
        self.given += 1
        token = self.token(repository, actions.split(","))
        return Answer(200, json.dumps({"token": token}).encode())

    def _known(self, authorization: str) -> bool:
        scheme, _, encoded = authorization.partition(" ")
        if scheme.lower() != "basic":
            return False
        user, _, password = base64.b64decode(encoded).decode().partition(":")
        return self.users.get(user) == password


@dataclass(frozen=True)
class Tls:
    """A certificate for one address, and the authority that clients have to trust for it.

    Attributes:
        authority: A bundle for `SSL_CERT_FILE`.
    """

    authority: Path
    certificate: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        """Return what a server listens with."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        return context


def make_tls(directory: Path, address: str) -> Tls:
    """Make an authority and a certificate of it for an IP address."""
    directory.mkdir(exist_ok=True)
    made = Tls(directory / "ca.pem", directory / "server.pem", directory / "server.key")
    root, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _self_signed(root)
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    signed = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(root, hashes.SHA256())
    )
    made.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    made.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    made.key.write_bytes(private)
    return made


@contextlib.asynccontextmanager
async def real_registry(
    directory: Path,
    *,
    tokens: TokenServer | None = None,
    htpasswd: str = "",
    host: str = "127.0.0.1",
    tls: Tls | None = None,
) -> AsyncIterator[str]:
    """Run docker-registry and yield its address.

    Args:
        directory: For its configuration, blobs and log.
        tokens: Where its clients have to get tokens; must be running.
        htpasswd: Users and bcrypt hashes, for basic auth.
        host: Where it listens.
        tls: For HTTPS.
    """
    address = f"{host}:{loopback.free_port(host)}"
    http: dict[str, object] = {"addr": address}
    config: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {
            "filesystem": {"rootdirectory": str(directory / "blobs")},
            "delete": {"enabled": True},
        },
        "http": http,
    }
    if tls is not None:
        http["tls"] = {"certificate": str(tls.certificate), "key": str(tls.key)}
    if htpasswd:
        users = directory / "htpasswd"
        users.write_text(htpasswd)
        config["auth"] = {"htpasswd": {"realm": "private", "path": str(users)}}
    if tokens is not None:
        bundle = directory / "tokens.pem"
        bundle.write_bytes(tokens.certificate.public_bytes(serialization.Encoding.PEM))
        config["auth"] = {
            "token": {
                "realm": f"{tokens.server.url}/token",
                "service": _SERVICE,
                "issuer": _ISSUER,
                "rootcertbundle": str(bundle),
            }
        }
    file = directory / "registry.yml"
    file.write_text(yaml.safe_dump(config))
    with (directory / "registry.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            "docker-registry", "serve", str(file), stdout=log, stderr=log
        )
        try:
            await _until_answers(f"{'https' if tls else 'http'}://{address}/v2/")
            yield address
        finally:
            process.terminate()
            await process.wait()


async def _until_answers(url: str) -> None:
    trusting = httpx.AsyncClient(trust_env=False, verify=False)  # noqa: S501 - only a probe
    async with asyncio.timeout(_READY_S), trusting as http:
        while True:
            try:
                await http.get(url)
            except httpx.TransportError:
                await asyncio.sleep(0.05)
            else:
                return


def _self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _ISSUER)])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
