"""`godwit machine place`: where machines would go."""

from typing import Annotated

import typer

from godwit.base import errors
from godwit.cli import connect, guest, options, session
from godwit.cli.rollout import overrides
from godwit.client.api import Api
from godwit.client.records import Placement

_WEIGHTS = ("region", "spread")


def place(
    context: typer.Context,
    *,
    org: options.OrgOption = None,
    count: Annotated[
        int, typer.Option("--count", metavar="N", min=0, help="How many; 0 for all that fit.")
    ] = 0,
    region: Annotated[
        str,
        typer.Option("--region", "-r", metavar="CODES", help="Regions, with commas; in order."),
    ] = "",
    weights: Annotated[
        list[str] | None,
        typer.Option("--weights", metavar="NAME=N", help="region=N or spread=N; repeatable."),
    ] = None,
    vm_size: options.VmSizeOption = None,
    vm_cpus: options.VmCpusOption = None,
    vm_cpu_kind: options.VmCpuKindOption = None,
    vm_memory: options.VmMemoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show where machines would go if they were created now; nothing is created."""
    here = session.of(context)
    size = overrides.Size(vm_size, vm_cpus, vm_cpu_kind, vm_memory)
    weighed = _weights(weights)

    async def work(api: Api) -> list[Placement]:
        slug = await connect.organization(here, api, org)
        return await api.platform.placements(
            slug, count=count, region=region, guest=guest.of(size), weights=weighed
        )

    found = connect.call(here, work)
    if as_json or here.wants_json:
        here.out.json([one.model_dump(mode="json") for one in found])
        return
    here.out.table(
        ("region", "machines", "at once"),
        [(one.region, one.count, one.concurrency) for one in found],
    )


def _weights(given: list[str] | None) -> dict[str, int]:
    found = overrides.pairs(given, "--weights")
    for name, value in found.items():
        if name not in _WEIGHTS or not value.isdecimal():
            raise errors.invalid(f'--weights: expected region=N or spread=N, got "{name}={value}"')
    return {name: int(value) for name, value in found.items()}
