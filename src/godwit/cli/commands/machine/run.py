"""`godwit machine run`: one machine of its own, outside deploys."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from godwit.appconfig import guests, sizes
from godwit.base import errors
from godwit.cli import connect, options, ports, session
from godwit.cli.rollout import overrides, progress, watch
from godwit.client.api import Api
from godwit.client.records import Machine

CommandArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[COMMAND]...", help="Instead of the image's own."),
]
NameOption = Annotated[str | None, typer.Option("--name", "-n", help="Name of the machine.")]
PortOption = Annotated[
    list[str] | None,
    typer.Option(
        "--port", "-p", metavar="PORT", help="EXTERNAL[:INTERNAL][/PROTOCOL[:HANDLER...]]."
    ),
]
MetadataOption = Annotated[
    list[str] | None,
    typer.Option("--metadata", "-m", metavar="NAME=VALUE", help="May be repeated."),
]
RestartOption = Annotated[
    str | None, typer.Option("--restart", metavar="WHEN", help="no, always or on-fail.")
]
RmOption = Annotated[bool, typer.Option("--rm", help="Destroy it when it exits.")]
EntrypointOption = Annotated[
    str | None, typer.Option("--entrypoint", help="Instead of the image's own.")
]
AutostopOption = Annotated[
    str | None, typer.Option("--autostop", metavar="HOW", help="off, stop or suspend.")
]
AutostartOption = Annotated[
    bool | None, typer.Option("--autostart/--no-autostart", help="Started by requests.")
]
SkipDnsOption = Annotated[
    bool, typer.Option("--skip-dns-registration", help="Leave it out of the app's names.")
]

_POLICIES = {"no": "no", "always": "always", "on-fail": "on-failure", "on-failure": "on-failure"}
_WAIT_S = 300.0


def run(
    context: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="What to run.")],
    command: CommandArgument = None,
    *,
    app: options.AppOption = None,
    config: options.ConfigOption = None,
    name: NameOption = None,
    region: options.RegionOption = None,
    env: options.EnvOption = None,
    port: PortOption = None,
    metadata: MetadataOption = None,
    restart: RestartOption = None,
    rm: RmOption = False,
    entrypoint: EntrypointOption = None,
    autostop: AutostopOption = None,
    autostart: AutostartOption = None,
    skip_dns_registration: SkipDnsOption = False,
    vm_size: options.VmSizeOption = None,
    vm_cpus: options.VmCpusOption = None,
    vm_cpu_kind: options.VmCpuKindOption = None,
    vm_memory: options.VmMemoryOption = None,
    detach: options.DetachOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Create a machine from an image and start it; print its id."""
    here = session.of(context)
    made: dict[str, Any] = {
        "image": image,
        "env": overrides.pairs(env, "--env"),
        "init": _init(command, entrypoint),
        "guest": _guest(overrides.Size(vm_size, vm_cpus, vm_cpu_kind, vm_memory)),
        "services": ports.services(port, autostop=autostop, autostart=autostart),
        "metadata": overrides.pairs(metadata, "--metadata"),
        "restart": {"policy": _policy(restart, rm=rm)},
        "dns": {"skip_registration": True} if skip_dns_registration else None,
        "auto_destroy": rm or None,
    }
    wish = _Wish(
        app=connect.app_name(here, app, config),
        config={key: value for key, value in made.items() if value},
        name=name,
        region=region or here.environ.get("FLY_REGION"),
        wait=not (detach or rm),
    )
    machine = connect.call(here, lambda api: _run(here, api, wish))
    if as_json or here.wants_json:
        here.out.json(machine.model_dump(mode="json"))
        return
    here.out.data(machine.id)
    if machine.private_ip:
        here.out.say(f"{machine.name or machine.id} has the address {machine.private_ip}")


@dataclass(frozen=True)
class _Wish:
    app: str
    config: dict[str, Any]
    name: str | None
    region: str | None
    wait: bool


async def _run(here: session.Session, api: Api, wish: _Wish) -> Machine:
    await api.apps.get(wish.app)
    with progress.of(here.out) as shown:
        shown.step(f"Run {wish.config['image']} in {wish.app}")
        machine = await api.machines.create(
            wish.app, wish.config, name=wish.name, region=wish.region
        )
        shown.state(f"{machine.id} is {machine.state}")
        if not wish.wait:
            return machine
        watching = watch.Watch(api, wish.app, here.clock, timeout_s=_WAIT_S, smoke=False)
        return await watching.until_well(machine, lambda text: shown.state(f"{machine.id} {text}"))


def _init(command: list[str] | None, entrypoint: str | None) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if command:
        made["cmd"] = command
    if entrypoint:
        made["entrypoint"] = [entrypoint]
    return made


def _policy(named: str | None, *, rm: bool) -> str:
    if named is None:
        return "no" if rm else "always"
    if named not in _POLICIES:
        raise errors.invalid(f'--restart: expected no, always or on-fail, got "{named}"')
    return _POLICIES[named]


def _guest(size: overrides.Size) -> dict[str, Any]:
    given = size.given()
    kind = given.get("cpu_kind")
    if kind not in (None, "shared", "performance"):
        raise errors.invalid(f'--vm-cpu-kind: expected shared or performance, got "{kind}"')
    try:
        memory = sizes.memory_mb(_number(size.memory)) if size.memory else None
        return guests.resolve(
            size=size.size, cpu_kind=kind, cpus=size.cpus, memory_mb=memory
        ).model_dump()
    except ValueError as error:
        raise errors.invalid(str(error)) from error


def _number(text: str) -> str | int:
    return int(text) if text.isdecimal() else text
