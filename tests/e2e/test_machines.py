"""One machine's life through the public API, in real microVMs."""

import ipaddress
import json
from pathlib import Path

import pytest

from godwit.testing.platform import Platform, eventually
from tests.unit.api.test_malformed import CONFIG_FIELDS, HOSTILE_BODIES, WRONG_VALUES


class Machines:
    """Creates machines from the example's image, and removes them."""

    def __init__(self, platform: Platform, app: str, image: str) -> None:
        self.platform, self.app, self.image = platform, app, image
        self.api = platform.api
        self.made: list[str] = []

    def call(self, method: str, path: str, expect: int = 200, **options):
        answer = self.api.request(method, f"/v1/apps/{self.app}/machines{path}", **options)
        assert answer.status_code == expect, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def run(self, *argv: str, wait: str = "started", **config) -> dict:
        """Create a machine that runs a command, and wait for a state."""
        body = {
            "config": {
                "image": self.image,
                "init": {"exec": list(argv)},
                "restart": {"policy": "no"},
                **config,
            }
        }
        machine = self.call("POST", "", json=body)
        self.made.append(machine["id"])
        self.wait(machine["id"], wait)
        return machine

    def wait(self, machine: str, state: str) -> None:
        self.platform.wait(self.app, machine, state)

    def get(self, machine: str) -> dict:
        found: dict = self.call("GET", f"/{machine}")
        return found

    def exit_event(self, machine: str) -> dict:
        events = self.get(machine)["events"]
        found: dict = next(e for e in events if e["type"] == "exit")["request"]["exit_event"]
        return found


@pytest.fixture
def machines(platform: Platform, launched):
    existing = platform.deployed("hello-reed")
    made = Machines(platform, "hello-reed", existing["config"]["image"])
    yield made
    for machine in made.made:
        made.api.delete(f"/v1/apps/{made.app}/machines/{machine}", params={"force": "true"})
    made.api.close()


PYTHON = "/usr/bin/env", "python3", "-c"


def test_environment_names_and_resolver_are_those_of_the_spec(machines: Machines) -> None:
    machine = machines.run("sleep", "600", env={"GREETING": "grüß 'dich'", "FLY_REGION": "xxx"})
    seen = machines.platform.exec(
        machines.app,
        machine["id"],
        "sh",
        "-c",
        "env; echo ---; cat /etc/hosts; echo ---; cat /etc/resolv.conf; echo ---; hostname",
    )
    environment, hosts, resolver, name = seen["stdout"].split("---\n")
    for line in (
        f"FLY_APP_NAME={machines.app}",
        f"FLY_MACHINE_ID={machine['id']}",
        f"FLY_ALLOC_ID={machine['id']}",
        f"FLY_PRIVATE_IP={machine['private_ip']}",
        f"FLY_MACHINE_VERSION={machine['instance_id']}",
        "FLY_REGION=lcl",
        "FLY_VM_MEMORY_MB=256",
        f"FLY_IMAGE_REF={machines.image}",
        "FLY_PROCESS_GROUP=app",
        "GREETING=grüß 'dich'",
    ):
        assert line in environment.splitlines()
    assert f"{machine['private_ip']}" in hosts
    assert "fly-local-6pn" in hosts
    (public,) = (
        line.partition("=")[2]
        for line in environment.splitlines()
        if line.startswith("FLY_PUBLIC_IP=")
    )
    assert ipaddress.ip_address(public).version == 6
    udp = [line.split()[0] for line in hosts.splitlines() if "fly-global-services" in line]
    (own,) = (address for address in udp if address != machine["private_ip"])
    assert ipaddress.ip_address(own) in ipaddress.ip_network("172.16.0.0/12")
    assert resolver.startswith("nameserver fdaa::3")
    assert name.strip() == machine["id"]


def test_its_vmm_is_confined(machines: Machines) -> None:
    ident = machines.run("sleep", "600")["id"]
    pid = machines.platform.vmm_pid(ident)
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    assert all(int(uid) >= 2_000_000 for uid in status["Uid"])
    assert (status["Seccomp"], status["NoNewPrivs"]) == (["2"], ["1"])
    assert int(status["CapEff"][0], 16) == 0
    groups = Path("/sys/fs/cgroup")
    limits = [
        *groups.glob(f"*/godwit/*/{ident}/memory.limit_in_bytes"),
        *groups.glob(f"godwit/*/{ident}/memory.max"),
    ]
    held = {"shims" if ".shims/" in str(one) else "vmm": int(one.read_text()) for one in limits}
    assert set(held) == {"vmm", "shims"}
    assert 256 << 20 < held["vmm"] <= 520 << 20
    assert held["shims"] <= 64 << 20


def test_config_comes_back_exactly_as_submitted(machines: Machines) -> None:
    machine = machines.run("sleep", "600", metadata={"a": "b"}, files=[], zzz={"kept": [1, None]})
    config = machines.get(machine["id"])["config"]
    assert config == {
        "image": machines.image,
        "init": {"exec": ["sleep", "600"]},
        "restart": {"policy": "no"},
        "metadata": {"a": "b"},
        "files": [],
        "zzz": {"kept": [1, None]},
    }


def test_a_file_holds_the_config_of_an_image_at_every_start(machines: Machines) -> None:
    file = {"guest_path": "/etc/image.json", "image_config": machines.image, "mode": 0o440}
    machine = machines.run("sleep", "600", files=[file])

    def read() -> dict:
        command = ["sh", "-c", "stat -c %a /etc/image.json; cat /etc/image.json"]
        path = f"/{machine['id']}/exec"
        ran = machines.call("POST", path, json={"command": command, "timeout": 30})
        mode, _, document = ran["stdout"].partition("\n")
        assert mode == "440"
        found: dict = json.loads(document)
        return found

    first = read()
    assert (first["os"], first["architecture"]) == ("linux", "amd64")
    assert first["rootfs"]["diff_ids"]
    machines.call("POST", f"/{machine['id']}/restart")
    machines.wait(machine["id"], "started")
    assert read() == first
    assert machines.get(machine["id"])["config"]["files"] == [file]


def test_a_file_of_an_image_that_is_not_there_makes_no_machine(machines: Machines) -> None:
    repository = machines.image.partition("@")[0].rpartition(":")[0]
    file = {"guest_path": "/x", "image_config": f"{repository}:nothing"}
    body = {"config": {"image": machines.image, "files": [file]}}
    answer = machines.call("POST", "", json=body, expect=400)
    assert "files with image_config " in answer["error"]
    assert f"{repository}:nothing does not exist" in answer["error"]


@pytest.mark.parametrize(
    ("program", "code", "signal"),
    [("import sys; sys.exit(3)", 3, -1), ("import os; os.kill(os.getpid(), 9)", 137, 9)],
)
def test_exit_code_is_reported(machines: Machines, program: str, code: int, signal) -> None:
    machine = machines.run(*PYTHON, program, wait="stopped")
    seen = machines.exit_event(machine["id"])
    assert seen["exit_code"] == code
    assert seen["guest_signal"] == signal
    assert not seen["requested_stop"]
    assert not seen["oom_killed"]


def test_out_of_memory_is_told_apart(machines: Machines) -> None:
    machine = machines.run(*PYTHON, "x = []\nwhile True: x.append(bytes(1 << 20))", wait="stopped")
    seen = machines.exit_event(machine["id"])
    assert seen["oom_killed"]
    assert seen["exit_code"] == 137


def test_stop_sends_the_signal_and_waits(machines: Machines) -> None:
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGUSR1, lambda *a: (print('got it', flush=True), sys.exit(7)))\n"
        "print('ready', flush=True)\nwhile True: time.sleep(1)"
    )
    machine = machines.run(*PYTHON, program)
    ident = machine["id"]
    eventually(
        lambda: (
            "ready"
            in machines.platform.godwit(
                "logs", "-a", machines.app, "--machine", ident, "--no-tail"
            )
        )
    )
    machines.call("POST", f"/{ident}/stop", json={"signal": "SIGUSR1", "timeout": "20s"})
    machines.wait(ident, "stopped")
    seen = machines.exit_event(ident)
    assert seen["exit_code"] == 7
    assert seen["requested_stop"]


def test_a_process_that_ignores_the_signal_is_killed_after_the_timeout(machines: Machines) -> None:
    program = (
        "import signal, time\n"
        "for s in (2, 15): signal.signal(s, signal.SIG_IGN)\n"
        "print('ready', flush=True)\nwhile True: time.sleep(1)"
    )
    ident = machines.run(*PYTHON, program)["id"]
    eventually(
        lambda: (
            "ready"
            in machines.platform.godwit(
                "logs", "-a", machines.app, "--machine", ident, "--no-tail"
            )
        )
    )
    machines.call("POST", f"/{ident}/stop", json={"timeout": "1s"})
    machines.wait(ident, "stopped")
    assert machines.exit_event(ident)["exit_code"] == 137


def test_stop_then_start_gives_a_fresh_root(machines: Machines) -> None:
    ident = machines.run("sleep", "600")["id"]
    machines.platform.exec(machines.app, ident, "touch", "/was-here")
    machines.call("POST", f"/{ident}/stop")
    machines.wait(ident, "stopped")
    machines.call("POST", f"/{ident}/start")
    machines.wait(ident, "started")
    assert machines.platform.exec(machines.app, ident, "test", "-e", "/was-here")["exit_code"] == 1


def test_exec_gives_exit_code_output_and_errors(machines: Machines) -> None:
    ident = machines.run("sleep", "600")["id"]
    seen = machines.platform.exec(
        machines.app, ident, "sh", "-c", "echo out; echo err >&2; exit 5"
    )
    assert (seen["exit_code"], seen["stdout"], seen["stderr"]) == (5, "out\n", "err\n")
    said = machines.call(
        "POST", f"/{ident}/exec", expect=400, json={"command": ["/no/such"], "timeout": 5}
    )
    assert "/no/such" in said["error"]
    machines.call(
        "POST", f"/{ident}/exec", expect=408, json={"command": ["sleep", "60"], "timeout": 1}
    )


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"init": {"exec": ["/no/such/program"]}}, "/no/such/program"),
        ({"init": {"exec": ["/etc/passwd"]}}, "not executable"),
    ],
)
def test_a_machine_that_cannot_start_says_why(machines: Machines, config, words: str) -> None:
    body = {"config": {"image": machines.image, "restart": {"policy": "no"}, **config}}
    machine = machines.call("POST", "", json=body)
    machines.made.append(machine["id"])
    eventually(lambda: machines.get(machine["id"])["state"] in ("failed", "stopped"))
    assert words in str(machines.get(machine["id"]))


def test_delete_needs_force_while_started_and_leaves_it_readable(machines: Machines) -> None:
    ident = machines.run("sleep", "600")["id"]
    machines.call("DELETE", f"/{ident}", expect=412)
    machines.call("DELETE", f"/{ident}", params={"force": "true"})
    machines.wait(ident, "destroyed")
    assert machines.get(ident)["state"] == "destroyed"


def test_more_memory_than_the_host_has_is_refused_with_numbers(machines: Machines) -> None:
    guest = {"cpu_kind": "performance", "cpus": 16, "memory_mb": 65536}
    body = {"config": {"image": machines.image, "guest": guest}}
    said = machines.call("POST", "", expect=503, json=body)
    assert said["status"] == "insufficient_capacity"
    assert "65536" in said["error"]


def test_an_unknown_image_is_refused(machines: Machines) -> None:
    body = {"config": {"image": "127.0.0.1:5050/hello-reed:nosuchtag"}}
    said = machines.call("POST", "", expect=400, json=body)
    assert "MANIFEST_UNKNOWN" in said["error"]


def test_a_guest_that_floods_its_log_leaves_everything_working(machines: Machines) -> None:
    ident = machines.run(*PYTHON, "while True: print('flood ' * 200)")["id"]
    assert machines.platform.exec(machines.app, ident, "echo", "alive")["stdout"] == "alive\n"
    logs = machines.platform.data / "store" / "machines" / ident / "logs"
    assert sum(f.stat().st_size for f in logs.iterdir()) < 64 * 1024**2
    machines.call("POST", f"/{ident}/stop", json={"timeout": "1s"})
    machines.wait(ident, "stopped")


def test_malformed_bodies_get_no_500_from_the_running_platform(machines: Machines) -> None:
    machine = machines.run("sleep", "600")["id"]
    path = f"/v1/apps/{machines.app}/machines"
    bodies = [("POST", path, body) for body in HOSTILE_BODIES]
    for route in (f"{path}/{machine}/exec", f"{path}/{machine}/lease", "/v1/apps"):
        bodies += [("POST", route, body) for body in HOSTILE_BODIES]
    bodies += [("PATCH", f"{path}/{machine}/metadata", body) for body in HOSTILE_BODIES]
    for field in CONFIG_FIELDS:
        for value in WRONG_VALUES[:8]:
            config = {"image": machines.image, field: value}
            body = json.dumps({"config": config, "skip_launch": True}).encode()
            bodies.append(("POST", f"{path}/{machine}", body))
    answers = []
    image = f'"image": "{machines.image}"'.encode()
    for method, route, given in bodies:
        # No image is looked for where there is no network: that is not what this is about.
        body = given.replace(b'"image": "x"', image)
        answer = machines.api.request(method, route, content=body)
        answers.append(answer.status_code)
        assert answer.status_code < 500, (method, route, body[:80], answer.text)
    assert len(answers) >= 200
    assert answers.count(400) > 200


def test_what_is_large_or_no_text_gets_no_500_from_the_running_platform(
    machines: Machines,
) -> None:
    machine = machines.run("sleep", "600")["id"]
    for program in ("head -c 200000 /dev/urandom", "head -c 131072 /dev/zero"):
        both = f"{program}; {program} >&2"
        seen = machines.platform.exec(machines.app, machine, "sh", "-c", both)
        assert seen["exit_code"] == 0
        assert len(seen["stdout"]) > 30_000
        assert seen["stdout"].endswith("is not shown]\n")
    service = {"protocol": "tcp", "internal_port": 80, "ports": [{"port": 80}] * 9_000}
    for more, code in (
        ({"env": {"A": "a" * 250_000}}, 400),
        ({"metadata": {"a": "\1" * 20_000}}, 400),
        ({"services": [service]}, 400),
        ({"services": [{**service, "ports": [{"port": 80}] * 40_000}]}, 413),
        ({"env": {"A": "\1" * 10_000}}, 400),
        ({"zzz": "\1" * 26_000, "env": {"A": "\1" * 8_000}}, 400),
        ({"zzz": "\1" * 19_000, "env": {"A": "\1" * 8_000}, "metadata": {"a": "é" * 14_000}}, 200),
    ):
        config = {"image": machines.image, "init": {"exec": ["sleep", "600"]}, **more}
        answer = machines.api.post(
            f"/v1/apps/{machines.app}/machines/{machine}", json={"config": config}
        )
        assert answer.status_code == code, answer.text
    assert machines.get(machine)["config"] == config
    machines.wait(machine, "started")
