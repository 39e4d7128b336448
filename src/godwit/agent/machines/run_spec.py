"""Turns a machine's config and its image's config into what init is told. Pure.

Sources: spec/machines.md §5.1 (environment, precedence), §5.3 (names), §5.4 (argv).
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from godwit.agent.machines import config as settings
from godwit.agent.machines import records
from godwit.base import errors
from godwit.images.config import ImageConfig
from godwit.wire import guest

_DEFAULT_MODE = 0o644


def argv(config: Mapping[str, Any], image: ImageConfig) -> tuple[str, ...]:
    """Return the command: init.exec, else entrypoint and cmd, each overridable by itself.

    Raises:
        Failure: `invalid_argument` when there is nothing to run.
    """
    init = settings.mapping(config.get("init"))
    override = settings.strings(init.get("exec"))
    if override:
        return override
    entrypoint = settings.strings(init.get("entrypoint")) or image.entrypoint
    command = settings.strings(init.get("cmd")) or image.cmd
    if not entrypoint and not command:
        raise errors.invalid(
            "image has neither ENTRYPOINT nor CMD; set one or init.exec",
            hint="add CMD to the Dockerfile, or give a command",
        )
    return (*entrypoint, *command)


def environment(machine: records.Machine, image: ImageConfig, private_ip: str) -> dict[str, str]:
    """Return the environment: image, then config.env, then what the platform says."""
    found: dict[str, str] = {}
    for entry in image.env:
        name, _, value = entry.partition("=")
        if name:
            found[name] = value
    given = settings.mapping(machine.config.get("env"))
    found.update({str(name): str(value) for name, value in given.items() if value is not None})
    found.update(
        {
            "FLY_APP_NAME": machine.app,
            "FLY_MACHINE_ID": machine.machine_id,
            "FLY_ALLOC_ID": machine.machine_id,
            "FLY_MACHINE_VERSION": machine.instance_id,
            "FLY_REGION": machine.region,
            "FLY_PRIVATE_IP": private_ip,
            "FLY_IMAGE_REF": machine.image.reference,
            "FLY_PROCESS_GROUP": settings.process_group(machine.config),
            "FLY_VM_MEMORY_MB": str(machine.resources.memory_mb),
        }
    )
    return found


def hostname(machine: records.Machine) -> str:
    """Return the guest's host name: its id, unless dns.hostname says otherwise."""
    dns = settings.mapping(machine.config.get("dns"))
    return str(dns.get("hostname") or "") or machine.machine_id


def hosts(
    machine: records.Machine, private_ip: str, local_ipv4: str
) -> tuple[guest.HostsEntry, ...]:
    """Return /etc/hosts."""
    dns = settings.mapping(machine.config.get("dns"))
    names = dict.fromkeys(
        name
        for name in (
            str(dns.get("hostname_fqdn") or ""),
            hostname(machine),
            machine.machine_id,
            "fly-local-6pn",
        )
        if name
    )
    return (
        guest.HostsEntry(address="127.0.0.1", names=("localhost", "localhost.localdomain")),
        guest.HostsEntry(address="::1", names=("localhost", "ip6-localhost", "ip6-loopback")),
        guest.HostsEntry(address="ff02::1", names=("ip6-allnodes",)),
        guest.HostsEntry(address="ff02::2", names=("ip6-allrouters",)),
        guest.HostsEntry(address=private_ip, names=tuple(names)),
        guest.HostsEntry(address=local_ipv4, names=("fly-global-services",)),
    )


def resolver(config: Mapping[str, Any]) -> guest.Resolver:
    """Return /etc/resolv.conf."""
    dns = settings.mapping(config.get("dns"))
    options = []
    for option in settings.items(dns.get("options")):
        name, value = str(option.get("name") or ""), str(option.get("value") or "")
        if name:
            options.append(f"{name}:{value}" if value else name)
    return guest.Resolver(
        nameservers=settings.strings(dns.get("nameservers")) or guest.Resolver().nameservers,
        searches=settings.strings(dns.get("searches")),
        options=tuple(options),
    )


def files(config: Mapping[str, Any]) -> tuple[guest.File, ...]:
    """Return the files put into the root before the process starts.

    Raises:
        Failure: `invalid_argument` for a file without an absolute path or a value.
    """
    found = []
    for index, entry in enumerate(settings.items(config.get("files"))):
        path = str(entry.get("guest_path") or "")
        value = entry.get("raw_value")
        if not path.startswith("/"):
            raise errors.invalid(f"files[{index}]: guest_path must be absolute, not {path!r}")
        if not isinstance(value, str):
            raise errors.invalid(
                f"files[{index}] ({path}): only raw_value is available on this host"
            )
        found.append(
            guest.File(
                path=path,
                content_base64=_as_base64(value),
                mode=settings.number(entry.get("mode"), _DEFAULT_MODE),
            )
        )
    return tuple(found)


def build(
    machine: records.Machine,
    image: ImageConfig,
    network: guest.Network,
    *,
    private_ip: str,
    local_ipv4: str,
    entropy: bytes,
) -> guest.RunSpec:
    """Return what init is told at this boot.

    Raises:
        Failure: `invalid_argument` when the config and the image give nothing to run.
    """
    init = settings.mapping(machine.config.get("init"))
    return guest.RunSpec(
        machine_id=machine.machine_id,
        hostname=hostname(machine),
        entropy_base64=base64.b64encode(entropy).decode(),
        network=network,
        resolver=resolver(machine.config),
        hosts=hosts(machine, private_ip, local_ipv4),
        files=files(machine.config),
        process=guest.Process(
            argv=argv(machine.config, image),
            env=environment(machine, image, private_ip),
            working_directory=image.working_directory or "/",
            user=image.user,
            tty=init.get("tty") is True,
        ),
    )


def _as_base64(value: str) -> str:
    """Return the value, which is base64 as documented; encoded first when it is not."""
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return base64.b64encode(value.encode()).decode()
    return value
