"""`godwit rollback`."""

from typing import Annotated

import typer

from godwit.cli import connect, options, session, shown, tree
from godwit.cli import options_deploy as flags
from godwit.cli.commands import releases
from godwit.cli.rollout import deploy as rollout
from godwit.cli.rollout import progress
from godwit.client.api import Api

app = tree.single()


@app.command(
    epilog=tree.examples(
        "godwit rollback", "godwit rollback 12", "godwit rollback v12 --strategy immediate"
    )
)
def rollback(
    context: typer.Context,
    version: Annotated[
        str | None,
        typer.Argument(metavar="[N]", help="Release; else the last complete one before this."),
    ] = None,
    *,
    app: options.AppOption = None,
    config: options.ConfigOption = None,
    strategy: flags.StrategyOption = None,
    max_unavailable: flags.MaxUnavailableOption = None,
    wait_timeout: flags.WaitTimeoutOption = None,
    smoke_checks: flags.SmokeChecksOption = True,
    drain_timeout: flags.DrainTimeoutOption = None,
    detach: options.DetachOption = False,
    yes: options.YesOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Deploy an earlier release again.

    Its image and its config, under a new number. Secrets are those of now; the release command
    is not run, and what a later one did to a database stays.
    """
    del yes  # nothing is asked
    here = session.of(context)
    name = connect.app_name(here, app, config)
    number = None if version is None else releases.number(version)
    wanted = flags.RolloutFlags(
        strategy=strategy,
        max_unavailable=max_unavailable,
        wait_timeout=wait_timeout,
        smoke_checks=smoke_checks,
        drain_timeout=drain_timeout,
    ).wanted()

    async def work(api: Api) -> None:
        telling = progress.of(here.out)
        with telling:
            begun = await api.deploys.roll_back(name, number, wanted)
            if not detach:
                begun = await rollout.followed(here, api, begun, telling)
        address = here.settings.app_url(begun.app)
        await shown.ended(here, api, begun, address=address, as_json=as_json or here.wants_json)

    connect.call(here, work)
