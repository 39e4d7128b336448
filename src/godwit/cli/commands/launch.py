"""`godwit launch`."""

from pathlib import Path
from typing import Annotated

import typer

from godwit.appconfig import files, writing
from godwit.base import errors
from godwit.cli import connect, options, session, tree
from godwit.cli.commands import deploy as deploy_command
from godwit.cli.launch import proposal
from godwit.cli.rollout import overrides
from godwit.cli.rollout.deploy import Request
from godwit.cli.rollout.source import Source
from godwit.client.api import Api

app = tree.single()

NameOption = Annotated[str | None, typer.Option("--name", "-n", help="Name of the app.")]
PathOption = Annotated[str, typer.Option("--path", metavar="DIR", help="Directory of the app.")]
CopyConfigOption = Annotated[
    bool, typer.Option("--copy-config", help="Take over the config file that is there.")
]
InternalPortOption = Annotated[
    int | None,
    typer.Option("--internal-port", min=1, max=65_535, help="Port the app listens on."),
]
AutoStopOption = Annotated[
    str, typer.Option("--auto-stop", metavar="HOW", help="`off`, `stop` or `suspend`.")
]
NoDeployOption = Annotated[
    bool, typer.Option("--no-deploy", help="Create the app and the file, and stop.")
]
NowOption = Annotated[bool, typer.Option("--now", help="Deploy, without asking.")]

_COMMENT = "The app's configuration. `godwit config validate` tells what is wrong with it."


@app.command(
    epilog=tree.examples(
        "godwit launch",
        "godwit launch --name hello --region lcl --yes",
        "godwit launch --image nginx --internal-port 80 --yes",
        "godwit launch --no-deploy --path ./service",
    )
)
def launch(
    context: typer.Context,
    *,
    name: NameOption = None,
    org: options.OrgOption = None,
    region: options.RegionOption = None,
    path: PathOption = ".",
    config: options.ConfigOption = None,
    copy_config: CopyConfigOption = False,
    image: options.ImageOption = None,
    dockerfile: options.DockerfileOption = None,
    internal_port: InternalPortOption = None,
    auto_stop: AutoStopOption = "off",
    env: options.EnvOption = None,
    vm_size: options.VmSizeOption = None,
    vm_cpus: options.VmCpusOption = None,
    vm_cpu_kind: options.VmCpuKindOption = None,
    vm_memory: options.VmMemoryOption = None,
    offline: options.OfflineOption = False,
    force_host_build: options.ForceHostBuildOption = False,
    detach: options.DetachOption = False,
    no_deploy: NoDeployOption = False,
    now: NowOption = False,
    yes: options.YesOption = False,
) -> None:
    """Create an app from a directory and deploy it.

    Reads the Dockerfile, proposes a name, a region and a size, writes fly.toml and deploys.
    """
    here = session.of(context)
    if auto_stop not in ("off", "stop", "suspend"):
        raise errors.invalid(f'--auto-stop: expected off, stop or suspend, got "{auto_stop}"')
    wishes = proposal.Wishes(
        name=name,
        org=org,
        region=region,
        image=image,
        dockerfile=dockerfile,
        internal_port=internal_port,
        auto_stop=auto_stop,
        env=overrides.pairs(env, "--env"),
        size=overrides.Size(vm_size, vm_cpus, vm_cpu_kind, vm_memory),
    )
    directory = _directory(here, path)
    existing = _existing(here, directory, config, take=copy_config or yes)
    source = Source(directory, offline=offline, force=force_host_build)
    request = None if no_deploy and not now else Request(source, detach=detach)
    _run(here, directory, existing, wishes, request, yes=yes or now)


def _run(
    here: session.Session,
    directory: Path,
    existing: files.Loaded | None,
    wishes: proposal.Wishes,
    request: Request | None,
    *,
    yes: bool,
) -> None:
    """Propose, ask, create, write, and deploy if there is a request for that."""

    async def work(api: Api) -> None:
        plan = await proposal.make(here, api, directory, existing, wishes)
        loaded = _checked(directory, existing, plan)
        _show(here, plan)
        here.confirm("Create it?", yes=yes)
        await api.apps.create(plan.name, plan.org)
        here.out.say(f"Created the app {plan.name} in {plan.org}")
        written = _write(here, loaded, plan)
        if request is None:
            here.out.data(plan.name)
            here.out.hint(f"deploy it with `godwit deploy{_shown(here, directory)}`")
            return
        await deploy_command.perform(here, api, files.load(written), plan.name, request)

    connect.call(here, work)


def _directory(here: session.Session, path: str) -> Path:
    directory = here.directory / path
    if not directory.is_dir():
        raise errors.not_found(f"there is no directory {directory}")
    return directory


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


def _checked(
    directory: Path, existing: files.Loaded | None, plan: proposal.Proposal
) -> files.Loaded:
    """Return the config as it will be, or fail before anything was created."""
    target = existing.path if existing else directory / files.NAMES[0]
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
    """Write fly.toml, new or with the few changed values in it; return where it is."""
    path = loaded.path
    if plan.existing is None or path.suffix != ".toml":
        if plan.existing is not None:
            path = path.with_name(files.NAMES[0])
        path.write_text(writing.new(plan.document, comment=_COMMENT), encoding="utf-8")
        here.out.say(f"Wrote {path}")
        return path
    before = plan.existing.document
    changes = {
        key: value
        for key, value in plan.document.items()
        if before.get(key) != value and not isinstance(value, dict | list)
    }
    for section in ("build", "env", "http_service"):
        changes.update(
            {
                f"{section}.{key}": value
                for key, value in plan.document.get(section, {}).items()
                if before.get(section, {}).get(key) != value
            }
        )
    text = path.read_text(encoding="utf-8")
    path.write_text(writing.changed(text, changes), encoding="utf-8")
    here.out.say(f"Updated {path}")
    return path


def _shown(here: session.Session, directory: Path) -> str:
    if directory.resolve() == here.directory.resolve():
        return ""
    return f" {directory}"
