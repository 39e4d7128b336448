"""Options of `deploy` that `launch` and `rollback` share: each declared once, with its meaning.

`taking` makes options of the dataclasses at the end.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from godwit.appconfig import sizes
from godwit.appconfig.model import Config
from godwit.base import errors
from godwit.cli import options
from godwit.cli.rollout import overrides
from godwit.cli.rollout.source import Source
from godwit.cli.session import Session
from godwit.wire.deploys import Options

DirectoryArgument = Annotated[
    str, typer.Argument(metavar="[DIR]", help="Directory of the app; the build context.")
]
IgnorefileOption = Annotated[
    str | None, typer.Option("--ignorefile", metavar="PATH", help="Instead of .dockerignore.")
]
BuildArgOption = Annotated[
    list[str] | None,
    typer.Option("--build-arg", metavar="NAME=VALUE", help="For the build; may be repeated."),
]
BuildSecretOption = Annotated[
    list[str] | None,
    typer.Option(
        "--build-secret",
        metavar="NAME=VALUE",
        help="For RUN --mount=type=secret,id=NAME; never in the image; may be repeated.",
    ),
]
LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="NAME=VALUE", help="Of the built image; may be repeated."),
]
BuildTargetOption = Annotated[
    str | None, typer.Option("--build-target", metavar="STAGE", help="Stage to build.")
]
ImageLabelOption = Annotated[
    str | None, typer.Option("--image-label", metavar="TAG", help="Tag of the built image.")
]
NoCacheOption = Annotated[bool, typer.Option("--no-cache", help="Build every step anew.")]
ContextWarnOption = Annotated[
    str,
    typer.Option(
        "--build-context-warn-size", metavar="SIZE", help="Warn of a larger build context."
    ),
]
PrimaryRegionOption = Annotated[
    str | None, typer.Option("--primary-region", metavar="CODE", help="For new machines.")
]
StrategyOption = Annotated[
    str | None,
    typer.Option("--strategy", metavar="HOW", help="rolling, immediate, canary or bluegreen."),
]
MaxUnavailableOption = Annotated[
    float | None,
    typer.Option(
        "--max-unavailable",
        metavar="N",
        help="Machines of a group away at a time: a number, or a share below 1.  [0.33]",
    ),
]
MaxConcurrentOption = Annotated[
    int | None,
    typer.Option(
        "--max-concurrent",
        metavar="N",
        min=1,
        help="Machines that immediate and bluegreen take at once.  [8]",
    ),
]
WaitTimeoutOption = Annotated[
    str | None,
    typer.Option("--wait-timeout", metavar="TIME", help="Per machine: seconds or e.g. 5m."),
]
ReleaseTimeoutOption = Annotated[
    str | None,
    typer.Option(
        "--release-command-timeout", metavar="TIME", help="Seconds, e.g. 10m, or none.  [5m]"
    ),
]
SkipReleaseOption = Annotated[
    bool, typer.Option("--skip-release-command", help="Do not run the release command.")
]
SmokeChecksOption = Annotated[
    bool,
    typer.Option("--smoke-checks/--no-smoke-checks", help="Machines have to stay up for 10s."),
]
DnsChecksOption = Annotated[
    bool,
    typer.Option(
        "--dns-checks/--no-dns-checks", help="Warn if the app's name leads nowhere in the end."
    ),
]
HaOption = Annotated[
    bool,
    typer.Option("--ha/--no-ha", help="Give a group without machines two of them, not one alone."),
]
AutoRollbackOption = Annotated[
    bool | None,
    typer.Option(
        "--auto-rollback/--no-auto-rollback",
        help="Give machines back what they had when the deploy fails.  [yes]",
    ),
]
DrainTimeoutOption = Annotated[
    str | None,
    typer.Option(
        "--drain-timeout",
        metavar="TIME",
        help="How long requests in flight may take before a machine stops.",
    ),
]
SignalOption = Annotated[
    str | None,
    typer.Option("--signal", "-s", metavar="NAME", help="Stops the old machines (bluegreen)."),
]
UpdateOnlyOption = Annotated[
    bool, typer.Option("--update-only", help="Make no machines for groups that have none.")
]
RegionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--regions",
        "--only-regions",
        "--region",
        "-r",
        metavar="CODES",
        help="Only machines there; separated by commas.",
    ),
]
ExcludeRegionsOption = Annotated[
    list[str] | None,
    typer.Option("--exclude-regions", metavar="CODES", help="All but machines there."),
]
OnlyMachinesOption = Annotated[
    list[str] | None, typer.Option("--only-machines", metavar="IDS", help="Only these machines.")
]
ExcludeMachinesOption = Annotated[
    list[str] | None,
    typer.Option("--exclude-machines", metavar="IDS", help="All but these machines."),
]
OnlyRegionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--regions",
        "--only-regions",
        metavar="CODES",
        help="Only machines there; separated by commas.",
    ),
]
ProcessGroupsOption = Annotated[
    list[str] | None,
    typer.Option("--process-groups", metavar="NAMES", help="Only these process groups."),
]
FileLocalOption = Annotated[
    list[str] | None,
    typer.Option("--file-local", metavar="PATH=FILE", help="A file put into the machines."),
]
FileLiteralOption = Annotated[
    list[str] | None,
    typer.Option("--file-literal", metavar="PATH=TEXT", help="The same, with this text."),
]
FileSecretOption = Annotated[
    list[str] | None,
    typer.Option("--file-secret", metavar="PATH=NAME", help="The same, from a secret."),
]
HostDedicationOption = Annotated[
    str | None,
    typer.Option("--host-dedication-id", metavar="ID", help="Reserved hosts, once there are any."),
]
VolumeSizeOption = Annotated[
    str | None,
    typer.Option(
        "--volume-initial-size", metavar="GB", help="Of new volumes, once there are any."
    ),
]
NoPublicIpsOption = Annotated[
    bool,
    typer.Option("--no-public-ips", help="Refused for an app whose services are public here."),
]
BuildOnlyOption = Annotated[
    bool, typer.Option("--build-only", help="Build the image, print it, and stop.")
]
WaitLockOption = Annotated[
    str | None,
    typer.Option(
        "--wait-lock", metavar="[TIME]", help="Wait while another deploy of the app runs.  [30m]"
    ),
]
FlycastOption = Annotated[
    bool,
    typer.Option("--flycast", help="A private address; on a first deploy, nothing public."),
]

_CI_LABELS = {
    "GH_SHA": "GITHUB_SHA",
    "GH_ACTION_NAME": "GITHUB_ACTION",
    "GH_REPO": "GITHUB_REPOSITORY",
    "GH_EVENT_NAME": "GITHUB_EVENT_NAME",
}
"""What an image built by GitHub's CI tells of its origin (spec/config-cli.md §3.9)."""


@dataclass(frozen=True)
class BuildFlags:
    """What flags say of the build."""

    ignorefile: IgnorefileOption = None
    build_arg: BuildArgOption = None
    build_secret: BuildSecretOption = None
    build_target: BuildTargetOption = None
    image_label: ImageLabelOption = None
    label: LabelOption = None
    no_cache: NoCacheOption = False
    build_context_warn_size: ContextWarnOption = "100mb"
    offline: options.OfflineOption = False
    force_host_build: options.ForceHostBuildOption = False

    def source(
        self,
        directory: Path,
        environ: Mapping[str, str],
        *,
        image: str | None = None,
        dockerfile: str | None = None,
    ) -> Source:
        """Return where the image comes from.

        Raises:
            Failure: A flag means nothing.
        """
        return Source(
            directory,
            image=image,
            dockerfile=dockerfile,
            ignorefile=self.ignorefile,
            args=overrides.pairs(self.build_arg, "--build-arg"),
            secrets=overrides.pairs(self.build_secret, "--build-secret"),
            labels={**_ci_labels(environ), **overrides.pairs(self.label, "--label")},
            target=self.build_target,
            label=self.image_label,
            no_cache=self.no_cache,
            offline=self.offline,
            force=self.force_host_build,
            warn_bytes=_warn_bytes(self.build_context_warn_size),
        )


@dataclass(frozen=True)
class RolloutFlags:
    """What flags say of how machines are replaced."""

    strategy: StrategyOption = None
    max_unavailable: MaxUnavailableOption = None
    max_concurrent: MaxConcurrentOption = None
    wait_timeout: WaitTimeoutOption = None
    release_command_timeout: ReleaseTimeoutOption = None
    skip_release_command: SkipReleaseOption = False
    smoke_checks: SmokeChecksOption = True
    dns_checks: DnsChecksOption = True
    drain_timeout: DrainTimeoutOption = None
    auto_rollback: AutoRollbackOption = None
    signal: SignalOption = None

    def wanted(self) -> Options:
        """Return what the platform is told.

        Raises:
            Failure: A flag means nothing.
        """
        if self.max_unavailable is not None and not self.max_unavailable > 0:
            raise errors.invalid(
                f"--max-unavailable: expected more than 0, got {self.max_unavailable:g}"
            )
        limit = "0" if self.release_command_timeout == "none" else self.release_command_timeout
        return Options(
            strategy=self.strategy,
            max_unavailable=self.max_unavailable,
            max_concurrent=self.max_concurrent,
            wait_timeout_s=seconds(self.wait_timeout, "--wait-timeout"),
            release_command_timeout_s=seconds(limit, "--release-command-timeout"),
            skip_release_command=self.skip_release_command,
            smoke_checks=self.smoke_checks,
            auto_rollback=self.auto_rollback,
            signal=self.signal,
            drain_timeout_s=seconds(self.drain_timeout, "--drain-timeout"),
        )


@dataclass(frozen=True)
class ScopeFlags:
    """What flags say of the machines a deploy is about."""

    ha: HaOption = True
    update_only: UpdateOnlyOption = False
    regions: RegionsOption = None
    exclude_regions: ExcludeRegionsOption = None
    only_machines: OnlyMachinesOption = None
    exclude_machines: ExcludeMachinesOption = None
    process_groups: ProcessGroupsOption = None

    def added(self, wanted: Options) -> Options:
        """Return what the platform is told, with the scope in it."""
        scope = Options(
            ha=self.ha,
            update_only=self.update_only,
            regions=listed(self.regions),
            exclude_regions=listed(self.exclude_regions),
            only_machines=listed(self.only_machines),
            exclude_machines=listed(self.exclude_machines),
            process_groups=listed(self.process_groups),
        )
        return wanted.model_copy(update=scope.model_dump(include=scope.model_fields_set))


@dataclass(frozen=True)
class LaunchScopeFlags(ScopeFlags):
    """The same for `launch`, whose `--region` is the primary region of the app."""

    regions: OnlyRegionsOption = None


@dataclass(frozen=True)
class FileFlags:
    """What flags put into machines as files."""

    file_local: FileLocalOption = None
    file_literal: FileLiteralOption = None
    file_secret: FileSecretOption = None

    def sections(self, directory: Path) -> list[overrides.Document]:
        """Return them as sections of `[[files]]`; local ones are looked for in a directory.

        Raises:
            Failure: A flag means nothing.
        """
        return overrides.guest_files(
            directory, self.file_local, self.file_literal, self.file_secret
        )


@dataclass(frozen=True)
class ConfigFlags(FileFlags):
    """What flags change in the config."""

    env: options.EnvOption = None
    primary_region: PrimaryRegionOption = None
    vm_size: options.VmSizeOption = None
    vm_cpus: options.VmCpusOption = None
    vm_cpu_kind: options.VmCpuKindOption = None
    vm_memory: options.VmMemoryOption = None
    host_dedication_id: HostDedicationOption = None

    def changes(self, directory: Path, app: str | None) -> overrides.Overrides:
        """Return what is changed; files are looked for in a directory.

        Raises:
            Failure: A flag means nothing.
        """
        return overrides.Overrides(
            app=app,
            env=overrides.pairs(self.env, "--env"),
            primary_region=self.primary_region,
            size=overrides.Size(self.vm_size, self.vm_cpus, self.vm_cpu_kind, self.vm_memory),
            files=self.sections(directory),
            host_dedication_id=self.host_dedication_id,
        )


@dataclass(frozen=True)
class ProvisionFlags:
    """What flags say of what a first deploy provides besides machines (spec §3.6)."""

    volume_initial_size: VolumeSizeOption = None
    no_public_ips: NoPublicIpsOption = False
    flycast: FlycastOption = False

    def told(self, here: Session, config: Config) -> None:
        """Say what has no effect yet.

        Raises:
            Failure: A flag means nothing, or its app would be public against its word.
        """
        serves = bool(config.http_service or config.services)
        if self.flycast and not serves:
            here.out.warn("--flycast: the app has no services, so nothing answers there")
        if self.no_public_ips and serves and not self.flycast:
            raise errors.invalid(
                "--no-public-ips: an app with services is public here, by its name",
                hint="with --flycast its first deploy makes it answer in its network alone",
            )
        if self.volume_initial_size is not None:
            try:
                sizes.volume_gb(self.volume_initial_size)
            except ValueError as error:
                raise errors.invalid(f"--volume-initial-size: {error}") from error
            here.out.warn("--volume-initial-size has no effect: there are no volumes yet")


def seconds(text: str | None, flag: str) -> float | None:
    """Return a duration in seconds; `None` for one that was not given.

    Raises:
        Failure: It is none.
    """
    return None if text is None else overrides.seconds(text, flag)


def listed(given: Sequence[str] | None) -> tuple[str, ...]:
    """Return values that were given one by one, separated by commas, or both."""
    return tuple(one.strip() for text in given or () for one in text.split(",") if one.strip())


def _warn_bytes(text: str) -> int:
    try:
        return sizes.memory_mb(text) << 20
    except ValueError as error:
        raise errors.invalid(f"--build-context-warn-size: {error}") from error


def _ci_labels(environ: Mapping[str, str]) -> dict[str, str]:
    if environ.get("GITHUB_ACTIONS") != "true":
        return {}
    found = {label: environ.get(name, "") for label, name in _CI_LABELS.items()}
    return {label: value for label, value in found.items() if re.search(r"\S", value)}
