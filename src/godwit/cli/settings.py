"""Where the API is and who asks: environment first, then the file that `godwit up` writes.

The file is `cli.json` in $GODWIT_CONFIG_DIR, or in `godwit` under $XDG_CONFIG_HOME or
~/.config: `{"v": 1, "api_url", "token", "edge_url", "apps_domain", "registry"}`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from godwit.base import errors, private_files

_VERSION = 1
_API_URL = "http://127.0.0.1:4280"
_EDGE_URL = "http://127.0.0.1:8080"
_APPS_DOMAIN = "godwit.localhost"
_REGISTRY = "127.0.0.1:5050"
_PLACES = ("GODWIT_CONFIG_DIR", "XDG_CONFIG_HOME", "HOME")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class CliSettings:
    """What the CLI needs to know of the platform.

    Attributes:
        token: `None` when nobody gave one.
        edge_url: Where apps answer.
        apps_domain: Apps answer at `<app>.<apps_domain>`.
        registry: `host:port` of the platform's registry.
    """

    api_url: str
    token: str | None
    edge_url: str
    apps_domain: str
    registry: str

    def app_url(self, app: str) -> str:
        """Return the public address of an app."""
        edge = urlsplit(self.edge_url)
        port = edge.port
        shown = "" if port in (None, _DEFAULT_PORTS.get(edge.scheme)) else f":{port}"
        return f"{edge.scheme}://{app}.{self.apps_domain}{shown}/"

    def hostname(self, app: str) -> str:
        """Return the public name of an app."""
        return f"{app}.{self.apps_domain}"

    @property
    def tls(self) -> bool:
        """Whether the edge answers HTTPS."""
        return urlsplit(self.edge_url).scheme == "https"


def path(environ: Mapping[str, str]) -> Path:
    """Return where the CLI's file is."""
    named = environ.get("GODWIT_CONFIG_DIR")
    if named:
        return Path(named) / "cli.json"
    base = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME") or "~") / ".config")
    return Path(base).expanduser() / "godwit" / "cli.json"


def read(environ: Mapping[str, str], *, token: str | None = None) -> CliSettings:
    """Return the settings from a flag, the environment and the file, the first one winning.

    Raises:
        Failure: The file is there but cannot be understood, or an address is none.
    """
    file = _file(path(environ))
    found = CliSettings(
        api_url=_first(
            environ.get("GODWIT_API_URL"),
            environ.get("FLY_FLAPS_BASE_URL"),
            file.get("api_url"),
        )
        or _API_URL,
        token=_first(
            token,
            environ.get("FLY_ACCESS_TOKEN"),
            environ.get("FLY_API_TOKEN"),
            file.get("token"),
        ),
        edge_url=_first(environ.get("GODWIT_EDGE_URL"), file.get("edge_url")) or _EDGE_URL,
        apps_domain=_first(environ.get("GODWIT_APPS_DOMAIN"), file.get("apps_domain"))
        or _APPS_DOMAIN,
        registry=_first(environ.get("FLY_REGISTRY_HOST"), file.get("registry")) or _REGISTRY,
    )
    return checked(found)


def checked(found: CliSettings) -> CliSettings:
    """Return settings whose addresses are some.

    Raises:
        Failure: One is none.
    """
    for address in (found.api_url, found.edge_url):
        _demand_address(address)
    return found


def kept(environ: Mapping[str, str]) -> CliSettings:
    """Return what the file alone says, for the rest of which there are defaults.

    Raises:
        Failure: As `read`.
    """
    return read({name: environ[name] for name in _PLACES if name in environ})


def keep(environ: Mapping[str, str], wanted: CliSettings) -> Path:
    """Write the file anew, for this user alone; return where it is.

    `godwit up` leaves a file alone that it did not write.
    """
    at = path(environ)
    at.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = {name: value for name, value in asdict(wanted).items() if value is not None}
    private_files.write(at, json.dumps({"v": _VERSION, **content}, indent=2) + "\n")
    return at


def _first(*values: Any) -> str | None:
    return next((one for one in values if isinstance(one, str) and one), None)


def _demand_address(address: str) -> None:
    try:
        parts = urlsplit(address)
        known = parts.scheme in _DEFAULT_PORTS and parts.hostname and (parts.port or 1)
    except ValueError:
        known = False
    if not known:
        raise errors.invalid(
            f'"{address}" is no address of an API', hint="expected http://host:port"
        )


def _file(at: Path) -> dict[str, Any]:
    try:
        content = json.loads(at.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except PermissionError:
        return {}
    except (OSError, ValueError) as error:
        raise errors.invalid(
            f"cannot read {at}: {error}", hint="remove it; `godwit up` writes a new one"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("v"), int):
        raise errors.invalid(
            f"{at} is not the CLI's file", hint="remove it; `godwit up` writes a new one"
        )
    if content["v"] > _VERSION:
        raise errors.invalid(
            f"{at} was written by a newer Godwit", hint="update this `godwit` command"
        )
    return content
