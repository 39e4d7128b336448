"""An API in memory that behaves as the real one does towards a client.

`FakeApi.transport()` is what `godwit.client.api.Api` takes instead of the network. Machines
start at once, unless their image has a script: see `Script`. Every request is kept in
`calls`, bodies in `bodies`; `refuse` makes the next matching request fail.
"""

import io
import json
import re
import tarfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from godwit.base import clock, ids

Json = dict[str, Any]
_EVENTS = 5
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


@dataclass(frozen=True)
class Script:
    """What machines of an image do.

    Attributes:
        exit_code: They exit by themselves with this code as soon as they start.
        restarts: How often the platform starts them again after that.
        checks: The status of each of their checks, look by look; the last one stays.
        output: What checks say.
        logs: What they print.
        never_starts: They stay in `starting`.
        fails: They end in `failed` with this message, and never start.
    """

    exit_code: int | None = None
    restarts: int = 0
    checks: tuple[str, ...] = ("passing",)
    output: str = "ok"
    logs: tuple[str, ...] = ()
    never_starts: bool = False
    fails: str = ""


@dataclass
class FakeMachine:
    """A machine of the fake."""

    id: str
    app: str
    name: str
    region: str
    config: Json
    version: str
    state: str = "created"
    cordoned: bool = False
    events: list[Json] = field(default_factory=list)
    looks: int = 0


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
        return made

    def launch(self, machine: FakeMachine) -> None:
        """Start a machine as its image's script says."""
        script = self.script(machine)
        machine.looks = 0
        self._event(machine, "launch", "created")
        if script.fails:
            machine.state = "failed"
            self._event(machine, "launch", "failed", {"message": script.fails})
            return
        if script.never_starts:
            machine.state = "starting"
            return
        for attempt in range(script.restarts + 1):
            machine.state = "started"
            self._event(machine, "start", "started")
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
            self._event(
                machine, "exit", "stopped", {"exit_event": exit_event, "restart_count": attempt}
            )
            machine.state = "stopped"

    def script(self, machine: FakeMachine) -> Script:
        """Return what a machine does."""
        return self.scripts.get(str(machine.config.get("image")), Script())

    def _event(
        self, machine: FakeMachine, kind: str, status: str, request: Json | None = None
    ) -> None:
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
            "image_ref": {"repository": repository, "tag": tag.partition("@")[0]},
            "config": machine.config,
            "cordoned": machine.cordoned,
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
            "host_status": "ok",
            "events": machine.events[:_EVENTS],
            "checks": [
                {"name": name, "status": status, "output": script.output}
                for name in _check_names(machine.config)
            ]
            if machine.state == "started"
            else [],
        }


def managed_config(image: str = "old:1", group: str = "app", version: int = 1) -> Json:
    """Return the config of a machine that deploys manage."""
    return {
        "image": image,
        "metadata": {
            "fly_platform_version": "v2",
            "fly_process_group": group,
            "fly_release_version": str(version),
        },
    }


def _check_names(config: Json) -> list[str]:
    names = list(config.get("checks") or {})
    for number, service in enumerate(config.get("services") or []):
        names += [
            f"servicecheck-{number:02}-{one['type']}-{service['internal_port']}"
            for one in service.get("checks") or []
        ]
    return names


def _ok(body: Any = None, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json={"ok": True} if body is None else body)


def _no(code: int, error: str, **more: str) -> httpx.Response:
    return httpx.Response(code, json={"error": error, **more})


def _body(request: httpx.Request) -> Json:
    found = json.loads(request.content or b"{}")
    return found if isinstance(found, dict) else {}


def _list_apps(fake: FakeApi, request: httpx.Request, _: re.Match[str]) -> httpx.Response:
    slug = request.url.params.get("org_slug")
    found = [one for one in fake.apps.values() if one["organization"]["slug"] == slug]
    return _ok({"apps": found, "total_apps": len(found), "next_cursor": ""})


def _create_app(fake: FakeApi, request: httpx.Request, _: re.Match[str]) -> httpx.Response:
    body = _body(request)
    if body["name"] in fake.apps or body["name"] in fake.foreign_apps:
        return _no(422, "Name has already been taken", status="name_taken")
    if body["org_slug"] not in [one["slug"] for one in fake.orgs]:
        return _no(404, f"organization {body['org_slug']} not found")
    return _ok(fake.add_app(body["name"], body["org_slug"]), 201)


def _get_app(fake: FakeApi, _: httpx.Request, match: re.Match[str]) -> httpx.Response:
    if match[1] in fake.foreign_apps:
        return _no(403, "not yours")
    app = fake.apps.get(match[1])
    if app is None:
        return _no(404, "app not found")
    mine = [one for one in fake.machines.values() if one.app == match[1]]
    return _ok({**app, "machine_count": len(mine)})


def _delete_app(fake: FakeApi, _: httpx.Request, match: re.Match[str]) -> httpx.Response:
    if fake.apps.pop(match[1], None) is None:
        return _no(404, "app not found")
    return httpx.Response(202)


def _list_machines(fake: FakeApi, request: httpx.Request, match: re.Match[str]) -> httpx.Response:
    every = "include_deleted" in request.url.params
    return _ok(
        [
            fake.shown(one)
            for one in fake.machines.values()
            if one.app == match[1] and (every or one.state != "destroyed")
        ]
    )


def _create_machine(fake: FakeApi, request: httpx.Request, match: re.Match[str]) -> httpx.Response:
    body = _body(request)
    if not body.get("config", {}).get("image"):
        return _no(400, "invalid_argument: config.image is required")
    made = fake.make(match[1], body)
    if not body.get("skip_launch"):
        fake.launch(made)
    return _ok(fake.shown(made))


def _with_machine(act: Callable[[FakeApi, httpx.Request, FakeMachine], httpx.Response]) -> Handler:
    def handler(fake: FakeApi, request: httpx.Request, match: re.Match[str]) -> httpx.Response:
        found = fake.machines.get(match[2])
        if found is None or found.app != match[1]:
            return _no(404, "machine not found")
        return act(fake, request, found)

    return handler


def _get_machine(fake: FakeApi, _: httpx.Request, machine: FakeMachine) -> httpx.Response:
    return _ok(fake.shown(machine))


def _update_machine(fake: FakeApi, request: httpx.Request, machine: FakeMachine) -> httpx.Response:
    body = _body(request)
    if body.get("current_version", machine.version) != machine.version:
        return _no(409, "machine version is not the current one")
    machine.config = body["config"]
    machine.version = ids.ulid(_NOW_MS + len(fake.calls))
    if not body.get("skip_launch"):
        fake.launch(machine)
    return _ok(fake.shown(machine))


def _delete_machine(_: FakeApi, request: httpx.Request, machine: FakeMachine) -> httpx.Response:
    if machine.state == "started" and "force" not in request.url.params:
        return _no(412, "failed_precondition: unable to destroy machine, not currently stopped")
    machine.state = "destroyed"
    return _ok()


def _start(fake: FakeApi, _: httpx.Request, machine: FakeMachine) -> httpx.Response:
    previous = machine.state
    fake.launch(machine)
    return _ok({"previous_state": previous})


def _stop(_: FakeApi, __: httpx.Request, machine: FakeMachine) -> httpx.Response:
    machine.state = "stopped"
    return _ok()


def _cordon(_: FakeApi, request: httpx.Request, machine: FakeMachine) -> httpx.Response:
    machine.cordoned = request.url.path.endswith("/cordon")
    return _ok()


def _wait(_: FakeApi, request: httpx.Request, machine: FakeMachine) -> httpx.Response:
    wanted = request.url.params.get("state", "started").split(",")
    reached = {event["status"] for event in machine.events}
    settled = machine.state in ("created", "started", "stopped", "suspended", "failed")
    if machine.state in wanted or ("settled" in wanted and settled):
        return _ok({"ok": True, "state": machine.state, "version": machine.version})
    if "started" in wanted and "started" in reached:
        return _ok({"ok": True, "state": "started", "version": machine.version})
    return _no(
        408,
        f"deadline_exceeded: machine failed to reach desired state, {wanted[0]}, "
        f"currently {machine.state}",
    )


def _exec(_: FakeApi, request: httpx.Request, machine: FakeMachine) -> httpx.Response:
    if machine.state != "started":
        return _no(412, "failed_precondition: machine is not running")
    command = _body(request)["command"]
    if command[0] == "false":
        return _ok({"exit_code": 1, "stdout": "", "stderr": "no\n"})
    return _ok({"exit_code": 0, "stdout": " ".join(command) + "\n", "stderr": ""})


def _events(_: FakeApi, __: httpx.Request, machine: FakeMachine) -> httpx.Response:
    return _ok(machine.events)


def _progress(fake: FakeApi, _: httpx.Request, machine: FakeMachine) -> httpx.Response:
    return _ok({"id": machine.id, "state": machine.state, "sentence": fake.sentence})


def _list_orgs(fake: FakeApi, _: httpx.Request, __: re.Match[str]) -> httpx.Response:
    return _ok({"orgs": fake.orgs})


def _create_org(fake: FakeApi, request: httpx.Request, _: re.Match[str]) -> httpx.Response:
    body = _body(request)
    if body["slug"] in [one["slug"] for one in fake.orgs]:
        return _no(422, "slug is taken", status="name_taken")
    made = {"id": f"org_{len(fake.orgs) + 1}", "slug": body["slug"], "name": body["name"]}
    fake.orgs.append(made)
    return _ok(made, 201)


def _list_releases(fake: FakeApi, _: httpx.Request, match: re.Match[str]) -> httpx.Response:
    return _ok({"releases": fake.releases.get(match[1], [])[::-1]})


def _create_release(fake: FakeApi, request: httpx.Request, match: re.Match[str]) -> httpx.Response:
    mine = fake.releases.setdefault(match[1], [])
    made = {
        "id": f"rel_{len(mine) + 1}",
        "version": len(mine) + 1,
        "status": "running",
        "user": "token:1",
        "created_at": "2026-01-01T00:00:00Z",
        **_body(request),
    }
    mine.append(made)
    return _ok(made, 201)


def _finish_release(fake: FakeApi, request: httpx.Request, match: re.Match[str]) -> httpx.Response:
    for one in fake.releases.get(match[1], []):
        if match[2] in (one["id"], str(one["version"])):
            one.update(_body(request))
            return _ok(one)
    return _no(404, "release not found")


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
    return _ok({"data": found, "meta": {"next_token": str(len(mine))}})


def _regions(fake: FakeApi, _: httpx.Request, __: re.Match[str]) -> httpx.Response:
    return _ok({"regions": fake.regions, "nearest": fake.regions[0]["code"]})


def _hosts(_: FakeApi, __: httpx.Request, ___: re.Match[str]) -> httpx.Response:
    return _ok({"hosts": [{"host_id": "a1b2c3d4", "region": "lcl", "zone": "0000"}]})


def _current_token(_: FakeApi, __: httpx.Request, ___: re.Match[str]) -> httpx.Response:
    return _ok({"tokens": [{"token_id": "tok_1", "user": "a@b.c", "org_slug": "personal"}]})


def _list_tokens(fake: FakeApi, _: httpx.Request, __: re.Match[str]) -> httpx.Response:
    return _ok({"tokens": fake.tokens})


def _create_token(fake: FakeApi, request: httpx.Request, _: re.Match[str]) -> httpx.Response:
    made = {"id": f"tok_{len(fake.tokens) + 2}", **_body(request)}
    fake.tokens.append(made)
    return _ok({**made, "token": "gw_new"}, 201)


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
    (f"GET {_MACHINE}/wait", _with_machine(_wait)),
    (f"POST {_MACHINE}/exec", _with_machine(_exec)),
    (f"GET {_MACHINE}/events", _with_machine(_events)),
    (f"GET /x{_MACHINE}", _with_machine(_progress)),
    ("GET /x/v1/orgs", _list_orgs),
    ("POST /x/v1/orgs", _create_org),
    ("GET /x/v1/apps/([^/]+)/releases", _list_releases),
    ("POST /x/v1/apps/([^/]+)/releases", _create_release),
    ("PATCH /x/v1/apps/([^/]+)/releases/([^/]+)", _finish_release),
    ("POST /x/v1/apps/([^/]+)/builds", _build),
    ("GET /api/v1/apps/([^/]+)/logs", _logs),
    ("GET /v1/platform/regions", _regions),
    ("GET /x/v1/hosts", _hosts),
    ("GET /v1/tokens/current", _current_token),
    ("GET /x/v1/tokens", _list_tokens),
    ("POST /x/v1/tokens", _create_token),
    ("DELETE /x/v1/tokens/([^/]+)", _revoke_token),
)
_ROUTES = tuple((re.compile(pattern), handler) for pattern, handler in _TABLE)
