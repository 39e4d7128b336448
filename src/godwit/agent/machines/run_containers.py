"""Turns the containers of a machine's config into what init is told of them. Pure.

Called by the steps that boot a machine for what init is told, by `agent.rpc` for where a command
runs and what it finds there. A container has the machine's variables and files beside its own; of
the app's secrets those it names, or all when it names none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from godwit.agent import check_config, ports
from godwit.agent.machines import config as settings
from godwit.agent.machines import records, run_spec
from godwit.base import errors
from godwit.images.config import ImageConfig
from godwit.wire import guest, guest_containers

_LOCALHOST = "localhost"
_FAILURES = 3
_CONDITIONS = ("started", "healthy", "exited_successfully")


@dataclass(frozen=True)
class Addresses:
    """The machine's: in its network, and under which it is seen outside, if it is."""

    private_ip: str
    public_ip: str = ""


def added(
    spec: guest.RunSpec,
    machine: records.Machine,
    images: Sequence[ImageConfig],
    addresses: Addresses,
    secrets: Mapping[str, bytes] | None,
) -> guest.RunSpec:
    """Return what init is told with the machine's containers, if it has any.

    Args:
        spec: Without them.
        machine: The machine.
        images: What the containers' images say, by their place in the config.
        addresses: Its own.
        secrets: Of its app, in the clear; `None` for what a resume needs.

    Raises:
        Failure: `invalid_argument` for one with nothing to run, a secret that is not there, a
            file that cannot be made, or when all together is more than init can be told.
    """
    if not settings.containers(machine.config):
        return spec
    contained = _containers(machine, images, addresses, secrets)
    names = tuple(one.name for one in contained if one.name != _LOCALHOST)
    made = {
        "containers": contained,
        "volumes": volumes(machine),
        "hosts": (*spec.hosts, guest.HostsEntry(address="127.0.0.1", names=names)),
    }
    whole = spec.model_copy(update=made)
    run_spec.check_size(whole)
    return whole


def _containers(
    machine: records.Machine,
    images: Sequence[ImageConfig],
    addresses: Addresses,
    secrets: Mapping[str, bytes] | None,
) -> tuple[guest.Container, ...]:
    """Return what init is told of the containers, the main one first."""
    given = settings.containers(machine.config)
    disks = image_disks(machine)
    made = []
    for at, own in enumerate(given):
        try:
            files = run_spec.files(own, secrets, machine.image_files)
            process = _process(_alone(machine, at), own, images[at], addresses, secrets)
        except errors.Failure as failure:
            words = f"container {own.get('name')}: {failure.message}"
            raise errors.invalid(words, hint=failure.hint) from failure
        made.append(_container(own, disks[machine.container_images[at].digest], process, files))
    shared = run_spec.files(machine.config, secrets, machine.image_files)
    made = [one.model_copy(update={"files": (*shared, *one.files)}) for one in made]
    main = main_of(machine.config)
    return tuple(sorted(made, key=lambda one: one.name != main))


def image_disks(machine: records.Machine) -> dict[str, str]:
    """Return the disk that each image of a machine is on, by digest."""
    found: dict[str, str] = {machine.image.digest: guest.Root().image}
    for image in machine.container_images:
        if image.digest not in found:
            found[image.digest] = ports.IMAGE_DISKS[len(found) - 1]
    return found


def further_images(machine: records.Machine) -> tuple[str, ...]:
    """Return the digests of the images that are not the machine's own, in the order of disks."""
    return tuple(image_disks(machine))[1:]


def volume_bytes(machine: records.Machine) -> tuple[int, ...]:
    """Return the sizes of the disks of volumes that have one of their own.

    A former release took more than there are disks for: what is too many shares the machine's.
    """
    given = settings.items(machine.config.get("volumes"))
    wanted = [size for volume in given if (size := settings.disk_bytes(volume))]
    return tuple(wanted[: len(ports.OWN_DISKS) - len(further_images(machine))])


def volumes(machine: records.Machine) -> tuple[guest.SharedVolume, ...]:
    """Return the volumes that containers share."""
    disks = image_disks(machine)
    images = iter(machine.container_images[len(settings.containers(machine.config)) :])
    own = list(ports.OWN_DISKS[: len(volume_bytes(machine))])
    found = []
    for given in settings.items(machine.config.get("volumes")):
        if given.get("image"):
            disk = disks[next(images).digest]
            found.append(guest.SharedVolume(name=str(given.get("name")), image=disk))
            continue
        if own and settings.disk_bytes(given):
            found.append(guest.SharedVolume(name=str(given.get("name")), disk=own.pop(0)))
            continue
        kept = settings.mapping(given.get("temp_dir"))
        size = settings.number(kept.get("size_mb"), 0)
        in_memory = kept.get("storage_type") == "memory"
        found.append(
            guest.SharedVolume(name=str(given.get("name")), memory_mb=size if in_memory else 0)
        )
    return tuple(found)


def main_of(config: Mapping[str, Any]) -> str:
    """Return the name of the container that a machine is about; empty without containers."""
    names = [str(one.get("name")) for one in settings.containers(config)]
    return names[guest_containers.main_of(names)] if names else ""


def meant(config: Mapping[str, Any], container: str, *, machine: bool) -> str:
    """Return the container that a command is to run in; empty is the machine itself.

    Raises:
        Failure: `invalid_argument` when there is none of that name.
    """
    names = [str(one.get("name")) for one in settings.containers(config)]
    if container and container not in names:
        has = f"it has {', '.join(names)}" if names else "it has one main process"
        raise errors.invalid(
            f"container: the machine has no container {container!r}; {has}",
            hint="" if names else "leave container out",
        )
    if machine:
        return ""
    return container or main_of(config)


def environment(
    machine: records.Machine,
    name: str,
    addresses: Addresses,
    secrets: Mapping[str, bytes],
) -> dict[str, str]:
    """Return what a command finds in its environment, in a container or in the machine itself."""
    for at, own in enumerate(settings.containers(machine.config)):
        if own.get("name") == name and at < len(machine.container_configs):
            image = machine.container_configs[at]
            return _environment(_alone(machine, at), own, image, addresses, secrets)
    if machine.image_config is None:
        return {}
    return run_spec.environment(
        machine,
        machine.image_config,
        addresses.private_ip,
        public_ip=addresses.public_ip,
        secrets=secrets,
    )


def _alone(machine: records.Machine, at: int) -> records.Machine:
    """Return the machine as if it were the container: with its image."""
    return machine.model_copy(update={"image": machine.container_images[at]})


def _environment(
    machine: records.Machine,
    own: Mapping[str, Any],
    image: ImageConfig,
    addresses: Addresses,
    secrets: Mapping[str, bytes] | None,
) -> dict[str, str]:
    chosen = bool(own.get("secrets"))
    more = run_spec.own_variables("secrets", own, machine, addresses.private_ip, secrets)
    return run_spec.environment(
        machine,
        image,
        addresses.private_ip,
        public_ip=addresses.public_ip,
        secrets={} if chosen or secrets is None else secrets,
        more=more,
    )


def _process(
    machine: records.Machine,
    own: Mapping[str, Any],
    image: ImageConfig,
    addresses: Addresses,
    secrets: Mapping[str, bytes] | None,
) -> guest.Process:
    env, env_base64 = guest.split_environment(
        _environment(machine, own, image, addresses, secrets)
    )
    return guest.Process(
        argv=run_spec.argv({"init": own}, image),
        env=env,
        env_base64=env_base64,
        working_directory=image.working_directory or "/",
        user=str(own.get("user") or "") or image.user,
    )


def _container(
    own: Mapping[str, Any],
    disk: str,
    process: guest.Process,
    files: tuple[guest.File, ...],
) -> guest.Container:
    restart = settings.restart(own)
    stop = settings.mapping(own.get("stop"))
    checks = enumerate(settings.items(own.get("healthchecks")))
    return guest.Container(
        name=str(own.get("name")),
        image=disk,
        process=process,
        files=files,
        restart=restart.policy,
        max_retries=restart.max_retries,
        stop_signal=settings.signal_name(stop.get("signal")) or "",
        stop_timeout_ms=settings.container_stop_ms(own),
        depends_on=tuple(
            guest_containers.Dependency(
                container=str(one.get("name")),
                condition=one["condition"] if one.get("condition") in _CONDITIONS else "started",
            )
            for one in settings.items(own.get("depends_on"))
        ),
        binds=tuple(
            guest_containers.Bind(volume=str(one.get("name")), path=str(one.get("path")))
            for one in settings.items(own.get("mounts"))
        ),
        healthchecks=tuple(_healthcheck(at, one) for at, one in checks),
    )


def _healthcheck(at: int, given: Mapping[str, Any]) -> guest_containers.HealthCheck:
    return guest_containers.HealthCheck(
        name=str(given.get("name") or at),
        question=_question(given),
        interval_s=settings.number(given.get("interval"), check_config.CONTAINER_INTERVAL_S),
        timeout_s=settings.number(given.get("timeout"), check_config.CONTAINER_TIMEOUT_S),
        grace_s=settings.number(given.get("grace_period"), 0),
        success_threshold=settings.number(given.get("success_threshold"), 1),
        failure_threshold=settings.number(given.get("failure_threshold"), _FAILURES),
        stops=given.get("unhealthy") == "stop",
    )


def _question(given: Mapping[str, Any]) -> guest_containers.Question:
    http, tcp = settings.mapping(given.get("http")), settings.mapping(given.get("tcp"))
    if check_config.asked_by_host(http):
        return guest_containers.HostQuestion()
    if http:
        return guest_containers.HttpQuestion(
            port=settings.number(http.get("port"), 0),
            method=str(http.get("method") or "GET"),
            path=str(http.get("path") or "/"),
            headers=tuple(
                guest_containers.Header(name=str(header.get("name")), value=value)
                for header in settings.items(http.get("headers"))
                for value in settings.strings(header.get("values"))
            ),
        )
    if tcp:
        return guest_containers.TcpQuestion(port=settings.number(tcp.get("port"), 0))
    command = settings.mapping(given.get("exec")).get("command")
    return guest_containers.ExecQuestion(argv=settings.strings(command))
