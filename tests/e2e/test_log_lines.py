"""Every line that a component writes about a machine or an app says whose it is."""

import re
from collections.abc import Iterator

import pytest

from godwit.testing.platform import ORGANIZATIONS, Platform, eventually

OURS = ("control", "agent", "edge", "dns", "host")
"""Components whose lines are ours; bus and registry are other people's programs."""
LINE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ")


def lines(platform: Platform) -> Iterator[tuple[str, str]]:
    for name in OURS:
        for path in (platform.data / "log").glob(f"{name}.log*"):
            for line in path.read_text(errors="replace").splitlines():
                if LINE.match(line):
                    yield path.name, line


def owners(platform: Platform) -> dict[str, str]:
    """Return machines and apps that there are or were, and the ids of their organizations."""
    found = {}
    with platform.api as api:
        orgs = {one["slug"]: one["id"] for one in api.get("/x/v1/orgs").json()["orgs"]}
        for slug in ORGANIZATIONS:
            answer = api.get("/v1/apps", params={"org_slug": slug}).json()
            for app in answer["apps"]:
                found[app["name"]] = orgs[slug]
                query = {"include_deleted": "true"}
                machines = api.get(f"/v1/apps/{app['name']}/machines", params=query).json()
                found |= {machine["id"]: orgs[slug] for machine in machines}
    return found


def agent_is_back(platform: Platform, former: object) -> bool:
    try:
        return platform.component("agent") != former
    except AssertionError:
        return False


@pytest.fixture(scope="module", autouse=True)
def gone(platform: Platform, launched: dict[str, str]) -> Iterator[None]:
    """Leave each app the machine that it had: others are told of all its machines."""
    yield
    for app in launched.values():
        kept = platform.deployed(app)["id"]
        for machine in platform.machines(app):
            if machine["id"] != kept:
                words = ("machine", "destroy", machine["id"], "--force", "--yes", "--app", app)
                platform.godwit(*words)


def test_every_line_that_names_a_machine_or_an_app_names_its_organization(
    platform: Platform, launched: dict[str, str]
) -> None:
    made = {org: platform.deployed(app)["id"] for org, app in launched.items()}
    for org, app in launched.items():
        # A machine whose process ends badly, again and again, is told of in the agent's log.
        image = platform.deployed(app)["config"]["image"]
        platform.godwit(
            *("machine", "run", image, "false", "--app", app, "--restart", "no", "--detach")
        )
        platform.godwit(
            *("machine", "run", f"{image.partition('@')[0]}-missing", "--app", app), expect=4
        )
        platform.godwit("machine", "stop", made[org], "--app", app, "--wait")
        platform.godwit("machine", "start", made[org], "--app", app, "--wait")
    former = platform.kill("agent")
    eventually(lambda: agent_is_back(platform, former))
    eventually(lambda: all(platform.get(app).status_code == 200 for app in launched.values()))

    known = owners(platform)
    names = re.compile(r"(?<![\w-])(" + "|".join(map(re.escape, known)) + r")(?![\w-])")
    told, wrong = set(), []
    for component, line in lines(platform):
        for name in set(names.findall(line)):
            told.add((component, known[name]))
            if f" org_id={known[name]}" not in line:
                wrong.append((component, line))
    assert wrong == []
    assert {("agent.log", org_id) for org_id in known.values()} <= told


def test_the_organization_in_a_line_is_the_one_of_its_machine(platform: Platform) -> None:
    known = owners(platform)
    for component, line in lines(platform):
        about = dict(re.findall(r" (org_id|machine_id)=(\S+)", line))
        if about.get("machine_id") in known and "org_id" in about:
            assert about["org_id"] == known[about["machine_id"]], (component, line)
