"""A compose file turned into the containers of one machine (§1.17). Pure: its caller reads files.

One container per service. What containers of one machine have anyway, or cannot have, is passed
over and told: they share the network, so every port of one is there for all, at loopback and under
the services' names. `deploy` is the caller, and sends what comes out as `machine_config`.
"""

import base64
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from godwit.appconfig import containers
from godwit.base import durations, errors

FILES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
Json = dict[str, Any]
_INTERVAL_S = 30
_TIMEOUT_S = 10
_CONDITIONS = {
    "service_started": "started",
    "service_healthy": "healthy",
    "service_completed_successfully": "exited_successfully",
}
_POLICIES = {
    "no": "no",
    "always": "always",
    "unless-stopped": "always",
    "on-failure": "on-failure",
}
_USED = frozenset(
    {
        *("image", "build", "command", "entrypoint", "environment", "env_file", "user"),
        *("depends_on", "healthcheck", "restart", "volumes"),
        *("stop_signal", "stop_grace_period"),
    }
)
_SILENT = frozenset({"ports", "expose", "networks", "container_name", "hostname", "labels"})
"""Without a word: all containers of a machine meet at loopback."""
_NOT_A_NAME = re.compile(r"[^a-z0-9_-]")
_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<bare>[A-Za-z_]\w*)|\{(?P<name>[A-Za-z_]\w*)"
    r"(?:(?P<how>:?[-?])(?P<other>[^}]*))?\})"
)


@dataclass(frozen=True)
class Build:
    """What is built: the service's own, as the compose file says it."""

    context: str = "."
    dockerfile: str = ""
    target: str = ""
    args: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Converted:
    """What became of a compose file.

    Attributes:
        machine_config: Containers and volumes.
        container: The one that is built, empty when every service names an image.
        build: How.
        ignored: Keys that have no effect, as `service.key`.
    """

    machine_config: Json
    container: str
    build: Build | None
    ignored: tuple[str, ...]


def convert(
    name: str,
    text: str,
    *,
    environ: Mapping[str, str],
    read_file: Callable[[str], bytes | None],
) -> Converted:
    """Return the containers of a compose file.

    Args:
        name: Of the file, for messages.
        text: What it says.
        environ: Values of its `${VARIABLES}`.
        read_file: Reads a file it names; `None` for a directory.

    Raises:
        Failure: `invalid_argument`: it is no compose file, or asks for what cannot be.
    """
    made = _Conversion(name, environ, read_file)
    return made.whole(made.understood(text))


class _Conversion:
    """One compose file on its way."""

    def __init__(
        self,
        name: str,
        environ: Mapping[str, str],
        read_file: Callable[[str], bytes | None],
    ) -> None:
        self._name = name
        self._environ = environ
        self._read = read_file
        self._ignored: list[str] = []
        self._volumes: dict[str, Json] = {}

    def understood(self, text: str) -> Json:
        """Return the services of the file."""
        try:
            found = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError) as error:
            raise errors.invalid(f"{self._name}: is not YAML: {error}") from error
        services = found.get("services") if isinstance(found, dict) else None
        if not isinstance(services, dict) or not services:
            raise self._wrong("services", "expected at least one")
        if not all(isinstance(one, dict) for one in services.values()):
            raise self._wrong("services", "expected a table for each")
        filled = self._filled(services)
        return {str(name): one for name, one in filled.items()}

    def whole(self, services: Json) -> Converted:
        """Return what becomes of the services."""
        names = {name: self._container_name(name) for name in services}
        built = [name for name, one in services.items() if one.get("build")]
        if len(built) > 1:
            raise self._wrong(
                "services", f"{' and '.join(built)} have `build`: one image is built at a deploy"
            )
        made = [self._container(name, one, names) for name, one in services.items()]
        config: Json = {"containers": made}
        if self._volumes:
            config["volumes"] = list(self._volumes.values())
        return Converted(
            machine_config=config,
            container=names[built[0]] if built else "",
            build=self._build(built[0], services[built[0]]["build"]) if built else None,
            ignored=tuple(self._ignored),
        )

    def _container(self, name: str, service: Json, names: Mapping[str, str]) -> Json:
        unknown = (key for key in service if key not in _USED and not key.startswith("x-"))
        self._ignored += [f"{name}.{key}" for key in unknown if key not in _SILENT]
        image = containers.PLACEHOLDER if service.get("build") else service.get("image")
        if not image:
            raise self._wrong(f"{name}.image", "expected an image, or `build`")
        parts = {
            "entrypoint": self._words(f"{name}.entrypoint", service.get("entrypoint")),
            "cmd": self._words(f"{name}.command", service.get("command")),
            "user": str(service.get("user") or ""),
            "env": self._environment(name, service),
            "depends_on": self._dependencies(name, service.get("depends_on"), names),
            "healthchecks": self._healthchecks(name, service.get("healthcheck")),
            "restart": self._restart(name, service.get("restart")),
            "stop": self._stop(name, service),
            **self._mounts(name, service.get("volumes")),
        }
        return {
            "name": names[name],
            "image": str(image),
            **{key: value for key, value in parts.items() if value},
        }

    def _container_name(self, name: str) -> str:
        made = _NOT_A_NAME.sub("-", name.lower()).strip("-_")
        if not made:
            raise self._wrong("services", f'"{name}" has no letter or digit')
        return made

    def _build(self, name: str, given: Any) -> Build:
        if isinstance(given, str):
            return Build(context=given)
        if not isinstance(given, dict):
            raise self._wrong(f"{name}.build", "expected a directory, or a table")
        known = ("context", "dockerfile", "target", "args")
        self._ignored += [f"{name}.build.{key}" for key in given if key not in known]
        return Build(
            context=str(given.get("context") or "."),
            dockerfile=str(given.get("dockerfile") or ""),
            target=str(given.get("target") or ""),
            args=self._pairs(f"{name}.build.args", given.get("args")),
        )

    def _words(self, place: str, given: Any) -> list[str]:
        if isinstance(given, list):
            return [str(word) for word in given]
        try:
            return shlex.split(str(given)) if given else []
        except ValueError as error:
            raise self._wrong(place, str(error)) from error

    def _environment(self, name: str, service: Json) -> dict[str, str]:
        found: dict[str, str] = {}
        given = service.get("env_file") or []
        for one in given if isinstance(given, list) else [given]:
            path = str(one.get("path") if isinstance(one, dict) else one)
            content = self._read(path)
            if content is None:
                raise self._wrong(f"{name}.env_file", f"{path} is a directory")
            found |= dict(_lines(content.decode("utf-8", errors="replace")))
        return found | self._pairs(f"{name}.environment", service.get("environment"))

    def _pairs(self, place: str, given: Any) -> dict[str, str]:
        if isinstance(given, list):
            split = (str(one).partition("=") for one in given)
            pairs: dict[str, Any] = {key: value if sep else None for key, sep, value in split}
        elif isinstance(given, dict):
            pairs = {str(key): value for key, value in given.items()}
        elif given is None:
            pairs = {}
        else:
            raise self._wrong(place, "expected a table, or a list of NAME=VALUE")
        # Without a value it is taken from where the deploy runs, if it is there.
        known = {key: self._environ.get(key) for key, value in pairs.items() if value is None}
        whole = {key: pairs[key] if pairs[key] is not None else known[key] for key in pairs}
        return {key: _text(value) for key, value in whole.items() if value is not None}

    def _dependencies(self, name: str, given: Any, names: Mapping[str, str]) -> list[Json]:
        wanted = given if isinstance(given, dict) else dict.fromkeys(given or ())
        made = []
        for other, how in wanted.items():
            if other not in names:
                raise self._wrong(f"{name}.depends_on", f'there is no service "{other}"')
            asked = (how or {}).get("condition") or "service_started"
            if asked not in _CONDITIONS:
                raise self._wrong(
                    f"{name}.depends_on",
                    f'expected one of {", ".join(_CONDITIONS)}, got "{asked}"',
                )
            made.append({"name": names[other], "condition": _CONDITIONS[asked]})
        return made

    def _healthchecks(self, name: str, given: Any) -> list[Json]:
        if not isinstance(given, dict) or given.get("disable") is True:
            return []
        test = given.get("test")
        words = ["CMD-SHELL", test] if isinstance(test, str) else list(test or ())
        if not words or words[0] == "NONE":
            return []
        if words[0] == "CMD-SHELL":
            command = ["/bin/sh", "-c", " ".join(map(str, words[1:]))]
        else:
            command = [str(word) for word in (words[1:] if words[0] == "CMD" else words)]
        place = f"{name}.healthcheck"
        made: Json = {
            "name": "healthcheck",
            "exec": {"command": command},
            "interval": self._seconds(f"{place}.interval", given.get("interval"), _INTERVAL_S),
            "timeout": self._seconds(f"{place}.timeout", given.get("timeout"), _TIMEOUT_S),
        }
        grace = self._seconds(f"{place}.start_period", given.get("start_period"), 0)
        if grace:
            made["grace_period"] = grace
        if isinstance(given.get("retries"), int):
            made["failure_threshold"] = given["retries"]
        return [made]

    def _seconds(self, place: str, given: Any, usual: int) -> int:
        """Return whole seconds, never less than were asked for."""
        if given is None:
            return usual
        try:
            return math.ceil(durations.parse(str(given)) / durations.SECOND)
        except ValueError as error:
            raise self._wrong(place, f'expected a duration such as 30s, got "{given}"') from error

    def _restart(self, name: str, given: Any) -> Json:
        if given is None:
            return {}
        word, _, retries = ("no" if given is False else str(given)).partition(":")
        if word not in _POLICIES or (retries and not retries.isdecimal()):
            raise self._wrong(
                f"{name}.restart", f'expected one of {", ".join(_POLICIES)}, got "{given}"'
            )
        made: Json = {"policy": _POLICIES[word]}
        if retries:
            made["max_retries"] = int(retries)
        return made

    def _stop(self, name: str, service: Json) -> Json:
        made: Json = {}
        if service.get("stop_signal"):
            made["signal"] = str(service["stop_signal"])
        grace = service.get("stop_grace_period")
        if grace is not None:
            made["timeout"] = f"{self._seconds(f'{name}.stop_grace_period', grace, 0)}s"
        return made

    def _mounts(self, name: str, given: Any) -> Json:
        """Return volumes as mounts, and files of the directory as files."""
        mounts, inlined = [], []
        for one in given or ():
            source, target = self._volume(name, one)
            if not source.startswith((".", "/", "~")):
                volume = self._container_name(source)
                self._volumes[volume] = {"name": volume, "temp_dir": {"storage_type": "disk"}}
                mounts.append({"name": volume, "path": target})
                continue
            content = self._read(source)
            if content is None:
                raise self._wrong(
                    f"{name}.volumes",
                    f"{source} is a directory: put what is in it into the image",
                )
            encoded = base64.b64encode(content).decode()
            inlined.append({"guest_path": target, "raw_value": encoded})
        return {"mounts": mounts, "files": inlined}

    def _volume(self, name: str, given: Any) -> tuple[str, str]:
        if isinstance(given, dict):
            source, target = str(given.get("source") or ""), str(given.get("target") or "")
        else:
            parts = str(given).split(":")
            source, target = (parts[0], parts[1]) if len(parts) > 1 else ("", parts[0])
        if not target.startswith("/"):
            raise self._wrong(f"{name}.volumes", f'expected SOURCE:/TARGET, got "{given}"')
        # One without a name is its container's alone.
        return source or f"{name}{target.replace('/', '-')}", target

    def _filled(self, value: Any) -> Any:
        """Return what the file says with its variables in place."""
        if isinstance(value, dict):
            return {key: self._filled(one) for key, one in value.items()}
        if isinstance(value, list):
            return [self._filled(one) for one in value]
        return _VARIABLE.sub(self._value, value) if isinstance(value, str) else value

    def _value(self, found: re.Match[str]) -> str:
        if found["escaped"]:
            return "$"
        name, how = found["bare"] or found["name"], found["how"] or ""
        value = self._environ.get(name)
        missing = not value if how.startswith(":") else value is None
        if not missing:
            return value or ""
        if how.endswith("?"):
            raise errors.invalid(f"{self._name}: {name}: {found['other'] or 'is required'}")
        return found["other"] or ""

    def _wrong(self, place: str, message: str) -> errors.Failure:
        return errors.invalid(f"{self._name}: {place}: {message}")


def _lines(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, separator, value = line.strip().partition("=")
        if separator and name and not name.startswith("#"):
            yield name.strip(), value.strip().strip("\"'")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
