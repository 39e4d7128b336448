"""Every command of the program: its name, the module that has it, one line of what it is for.

A module is imported when its command is asked for, so that start-up stays short. It has an
`app: typer.Typer`; with one function in it that is the command itself, with several a group.
Modules of other rooms join by giving `program.run` more entries (see `godwit.cmd.cli`).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One command at the top.

    Attributes:
        name: What the user types.
        module: Full name of the module.
        summary: One line for `godwit --help`; the same the command's own help begins with.
        section: Under which heading it is listed.
        aliases: Other names for it.
    """

    name: str
    module: str
    summary: str
    section: str
    aliases: tuple[str, ...] = ()


_HERE = "godwit.cli.commands"
SHIP = "Ship an app"
LOOK = "Look after it"
MANAGE = "Apps, machines, organizations"
OTHER = "This program"
HOST = "This host"

ENTRIES: tuple[Entry, ...] = (
    Entry("launch", f"{_HERE}.launch", "Create an app from a directory and deploy it.", SHIP),
    Entry(
        "deploy",
        f"{_HERE}.deploy",
        "Build an app and replace its machines by those of a new release.",
        SHIP,
    ),
    Entry("rollback", f"{_HERE}.rollback", "Deploy an earlier release again.", SHIP),
    Entry("open", f"{_HERE}.open_", "Open an app in the browser.", SHIP),
    Entry("status", f"{_HERE}.status", "Show an app and its machines.", LOOK),
    Entry("logs", f"{_HERE}.logs", "Show what an app's machines print.", LOOK),
    Entry("checks", f"{_HERE}.checks", "List the health checks of an app's machines.", LOOK),
    Entry("releases", f"{_HERE}.releases", "List an app's releases, and show one.", LOOK),
    Entry(
        "console",
        f"{_HERE}.console",
        "Open a console in a new machine of an app's last release; it is destroyed at the end.",
        LOOK,
    ),
    Entry("secrets", f"{_HERE}.secrets", "Set and list an app's secrets.", SHIP, ("secret",)),
    Entry("config", f"{_HERE}.config", "Show, save and check the app's configuration.", LOOK),
    Entry(
        "scale",
        f"{_HERE}.scale",
        "Change how many machines an app has, and how large they are.",
        MANAGE,
    ),
    Entry(
        "apps", f"{_HERE}.apps", "Create, list, restart, open and destroy apps.", MANAGE, ("app",)
    ),
    Entry(
        "machine",
        f"{_HERE}.machine",
        "Run and manage single machines.",
        MANAGE,
        ("machines", "m"),
    ),
    Entry(
        "services",
        f"{_HERE}.services",
        "Show what an app answers to from outside.",
        MANAGE,
        ("service",),
    ),
    Entry(
        "image",
        f"{_HERE}.image",
        "Show the images of an app's machines, and deploy newer ones.",
        MANAGE,
        ("img",),
    ),
    Entry(
        "ips",
        f"{_HERE}.ips",
        "Allocate, list and release the addresses of an app.",
        MANAGE,
        ("ip",),
    ),
    Entry(
        "orgs",
        f"{_HERE}.orgs",
        "Create, list, show and delete organizations.",
        MANAGE,
        ("org",),
    ),
    Entry(
        "registries",
        f"{_HERE}.registries",
        "Log in to private registries of others.",
        MANAGE,
        ("registry",),
    ),
    Entry("tokens", f"{_HERE}.tokens", "Create, list and revoke API tokens.", MANAGE, ("token",)),
    Entry("platform", f"{_HERE}.platform", "Show regions and machine sizes.", OTHER),
    Entry("auth", f"{_HERE}.auth", "Log in to a platform, and show who you are to it.", OTHER),
    Entry(
        "completion",
        f"{_HERE}.completion",
        "Print what makes a shell complete commands and options.",
        OTHER,
    ),
    Entry("version", f"{_HERE}.version", "Show this program's version.", OTHER),
)
