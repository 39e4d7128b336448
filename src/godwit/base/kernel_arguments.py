"""Which arguments a machine's config may add to its kernel's command line. Pure.

What the platform says there stands: how the guest is reached, booted and ended. The command line
of x86 has 2048 bytes (`COMMAND_LINE_SIZE`), of which the platform's own take a few hundred.
"""

import re
from collections.abc import Iterable, Sequence

MOST_BYTES = 1024
"""Of all of them together, with the spaces between them."""
_WORD = re.compile(r"[!#-~]+")
"""Printable ASCII but the double quote, which would reach into what comes behind it."""
_OURS = frozenset(
    {
        *("--", "console", "earlycon", "earlyprintk", "init", "rdinit", "initrd", "noinitrd"),
        *("root", "rootfstype", "rootflags", "rootwait", "rootdelay", "ro", "rw"),
        *("panic", "reboot", "tsc", "tsc_early_khz", "no-kvmclock", "acpi", "pci", "noapic"),
        *("mem", "memmap", "maxcpus", "nr_cpus", "nosmp", "BOOT_IMAGE", "dyndbg"),
        *("crashkernel", "resume", "noresume", "hibernate", "lockdown", "module_blacklist"),
    }
)
"""What a guest depends on, by the name before `=`; `-` and `_` are the same to the kernel."""
_OUR_MODULES = ("godwit", "virtio", "i8042", "module")


def mistake(arguments: Sequence[str]) -> str | None:
    """Return what is wrong with arguments, in a sentence; `None` when nothing is."""
    for argument in arguments:
        if not _WORD.fullmatch(argument):
            return (
                f"{argument!r} is not one argument: printable ASCII without spaces and double"
                " quotes"
            )
        if _is_ours(argument):
            return f"{argument!r} is the platform's to say"
    size = len(" ".join(arguments))
    if size > MOST_BYTES:
        return f"have {size} bytes, at most {MOST_BYTES} are taken"
    return None


def usable(arguments: Iterable[str]) -> tuple[str, ...]:
    """Return those that may be added, as many as there is room for."""
    found: tuple[str, ...] = ()
    for argument in arguments:
        more = (*found, argument)
        if mistake(more) is None:
            found = more
    return found


def _is_ours(argument: str) -> bool:
    name = argument.partition("=")[0]
    spelled = name.replace("_", "-")
    module = spelled.partition(".")[0]
    return spelled in _SPELLED or ("." in spelled and module.startswith(_OUR_MODULES))


_SPELLED = frozenset(name.replace("_", "-") for name in _OURS)
