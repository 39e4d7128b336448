"""`godwit`: puts the command line together and runs it.

Commands of this host (`up`, `down`, …) come from rooms the CLI itself may not import; their
entries are added in `HOST_ENTRIES`.
"""

import sys

from godwit.cli import program, registry, session

_COMMANDS = "godwit.cli.commands"
HOST_ENTRIES: tuple[registry.Entry, ...] = (
    registry.Entry("up", f"{_COMMANDS}.up", "Start Godwit on this machine.", registry.HOST),
    registry.Entry(
        "upgrade",
        f"{_COMMANDS}.upgrade",
        "Replace the running release of Godwit on this machine by this one.",
        registry.HOST,
    ),
    registry.Entry(
        "down",
        f"{_COMMANDS}.down",
        "Stop Godwit on this machine and leave nothing running.",
        registry.HOST,
    ),
    registry.Entry(
        "host", f"{_COMMANDS}.host", "Have servers join, and look after them.", registry.HOST
    ),
    registry.Entry(
        "doctor", f"{_COMMANDS}.doctor", "Tell what this host can and cannot do.", registry.HOST
    ),
    registry.Entry(
        "control",
        f"{_COMMANDS}.control",
        "Look after the control plane of this machine.",
        registry.HOST,
    ),
    registry.Entry(
        "images",
        f"{_COMMANDS}.images",
        "Base images for builds, and images at rest on hosts.",
        registry.HOST,
    ),
)


def main() -> int:
    """Run the program with this process's arguments; return its exit code."""
    return program.run(sys.argv[1:], session.of_process(), (*registry.ENTRIES, *HOST_ENTRIES))


if __name__ == "__main__":
    sys.exit(main())
