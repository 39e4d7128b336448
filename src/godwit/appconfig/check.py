"""What a well-formed config may still have wrong (spec/config-cli.md §1.18).

Every rule is a function from the config to its mistakes; `problems` runs them all.
"""

import re
import shlex
from collections.abc import Iterable, Iterator

from godwit.appconfig import contents, groups, guests
from godwit.appconfig.model import Check, Config, Mount, Section, ServiceBase, Vm
from godwit.appconfig.problems import Path, Problem
from godwit.base import durations, ids

STRATEGIES = ("rolling", "immediate", "canary", "bluegreen")
_REGION = re.compile(r"[a-z]{3}")
_LONGEST_KILL = 300 * durations.SECOND
_RETENTION = range(1, 61)
_THRESHOLD = range(50, 100)
_INCREMENT = range(1, 101)
_LIMIT = range(1, 501)
_SIZE = range(1, 501)


def problems(config: Config) -> list[Problem]:
    """Return everything that is wrong or doubtful with a config, by section."""
    rules = (_top, _build, _deploy, _commands, _services, _checks, _mounts, _vm, _rest)
    found = [problem for rule in rules for problem in rule(config)]
    return [*found, *contents.problems(config)]


def unknown_keys(config: Section, path: Path = ()) -> list[Problem]:
    """Return the keys that mean nothing, as `config validate --strict` lists them."""
    found = [
        Problem((*path, key), "nobody knows this key", "warning")
        for key in config.model_extra or {}
    ]
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        here = (*path, field.alias or name)
        if isinstance(value, Section):
            found += unknown_keys(value, here)
        elif isinstance(value, list | dict):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, one in items:
                if isinstance(one, Section):
                    found += unknown_keys(one, (*here, key))
    return found


def _top(config: Config) -> Iterator[Problem]:
    if config.app is not None and not ids.is_app_name(config.app):
        yield Problem(
            ("app",),
            "expected lower-case letters, digits and -, beginning and ending with a letter or "
            f'digit, at most 63 of them, got "{config.app}"',
        )
    region = config.primary_region
    if region is not None and not _REGION.fullmatch(region):
        yield Problem(("primary_region",), f'expected three letters such as fra, got "{region}"')
    if config.kill_timeout is not None and config.kill_timeout > _LONGEST_KILL:
        yield Problem(("kill_timeout",), "expected at most 300 seconds")


def _build(config: Config) -> Iterator[Problem]:
    build = config.build
    if build is None:
        return
    ways = ("image", "dockerfile", "builder", "builtin", "compose")
    used = [name for name in ways if getattr(build, name)]
    if len(used) > 1:
        yield Problem(
            ("build",),
            f"{' and '.join(used)} are different ways to build; {used[0]} is used",
            "warning",
        )
    if build.compression not in (None, "gzip", "zstd"):
        yield Problem(
            ("build", "compression"), f'expected "gzip" or "zstd", got "{build.compression}"'
        )
    level = build.compression_level
    if level is not None and (
        isinstance(level, bool) or not isinstance(level, int) or level not in range(10)
    ):
        yield Problem(
            ("build", "compression_level"), f"expected a whole number from 0 to 9, got {level}"
        )


def _deploy(config: Config) -> Iterator[Problem]:
    deploy = config.deploy
    if deploy is None:
        return
    if deploy.strategy is not None and deploy.strategy not in STRATEGIES:
        choices = ", ".join(f'"{one}"' for one in STRATEGIES)
        yield Problem(
            ("deploy", "strategy"), f'expected one of {choices}, got "{deploy.strategy}"'
        )
    if deploy.strategy == "canary" and config.mounts:
        yield Problem(
            ("deploy", "strategy"), "canary does not work with mounts: use rolling instead"
        )
    most = deploy.max_unavailable
    if most is not None and not most > 0:
        yield Problem(("deploy", "max_unavailable"), f"expected more than 0, got {most:g}")
    if most is not None and deploy.strategy in ("immediate", "bluegreen"):
        yield Problem(
            ("deploy", "max_unavailable"), f"means nothing for {deploy.strategy}", "warning"
        )


def _commands(config: Config) -> Iterator[Problem]:
    deploy = config.deploy
    commands: list[tuple[Path, str | None]] = [(("console_command",), config.console_command)]
    if deploy is not None:
        commands += [
            (("deploy", "release_command"), deploy.release_command),
            (("deploy", "seed_command"), deploy.seed_command),
        ]
    commands += [(("processes", name), line) for name, line in config.processes.items()]
    for path, command in commands:
        try:
            shlex.split(command or "")
        except ValueError as error:
            reason = str(error).lower()
            yield Problem(path, f"cannot be split into words: {reason}")


def _services(config: Config) -> Iterator[Problem]:
    listed: list[tuple[Path, ServiceBase]] = [
        (("services", index), one) for index, one in enumerate(config.services)
    ]
    if config.http_service is not None:
        listed.append((("http_service",), config.http_service))
    for path, service in listed:
        yield from _service_groups(config, path, service)
    for index, one in enumerate(config.services):
        yield from _ports(("services", index), one)
        for kind, checks in (("tcp_checks", one.tcp_checks), ("http_checks", one.http_checks)):
            for number, check in enumerate(checks):
                yield from _clamped(("services", index, kind, number), check)
    if config.http_service is not None:
        for number, http_check in enumerate(config.http_service.checks):
            yield from _clamped(("http_service", "checks", number), http_check)


def _service_groups(config: Config, path: Path, service: ServiceBase) -> Iterator[Problem]:
    if config.processes and not service.processes:
        yield Problem(
            path,
            'needs processes = ["…"], because the file has [processes] '
            f"({', '.join(groups.names(config))})",
        )
    yield from _unknown_groups(config, path, service.processes)
    limits = service.concurrency
    if (
        limits is not None
        and limits.soft_limit is not None
        and limits.hard_limit is not None
        and limits.soft_limit > limits.hard_limit
    ):
        yield Problem(
            (*path, "concurrency", "soft_limit"),
            f"expected at most hard_limit ({limits.hard_limit}), got {limits.soft_limit}",
        )


def _unknown_groups(config: Config, path: Path, named: Iterable[str]) -> Iterator[Problem]:
    known = groups.names(config)
    for name in named:
        if name not in known:
            yield Problem(
                (*path, "processes"),
                f'there is no process group "{name}"; groups are {", ".join(known)}',
            )


def _ports(path: Path, service: Section) -> Iterator[Problem]:
    ports = getattr(service, "ports", [])
    if not ports:
        yield Problem(path, "has no ports: nothing outside will reach it", "warning")
    for index, port in enumerate(ports):
        here = (*path, "ports", index)
        ranged = port.start_port is not None or port.end_port is not None
        if port.port is None and not ranged:
            yield Problem(here, "expected port, or start_port and end_port")
        if port.port is not None and ranged:
            yield Problem(here, "expected port or a range of ports, not both")
        if (port.start_port or 0) > (65_535 if port.end_port is None else port.end_port):
            yield Problem(here, "start_port is greater than end_port")
        if port.force_https and "http" not in port.handlers:
            yield Problem((*here, "force_https"), 'works only together with handlers = ["http"]')
        if service.model_dump().get("protocol") == "udp" and port.handlers:
            yield Problem((*here, "handlers"), "UDP has no handlers")


def _clamped(path: Path, check: Section) -> Iterator[Problem]:
    for name in ("interval", "timeout", "grace_period"):
        value = getattr(check, name)
        if not value:
            continue
        used = clamp(value)
        if used != value:
            yield Problem(
                (*path, name),
                f"{durations.render(value)} is outside 1s to 1m; {durations.render(used)} is used",
                "warning",
            )


def clamp(value: int) -> int:
    """Return the duration a service check gets: within a second and a minute."""
    return min(max(value, durations.SECOND), durations.MINUTE)


def _checks(config: Config) -> Iterator[Problem]:
    for name, check in config.checks.items():
        path: Path = ("checks", name)
        if check.type not in ("tcp", "http", "exec"):
            got = "nothing" if check.type is None else f'"{check.type}"'
            yield Problem((*path, "type"), f'expected "tcp", "http" or "exec", got {got}')
        if check.interval is not None and check.interval < 2 * durations.SECOND:
            yield Problem((*path, "interval"), "expected at least 2s")
        if check.timeout is not None and check.timeout > durations.MINUTE:
            yield Problem((*path, "timeout"), "expected at most 1m")
        yield from _unknown_groups(config, path, check.processes)
        yield from _check_port(config, path, check)


def _check_port(config: Config, path: Path, check: Check) -> Iterator[Problem]:
    if check.type == "exec":
        if not check.command:
            yield Problem((*path, "command"), 'is required with type = "exec"')
        return
    if check.command:
        yield Problem((*path, "command"), 'works only together with type = "exec"')
    if check.port is None and config.http_service is None:
        yield Problem((*path, "port"), "is required, because there is no [http_service]")


def _mounts(config: Config) -> Iterator[Problem]:
    for index, mount in enumerate(config.mounts):
        path: Path = ("mounts", index)
        if mount.destination in ("", "/") or not mount.destination.startswith("/"):
            yield Problem(
                (*path, "destination"),
                f'expected an absolute path other than /, got "{mount.destination}"',
            )
        yield from _unknown_groups(config, path, mount.processes)
        yield from _mount_numbers(path, mount)
    for group in groups.names(config):
        mine = groups.of(config, config.mounts, group)
        if len(mine) > 1:
            second = config.mounts.index(mine[1])
            yield Problem(
                ("mounts", second), f'group "{group}" has {len(mine)} mounts, and may have one'
            )


def _mount_numbers(path: Path, mount: Mount) -> Iterator[Problem]:
    ranges = (
        ("initial_size", _SIZE, "GB"),
        ("snapshot_retention", _RETENTION, "days"),
        ("auto_extend_size_threshold", _THRESHOLD, "percent"),
        ("auto_extend_size_increment", _INCREMENT, "GB"),
        ("auto_extend_size_limit", _LIMIT, "GB"),
    )
    for name, allowed, unit in ranges:
        value = getattr(mount, name)
        if value is not None and value not in allowed:
            yield Problem(
                (*path, name), f"expected {allowed[0]} to {allowed[-1]} {unit}, got {value}"
            )
    extending = [getattr(mount, name) for name, _, _ in ranges[2:]]
    if any(extending) and not all(extending):
        yield Problem(
            path,
            "auto_extend_size_threshold, auto_extend_size_increment and auto_extend_size_limit "
            "go together",
        )


def _vm(config: Config) -> Iterator[Problem]:
    sections: list[tuple[Path, Vm]] = [(("vm", i), one) for i, one in enumerate(config.vm)]
    if config.deploy is not None and config.deploy.release_command_vm is not None:
        sections.append((("deploy", "release_command_vm"), config.deploy.release_command_vm))
    for path, vm in sections:
        if vm.gpus or vm.gpu_kind:
            yield Problem((*path, "gpus"), "no host here has GPUs")
        yield from _unknown_groups(config, path, vm.processes)
        try:
            guests.resolve(
                size=vm.size,
                cpu_kind=vm.cpu_kind,
                cpus=vm.cpus,
                memory_mb=vm.memory_mb or vm.memory,
                max_memory_mb=vm.max_memory_mb,
            )
        except ValueError as error:
            yield Problem(path, str(error))


def _rest(config: Config) -> Iterator[Problem]:
    for index, restart in enumerate(config.restart):
        yield from _unknown_groups(config, ("restart", index), restart.processes)
    for index, metrics in enumerate(config.metrics):
        yield from _unknown_groups(config, ("metrics", index), metrics.processes)
    for index, file in enumerate(config.files):
        yield from _unknown_groups(config, ("files", index), file.processes)
