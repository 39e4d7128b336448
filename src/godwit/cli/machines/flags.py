"""The flags that say what a machine is, declared once for every command that takes them.

`taking` turns a command with a parameter `flags: Flags` into one that has each of them as an
option, so that `run`, `create` and `update` understand the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from godwit.base import errors
from godwit.cli import options
from godwit.cli import taking as with_options
from godwit.cli.rollout.overrides import Size


def later(name: str, *more: str) -> Any:
    """Return an option for what is not there yet, to be refused in words."""
    return typer.Option(name, *more, metavar="…", help="Not there yet: refused.")


@dataclass(frozen=True)
class Flags:
    """What flags say a machine is; `None` and `False` for what they do not say."""

    port: Annotated[
        list[str] | None,
        typer.Option(
            "--port", "-p", metavar="PORT", help="EXTERNAL[:INTERNAL][/PROTOCOL[:HANDLER...]]."
        ),
    ] = None
    env: options.EnvOption = None
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", "-m", metavar="NAME=VALUE", help="May be repeated."),
    ] = None
    command_line: Annotated[
        str | None,
        typer.Option("--command", metavar="LINE", help="What runs; split into words."),
    ] = None
    entrypoint: Annotated[
        str | None,
        typer.Option("--entrypoint", metavar="LINE", help="Instead of the image's own."),
    ] = None
    restart: Annotated[
        str | None, typer.Option("--restart", metavar="WHEN", help="no, always or on-fail.")
    ] = None
    schedule: Annotated[
        str | None,
        typer.Option("--schedule", metavar="WHEN", help="hourly, daily, weekly or monthly."),
    ] = None
    autostop: Annotated[
        str | None, typer.Option("--autostop", metavar="HOW", help="off, stop or suspend.")
    ] = None
    autostart: Annotated[
        bool | None, typer.Option("--autostart/--no-autostart", help="Started by requests.")
    ] = None
    skip_dns_registration: Annotated[
        bool, typer.Option("--skip-dns-registration", help="Leave it out of the app's names.")
    ] = False
    standby_for: Annotated[
        list[str] | None,
        typer.Option(
            "--standby-for",
            metavar="ID",
            help="Rest until this machine's host is gone; repeatable.",
        ),
    ] = None
    machine_config: Annotated[
        str | None,
        typer.Option(
            "--machine-config",
            metavar="FILE|JSON",
            help="Config as the API takes it; the flags are laid over it.",
        ),
    ] = None
    rootfs_size: Annotated[
        int | None,
        typer.Option("--rootfs-size", metavar="GB", help="Of the writable disk over the image."),
    ] = None
    rootfs_persist: Annotated[
        str | None,
        typer.Option(
            "--rootfs-persist",
            metavar="HOW",
            help="What is written to the root lasts: never, restart or always.",
        ),
    ] = None
    swap_size: Annotated[
        str | None,
        typer.Option(
            "--swap-size", metavar="SIZE", help="Of its swap: MB, or with a unit such as 1gb."
        ),
    ] = None
    kernel_arg: Annotated[
        list[str] | None,
        typer.Option("--kernel-arg", metavar="ARG", help="Of its kernel; may be repeated."),
    ] = None
    vm_size: options.VmSizeOption = None
    vm_cpus: options.VmCpusOption = None
    vm_cpu_kind: options.VmCpuKindOption = None
    vm_memory: options.VmMemoryOption = None
    volume: Annotated[list[str] | None, later("--volume", "-v")] = None
    mount_point: Annotated[str | None, later("--mount-point")] = None
    cachedrive_size: Annotated[
        str | None,
        typer.Option(
            "--cachedrive-size",
            metavar="SIZE",
            help="Of its cache drive, empty at each start: MB, or with a unit such as 1gb.",
        ),
    ] = None
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="NAME", help="Whose shell `run --shell` opens.  [root]"),
    ] = None

    @property
    def size(self) -> Size:
        """The `--vm-…` flags."""
        return Size(self.vm_size, self.vm_cpus, self.vm_cpu_kind, self.vm_memory)

    @property
    def opens_shell(self) -> bool:
        """Whether somebody goes into the machine at once."""
        return False

    def refuse_what_is_not_there(self) -> None:
        """Refuse flags for parts of the platform that do not exist yet.

        Raises:
            Failure: One was given.
        """
        for given, flag, sentence in (
            (self.volume, "--volume", "this platform has no volumes yet"),
            (self.mount_point, "--mount-point", "this platform has no volumes yet"),
            (
                self.user and not self.opens_shell,
                "--user",
                "goes with `godwit machine run --shell`; else the image says who",
            ),
        ):
            if given:
                raise errors.invalid(f"{flag}: {sentence}")


def taking(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that has every flag as an option in place of its parameter `flags`."""
    return with_options.taking(command, seen=lambda flags: flags.refuse_what_is_not_there())
