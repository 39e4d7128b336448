"""Options that many commands have, each declared once."""

from typing import Annotated

import typer

AppOption = Annotated[
    str | None,
    typer.Option("--app", "-a", metavar="NAME", help="App; else FLY_APP, else the config file."),
]
ConfigOption = Annotated[
    str | None,
    typer.Option("--config", "-c", metavar="PATH", help="Config file, or a directory with one."),
]
OrgOption = Annotated[
    str | None, typer.Option("--org", "-o", metavar="SLUG", help="Organization; else FLY_ORG.")
]
RegionOption = Annotated[
    str | None,
    typer.Option("--region", "-r", metavar="CODE", help="Region; else FLY_REGION."),
]
JsonOption = Annotated[bool, typer.Option("--json", "-j", help="Print JSON.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Say yes to every question.")]
EnvOption = Annotated[
    list[str] | None,
    typer.Option(
        "--env", "-e", metavar="NAME=VALUE", help="Environment variable; may be repeated."
    ),
]
VmSizeOption = Annotated[
    str | None,
    typer.Option("--vm-size", metavar="SIZE", help="Preset: see `godwit platform vm-sizes`."),
]
VmCpusOption = Annotated[int | None, typer.Option("--vm-cpus", metavar="N", help="Virtual CPUs.")]
VmCpuKindOption = Annotated[
    str | None,
    typer.Option("--vm-cpu-kind", metavar="KIND", help="`shared` or `performance`."),
]
VmMemoryOption = Annotated[
    str | None,
    typer.Option("--vm-memory", metavar="SIZE", help="Memory: MB, or with a unit such as 1gb."),
]
MachineArgument = Annotated[
    str, typer.Argument(metavar="MACHINE", help="A machine's id or name.", show_default=False)
]
ContainerOption = Annotated[
    str | None,
    typer.Option(
        "--container", metavar="NAME", help="One of a machine's containers, not its main one."
    ),
]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Build from this host's own base images only.")
]
ForceHostBuildOption = Annotated[
    bool,
    typer.Option(
        "--force-host-build",
        help="Build on the host although it serves several organizations.",
    ),
]
DetachOption = Annotated[
    bool, typer.Option("--detach", "-d", help="Return before the machines are well.")
]
ImageOption = Annotated[
    str | None,
    typer.Option("--image", "-i", metavar="REF", help="Deploy this image, build nothing."),
]
DockerfileOption = Annotated[
    str | None, typer.Option("--dockerfile", metavar="PATH", help="Build from this file.")
]
