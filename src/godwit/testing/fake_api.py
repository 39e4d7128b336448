"""An API in memory that behaves as the real one does towards a client.

`FakeApi.transport()` is what `godwit.client.api.Api` takes instead of the network. Machines
start at once, unless their image has a script: see `fake_machine`. Every request is kept in
`calls`, bodies in `bodies`; `refuse` makes the next matching request fail.
"""

import asyncio
import io
import json
import re
import tarfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx

from godwit.base import clock, ids
from godwit.testing import fake_deploys, fake_details
from godwit.testing.fake_details import body_of, no, ok
from godwit.testing.fake_machine import FakeMachine, Script, check_names, managed_config

Json = dict[str, Any]
_EVENTS = 5
_GUARDED = ("start", "stop", "restart", "suspend", "cordon", "uncordon", "exec")
"""What only the holder of a machine's lease may do, beside changing and destroying it."""
_NOW_MS = 1_700_000_000_000


class JumpingClock:
    """A clock on which sleeping takes no time: it jumps."""

    def __init__(self) -> None:
        self.at_s = _NOW_MS / 1000
        self.slept: list[float] = []

    def now_ms(self) -> int:
        """Return Unix time in milliseconds."""
        return int(self.at_s * 1000)

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""
        return self.at_s

    async def sleep(self, seconds: float) -> None:
        """Jump ahead."""
        self.slept.append(seconds)
        self.at_s += seconds


@dataclass
class Refusal:
    """A request that is to fail."""

    pattern: re.Pattern[str]
    status: int
    body: Json
    times: int


Handler = Callable[["FakeApi", httpx.Request, re.Match[str]], httpx.Response]


class FakeApi:
    """The API, with one organization, one region and no app."""

    def __init__(self, *, token: str = "secret") -> None:  # noqa: S107 - a fake's
        self.token = token
        self.orgs: list[Json] = [{"id": "org_1", "slug": "personal", "name": "Personal"}]
        self.apps: dict[str, Json] = {}
        self.foreign_apps: set[str] = set()
        self.machines: dict[str, FakeMachine] = {}
        self.releases: dict[str, list[Json]] = {}
        self.deploys = fake_deploys.FakeDeploys()
        self.tokens: list[Json] = []
        self.logs: dict[str, list[Json]] = {}
        self.regions: list[Json] = [{"code": "lcl", "name": "Here"}]
        self.scripts: dict[str, Script] = {}
        self.calls: list[str] = []
        self.bodies: list[tuple[str, Any]] = []
        self.build_answers: list[Json] = [
            {"type": "log", "line": "STEP 1/2: FROM python:3.11-slim"},
            {"type": "notice", "message": "using the local base python:3.11-slim"},
            {
                "type": "image",
                "reference": "registry.internal/hello:deployment-1",
                "digest": "sha256:" + "a" * 64,
            },
        ]
        self.contexts: list[list[str]] = []
        self.sentence = ""
        self.clock: clock.Clock = JumpingClock()
        self._refusals: list[Refusal] = []
        self._number = 0

    def transport(self) -> httpx.MockTransport:
        """Return what a client speaks to instead of the network."""
        return httpx.MockTransport(self._handle)

    def refuse(
        self, pattern: str, status: int, body: Json | None = None, *, times: int = 1
    ) -> None:
        """Make the next requests fail whose `METHOD /path` matches a pattern."""
        self._refusals.append(Refusal(re.compile(pattern), status, body or {"error": "no"}, times))

    def add_app(self, name: str, org: str = "personal") -> Json:
        """Put an app there."""
        self.apps[name] = {
            "id": f"app_{name}",
            "name": name,
            "status": "pending",
            "network": "default",
            "organization": {"name": org.title(), "slug": org},
        }
        return self.apps[name]

    def add_machine(self, app: str, config: Json | None = None, *, state: str = "started") -> str:
        """Put a machine there that rests or runs; return its id."""
        made = self.make(app, {"config": config or managed_config()})
        made.state = state
        return made.id

    def log(self, app: str, machine: str, message: str) -> None:
        """Have a machine print a line."""
        number = len(self.logs.setdefault(app, [])) + 1
        self.logs[app].append(
            {
                "id": str(number),
                "attributes": {
                    "timestamp": f"2026-01-01T00:00:{number:02}Z",
                    "message": message,
                    "level": "info",
                    "instance": machine,
                    "region": "lcl",
                },
            }
        )

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        await asyncio.sleep(0)  # as a network does: what was cancelled meanwhile ends here
        target = f"{request.method} {request.url.path}"
        query = request.url.query.decode()
        self.calls.append(f"{target}?{query}" if query else target)
        if request.content and "tar" not in request.headers.get("content-type", ""):
            self.bodies.append((target, json.loads(request.content)))
        answer = self._refused(target) or self._unauthorized(request)
        if answer is None:
            answer = self._routed(request, target)
        answer.headers["fly-request-id"] = f"req-{len(self.calls)}"
        return answer

    def _refused(self, target: str) -> httpx.Response | None:
        for refusal in self._refusals:
            if refusal.times > 0 and refusal.pattern.search(target):
                refusal.times -= 1
                return httpx.Response(refusal.status, json=refusal.body)
        return None

    def _unauthorized(self, request: httpx.Request) -> httpx.Response | None:
        if request.headers.get("authorization") == f"Bearer {self.token}":
            return None
        return httpx.Response(401, json={"error": "Authenticate: token validation error"})

    def _routed(self, request: httpx.Request, target: str) -> httpx.Response:
        for pattern, handler in _ROUTES:
            match = pattern.fullmatch(target)
            if match is not None:
                return handler(self, request, match)
        return httpx.Response(404, text="404 page not found")

    def make(self, app: str, body: Json) -> FakeMachine:
        """Put a machine there that was never started."""
        self._number += 1
        made = FakeMachine(
            id=f"{self._number:014x}",
            app=app,
            name=body.get("name") or f"quiet-wave-{self._number}",
            region=body.get("region") or "lcl",
            config=body["config"],
            version=ids.ulid(_NOW_MS + self._number),
        )
        self.machines[made.id] = made
        made.versions.insert(0, {"version": made.version, "user_config": made.config})
        return made

    def launch(self, machine: FakeMachine) -> None:
        """Start a machine as its image's script says."""
        script = self.script(machine)
        machine.looks = 0
        self.note(machine, "launch", "created")
        if script.fails:
            machine.state = "failed"
            self.note(machine, "launch", "failed", {"message": script.fails})
            return
        if script.never_starts:
            machine.state = "starting"
            return
        for attempt in range(script.restarts + 1):
            if attempt:
                self.note(machine, "launch", "starting", {"restart_count": attempt})
            machine.state = "started"
            self.note(machine, "start", "started")
            for line in script.logs:
                self.log(machine.app, machine.id, line)
            if script.exit_code is None:
                return
            again = attempt < script.restarts
            exit_event = {
                "exit_code": script.exit_code,
                "requested_stop": False,
                "restarting": again,
            }
            self.note(
                machine, "exit", "stopped", {"exit_event": exit_event, "restart_count": attempt}
            )
            machine.state = "stopped"

    def script(self, machine: FakeMachine) -> Script:
        """Return what a machine does."""
        return self.scripts.get(str(machine.config.get("image")), Script())

    def note(
        self, machine: FakeMachine, kind: str, status: str, request: Json | None = None
    ) -> None:
        """Add an entry to a machine's history."""
        self._number += 1
        machine.events.insert(
            0,
            {
                "id": f"01EVENT{self._number:019}",
                "type": kind,
                "status": status,
                "source": "flyd",
                "timestamp": self.clock.now_ms(),
                "request": request,
            },
        )

    def shown(self, machine: FakeMachine) -> Json:
        """Return a machine as the API shows it; each look moves its checks on."""
        script = self.script(machine)
        status = script.checks[min(machine.looks, len(script.checks) - 1)]
        machine.looks += 1
        repository, _, tag = str(machine.config.get("image", "")).partition(":")
        return {
            "id": machine.id,
            "name": machine.name,
            "state": machine.state,
            "region": machine.region,
            "instance_id": machine.version,
            "version": machine.version,
            "private_ip": "fdaa:0:1::2",
            "image_ref": {
                "registry": "docker.io",
                "repository": repository,
                "tag": tag.partition("@")[0],
                "digest": "sha256:" + "b" * 64,
                "labels": script.labels,
            },
            "config": machine.config,
            "cordoned": machine.cordoned,
            "created_at": f"2026-01-01T00:00:{int(machine.id, 16) % 60:02}Z",
            "updated_at": "2026-01-01T00:00:00Z",
            "host_status": "ok",
            "events": machine.events[:_EVENTS],
            "checks": [
                {
                    "name": name,
                    "status": status,
                    "output": script.output,
                    "updated_at": "2026-01-01T00:00:00Z",
                }
                for name in check_names(machine.config)
            ]
            if machine.state == "started"
            else [],
        }


def _list_apps(fake: FakeApi, request: httpx.Request, _: re.Match[str]) -> httpx.Response:
    slug = request.url.params.get("org_slug")
    found = [one for one in fake.apps.values() if one["organization"]["slug"] == slug]
    return ok({"apps": found, "total_apps": len(found), "next_cursor": ""})


def _create_app(fake: FakeApi, request: httpx.Request, _: re.Match[str]) -> httpx.Response:
    body = body_of(request)
    if body["name"] in fake.apps or body["name"] in fake.foreign_apps:
        return no(422, "Name has already been taken", status="name_taken")
    if body["org_slug"] not in [one["slug"] for one in fake.orgs]:
        return no(404, f"organization {body['org_slug']} not found")
    return ok(fake.add_app(body["name"], body["org_slug"]), 201)


def _get_app(fake: FakeApi, _: httpx.Request, match: re.Match[str]) -> httpx.Response:
    if match[1] in fake.foreign_apps:
        return no(403, "not yours")
    app = fake.apps.get(match[1])
    if app is None:
        return no(404, "app not found")
    mine = [one for one in fake.machines.values() if one.app == match[1]]
    return ok({**app, "machine_count": len(mine)})


def _delete_app(fake: FakeApi, _: httpx.Request, match: re.Match[str]) -> httpx.Response:
    if fake.apps.pop(match[1], None) is None:
        return no(404, "app not found")
    return httpx.Response(202)


def _list_machines(fake: FakeApi, request: httpx.Request, match: re.Match[str]) -> httpx.Response:
    every = "include_deleted" in request.url.params
    leases = "include_leases" in request.url.params
    return ok(
        [
            {**fake.shown(one), **({"lease": one.lease} if leases and one.lease else {})}
            for one in fake.machines.values()
            if one.app == match[1] and (every or one.state != "destroyed")
        ]
    )


def _create_machine(fake: FakeApi, request: httpx.Request, match: re.Match[str]) -> httpx.Response:
    body = body_of(request)
    config = body.get("config", {})
    if not config.get("image") and not config.get("containers"):
        return no(400, "invalid_argument: config.image is required")
    made = fake.make(match[1], body)
    if not body.get("skip_launch"):
        fake.launch(made)
    return ok(fake.shown(made))


def _with_machine(act: Callable[[FakeApi, httpx.Request, FakeMachine], httpx.Response]) -> Handler:
    def handler(fake: FakeApi, request: httpx.Request, match: re.Match[str]) -> httpx.Response:
        found = fake.machines.get(match[2])
        if found is None or found.app != match[1]:
            return no(404, "machine not found")
        tail = request.url.path.rpartition("/")[2]
        guarded = request.method != "GET" and tail in (match[2], *_GUARDED)
        refused = fake_details.under_lease(request, found) if guarded else None
        return refused or act(fake, request, found)

    return handler


def _detail(
    act: Callable[[httpx.Request, FakeMachine], httpx.Response],
) -> Callable[[FakeApi, httpx.Request, FakeMachine], httpx.Response]:
    return lambda _, request, machine: act(request, machine)


def _get_machine(fake: FakeApi, _: httpx.Request, machine: FakeMachine) -> httpx.Response:
    return ok(fake.shown(machine))


def _update_machine(fake: FakeApi, request: httpx.Request, machine: FakeMachine) -> httpx.Response:
    body = body_of(request)
    if body.get("current_version", machine.version) != machine.version:
        return no(409, "machine version is not the current one")
    machine.config = body["config"]
    machine.version = ids.ulid(_NOW_MS + len(fake.calls))
    machine.versions.insert(0, {"version": machine.version, "user_config": machine.config})
    if not body.get("skip_launch"):
        fake.launch(machine)
    return ok(fake.shown(machine))


def _delete_machine(_: FakeApi, request: httpx.Request, machine: FakeMachine) -> httpx.Response:
    if machine.state == "started" and "force" not in request.url.params:
        return no(412, "failed_precondition: unable to destroy machine, not currently stopped")
    machine.state = "destroyed"
    return ok()


def _start(fake: FakeApi, _: httpx.Request, machine: FakeMachine) -> httpx.Response:
    previous = machine.state
    fake.launch(machine)
    return ok({"previous_state": previous})


def _stop(_: FakeApi, __: httpx.Request, machine: FakeMachine) -> httpx.Response:
    machine.state = "stopped"
    return ok()


def _suspend(fake: FakeApi, _: httpx.Request, machine: FakeMachine) -> httpx.Response:
    if machine.state != "started":
        return no(412, f"failed_precondition: machine is {machine.state}")
    machine.state = "suspended"
    fake.note(machine, "suspend", "suspended")
    return ok()


def _signal(_: FakeApi, request: httpx.Request, machine: FakeMachine) -> httpx.Response:
    machine.signals.append(body_of(request)["signal"])
    return ok()


def _cordon(_: FakeApi, request: httpx.Request, machine: FakeMachine) -> httpx.Response:
    machine.cordoned = request.url.path.endswith("/cordon")
    return ok()


def _wait(_: FakeApi, request: httpx.Request, machine: FakeMachine) -> httpx.Response:
    wanted = request.url.params.get("state", "started").split(",")
    reached = {event["status"] for event in machine.events}
    settled = machine.state in ("created", "started", "stopped", "suspended", "failed")
    if machine.state in wanted or ("settled" in wanted and settled):
        return ok({"ok": True, "state": machine.state, "version": machine.version})
    if "started" in wanted and "started" in reached:
        return ok({"ok": True, "state": "started", "version": machine.version})
    return no(
        408,
        f"deadline_exceeded: machine failed to reach desired state, {wanted[0]}, "
        f"currently {machine.state}",
    )


def _exec(_: FakeApi, request: httpx.Request, machine: FakeMachine) -> httpx.Response:
    if machine.state != "started":
        return no(412, "failed_precondition: machine is not running")
    command = body_of(request)["command"]
    if command[0] == "false":
        return ok({"exit_code": 1, "stdout": "", "stderr": "no\n"})
    return ok({"exit_code": 0, "stdout": " ".join(command) + "\n", "stderr": ""})


def _events(_: FakeApi, request: httpx.Request, machine: FakeMachine) -> httpx.Response:
    return ok(machine.events[: int(request.url.params.get("limit", 20))])


def _progress(fake: FakeApi, _: httpx.Request, machine: FakeMachine) -> httpx.Response:
    return ok({"id": machine.id, "state": machine.state, "sentence": fake.sentence})


def _list_orgs(fake: FakeApi, _: httpx.Request, __: re.Match[str]) -> httpx.Response:
    return ok({"orgs": fake.orgs})


def _create_org(fake: FakeApi, request: httpx.Request, _: re.Match[str]) -> httpx.Response:
    body = body_of(request)
    if body["slug"] in [one["slug"] for one in fake.orgs]:
        return no(422, "slug is taken", status="name_taken")
    made = {"id": f"org_{len(fake.orgs) + 1}", "slug": body["slug"], "name": body["name"]}
    fake.orgs.append(made)
    return ok(made, 201)


def _list_releases(fake: FakeApi, _: httpx.Request, match: re.Match[str]) -> httpx.Response:
    return ok({"releases": fake.releases.get(match[1], [])[::-1]})


def _get_release(fake: FakeApi, _: httpx.Request, match: re.Match[str]) -> httpx.Response:
    for one in fake.releases.get(match[1], []):
        if match[2] in (one["id"], str(one["version"])):
            return ok(one)
    return no(404, f"app {match[1]!r} has no release {match[2]}")


def _deploys(fake: FakeApi, request: httpx.Request, match: re.Match[str]) -> httpx.Response:
    if match[1] not in fake.apps:
        return no(404, "app not found")
    words = tuple(one for one in match.groups() if one is not None)
    return fake_deploys.answer(fake.deploys, fake, request, words)


def _build(fake: FakeApi, request: httpx.Request, _: re.Match[str]) -> httpx.Response:
    with tarfile.open(fileobj=io.BytesIO(request.content)) as archive:
        fake.contexts.append(sorted(archive.getnames()))

    async def lines() -> AsyncIterator[bytes]:
        for one in fake.build_answers:
            yield json.dumps(one).encode() + b"\n"

    return httpx.Response(200, content=lines())


def _logs(fake: FakeApi, request: httpx.Request, match: re.Match[str]) -> httpx.Response:
    after = int(request.url.params.get("next_token") or 0)
    instance = request.url.params.get("instance")
    mine = fake.logs.get(match[1], [])
    found = [one for one in mine[after:] if instance in (None, one["attributes"]["instance"])]
    return ok({"data": found, "meta": {"next_token": str(len(mine))}})


def _regions(fake: FakeApi, _: httpx.Request, __: re.Match[str]) -> httpx.Response:
    return ok({"regions": fake.regions, "nearest": fake.regions[0]["code"]})


def _placements(fake: FakeApi, request: httpx.Request, _: re.Match[str]) -> httpx.Response:
    wanted = body_of(request).get("count") or 8
    return ok({"regions": [{"region": fake.regions[0]["code"], "count": wanted}]})


def _hosts(_: FakeApi, __: httpx.Request, ___: re.Match[str]) -> httpx.Response:
    return ok({"hosts": [{"host_id": "a1b2c3d4", "region": "lcl", "zone": "0000"}]})


def _current_token(_: FakeApi, __: httpx.Request, ___: re.Match[str]) -> httpx.Response:
    return ok({"tokens": [{"token_id": "tok_1", "user": "a@b.c", "org_slug": "personal"}]})


def _list_tokens(fake: FakeApi, _: httpx.Request, __: re.Match[str]) -> httpx.Response:
    return ok({"tokens": fake.tokens})


def _create_token(fake: FakeApi, request: httpx.Request, _: re.Match[str]) -> httpx.Response:
    made = {"id": f"tok_{len(fake.tokens) + 2}", **body_of(request)}
    fake.tokens.append(made)
    return ok({**made, "token": "gw_new"}, 201)


def _revoke_token(fake: FakeApi, _: httpx.Request, match: re.Match[str]) -> httpx.Response:
    fake.tokens = [one for one in fake.tokens if one["id"] != match[1]]
    return httpx.Response(204)


_APP = "/v1/apps/([^/]+)"
_MACHINE = f"{_APP}/machines/([^/]+)"
_TABLE: tuple[tuple[str, Handler], ...] = (
    ("GET /v1/apps", _list_apps),
    ("POST /v1/apps", _create_app),
    (f"GET {_APP}", _get_app),
    (f"DELETE {_APP}", _delete_app),
    (f"GET {_APP}/machines", _list_machines),
    (f"POST {_APP}/machines", _create_machine),
    (f"GET {_MACHINE}", _with_machine(_get_machine)),
    (f"POST {_MACHINE}", _with_machine(_update_machine)),
    (f"DELETE {_MACHINE}", _with_machine(_delete_machine)),
    (f"POST {_MACHINE}/start", _with_machine(_start)),
    (f"POST {_MACHINE}/restart", _with_machine(_start)),
    (f"POST {_MACHINE}/stop", _with_machine(_stop)),
    (f"POST {_MACHINE}/(?:un)?cordon", _with_machine(_cordon)),
    (f"POST {_MACHINE}/suspend", _with_machine(_suspend)),
    (f"POST {_MACHINE}/signal", _with_machine(_signal)),
    (f"(?:POST|DELETE) {_MACHINE}/lease", _with_machine(_detail(fake_details.lease))),
    (f"DELETE /x{_MACHINE}/lease", _with_machine(_detail(fake_details.break_lease))),
    (f"(?:GET|PATCH) {_MACHINE}/metadata", _with_machine(_detail(fake_details.metadata))),
    (f"GET {_MACHINE}/versions", _with_machine(_detail(fake_details.versions))),
    (f"GET {_MACHINE}/ps", _with_machine(_detail(fake_details.ps))),
    (f"GET /x{_MACHINE}/cpu", _with_machine(_detail(fake_details.cpu))),
    (f"(?:GET|PUT) {_MACHINE}/memory", _with_machine(_detail(fake_details.memory))),
    (f"POST {_MACHINE}/memory/reclaim", _with_machine(_detail(fake_details.memory))),
    (f"GET {_MACHINE}/wait", _with_machine(_wait)),
    (f"POST {_MACHINE}/exec", _with_machine(_exec)),
    (f"GET {_MACHINE}/events", _with_machine(_events)),
    (f"GET /x{_MACHINE}", _with_machine(_progress)),
    ("GET /x/v1/orgs", _list_orgs),
    ("POST /x/v1/orgs", _create_org),
    ("GET /x/v1/apps/([^/]+)/releases", _list_releases),
    ("GET /x/v1/apps/([^/]+)/releases/([^/]+)", _get_release),
    ("(?:GET|POST) /x/v1/apps/([^/]+)/deploys", _deploys),
    ("(?:GET|POST) /x/v1/apps/([^/]+)/deploys/([^/]+)(?:/cancel)?", _deploys),
    ("POST /x/v1/apps/([^/]+)/rollback", _deploys),
    ("POST /x/v1/apps/([^/]+)/builds", _build),
    ("GET /api/v1/apps/([^/]+)/logs", _logs),
    ("GET /v1/platform/regions", _regions),
    ("POST /v1/platform/placements", _placements),
    ("GET /x/v1/hosts", _hosts),
    ("GET /v1/tokens/current", _current_token),
    ("GET /x/v1/tokens", _list_tokens),
    ("POST /x/v1/tokens", _create_token),
    ("DELETE /x/v1/tokens/([^/]+)", _revoke_token),
)
_ROUTES = tuple((re.compile(pattern), handler) for pattern, handler in _TABLE)
