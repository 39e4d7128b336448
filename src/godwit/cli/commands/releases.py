"""`godwit releases`: what was deployed, when, by whom, and how it ended."""

from typing import Annotated, Any

import typer

from godwit.appconfig import files, writing
from godwit.base import errors
from godwit.cli import connect, session, tables, times, tree
from godwit.cli.options import AppOption, ConfigOption, JsonOption
from godwit.client.api import Api
from godwit.client.records import Machine, Release

app = tree.group("List an app's releases, and show one.", lists=True)

LimitOption = Annotated[
    int, typer.Option("--limit", "-n", metavar="N", min=1, max=100, help="How many.")
]


@app.command(
    "list",
    epilog=tree.examples("godwit releases", "godwit releases list --image", "godwit releases -j"),
)
def list_(
    context: typer.Context,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    image: Annotated[bool, typer.Option("--image", help="Show each release's image.")] = False,
    limit: LimitOption = 25,
    as_json: JsonOption = False,
) -> None:
    """List an app's releases.

    The newest first. `running` is one that is being deployed: `godwit deploy --follow` shows it.
    """
    here = session.of(context)
    name = connect.app_name(here, app, config)
    found = connect.call(here, lambda api: api.releases.list(name, limit=limit))
    if as_json or here.wants_json:
        here.out.json([one.model_dump(mode="json") for one in found])
        return
    now = here.clock.now_ms()
    headers = ("version", "status", "description", "user", "date")
    here.out.table(
        (*headers, "image") if image else headers,
        [
            (
                f"v{one.version}",
                one.status,
                one.description,
                one.user,
                times.ago(one.created_at, now),
                *([one.image] if image else []),
            )
            for one in found
        ],
    )


@app.command(epilog=tree.examples("godwit releases show 12", "godwit releases show v12 --json"))
def show(
    context: typer.Context,
    version: Annotated[
        str, typer.Argument(metavar="N", help="Number of the release.", show_default=False)
    ],
    app: AppOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one release: what it was made of, how it ended, which machines run it."""
    here = session.of(context)
    name = connect.app_name(here, app, config)
    wanted = number(version)

    async def work(api: Api) -> tuple[Release, list[Machine]]:
        found = await api.releases.get(name, wanted)
        machines = await api.machines.list(name)
        return found, [one for one in machines if tables.release_of(one) == found.version]

    found, machines = connect.call(here, work)
    if as_json or here.wants_json:
        here.out.json(
            {
                **found.model_dump(mode="json"),
                "machines": [one.id for one in machines],
            }
        )
        return
    _tell(here, found)
    here.out.data("")
    if machines:
        tables.machines(here, machines)
    else:
        here.out.data("no machine runs it")
    if found.config:
        here.out.data("")
        document = files.understand(here.directory / files.NAMES[0], found.config).document
        here.out.raw(writing.new(document))


def _tell(here: session.Session, found: Release) -> None:
    values: dict[str, Any] = {
        "Release": f"v{found.version}",
        "Status": found.status,
        "Description": found.description,
        "Image": found.image,
        "Strategy": found.strategy,
        "User": found.user,
        "Date": times.ago(found.created_at, here.clock.now_ms()),
    }
    if found.error:
        values["Error"] = found.error
    here.out.pairs(values)


def number(text: str) -> int:
    """Return the number of a release that was written as `12` or `v12`.

    Raises:
        Failure: It is none.
    """
    digits = text.removeprefix("v")
    if not (digits.isascii() and digits.isdecimal()) or not 0 < int(digits[:12]) < 2**31:
        raise errors.invalid(
            f'expected the number of a release such as 12, got "{text}"',
            hint="`godwit releases` lists them",
        )
    return int(digits)
