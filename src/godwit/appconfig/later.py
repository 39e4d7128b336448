"""Sections that are read and kept, but that this release does nothing with yet.

`deploy` says so plainly. A feature that arrives removes its line here.
"""

from godwit.appconfig.model import Config, HttpService, ServiceBase
from godwit.appconfig.problems import Path, Problem


def without_effect(config: Config, *, tls: bool) -> list[Problem]:
    """Return what of a config has no effect yet, each with what that means.

    Args:
        config: A config without mistakes.
        tls: Whether the platform's edge answers HTTPS.
    """
    found = [*_machine(config), *_deploy(config), *_build(config), *_services(config, tls=tls)]
    return [Problem(path, message, "warning") for path, message in found]


def _machine(config: Config) -> list[tuple[Path, str]]:
    table: tuple[tuple[bool, Path, str], ...] = (
        (
            bool(config.mounts),
            ("mounts",),
            "volumes are not attached yet: what the app writes there is lost when it stops",
        ),
        (bool(config.statics), ("statics",), "files are not served by the edge yet"),
        (bool(config.metrics), ("metrics",), "nothing collects metrics yet"),
        (bool(config.swap_size_mb), ("swap_size_mb",), "machines get no swap yet"),
        (bool(config.machine_checks), ("machine_checks",), "test machines are not run yet"),
        (bool(config.machine_config), ("machine_config",), "containers are not run yet"),
        (bool(config.container), ("container",), "containers are not run yet"),
        (
            bool(config.host_dedication_id),
            ("host_dedication_id",),
            "hosts cannot be reserved yet",
        ),
        (
            any(one.secret_name for one in config.files),
            ("files",),
            "there are no secrets yet, so files with secret_name are left out",
        ),
    )
    return [(path, message) for given, path, message in table if given]


def _deploy(config: Config) -> list[tuple[Path, str]]:
    deploy = config.deploy
    if deploy is None:
        return []
    return [
        (("deploy", name), "is not run yet: run it with `godwit machine run`")
        for name in ("release_command", "seed_command")
        if getattr(deploy, name)
    ]


def _build(config: Config) -> list[tuple[Path, str]]:
    build = config.build
    if build is None or build.image:
        return []
    ways = ("builder", "buildpacks", "builtin", "compose")
    return [
        (("build", name), "only Dockerfiles are built yet")
        for name in ways
        if getattr(build, name)
    ]


def _services(config: Config, *, tls: bool) -> list[tuple[Path, str]]:
    listed: list[tuple[Path, ServiceBase]] = [
        (("services", index), one) for index, one in enumerate(config.services)
    ]
    if config.http_service is not None:
        listed.append((("http_service",), config.http_service))
    found: list[tuple[Path, str]] = []
    for path, service in listed:
        if service.auto_stop_machines in ("stop", "suspend"):
            found.append(((*path, "auto_stop_machines"), "idle machines are not stopped yet"))
        if service.machine_checks:
            found.append(((*path, "machine_checks"), "test machines are not run yet"))
    if (
        not tls
        and isinstance(config.http_service, HttpService)
        and config.http_service.force_https
    ):
        found.append((("http_service", "force_https"), "the edge does not answer HTTPS yet"))
    return found
