"""Turns a machine's config and its image's config into what init is told. Pure.

Sources: spec/machines.md §5.1 (environment, precedence), §5.3 (names), §5.4 (argv).
"""

import base64
import binascii
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from godwit.agent.machines import config as settings
from godwit.agent.machines import records, statics, web_identity
from godwit.base import encoded, errors
from godwit.images.config import ImageConfig
from godwit.wire import guest

_DEFAULT_MODE = 0o644
_UDP_NAME = "fly-global-services"
"""Where apps take datagrams: of clients that speak IPv4, and of those that speak IPv6."""
_NONE: Mapping[str, bytes] = MappingProxyType({})
_NO_MORE: Mapping[str, str] = MappingProxyType({})


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


def environment(
    machine: records.Machine,
    image: ImageConfig,
    private_ip: str,
    *,
    public_ip: str = "",
    secrets: Mapping[str, bytes] = _NONE,
    more: Mapping[str, str] = _NO_MORE,
) -> dict[str, str]:
    """Return the environment: image, config.env, secrets, one process's own, the platform's.

    Bytes that are not UTF-8 are surrogates (PEP 383); `guest.split_environment` takes them apart.

    Args:
        machine: The machine.
        image: What its image says.
        private_ip: Its 6PN address.
        public_ip: Under which it is seen outside; empty without a way out.
        secrets: Of its app, in the clear.
        more: Variables of one of several processes.
    """
    found: dict[str, str] = {}
    for entry in image.env:
        name, _, value = entry.partition("=")
        if name:
            found[name] = value
    given = settings.mapping(machine.config.get("env"))
    found.update({str(name): str(value) for name, value in given.items() if value is not None})
    found.update({name: value.decode(errors="surrogateescape") for name, value in secrets.items()})
    found.update(more)
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
    if public_ip:
        found["FLY_PUBLIC_IP"] = public_ip
    return found | web_identity.variables(machine, found)


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
            _UDP_NAME,
        )
        if name
    )
    return (
        guest.HostsEntry(address="127.0.0.1", names=("localhost", "localhost.localdomain")),
        guest.HostsEntry(address="::1", names=("localhost", "ip6-localhost", "ip6-loopback")),
        guest.HostsEntry(address="ff02::1", names=("ip6-allnodes",)),
        guest.HostsEntry(address="ff02::2", names=("ip6-allrouters",)),
        guest.HostsEntry(address=private_ip, names=tuple(names)),
        guest.HostsEntry(address=local_ipv4, names=(_UDP_NAME,)),
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
        forwards=tuple(
            guest.Forward(basename=str(rule["basename"]), address=str(rule["addr"]))
            for rule in settings.items(dns.get("dns_forward_rules"))
            if rule.get("basename") and rule.get("addr")
        ),
    )


def files(
    config: Mapping[str, Any],
    secrets: Mapping[str, bytes] | None = _NONE,
    image_files: Mapping[str, str] = _NO_MORE,
) -> tuple[guest.File, ...]:
    """Return the files put into the root before the process starts.

    Args:
        config: The machine's.
        secrets: In the clear; `None` leaves out what is made of them.
        image_files: Configs of images in base64, by reference.

    Raises:
        Failure: `invalid_argument` for a file without an absolute path or a value, or of a secret
            that is not there or not base64.
    """
    found = []
    for index, entry in enumerate(settings.items(config.get("files"))):
        path = str(entry.get("guest_path") or "")
        value = entry.get("raw_value")
        if not path.startswith("/"):
            raise errors.invalid(f"files[{index}]: guest_path must be absolute, not {path!r}")
        name = entry.get("secret_name")
        if value is None and isinstance(name, str) and name:
            if secrets is None:
                continue
            value = _of_secret(f"files[{index}] ({path})", name, secrets)
        if value is None:
            value = image_files.get(str(entry.get("image_config")))
        if not isinstance(value, str):
            raise errors.invalid(
                f"files[{index}] ({path}): it has no raw_value, secret_name or image_config"
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
    public_ip: str = "",
    secrets: Mapping[str, bytes] | None = _NONE,
) -> guest.RunSpec:
    """Return what init is told at this boot; with `None` for secrets, what a resume needs of it.

    Containers are added by `run_containers`.

    Raises:
        Failure: `invalid_argument` when the config and the image give nothing to run, or with the
            secrets more than init can be told.
    """
    own: tuple[guest.Process, ...] = ()
    if not settings.containers(machine.config):
        own = processes(machine, image, private_ip, public_ip=public_ip, secrets=secrets)
    spec = guest.RunSpec(
        machine_id=machine.machine_id,
        hostname=hostname(machine),
        entropy_base64=base64.b64encode(entropy).decode(),
        root=guest.Root(lasting=settings.persist(machine.config) != "never"),
        swap=guest.Swap() if settings.swap_bytes(machine.config) else None,
        mounts=(guest.CACHE,) if settings.cache_bytes(machine.config) else (),
        network=network,
        resolver=resolver(machine.config),
        hosts=hosts(machine, private_ip, local_ipv4),
        files=files(machine.config, secrets, machine.image_files),
        statics=statics.served(machine.config, local_ipv4=local_ipv4, digest=machine.image.digest),
        process=own[0] if own else None,
        beside=own[1:],
    )
    check_size(spec)
    return spec


def check_size(spec: guest.RunSpec) -> None:
    """Return if init can be told so much.

    Raises:
        Failure: `invalid_argument`.
    """
    if encoded.size(spec) > guest.MOST_SPEC_BYTES:
        raise errors.invalid(
            f"its processes and files, secrets included, have {encoded.size(spec)} bytes, at most"
            f" {guest.MOST_SPEC_BYTES} can be handed to a machine",
            hint="say ignore_app_secrets for processes that need none",
        )


def processes(
    machine: records.Machine,
    image: ImageConfig,
    private_ip: str,
    *,
    public_ip: str = "",
    secrets: Mapping[str, bytes] | None = _NONE,
) -> tuple[guest.Process, ...]:
    """Return what runs in the machine: its processes, or the one that init and image say.

    Raises:
        Failure: `invalid_argument` for one with nothing to run or a secret that is not there.
    """
    init = settings.mapping(machine.config.get("init"))
    several = settings.items(machine.config.get("processes"))
    made = []
    for at, given in enumerate(several or (init,)):
        own = given if several else {}
        hidden = own.get("ignore_app_secrets") is True
        whole = environment(
            machine,
            image,
            private_ip,
            public_ip=public_ip,
            secrets={} if hidden or secrets is None else secrets,
            more=own_variables(f"processes[{at}].secrets", own, machine, private_ip, secrets),
        )
        env, env_base64 = guest.split_environment(whole)
        made.append(
            guest.Process(
                argv=argv({"init": given}, image),
                env=env,
                env_base64=env_base64,
                working_directory=image.working_directory or "/",
                user=str(own.get("user") or "") or image.user,
                tty=init.get("tty") is True,
            )
        )
    return tuple(made)


def own_variables(
    place: str,
    process: Mapping[str, Any],
    machine: records.Machine,
    private_ip: str,
    secrets: Mapping[str, bytes] | None,
) -> dict[str, str]:
    """Return the variables of one of several processes, or of a container.

    Raises:
        Failure: `invalid_argument` for a secret that is not there, with the place before it.
    """
    given = settings.mapping(process.get("env"))
    found = {str(name): str(value) for name, value in given.items() if value is not None}
    fields = {
        "id": machine.machine_id,
        "version": machine.instance_id,
        "app_name": machine.app,
        "private_ip": private_ip,
        "region": machine.region,
        "image": machine.image.reference,
    }
    for entry in settings.items(process.get("env_from")):
        name, field = str(entry.get("env_var") or ""), str(entry.get("field_ref") or "")
        if name and field in fields:
            found[name] = fields[field]
    if secrets is None:
        return found
    for entry in settings.items(process.get("secrets")):
        variable = str(entry.get("env_var") or "")
        name = str(entry.get("name") or variable)
        if not variable:
            continue
        if name not in secrets:
            raise errors.invalid(f"{place}: the machine has no secret {name}")
        found[variable] = secrets[name].decode(errors="surrogateescape")
    return found


def _of_secret(place: str, name: str, secrets: Mapping[str, bytes]) -> str:
    """Return the base64 that a secret holds; never quoted when it is none."""
    if name not in secrets:
        raise errors.invalid(f"{place}: the machine has no secret {name}")
    try:
        base64.b64decode(secrets[name], validate=True)
    except (binascii.Error, ValueError):
        raise errors.invalid(f"{place}: the secret {name} is not base64") from None
    return secrets[name].decode()


def _as_base64(value: str) -> str:
    """Return the value, which is base64 as documented; encoded first when it is not."""
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return base64.b64encode(value.encode()).decode()
    return value
