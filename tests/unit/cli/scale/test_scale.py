"""`godwit scale count|vm|memory|show`."""

import json

import pytest

from godwit.cli import exits
from godwit.testing.fake_machine import Script, managed_config

DEFINITION = {
    "app": "hello",
    "primary_region": "lcl",
    "processes": {"web": "serve", "worker": "work hard"},
    "env": {"A": "1"},
    "http_service": {"internal_port": 8080, "processes": ["web"]},
    "vm": [{"size": "shared-cpu-2x", "processes": ["worker"]}],
}


def release(version, status="complete", config=DEFINITION):
    return {
        "id": f"rel_{version}",
        "version": version,
        "status": status,
        "image_ref": f"hello:{version}",
        "config": config,
    }


@pytest.fixture
def hello(cli):
    cli.fake.add_app("hello")
    cli.write("fly.toml", 'app = "hello"\n')
    cli.fake.releases["hello"] = [release(1)]
    return cli


@pytest.fixture
def web(hello):
    config = {**managed_config("hello:1", "web"), "env": {"A": "1", "FLY_PROCESS_GROUP": "web"}}
    return hello.fake.machines[hello.fake.add_machine("hello", config)]


def created(cli):
    return [body for target, body in cli.fake.bodies if target.endswith("/hello/machines")]


class TestCount:
    def test_a_plan_is_shown_and_agreed_to(self, hello, web):
        done = hello("scale", "count", "web=3")
        assert done.code == exits.USAGE
        assert done.stderr == (
            "hello will be scaled:\n"
            "    +2 machines of web in lcl (shared-cpu-1x, 256 MB)\n"
            "error: Scale hello? Nobody is here to answer.\n\nhint: pass --yes to say yes\n"
        )
        assert created(hello) == []
        hello.interactive, hello.answers = True, ["n\n"]
        assert hello("scale", "count", "web=3").code == 1
        hello.answers = ["y\n"]
        done = hello("scale", "count", "web=3")
        assert done.code == 0
        ids = [one for one in hello.fake.machines if one != web.id]
        assert done.stdout.splitlines() == ids
        assert f"created {ids[0]} of web in lcl" in done.stderr

    def test_a_new_machine_is_a_copy_of_the_groups_first(self, hello, web):
        web.config["services"] = [{"internal_port": 9, "protocol": "tcp"}]
        hello.fake.releases["hello"] += [release(2), release(3, "failed")]
        assert hello("scale", "count", "2", "-g", "web", "-y", "-e", "B=2").code == 0
        (body,) = created(hello)
        assert body["region"] == "lcl"
        assert body["config"] == {
            "image": "hello:2",
            "env": {"A": "1", "FLY_PROCESS_GROUP": "web", "B": "2"},
            "services": [{"internal_port": 9, "protocol": "tcp"}],
            "metadata": {
                "fly_platform_version": "v2",
                "fly_process_group": "web",
                "fly_release_id": "rel_2",
                "fly_release_version": "2",
            },
        }

    def test_of_containers_those_that_got_the_built_image_get_the_releases(self, hello, web):
        cache = {"name": "cache", "image": "redis:7"}
        contained = {"containers": [cache, {"name": "web", "image": "."}]}
        definition = {**DEFINITION, "machine_config": json.dumps(contained)}
        hello.fake.releases["hello"].append(release(2, config=definition))
        web.config["containers"] = [cache, {"name": "web", "image": "hello:1", "user": "app"}]
        del web.config["image"]
        assert hello("scale", "count", "2", "-g", "web", "-y").code == 0
        (body,) = created(hello)
        assert "image" not in body["config"]
        assert body["config"]["containers"] == [
            cache,
            {"name": "web", "image": "hello:2", "user": "app"},
        ]

    def test_a_copy_of_a_standby_is_none(self, hello, web):
        config = {
            **managed_config("hello:1", "worker"),
            "standbys": [web.id],
            "env": {"FLY_STANDBY_FOR": web.id},
        }
        hello.fake.add_machine("hello", config, state="stopped")
        assert hello("scale", "count", "worker=1", "-y").code == 0
        (body,) = created(hello)
        assert "standbys" not in body["config"]
        assert "env" not in body["config"]

    def test_an_empty_group_is_made_from_the_newest_releases_config(self, hello, web):
        changed = {**DEFINITION, "env": {"A": "2"}}
        hello.fake.releases["hello"].append(release(2, "failed", changed))
        assert hello("scale", "count", "worker=1", "--yes").code == 0
        (body,) = created(hello)
        assert body["config"] == {
            "image": "hello:1",
            "env": {"A": "2", "FLY_PROCESS_GROUP": "worker", "PRIMARY_REGION": "lcl"},
            "init": {"cmd": ["work", "hard"]},
            "guest": {"cpu_kind": "shared", "cpus": 2, "memory_mb": 512},
            "metadata": {
                "fly_platform_version": "v2",
                "fly_process_group": "worker",
                "fly_release_id": "rel_1",
                "fly_release_version": "1",
            },
        }

    def test_a_number_alone_is_for_the_default_group_and_regions_are_those_there_are(
        self, hello, web
    ):
        other = hello.fake.machines[hello.fake.add_machine("hello", web.config)]
        other.region = "ams"
        done = hello("scale", "count", "+2", "--yes", "--json")
        assert [one["region"] for one in done.json["created"]] == ["lcl", "ams"]
        assert done.json["destroyed"] == []
        done = hello("scale", "count", "-3", "--yes", "--json")
        assert [one["region"] for one in done.json["destroyed"]] == ["lcl", "ams", "ams"]

    def test_listed_regions_and_a_most(self, hello, web):
        done = hello("scale", "count", "3", "-r", "ams,fra", "--max-per-region", "2", "--yes")
        assert done.code == 0, done.stderr
        assert [body["region"] for body in created(hello)] == ["ams", "ams", "fra"]
        done = hello("scale", "count", "5", "-r", "ams,fra", "--max-per-region", "2", "--yes")
        assert done.code == exits.USAGE
        assert done.stderr.startswith("error: 5 machines do not fit")

    def test_an_app_scaled_to_nothing_is_scaled_up_in_its_primary_region(self, hello):
        assert hello("scale", "count", "worker=2", "--yes").code == 0
        assert [body["region"] for body in created(hello)] == ["lcl", "lcl"]

    def test_sizes_of_new_machines(self, hello, web):
        web.config["guest"] = {
            "cpu_kind": "shared",
            "cpus": 1,
            "memory_mb": 512,
            "kernel_args": ["x=1"],
        }
        assert hello("scale", "count", "2", "--vm-cpus", "4", "--yes").code == 0
        assert created(hello)[0]["config"]["guest"] == {
            "cpu_kind": "shared",
            "cpus": 4,
            "memory_mb": 1024,
            "kernel_args": ["x=1"],
        }

    def test_machines_go_under_their_leases(self, hello, web):
        for _ in range(2):
            hello.fake.add_machine("hello", web.config)
        done = hello("scale", "count", "0", "--yes")
        assert (done.code, done.stdout) == (0, ""), done.stderr
        assert [one.state for one in hello.fake.machines.values()] == ["destroyed"] * 3
        kinds = [call.split("?")[0] for call in hello.fake.calls if web.id in call]
        assert kinds == [
            f"POST /v1/apps/hello/machines/{web.id}/lease",
            f"DELETE /v1/apps/hello/machines/{web.id}",
        ]
        assert "force=true" in hello.fake.calls[-1]

    def test_leases_are_given_back(self, hello, web):
        assert hello("scale", "count", "2", "--yes").code == 0
        assert web.lease is None
        assert hello.fake.calls[-1] == f"DELETE /v1/apps/hello/machines/{web.id}/lease"

    def test_somebody_elses_lease_stops_it_before_anything_happens(self, hello, web):
        other = hello.fake.machines[hello.fake.add_machine("hello", web.config)]
        other.lease = {"owner": "token:deploy", "nonce": "theirs"}
        done = hello("scale", "count", "3", "--yes")
        assert done.code == exits.FAILED
        assert done.stderr.splitlines()[2].startswith(
            "error: lease currently held by token:deploy"
        )
        assert created(hello) == []
        assert web.lease is None
        assert other.lease["nonce"] == "theirs"

    def test_what_was_changed_since_it_was_shown_is_not_scaled(self, hello, web):
        def answer(_):
            hello.fake.add_machine("hello", web.config)
            return "y\n"

        class Answers(list):
            def pop(self, _):
                return answer(None)

        hello.interactive, hello.answers = True, Answers()
        done = hello("scale", "count", "2")
        assert done.code == exits.FAILED
        assert "hello was changed meanwhile; nothing was scaled" in done.stderr
        assert created(hello) == []

    def test_nothing_to_do(self, hello, web):
        done = hello("scale", "count", "web=1", "--json")
        assert done.json == {"app": "hello", "created": [], "destroyed": []}
        assert done.stderr == "hello has these machines already\n"
        assert not any(call.endswith("/lease") for call in hello.fake.calls)

    def test_what_failed_is_told_and_the_rest_is_done(self, hello, web):
        hello.fake.refuse(
            "POST /v1/apps/hello/machines$",
            503,
            {"error": "no room", "status": "insufficient_capacity"},
        )
        done = hello("scale", "count", "4", "--yes")
        assert done.code == exits.FAILED
        assert done.stderr.count("created ") == 2
        assert "error: no room" in done.stderr
        assert hello("scale", "count", "4", "--yes").code == 0
        assert len(hello.fake.machines) == 4

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("many",), 'expected a count such as 3, +1, -1 or worker=2, got "many"'),
            (("cron=1",), 'hello has no process group "cron"'),
            (("-2",), "2 machines cannot go: web has 1"),
            (("2", "--with-new-volumes"), "--with-new-volumes: this platform has no volumes yet"),
            (("2", "--from-snapshot", "s"), "--from-snapshot: this platform has no volumes yet"),
            (("2", "-e", "A"), "--env A: expected NAME=VALUE"),
            (("2", "--vm-size", "x"), 'there is no size "x"'),
            ((), "missing argument 'COUNT...'"),
        ],
    )
    def test_what_cannot_be(self, hello, web, arguments, said):
        done = hello("scale", "count", *arguments, "--yes")
        assert done.code == exits.USAGE
        assert said in done.stderr
        assert created(hello) == []

    def test_without_a_complete_release(self, hello):
        hello.fake.releases["hello"] = [release(1, "failed")]
        done = hello("scale", "count", "2", "--yes")
        assert done.code == exits.FAILED
        assert "no release of hello is complete" in done.stderr
        assert hello("scale", "count", "2", "-a", "nope").code == exits.NOT_FOUND

    def test_files_that_only_a_deploy_can_read(self, hello):
        files = [{"guest_path": "/x", "local_path": "x", "processes": ["worker"]}]
        hello.fake.releases["hello"] = [release(1, config={**DEFINITION, "files": files})]
        done = hello("scale", "count", "worker=1", "--yes")
        assert done.code == exits.FAILED
        assert "worker has no machine to copy" in done.stderr


class TestSize:
    @pytest.fixture
    def worker(self, hello, web):
        config = {**managed_config("hello:1", "worker"), "size": "shared-cpu-2x"}
        return hello.fake.machines[hello.fake.add_machine("hello", config, state="stopped")]

    def test_another_size(self, hello, web):
        done = hello("scale", "vm", "shared-cpu-2x")
        assert (done.code, done.stdout) == (0, f"{web.id}\n"), done.stderr
        assert web.config["guest"] == {"cpu_kind": "shared", "cpus": 2, "memory_mb": 512}
        assert f"==> {web.id} gets shared-cpu-2x, 512 MB\n" in done.stderr
        body = hello.fake.bodies[-1][1]
        assert body["current_version"]
        assert "skip_launch" not in body
        assert web.lease is None

    def test_a_size_with_its_own_memory(self, hello, web):
        done = hello("scale", "vm", "performance-1x", "--vm-memory", "4gb", "--json")
        guest = {"cpu_kind": "performance", "cpus": 1, "memory_mb": 4096}
        assert done.json == {
            "app": "hello",
            "group": "web",
            "guest": guest,
            "machines": [web.id],
        }

    def test_memory_alone(self, hello, web, worker):
        done = hello("scale", "memory", "1gb", "-g", "worker")
        assert done.code == 0, done.stderr
        assert worker.config["guest"] == {"cpu_kind": "shared", "cpus": 2, "memory_mb": 1024}
        assert "size" not in worker.config
        assert "guest" not in web.config

    def test_a_machine_that_rests_goes_on_resting(self, hello, worker):
        assert hello("scale", "memory", "1024", "-g", "worker").code == 0
        assert hello.fake.bodies[-1][1]["skip_launch"] is True
        assert worker.state == "stopped"

    def test_with_several_groups_one_has_to_be_named(self, hello, web, worker):
        done = hello("scale", "vm", "shared-cpu-2x")
        assert done.code == exits.USAGE
        assert done.stderr == (
            "error: which process group? hello has web, worker\n\nhint: pass --process-group\n"
        )
        assert (
            "groups with machines are web, worker"
            in hello("scale", "vm", "shared-cpu-2x", "-g", "cron").stderr
        )

    def test_nothing_to_do(self, hello, web):
        done = hello("scale", "memory", "256")
        assert (done.code, done.stdout) == (0, "")
        assert done.stderr == "the machines of web have shared-cpu-1x, 256 MB already\n"
        assert hello.fake.bodies == []

    def test_one_that_does_not_come_up_ends_it(self, hello, web):
        other = hello.fake.machines[hello.fake.add_machine("hello", web.config)]
        hello.fake.scripts["hello:1"] = Script(fails="no memory")
        done = hello("scale", "memory", "512")
        assert done.code == exits.FAILED
        assert f"machine {web.id} is failed: no memory" in done.stderr
        assert "guest" not in other.config

    def test_what_cannot_be(self, hello, web):
        assert "there is no size" in hello("scale", "vm", "huge").stderr
        assert "256 to 2048 MB" in hello("scale", "memory", "100gb").stderr
        web.state = "destroyed"
        assert "hello has no machines" in hello("scale", "memory", "512").stderr

    def test_show(self, hello, web, worker):
        other = hello.fake.machines[hello.fake.add_machine("hello", web.config)]
        other.region = "ams"
        standby = {**worker.config, "standbys": [worker.id]}
        hello.fake.add_machine("hello", standby, state="stopped")
        hello.fake.add_machine("hello", {"image": "job:1"})
        assert hello("scale", "show").stdout == (
            "GROUP   COUNT  KIND    CPUS  MEMORY MB  REGIONS         STANDBYS\n"
            "web     2      shared  1     256        ams(1), lcl(1)  -\n"
            "worker  1      shared  2     512        lcl(1)          1\n"
        )
        assert hello("scale", "show", "--json").json[1] == {
            "group": "worker",
            "count": 1,
            "cpu_kind": "shared",
            "cpus": 2,
            "memory_mb": 512,
            "regions": {"lcl": 1},
            "standbys": 1,
        }

    def test_show_nothing(self, hello):
        assert hello("scale", "show", "--json").json == []
        assert hello("scale", "show", "-a", "nope").code == exits.NOT_FOUND
