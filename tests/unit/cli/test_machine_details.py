"""`godwit machine suspend|signal|kill|events|versions|ps|memory|leases|metadata`."""

import pytest

from godwit.cli import exits
from godwit.testing.fake_machine import managed_config

LEASE = {"owner": "token:tok_1", "description": "deploy", "expires_at": 1_700_000_060}


@pytest.fixture
def web(cli):
    cli.fake.add_app("hello")
    cli.write("fly.toml", 'app = "hello"\n')
    machine = cli.fake.machines[cli.fake.add_machine("hello")]
    machine.name = "web"
    return machine


def test_suspend_and_start_again(cli, web):
    done = cli("machine", "suspend", "web")
    assert (done.code, done.stderr) == (0, f"{web.id} is suspending\n")
    assert web.state == "suspended"
    assert cli("machine", "start", web.id, "--wait").stderr == f"{web.id} is started\n"
    waited = cli("machine", "suspend", "web", "--wait")
    assert waited.stderr == f"{web.id} is suspended\n"


def test_what_cannot_be_suspended_is_told(cli, web):
    web.state = "stopped"
    done = cli("machine", "suspend", "web")
    assert done.code == exits.FAILED
    assert "machine is stopped" in done.stderr


def test_signals(cli, web):
    assert cli("machine", "signal", "web", "-s", "SIGHUP").code == 0
    assert cli("machine", "kill", web.id).stderr == f"{web.id} has been killed\n"
    assert web.signals == ["SIGHUP", "SIGKILL"]


def test_several_machines_by_name_are_looked_up_at_once(cli, web):
    other = cli.fake.machines[cli.fake.add_machine("hello")]
    other.name = "worker"
    assert cli("machine", "cordon", "web", "worker").code == 0
    assert sum(call.endswith("/machines") for call in cli.fake.calls) == 1
    assert web.cordoned
    assert other.cordoned


def test_one_that_is_not_there_among_several_is_told_before_anything_happens(cli, web):
    done = cli("machine", "cordon", "web", "nope")
    assert done.code == exits.NOT_FOUND
    assert not web.cordoned


def test_events(cli, web):
    cli.fake.launch(web)
    done = cli("machine", "events", "web")
    assert done.stdout.splitlines()[0].split() == ["EVENT", "STATUS", "SOURCE", "AT", "INFO"]
    assert [one["type"] for one in cli("machine", "events", "web", "--json").json] == [
        "start",
        "launch",
    ]
    assert len(cli("machine", "events", "web", "-n", "1", "--json").json) == 1
    assert cli("machine", "events", "web", "-n", "51").code == exits.USAGE


def test_versions(cli, web):
    web.versions.insert(0, {"version": "01NEW", "user_config": managed_config("new:2", version=7)})
    done = cli("machine", "versions", "web")
    assert done.stdout.splitlines()[1].split() == ["01NEW", "new:2", "7"]
    found = cli("machine", "versions", "web", "--json").json
    assert found[0]["user_config"]["image"] == "new:2"


def test_processes(cli, web):
    done = cli("machine", "ps", "web")
    assert done.stdout == (
        "PID  CPU %  MEMORY MB  RUNS FOR  COMMAND  LISTENS ON\n"
        "1    0      1.0        0:01:15   /init    -\n"
        "7    2      9.0        0:01:10   nginx    tcp [::]:80\n"
    )
    found = cli("machine", "ps", "web", "--sort-by", "rss", "--desc", "--json").json
    assert [one["pid"] for one in found] == [7, 1]
    wrong = cli("machine", "ps", "web", "--sort-by", "age")
    assert wrong.code == exits.USAGE
    assert "keys are pid" in wrong.stderr


def test_memory(cli, web):
    assert cli("machine", "memory", "web").stdout == "Limit      256 MB\nAvailable  128 MB\n"
    done = cli("machine", "memory", "web", "--limit", "512", "--json")
    assert done.json == {"available_mb": 256, "limit_mb": 512}
    assert cli("machine", "memory", "web", "--reclaim", "64").stderr == (
        f"{web.id} gave back 32 MB\n"
    )


def test_cpu(cli, web):
    assert cli("machine", "cpu", "web").stdout == (
        "Baseline   0.0625 CPUs\nSaved      12.34 s\nHeld back  0.50 s\n"
    )
    assert cli("machine", "cpu", "web", "--json").json["balance"] == 1234
    web.name = "free"
    assert "uses what CPU there is" in cli("machine", "cpu", web.id).stdout


def test_leases(cli, web):
    assert cli("machine", "leases", "view", "--json").json == []
    web.lease = LEASE
    row = cli("machine", "leases", "view", "web").stdout.splitlines()[1].split()
    assert row[:4] == [web.id, "web", "token:tok_1", "deploy"]
    found = cli("machine", "leases", "view", "--json").json
    assert found[0]["machine"] == web.id
    assert found[0]["owner"] == "token:tok_1"
    assert cli("machine", "leases", "clear").stderr == f"{web.id} is free\n"
    assert web.lease is None
    assert cli("machine", "leases", "clear", "web").stderr == f"{web.id} has no lease\n"


def test_metadata(cli, web):
    assert cli("machine", "metadata", "set", "web", "role=leader", "at=home").code == 0
    assert cli("machine", "metadata", "unset", web.id, "at").code == 0
    found = cli("machine", "metadata", "show", "web", "--json").json
    assert found["role"] == "leader"
    assert "at" not in found
    assert "role" in cli("machine", "metadata", "show", "web").stdout
    for wrong in ("role", "role=", "=x"):
        assert cli("machine", "metadata", "set", "web", wrong).code == exits.USAGE


def test_a_machine_that_stands_by_is_made_and_rests(cli, web):
    done = cli("machine", "run", "worker:1", "--standby-for", web.id, "-n", "spare")
    assert done.code == 0, done.stderr
    body = cli.fake.bodies[-1][1]
    assert body["skip_launch"] is True
    assert body["config"]["standbys"] == [web.id]
    assert cli("machine", "run", "x", "--standby-for", "web").code == exits.USAGE


def test_a_machine_may_have_a_schedule(cli, web):
    assert cli("machine", "run", "cleaner:1", "--schedule", "hourly", "--detach").code == 0
    assert cli.fake.bodies[-1][1]["config"]["schedule"] == "hourly"
    wrong = cli("machine", "run", "x", "--schedule", "often")
    assert wrong.code == exits.USAGE
    assert "hourly, daily, weekly, monthly" in wrong.stderr
