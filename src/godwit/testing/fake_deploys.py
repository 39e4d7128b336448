"""The deploys of `fake_api`: over at once, unless they are held.

A deploy makes a release, gives every group one machine or its machines the new config, and says
so in events. An image whose script `fails` makes it fail. With `held` set it goes on running
until it was asked that many times, or is cancelled.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from godwit.appconfig import files, groups, machine
from godwit.testing.fake_details import body_of, no, ok
from godwit.testing.fake_machine import FakeMachine, Json, Script

_AT = "2026-01-01T00:00:00Z"


class World(Protocol):
    """What deploys need of the fake API."""

    releases: dict[str, list[Json]]
    machines: dict[str, FakeMachine]
    scripts: dict[str, Script]

    def make(self, app: str, body: Json) -> FakeMachine:
        """Put a machine there."""

    def launch(self, machine: FakeMachine) -> None:
        """Start one."""


@dataclass
class FakeDeploys:
    """Every deploy of the fake, newest last.

    Attributes:
        held: How often a running deploy has to be asked after before it goes on.
        user: Who begins them.
    """

    held: int = 0
    user: str = "token:1"
    known: list[Json] = field(default_factory=list)

    def begin(self, world: World, app: str, body: Json) -> httpx.Response:
        """Begin a deploy, or show its plan."""
        running = self.running(app)
        if running is not None:
            version = running["release"]["version"]
            return no(
                409,
                f"conflict: app {app!r} is being deployed: v{version} by {running['user']}",
                hint="wait for its end, or cancel it with `godwit deploy --cancel`",
            )
        loaded = files.understand(Path("fly.toml"), body["definition"])
        if any(one.severity == "error" for one in loaded.found):
            return no(400, f"invalid_argument: {loaded.found[0].told('fly.toml')}")
        if not body.get("image"):
            return no(400, "invalid_argument: image: is required")
        plan = self._plan(world, app, body)
        if body.get("plan_only"):
            return ok({"plan": plan})
        made = self._made(world, app, body, plan)
        self.known.append(made)
        if not self.held:
            self._carry_out(world, made)
        return ok(self.shown(made), 201)

    def running(self, app: str) -> Json | None:
        """Return the deploy of an app that is under way."""
        mine = [one for one in self.known if one["app"] == app]
        return next((one for one in mine if one["status"] == "running"), None)

    def of(self, app: str) -> list[Json]:
        """Return an app's deploys, newest first."""
        return [self.shown(one) for one in self.known[::-1] if one["app"] == app]

    def get(self, world: World, deploy_id: str, after: int) -> httpx.Response:
        """Show a deploy with its events after a number."""
        found = next((one for one in self.known if one["id"] == deploy_id), None)
        if found is None:
            return no(404, "deploy not found")
        if found["status"] == "running":
            found["asked"] += 1
            if found["asked"] >= self.held:
                self._carry_out(world, found)
        events = [one for one in found["events"] if one["number"] > after]
        return ok({**self.shown(found), "events": events})

    def cancel(self, deploy_id: str) -> httpx.Response:
        """Have a deploy end as cancelled."""
        found = next((one for one in self.known if one["id"] == deploy_id), None)
        if found is None:
            return no(404, "deploy not found")
        if found["status"] == "running":
            self._end(found, "cancelled", "cancelled; nothing was changed")
        return ok(self.shown(found))

    def roll_back(self, world: World, app: str, body: Json) -> httpx.Response:
        """Deploy an earlier release again."""
        complete = [one for one in world.releases.get(app, [])[:-1] if one["status"] == "complete"]
        wanted = body.get("version")
        if wanted is not None:
            complete = [one for one in world.releases[app] if one["version"] == wanted]
        if not complete:
            return no(404, f"app {app!r} has no release v{wanted}")
        former = complete[-1]
        again = {"definition": former["config"], "image": former["image"], **body}
        return self.begin(world, app, {**again, "kind": "rollback"})

    def shown(self, deploy: Json) -> Json:
        """Return a deploy as lists show it: without its events."""
        hidden = ("events", "asked", "body")
        return {**{k: v for k, v in deploy.items() if k not in hidden}, "events": []}

    def _plan(self, world: World, app: str, body: Json) -> Json:
        config = files.understand(Path("fly.toml"), body["definition"]).checked()
        wanted = groups.names(config)
        mine = [one for one in world.machines.values() if one.app == app and _group(one)]
        mine = [one for one in mine if one.state != "destroyed"]
        found = [
            {
                "group": group,
                "create": []
                if any(_group(one) == group for one in mine)
                else [{"region": config.primary_region or "lcl", "standby": False}],
                "update": [
                    {"machine_id": one.id, "region": one.region, "start": one.state == "started"}
                    for one in mine
                    if _group(one) == group
                ],
                "destroy": [],
            }
            for group in wanted
        ]
        gone = [one for one in mine if _group(one) not in wanted]
        found += [
            {"group": _group(one), "create": [], "update": [], "destroy": [one.id]} for one in gone
        ]
        sentences = [
            f"{len(one['update'])} machine of {one['group']}: updated in place"
            if one["update"]
            else f"A machine of {one['group']} is made in lcl"
            for one in found
        ]
        return {
            "strategy": body.get("options", {}).get("strategy") or "rolling",
            "release_command": "",
            "groups": found,
            "unchanged": [],
            "sentences": sentences,
        }

    def _made(self, world: World, app: str, body: Json, plan: Json) -> Json:
        mine = world.releases.setdefault(app, [])
        version = len(mine) + 1
        release = {
            "id": f"rel_{version}",
            "version": version,
            "status": "running",
            "strategy": plan["strategy"],
            "description": body.get("options", {}).get("description") or "deploy",
            "user": self.user,
            "created_at": _AT,
            "image": body["image"],
            "config": body["definition"],
        }
        mine.append(release)
        return {
            "id": f"dep_{len(self.known) + 1}",
            "app": app,
            "kind": body.get("kind", "deploy"),
            "status": "running",
            "release": {"id": release["id"], "version": version, "image": body["image"]},
            "strategy": plan["strategy"],
            "user": self.user,
            "begun_at": _AT,
            "ended_at": None,
            "step": "",
            "sentence": "updating machines",
            "error": "",
            "plan": plan,
            "events": [],
            "asked": 0,
            "body": body,
        }

    def _carry_out(self, world: World, deploy: Json) -> None:
        body, app = deploy["body"], deploy["app"]
        fails = world.scripts.get(body["image"], Script()).fails
        config = files.understand(Path("fly.toml"), body["definition"]).checked()
        mark = machine.ReleaseMark(deploy["release"]["id"], deploy["release"]["version"])
        for planned in deploy["plan"]["groups"]:
            group = planned["group"]
            self._say(deploy, "step", f"Group {group}")
            for machine_id in planned["destroy"]:
                world.machines[machine_id].state = "destroyed"
                self._say(deploy, "state", "is destroyed", group, machine_id)
            if planned["destroy"]:
                continue
            made = machine.to_machine_config(config, group, image=body["image"], release=mark)
            touched = [world.machines[one["machine_id"]] for one in planned["update"]]
            touched += [world.make(app, {"config": made}) for _ in planned["create"]]
            for one in touched:
                one.config = machine.updated(one.config, made)
                if fails:
                    self._say(deploy, "error", f"is failed: {fails}", group, one.id)
                    self._end(
                        deploy, "failed", f"machine {one.id} is failed: {fails}; rolled back"
                    )
                    return
                world.launch(one)
                self._say(deploy, "state", "is up", group, one.id)
        self._end(deploy, "complete", "")

    def _end(self, deploy: Json, status: str, error: str) -> None:
        deploy.update(status=status, error=error, ended_at=_AT)
        version = deploy["release"]["version"]
        if status == "complete":
            self._say(deploy, "step", f"Release v{version} is deployed")

    def _say(
        self, deploy: Json, level: str, message: str, group: str = "", machine_id: str = ""
    ) -> None:
        deploy["events"].append(
            {
                "number": len(deploy["events"]) + 1,
                "at": _AT,
                "level": level,
                "group": group,
                "machine_id": machine_id,
                "message": message,
            }
        )

    def settle(self, world: World) -> None:
        """Write into releases how their deploys ended."""
        states = {"complete": "complete", "failed": "failed", "cancelled": "interrupted"}
        for one in self.known:
            for release in world.releases.get(one["app"], []):
                if release["id"] == one["release"]["id"]:
                    release["status"] = states.get(one["status"], "running")
                    release["error"] = one["error"]


def _group(one: FakeMachine) -> str:
    marks: Any = one.config.get("metadata") or {}
    return str(marks.get("fly_process_group") or "")


def answer(
    deploys: FakeDeploys, world: World, request: httpx.Request, words: tuple[str, ...]
) -> httpx.Response:
    """Answer a request about deploys: `(app,)`, `(app, id)`, `(app, id, "cancel")`, …."""
    app = words[0]
    if request.url.path.endswith("/rollback"):
        found = deploys.roll_back(world, app, body_of(request))
    elif request.url.path.endswith("/cancel"):
        found = deploys.cancel(words[1])
    elif len(words) > 1:
        found = deploys.get(world, words[1], int(request.url.params.get("after", 0)))
    elif request.method == "POST":
        found = deploys.begin(world, app, body_of(request))
    else:
        found = ok({"deploys": deploys.of(app)})
    deploys.settle(world)
    return found
