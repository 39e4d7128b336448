"""Builds: who may build here, and the passing on to the builder.

For now images are built on the host itself, behind the builder's port but not in a microVM, so a
host that several organizations share builds for none of them unless told to.
"""

import contextlib
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from godwit.base import errors, ids
from godwit.base.principal import Principal
from godwit.control import apps, audit, disk, registry, registry_credentials
from godwit.control.context import Context
from godwit.control.ports import BuildRequest
from godwit.control.records import App

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_ARGUMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_MOST_ARGUMENTS = 100


@dataclass(frozen=True)
class Wanted:
    """How to build.

    Attributes:
        dockerfile: Path within the context.
        label: The image's tag; `deployment-<ULID>` when empty.
        secrets: For RUN steps that ask for them; nowhere else.
        labels: Of the image.
        force: Build although several organizations share this host; the operator's to say,
            because a build here is root on it.
    """

    dockerfile: str = "Dockerfile"
    target: str = ""
    args: dict[str, str] = field(default_factory=dict)
    label: str = ""
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    labels: dict[str, str] = field(default_factory=dict)
    no_cache: bool = False
    offline: bool = False
    force: bool = False


async def admit(ctx: Context, who: Principal, app_name: str, wanted: Wanted) -> App:
    """Return the app to build for, if this principal may build here.

    Raises:
        Failure: `failed_precondition` when organizations share the host and `force` is not
            set; `insufficient_capacity` when there is no room for another image;
            `invalid_argument`.
    """
    _check(wanted)
    async with ctx.store.write() as rows:
        app = await apps.require(rows, who, "builds:write", app_name)
        organizations = await rows.organizations.count()
        operator = who.org_ids is None
        if organizations > 1 and not (wanted.force and operator):
            accept = "accept it with --force-host-build" if operator else "ask the operator"
            raise errors.Failure(
                "failed_precondition",
                f"{organizations} organizations share this host, and a build here is not isolated"
                " from them",
                hint=f"build elsewhere and deploy with --image, or {accept}",
            )
        await audit.record(
            rows,
            ctx.clock,
            who,
            "builds.create",
            app.name,
            org_id=app.org_id,
            dockerfile=wanted.dockerfile,
            force=wanted.force,
        )
    await disk.room_to_push(ctx, app.org_id)
    return app


async def run(
    ctx: Context, who: Principal, app: App, wanted: Wanted, context: Path
) -> AsyncGenerator[dict[str, Any], None]:
    """Build a tar and yield what happens; the last event is the image.

    Raises:
        Failure: The build failed.
    """
    who.require("builds:write", app.org_id, app_id=app.id)
    tag = wanted.label or f"deployment-{ids.ulid(ctx.clock.now_ms()).lower()}"
    request = BuildRequest(
        org_id=app.org_id,
        app=app.name,
        context=context,
        reference=f"{ctx.options.registry}/{app.name}:{tag}",
        push_token=registry.push_token(ctx, app),
        push_limit_bytes=await disk.room_to_push(ctx, app.org_id),
        credentials=await registry_credentials.of_builds(ctx, app.org_id),
        dockerfile=wanted.dockerfile,
        target=wanted.target,
        args=wanted.args,
        secrets=wanted.secrets,
        labels=wanted.labels,
        no_cache=wanted.no_cache,
        offline=wanted.offline,
    )
    if ctx.build_slots.locked():
        yield {"type": "notice", "message": "waiting for other builds on this host"}
    async with ctx.build_slots, contextlib.aclosing(ctx.builder.build(request)) as events:
        async for event in events:
            yield event


def _check(wanted: Wanted) -> None:
    path = Path(wanted.dockerfile)
    if path.is_absolute() or ".." in path.parts or "\0" in wanted.dockerfile or not path.parts:
        raise errors.invalid("dockerfile: must be a path within the context")
    if wanted.label and _TAG.fullmatch(wanted.label) is None:
        raise errors.invalid("label: is not a tag: letters, digits, dots and dashes, at most 128")
    if len(wanted.args) > _MOST_ARGUMENTS:
        raise errors.invalid(f"args: more than {_MOST_ARGUMENTS}")
    for name, value in wanted.args.items():
        if _ARGUMENT.fullmatch(name) is None or "\0" in value:
            raise errors.invalid(f"args: {name!r} is not the name of a build argument")
    for what, given, form in (
        ("secrets", wanted.secrets, _SECRET),
        ("labels", wanted.labels, _LABEL),
    ):
        if len(given) > _MOST_ARGUMENTS:
            raise errors.invalid(f"{what}: more than {_MOST_ARGUMENTS}")
        wrong = [
            name for name, value in given.items() if not form.fullmatch(name) or "\0" in value
        ]
        if wrong:
            raise errors.invalid(f"{what}: {wrong[0]!r} is not a name, or its value holds a NUL")
