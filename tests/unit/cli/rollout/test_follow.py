import asyncio

from godwit.cli.rollout import follow, progress
from godwit.client.records import Deploy, DeployEvent, LogLine, LogPage
from godwit.testing.fake_api import JumpingClock


class Telling(progress.Plain):
    """Keeps what it is told."""

    def __init__(self):
        self.told = []

    def step(self, title):
        self.told.append(("step", title))

    def line(self, text):
        self.told.append(("line", text))

    def machine(self, machine_id, text):
        self.told.append((machine_id, text))

    def note(self, text):
        self.told.append(("note", text))


class Deploys:
    """Answers with events, a few at a time."""

    def __init__(self, events, at_a_time):
        self.events = [DeployEvent(number=n, **one) for n, one in enumerate(events, 1)]
        self.at_a_time = at_a_time
        self.asked = []

    async def get(self, app, deploy_id, *, after, wait_s):
        self.asked.append(after)
        left = [one for one in self.events if one.number > after]
        status = "complete" if len(left) <= self.at_a_time else "running"
        return Deploy(id=deploy_id, app=app, status=status, events=left[: self.at_a_time])


class Logs:
    """Prints one more line each time it is asked, until there are three."""

    def __init__(self):
        self.asked = []

    async def page(self, app, *, instance, next_token):
        self.asked.append(instance)
        number = int(next_token or 0) + 1
        lines = [LogLine(message=f"row {number}")] if number <= 3 else []
        return LogPage(lines=lines, next_token=str(min(number, 3)))


def followed(*events, at_a_time=2):
    telling = Telling()

    class Api:
        deploys = Deploys(events, at_a_time)
        logs = Logs()

    begun = Deploy(id="dep_1", app="hello", status="running", release={"version": 3})

    class Here:
        clock = JumpingClock()

    ended = asyncio.run(follow.to_its_end(Here, Api, begun, telling))
    assert ended.status == "complete"
    return telling.told, Api.deploys.asked


def test_events_are_told_by_their_kind_and_none_twice():
    told, asked = followed(
        {"level": "step", "message": "Update 1 machine"},
        {"level": "state", "message": "gets v3", "group": "app", "machine_id": "a"},
        {"level": "state", "message": "The release command has succeeded"},
        {"level": "warning", "message": "is left over", "group": "app", "machine_id": "a"},
        {"level": "step", "message": "Release v3 is deployed"},
    )
    assert told == [
        ("step", "Update 1 machine"),
        ("a", "a (app) gets v3"),
        ("line", "The release command has succeeded"),
        ("note", "warning: a (app) is left over"),
    ]
    assert asked == [0, 2, 4, 5]


def test_what_goes_wrong_is_told_once_with_all_its_lines():
    trouble = {"message": "machine a is failed", "group": "app", "machine_id": "a"}
    told, _ = followed(
        {"level": "error", **trouble},
        {"level": "warning", **trouble},
        {"level": "error", "message": "the last lines of a:\n    Traceback", "machine_id": "a"},
        {"level": "error", "message": "Release v3 failed: machine a is failed"},
    )
    assert told == [
        ("note", "error: machine a is failed"),
        ("note", "error: the last lines of a:"),
        ("note", "    Traceback"),
    ]


def test_what_the_release_command_prints_is_shown_while_it_runs():
    command = {"group": follow.RELEASE_COMMAND, "machine_id": "c"}
    told, _ = followed(
        {"level": "step", "message": "Run the release command: migrate"},
        {"level": "state", "message": "runs it", **command},
        {"level": "error", "message": "the last lines of c:\n    row 1", **command},
        {"level": "error", "message": "the release command failed with exit code 1"},
    )
    assert told == [
        ("step", "Run the release command: migrate"),
        ("c", "c (fly_app_release_command) runs it"),
        ("line", "row 1"),
        ("note", "error: the release command failed with exit code 1"),
        ("line", "row 2"),
        ("line", "row 3"),
    ]
