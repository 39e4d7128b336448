"""What a launch will do, from flags, the directory and the platform's answers.

Order of precedence: flags, then an existing config file, then the Dockerfile, then defaults
(spec/config-cli.md §4.1).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from godwit.appconfig import files, guests
from godwit.base import errors, ids
from godwit.builder import dockerfile
from godwit.cli import connect
from godwit.cli.launch import naming
from godwit.cli.rollout import source
from godwit.cli.rollout.overrides import Size
from godwit.cli.session import Session
from godwit.client.api import Api
from godwit.client.records import App

_TRIES = 4
_DEFAULT_PORT = 8080
_DEFAULT_MEMORY = "1gb"


@dataclass(frozen=True)
class Wishes:
    """What the user said."""

    name: str | None = None
    generate_name: bool = False
    org: str | None = None
    region: str | None = None
    image: str | None = None
    dockerfile: str | None = None
    internal_port: int | None = None
    auto_stop: str = "off"
    command: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    size: Size = field(default_factory=Size)


@dataclass(frozen=True)
class Proposal:
    """What will be done.

    Attributes:
        document: The config file's content.
        existing: The config file that is taken over, if there is one.
        volumes: What the Dockerfile wants kept.
    """

    name: str
    org: str
    region: str
    document: dict[str, Any]
    existing: files.Loaded | None
    volumes: tuple[str, ...]

    def summary(self) -> dict[str, str]:
        """Return what is shown before anything is done."""
        build = self.document.get("build", {})
        vm = (self.document.get("vm") or [{}])[0]
        service = self.document.get("http_service", {})
        return {
            "Organization": self.org,
            "Name": self.name,
            "Region": self.region or "nearest",
            "Source": build.get("image") or build.get("dockerfile") or "Dockerfile",
            "Port": str(service.get("internal_port", "none")),
            "Machine": ", ".join(
                str(vm[key]) for key in ("size", "cpu_kind", "cpus", "memory") if key in vm
            ),
        }


async def make(
    session: Session, api: Api, directory: Path, existing: files.Loaded | None, wishes: Wishes
) -> Proposal:
    """Return the proposal, asking the platform what it needs to know.

    Raises:
        Failure: Nothing here can be built, or a name is taken.
    """
    found = _source(directory, existing, wishes)
    document = dict(existing.document) if existing else {}
    org = await _organization(session, api, wishes.org)
    region = await _region(session, api, document, wishes.region)
    name = await _free_name(api, directory, document, wishes)
    document = {**document, "app": name, **({"primary_region": region} if region else {})}
    if wishes.env:
        document["env"] = {**document.get("env", {}), **wishes.env}
    if wishes.command:
        document["processes"] = {**document.get("processes", {}), "app": wishes.command}
    if found.build:
        document["build"] = {**document.get("build", {}), **found.build}
    if existing is None:
        document["http_service"] = _http_service(session, found.port, wishes)
        document["vm"] = [_vm(wishes.size)]
    elif wishes.internal_port and "http_service" in document:
        document["http_service"] = {
            **document["http_service"],
            "internal_port": wishes.internal_port,
        }
    return Proposal(
        name=name,
        org=org,
        region=region,
        document=document,
        existing=existing,
        volumes=found.volumes,
    )


@dataclass(frozen=True)
class _Source:
    build: dict[str, Any]
    port: int | None = None
    volumes: tuple[str, ...] = ()


def _source(directory: Path, existing: files.Loaded | None, wishes: Wishes) -> _Source:
    """Return what `[build]` says and what the Dockerfile says; flags before what is there."""
    if wishes.image:
        return _Source({"image": wishes.image})
    config = existing.config if existing else None
    if config is not None and config.build is not None and config.build.image:
        return _Source({})
    named = wishes.dockerfile or (config.build.dockerfile if config and config.build else None)
    path = directory / named if named else source.default_dockerfile(directory)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise errors.invalid(f"cannot read {path}: {error.strerror}") from error
    shown = named or (path.name if path.name != "Dockerfile" else None)
    parsed = dockerfile.parse(text)
    return _Source(
        build={"dockerfile": shown} if shown else {},
        port=_first_tcp(parsed.ports()),
        volumes=parsed.target("").volumes,
    )


def _first_tcp(ports: tuple[str, ...]) -> int | None:
    numbers = [port.partition("/")[0] for port in ports if port.endswith("/tcp")]
    return int(numbers[0]) if numbers else None


async def _organization(session: Session, api: Api, named: str | None) -> str:
    named = named or session.environ.get("FLY_ORG") or session.environ.get("FLY_ORGANIZATION")
    orgs = await api.orgs.list()
    slugs = [one.slug for one in orgs]
    if named:
        if named not in slugs:
            raise errors.not_found(
                f'there is no organization "{named}" for this token',
                hint=f"yours are {', '.join(slugs) or 'none'}; "
                f"make it with `godwit orgs create {named}`",
            )
        return named
    found = connect.preferred(orgs)
    if found is None:
        raise errors.not_found(
            "this token is for no organization", hint="make one with `godwit orgs create NAME`"
        )
    return found


async def _region(session: Session, api: Api, document: dict[str, Any], named: str | None) -> str:
    wanted = named or document.get("primary_region") or session.environ.get("FLY_REGION")
    known = await api.platform.regions()
    codes = [one.code for one in known.regions]
    if wanted is None:
        return known.nearest or next(iter(codes), "")
    if codes and wanted not in codes:
        raise errors.not_found(
            f'there is no region "{wanted}"', hint=f"regions with hosts: {', '.join(codes)}"
        )
    return str(wanted)


async def _free_name(api: Api, directory: Path, document: dict[str, Any], wishes: Wishes) -> str:
    named = wishes.name
    if wishes.generate_name:
        return naming.with_suffix("")
    wanted = named or document.get("app") or naming.from_directory(_own_name(directory))
    if wanted and not ids.is_app_name(wanted):
        raise errors.invalid(
            f'"{wanted}" cannot be the name of an app',
            hint="names have lower-case letters, digits and -, at most 63 of them",
        )
    candidates = [wanted] if wanted else []
    if not named:
        candidates += [naming.with_suffix(wanted) for _ in range(_TRIES)]
    for candidate in candidates:
        if await _is_free(api, candidate):
            return candidate
    raise errors.Failure(
        "already_exists",
        f'the name "{wanted}" is taken',
        hint="choose another with --name, or deploy to the app that has it with `godwit deploy`",
    )


def _own_name(directory: Path) -> str:
    return directory.resolve().name


async def _is_free(api: Api, name: str) -> bool:
    try:
        taken: App | None = await api.apps.get(name)
    except errors.Failure as failure:
        if failure.code == "not_found":
            return True
        if failure.code == "permission_denied":
            return False
        raise
    return taken is None


def _http_service(session: Session, port: int | None, wishes: Wishes) -> dict[str, Any]:
    return {
        "internal_port": wishes.internal_port or port or _DEFAULT_PORT,
        "force_https": session.settings.tls,
        "auto_stop_machines": wishes.auto_stop,
        "auto_start_machines": True,
        "min_machines_running": 0,
        "processes": ["app"],
    }


def _vm(size: Size) -> dict[str, Any]:
    given = size.given()
    if "size" in given:
        return given
    made: dict[str, Any] = {
        "cpu_kind": "shared",
        "cpus": 1,
        "memory": _DEFAULT_MEMORY,
        **given,
    }
    if "memory" not in given and ("cpus" in given or "cpu_kind" in given):
        least = guests.resolve(cpu_kind=made["cpu_kind"], cpus=made["cpus"]).memory_mb
        made["memory"] = f"{max(least, 1024)}mb"
    return made
