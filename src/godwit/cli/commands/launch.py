"""`godwit launch`."""

import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from godwit.appconfig import files, writing
from godwit.base import errors
from godwit.cli import connect, options, session, tree
from godwit.cli import options_deploy as flags
from godwit.cli.commands import deploy as deploy_command
from godwit.cli.launch import proposal, template
from godwit.cli.machines.flags import later
from godwit.cli.rollout import overrides
from godwit.cli.rollout.deploy import Request
from godwit.cli.taking import taking
from godwit.client.api import Api

app = tree.single()

NameOption = Annotated[str | None, typer.Option("--name", "-n", help="Name of the app.")]
GenerateNameOption = Annotated[
    bool, typer.Option("--generate-name", help="Make a name up instead of asking the directory.")
]
CommandOption = Annotated[
    str | None, typer.Option("--command", metavar="LINE", help="What the app runs.")
]
AsJsonOption = Annotated[bool, typer.Option("--json", help="Write fly.json, not fly.toml.")]
AsYamlOption = Annotated[bool, typer.Option("--yaml", help="Write fly.yaml, not fly.toml.")]
FromGitignoreOption = Annotated[
    bool,
    typer.Option(
        "--dockerignore-from-gitignore", help="Make .dockerignore of .gitignore, if it lacks."
    ),
]
PathOption = Annotated[str, typer.Option("--path", metavar="DIR", help="Directory of the app.")]
CopyConfigOption = Annotated[
    bool, typer.Option("--copy-config", help="Take over the config file that is there.")
]
InternalPortOption = Annotated[
    int | None,
    typer.Option("--internal-port", min=1, max=65_535, help="Port the app listens on."),
]
SecretOption = Annotated[
    list[str] | None,
    typer.Option("--secret", metavar="NAME=VALUE", help="A secret of the app; may be repeated."),
]
AutoStopOption = Annotated[
    str, typer.Option("--auto-stop", metavar="HOW", help="`off`, `stop` or `suspend`.")
]
NoDeployOption = Annotated[
    bool, typer.Option("--no-deploy", help="Create the app and the file, and stop.")
]
RegionOption = Annotated[
    str | None,
    typer.Option(
        "--region", "-r", "--primary-region", metavar="CODE", help="Region; else FLY_REGION."
    ),
]
FromOption = Annotated[
    str | None,
    typer.Option("--from", metavar="REPOSITORY", help="Clone this with git first."),
]
IntoOption = Annotated[
    str | None,
    typer.Option("--into", metavar="DIR", help="Where to clone to; empty or not there."),
]
ArgumentsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[-- ARG]...", help="For what writes Dockerfiles; not there yet: refused."
    ),
]
NowOption = Annotated[bool, typer.Option("--now", help="Deploy, without asking.")]

_COMMENT = "The app's configuration. `godwit config validate` tells what is wrong with it."


@dataclass(frozen=True)
class WishFlags:
    """What flags say of the app that is to be."""

    name: NameOption = None
    generate_name: GenerateNameOption = False
    org: options.OrgOption = None
    region: RegionOption = None
    image: options.ImageOption = None
    dockerfile: options.DockerfileOption = None
    internal_port: InternalPortOption = None
    command: CommandOption = None
    auto_stop: AutoStopOption = "off"
    env: options.EnvOption = None
    vm_size: options.VmSizeOption = None
    vm_cpus: options.VmCpusOption = None
    vm_cpu_kind: options.VmCpuKindOption = None
    vm_memory: options.VmMemoryOption = None

    def wishes(self) -> proposal.Wishes:
        """Return what is wished for.

        Raises:
            Failure: A flag means nothing.
        """
        if self.auto_stop not in ("off", "stop", "suspend"):
            raise errors.invalid(
                f'--auto-stop: expected off, stop or suspend, got "{self.auto_stop}"'
            )
        if self.name and self.generate_name:
            raise errors.invalid("--name and --generate-name: one of them")
        return proposal.Wishes(
            name=self.name,
            generate_name=self.generate_name,
            org=self.org,
            region=self.region,
            image=self.image,
            dockerfile=self.dockerfile,
            internal_port=self.internal_port,
            auto_stop=self.auto_stop,
            command=self.command,
            env=overrides.pairs(self.env, "--env"),
            size=overrides.Size(self.vm_size, self.vm_cpus, self.vm_cpu_kind, self.vm_memory),
        )


@dataclass(frozen=True)
class LaterFlags:
    """What other launches provide and this platform does not have yet."""

    db: Annotated[str | None, later("--db")] = None
    volume: Annotated[list[str] | None, later("--volume")] = None
    attach: Annotated[bool, typer.Option("--attach", help="Not there yet: refused.")] = False
    arguments: ArgumentsArgument = None

    def refuse(self) -> None:
        """Refuse those that were given, before anything is made.

        Raises:
            Failure: One was given.
        """
        for given, flag, sentence in (
            (self.db, "--db", "this platform makes no databases yet"),
            (self.volume, "--volume", "this platform has no volumes yet"),
            (self.attach, "--attach", "apps cannot be attached to others yet"),
            (
                self.arguments,
                " ".join(self.arguments or ()),
                "it is for what writes Dockerfiles, which is not there yet (a directory: --path)",
            ),
        ):
            if given:
                raise errors.invalid(f"{flag}: {sentence}")


class _End(enum.Enum):
    """How far a launch goes."""

    CREATED = enum.auto()
    BUILT = enum.auto()
    DEPLOYED = enum.auto()


@dataclass(frozen=True)
class EndFlags:
    """What flags say of how far a launch goes, and how it ends."""

    no_deploy: NoDeployOption = False
    build_only: flags.BuildOnlyOption = False
    detach: options.DetachOption = False
    wait_lock: flags.WaitLockOption = None
    now: NowOption = False

    def end(self) -> _End:
        """Return how far it goes.

        Raises:
            Failure: Flags contradict each other.
        """
        if self.build_only and self.no_deploy:
            raise errors.invalid("--build-only and --no-deploy: one of them")
        if self.build_only:
            return _End.BUILT
        return _End.CREATED if self.no_deploy and not self.now else _End.DEPLOYED


@app.command(
    epilog=tree.examples(
        "godwit launch",
        "godwit launch --name hello --region lcl --yes",
        "godwit launch --generate-name --ha=false --now",
        "godwit launch --image nginx --internal-port 80 --yes",
        "godwit launch --no-deploy --path ./service",
        "godwit launch --name hello --build-only --yes",
        "godwit launch --from https://git.example.org/team/shop.git --into shop",
    )
)
@taking
def launch(
    context: typer.Context,
    *,
    wish: WishFlags,
    path: PathOption = ".",
    from_: FromOption = None,
    into: IntoOption = None,
    config: options.ConfigOption = None,
    copy_config: CopyConfigOption = False,
    build: flags.BuildFlags,
    rollout: flags.RolloutFlags,
    scope: flags.LaunchScopeFlags,
    provision: flags.ProvisionFlags,
    given_files: flags.FileFlags,
    host_dedication_id: flags.HostDedicationOption = None,
    lacking: LaterFlags,
    dockerignore_from_gitignore: FromGitignoreOption = False,
    secret: SecretOption = None,
    as_json: AsJsonOption = False,
    as_yaml: AsYamlOption = False,
    ending: EndFlags,
    yes: options.YesOption = False,
) -> None:
    """Create an app from a directory and deploy it.

    Reads the Dockerfile, proposes a name, a region and a size, writes fly.toml and deploys.
    """
    here = session.of(context)
    if as_json and as_yaml:
        raise errors.invalid("--json and --yaml: one of them")
    lacking.refuse()
    end = ending.end()
    wishes = wish.wishes()
    directory = _directory(here, path, from_, into)
    existing = _existing(here, directory, config, take=copy_config or yes)
    source = build.source(directory, here.environ)
    wanted, lock = scope.added(rollout.wanted()), flags.seconds(ending.wait_lock, "--wait-lock")
    request = Request(source, wanted, ending.detach, lock, rollout.dns_checks, provision.flycast)
    if dockerignore_from_gitignore:
        _copy_ignores(here, directory)
    suffix = ".json" if as_json else ".yaml" if as_yaml else ".toml"
    launching = _Launching(
        directory,
        existing,
        wishes,
        request,
        end,
        suffix,
        provision,
        overrides.Overrides(
            files=given_files.sections(here.directory), host_dedication_id=host_dedication_id
        ),
        overrides.pairs(secret, "--secret"),
    )
    _run(here, launching, yes=yes or ending.now)


@dataclass(frozen=True)
class _Launching:
    """What is launched from where.

    Attributes:
        request: The build and the deploy at the end, as far as it goes.
        suffix: Of the config file to write.
        changes: For this deploy only; not written into the config file.
    """

    directory: Path
    existing: files.Loaded | None
    wishes: proposal.Wishes
    request: Request
    end: _End
    suffix: str
    provision: flags.ProvisionFlags
    changes: overrides.Overrides
    secrets: dict[str, str] = field(default_factory=dict, repr=False)


def _directory(here: session.Session, path: str, from_: str | None, into: str | None) -> Path:
    """Return the directory of the app, cloned if that is asked for.

    Raises:
        Failure: There is none.
    """
    if from_ is not None:
        return template.clone(here, from_, here.directory / (into or path))
    if into is not None:
        raise errors.invalid("--into: goes with --from")
    return deploy_command.directory_of(here, path)


def _run(here: session.Session, what: _Launching, *, yes: bool) -> None:
    """Propose, ask, create, write, and deploy if there is a request for that."""

    async def work(api: Api) -> None:
        plan = await proposal.make(here, api, what.directory, what.existing, what.wishes)
        loaded = _checked(what, plan)
        what.provision.told(here, loaded.checked())
        _show(here, plan)
        here.confirm("Create it?", yes=yes)
        await api.apps.create(plan.name, plan.org)
        here.out.say(f"Created the app {plan.name} in {plan.org}")
        written = _write(here, loaded, plan)
        if what.secrets:
            values = {key: value.encode() for key, value in what.secrets.items()}
            await api.secrets.change(plan.name, values)
        if what.end is _End.CREATED:
            here.out.data(plan.name)
            here.out.hint(f"deploy it with `godwit deploy{_shown(here, what.directory)}`")
            return
        loaded = overrides.apply(files.load(written), what.changes)
        if what.end is _End.BUILT:
            await deploy_command.build_image(here, api, loaded, plan.name, what.request.source)
            return
        await deploy_command.perform(here, api, loaded, plan.name, what.request)

    connect.call(here, work)


def _copy_ignores(here: session.Session, directory: Path) -> None:
    source, target = directory / ".gitignore", directory / ".dockerignore"
    if source.is_file() and not target.exists():
        target.write_bytes(source.read_bytes())
        here.out.say(f"Wrote {target}")


def _existing(
    here: session.Session, directory: Path, config: str | None, *, take: bool
) -> files.Loaded | None:
    """Return the config file to take over; only one that has no mistakes."""
    found = files.find(directory, config)
    if found is None:
        return None
    if not take and config is None:
        here.confirm(f"Take over the {found.name} that is here?", yes=False, flag="--copy-config")
    loaded = files.load(found)
    loaded.checked()
    return loaded


def _checked(what: _Launching, plan: proposal.Proposal) -> files.Loaded:
    """Return the config as it will be, or fail before anything was created."""
    fresh = what.directory / f"fly{what.suffix}"
    keeps = what.existing is not None and what.existing.path.suffix == what.suffix
    target = what.existing.path if keeps and what.existing else fresh
    loaded = files.understand(target, plan.document)
    loaded.checked()
    return loaded


def _show(here: session.Session, plan: proposal.Proposal) -> None:
    summary = plan.summary()
    width = max(map(len, summary))
    for name, value in summary.items():
        here.out.say(f"{name.ljust(width)}  {value}")
    for volume in plan.volumes:
        here.out.warn(
            f"the Dockerfile has VOLUME {volume}: what is written there is lost when a machine "
            "stops, until volumes are there"
        )


def _write(here: session.Session, loaded: files.Loaded, plan: proposal.Proposal) -> Path:
    """Write the config file, new or with the few changed values in it; return where it is."""
    path = loaded.path
    there = path.is_file()
    if path.suffix != ".toml":
        text = writing.as_format(plan.document, path.suffix)
    elif plan.existing is not None and there:
        text = writing.rewritten(path.read_text(encoding="utf-8"), plan.document)
    else:
        text = writing.new(plan.document, comment=_COMMENT)
    path.write_text(text, encoding="utf-8")
    here.out.say(f"{'Updated' if there else 'Wrote'} {path}")
    return path


def _shown(here: session.Session, directory: Path) -> str:
    if directory.resolve() == here.directory.resolve():
        return ""
    return f" {directory}"
