"""`godwit images`: base images for builds, and the images at rest on hosts."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from godwit.base import errors
from godwit.cli import connect, session, times, tree
from godwit.cli.commands import up
from godwit.cli.options import JsonOption
from godwit.client.api import Api
from godwit.client.records import HostImages, RemovedImage
from godwit.images import bases

app = tree.group("Base images for builds, and images at rest on hosts.")


@app.callback()
def images() -> None:
    """Base images for builds, and images at rest on hosts."""


@app.command(epilog=tree.examples("godwit images bootstrap"))
def bootstrap(
    context: typer.Context,
    settings_file: Annotated[
        Path | None,
        typer.Option("--settings", metavar="FILE", help="Settings of this host, TOML."),
    ] = None,
) -> None:
    """Build small base images from Debian packages.

    They stand in for `debian:bookworm-slim`, `python:3.11-slim` and `nginx` when those cannot be
    pulled, or when a build is told to stay offline; the build says so.
    """
    found = up.resolve(context, settings_file)
    asyncio.run(bases.ensure(found.paths.cache, told=session.of(context).out.say))


HostOption = Annotated[
    str | None,
    typer.Option("--host", metavar="ID", help="Host; may be left out where there is one."),
]


@app.command("list", epilog=tree.examples("godwit images list", "godwit images list --json"))
def list_(context: typer.Context, host: HostOption = None, as_json: JsonOption = False) -> None:
    """List the images at rest on a host, and what holds each.

    An image that a machine has, that a release may be rolled back to, or that was used just now
    is held. The others go when they have not been used for long, or when the disk fills. For
    the operator.
    """
    here = session.of(context)

    async def ask(api: Api) -> tuple[str, HostImages]:
        host_id = await _host(api, host)
        return host_id, await api.hosts.images(host_id)

    host_id, found = connect.call(here, ask)
    if as_json or here.wants_json:
        here.out.json({"host_id": host_id, **found.model_dump(mode="json")})
        return
    here.out.table(
        ("digest", "reference", "MB", "last used", "machines", "held"),
        [
            (
                one.digest[:19],
                one.reference,
                one.size_bytes >> 20,
                times.moment(one.used_at),
                one.machines,
                one.held,
            )
            for one in found.images
        ],
    )
    free, total = found.free_bytes >> 20, found.total_bytes >> 20
    here.out.hint(f"{free} of {total} MB are free on the images' disk of host {host_id}")
    if not found.pins_known:
        here.out.hint("this host was not told yet what releases need: nothing is removed")


@app.command(epilog=tree.examples("godwit images prune --dry-run", "godwit images prune"))
def prune(
    context: typer.Context,
    host: HostOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove every image of a host that nothing holds.

    What is held is never removed: see `godwit images list`. For the operator.
    """
    here = session.of(context)

    async def ask(api: Api) -> list[RemovedImage]:
        return await api.hosts.prune_images(await _host(api, host), dry_run=dry_run)

    removed = connect.call(here, ask)
    if as_json or here.wants_json:
        images = [one.model_dump(mode="json") for one in removed]
        here.out.json({"dry_run": dry_run, "removed": images})
        return
    here.out.table(
        ("digest", "MB", "why"),
        [(one.digest[:19], one.size_bytes >> 20, one.sentence) for one in removed],
    )
    verb = "would be removed" if dry_run else "removed"
    here.out.hint(f"{len(removed)} images {verb}, {sum(r.size_bytes for r in removed) >> 20} MB")


async def _host(api: Api, wanted: str | None) -> str:
    """Return the host that is meant.

    Raises:
        Failure: `invalid_argument` when there are several and none was named.
    """
    if wanted:
        return wanted
    hosts = await api.hosts.list()
    if len(hosts) == 1:
        return hosts[0].host_id
    known = ", ".join(one.host_id for one in hosts)
    raise errors.invalid(f"there are {len(hosts)} hosts: {known}", hint="name one with --host")
