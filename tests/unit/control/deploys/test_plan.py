"""Plans: which machines are made, updated, replaced, destroyed; and what cannot be."""

from typing import Any

import pytest

from godwit.appconfig.model import Config
from godwit.base import errors
from godwit.control.deploys import configs, definitions, plan, service
from godwit.control.deploys.order import Plan, Settings, Strategy
from godwit.testing.deploys import Yard, refused
from godwit.wire import host_rpc
from godwit.wire.deploys import Options
from tests.unit.control.deploys.conftest import CHECK, GROUPS, WEB

IMAGE = host_rpc.ImageRef(reference="x", registry="r", repository="x", digest="sha256:1")


def view(number: int, group: str = "app", state: str = "started", **more: Any) -> Any:
    config = {
        "image": "x",
        "metadata": {"fly_platform_version": "v2", "fly_process_group": group},
        **more.pop("config", {}),
    }
    return host_rpc.MachineView(
        machine_id=f"{number:014x}",
        instance_id=f"01V{number}",
        name=f"m{number}",
        org_id="org",
        network_id="net",
        app_id="app",
        app="shop",
        host_id="h",
        region=more.pop("region", "lcl"),
        state=state,
        private_ip="",
        image=IMAGE,
        config=config,
        created_at="",
        updated_at="",
        epoch=1,
        revision=1,
        **more,
    )


def make(
    definition: dict[str, Any],
    machines: list[Any],
    strategy: Strategy = "rolling",
    max_unavailable: float = 0.33,
    unmade: tuple[str, ...] = (),
    **options: Any,
) -> Plan:
    town = plan.Town(
        config=definitions.understand(definition),
        region="lcl",
        machines=machines,
        settings=Settings(strategy=strategy, max_unavailable=max_unavailable),
        options=Options.model_validate(options),
        unmade=frozenset(unmade),
    )
    return plan.make(town, lambda key: key)


def made(found: Plan) -> list[tuple[str, bool, tuple[str, ...]]]:
    return [(slot.key, slot.start, slot.standby_for) for slot in found.create]


ALONE = {"app": "shop"}
MOUNTED = {"app": "shop", "mounts": [{"source": "data", "destination": "/data"}]}


@pytest.mark.parametrize(
    ("definition", "options", "wanted"),
    [
        (WEB, {}, [("app/0", True, ()), ("app/1", True, ())]),
        ({"app": "shop"}, {}, [("app/0", True, ()), ("app/1", False, ("app/0",))]),
        (MOUNTED, {}, [("app/0", True, ())]),
        (WEB, {"ha": False}, [("app/0", True, ())]),
        ({"app": "shop"}, {"ha": False}, [("app/0", True, ())]),
        (
            GROUPS,
            {},
            [
                ("web/0", True, ()),
                ("web/1", True, ()),
                ("worker/0", True, ()),
                ("worker/1", False, ("worker/0",)),
            ],
        ),
    ],
)
def test_a_group_without_machines_gets_what_its_kind_needs(
    definition: dict[str, Any], options: dict[str, Any], wanted: list[Any]
) -> None:
    assert made(make(definition, [], **options)) == wanted


FIRST = f"{1:014x}"


@pytest.mark.parametrize(
    ("definition", "machines", "options", "wanted"),
    [
        (ALONE, [view(1)], {}, [("app/1", False, (FIRST,))]),
        (WEB, [view(1)], {}, [("app/1", True, ())]),
        (MOUNTED, [view(1)], {}, []),
        (ALONE, [view(1), view(2)], {}, []),
        (ALONE, [view(1)], {"unmade": ("other",)}, []),
        (ALONE, [view(1)], {"ha": False}, []),
        (ALONE, [view(1)], {"update_only": True}, []),
        (ALONE, [view(1)], {"strategy": "bluegreen"}, []),
    ],
)
def test_a_group_gets_the_second_machine_that_an_earlier_deploy_did_not_make(
    definition: dict[str, Any], machines: list[Any], options: dict[str, Any], wanted: list[Any]
) -> None:
    assert made(make(definition, machines, **{"unmade": ("app",), **options})) == wanted


def test_it_is_made_where_the_first_one_is() -> None:
    found = make(ALONE, [view(1, region="fra")], unmade=("app",))
    assert [slot.region for slot in found.create] == ["fra"]


@pytest.mark.parametrize(
    ("value", "running", "wanted"),
    [
        (0.33, 1, 1),
        (0.33, 3, 1),
        (0.33, 4, 2),
        (0.33, 10, 4),
        (0.01, 10, 1),
        (0.99, 10, 10),
        (1, 10, 1),
        (1.9, 10, 1),
        (3, 2, 3),
        (0.5, 0, 1),
    ],
)
def test_how_many_may_be_away(value: float, running: int, wanted: int) -> None:
    assert plan.at_once(value, running) == wanted


def test_only_running_machines_count_for_max_unavailable() -> None:
    machines = [view(n, state="started" if n < 4 else "stopped") for n in range(10)]
    found = make(WEB, machines, max_unavailable=0.5)
    assert found.at_once == {"app": 2}
    assert [one.start for one in found.update] == [True] * 4 + [False] * 6


@pytest.mark.parametrize(
    ("state", "standbys", "start"),
    [
        ("started", False, True),
        ("starting", False, True),
        ("failed", False, True),
        ("stopped", False, False),
        ("suspended", False, False),
        ("stopped", True, False),
        ("failed", True, False),
        ("started", True, True),
    ],
)
def test_who_is_started_by_an_update(state: str, standbys: bool, start: bool) -> None:
    config = {"standbys": ["0" * 14]} if standbys else {}
    (update,) = make(WEB, [view(1, state=state, config=config)]).update
    assert update.start == start


def test_machines_of_removed_groups_and_left_canaries_go_and_others_are_left_out() -> None:
    machines = [
        view(1),
        view(2, "old"),
        view(3, configs.RELEASE_COMMAND),
        view(4, state="destroyed"),
        view(5, config={"metadata": {}}),
        view(6, config={"metadata": {"fly_platform_version": "v2", "fly_canary": "true"}}),
    ]
    found = make(WEB, machines)
    assert [one.machine_id[-1] for one in found.update] == ["1"]
    assert [one.machine_id[-1] for one in found.destroy] == ["2", "6"]


@pytest.mark.parametrize(
    ("options", "updated"),
    [
        ({"regions": ["ams"]}, "2"),
        ({"exclude_regions": ["ams"]}, "13"),
        ({"only_machines": [f"{3:014x}"]}, "3"),
        ({"exclude_machines": [f"{3:014x}"]}, "12"),
        ({"process_groups": ["worker"]}, "3"),
    ],
)
def test_filters_say_who_is_updated(options: dict[str, Any], updated: str) -> None:
    machines = [view(1, "web"), view(2, "web", region="ams"), view(3, "worker")]
    found = make(GROUPS, machines, **options)
    assert "".join(one.machine_id[-1] for one in found.update) == updated
    assert len(found.unchanged) == 3 - len(updated)
    assert found.create == ()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"regions": ["ams"]}, "region lcl is out of scope"),
        ({"exclude_regions": ["lcl"]}, "region lcl is out of scope"),
        ({"process_groups": ["web"]}, "it is out of scope"),
        ({"only_machines": [f"{1:014x}"]}, "only the machines that were named are updated"),
        ({"update_only": True}, "only machines that are there are updated"),
    ],
)
def test_a_filter_makes_no_machines_and_says_so(options: dict[str, Any], why: str) -> None:
    found = make(GROUPS, [view(1, "web")], **options)
    assert found.create == ()
    assert found.sentences[-1] == f"Group worker has no machine and gets none: {why}"


def test_a_filter_that_names_what_is_not_there_is_refused() -> None:
    for options in ({"only_machines": ["f" * 14]}, {"process_groups": ["nobody"]}):
        with pytest.raises(errors.Failure, match=r"nobody|ffff"):
            make(WEB, [view(1)], **options)


def test_a_canary_is_of_each_group_that_has_machines() -> None:
    assert make(GROUPS, [], strategy="canary").canaries == ()
    machines = [view(1, "web", "stopped", region="ams"), view(2, "web"), view(3, "worker")]
    found = make(GROUPS, machines, strategy="canary")
    assert [(one.group, one.region) for one in found.canaries] == [
        ("web", "lcl"),
        ("worker", "lcl"),
    ]


def test_a_green_rests_like_its_blue_but_one_of_a_group_is_started() -> None:
    machines = [view(1, state="stopped"), view(2, state="stopped")]
    found = make(WEB, machines, strategy="bluegreen")
    assert [(one.replaces[-1], one.start) for one in found.greens] == [("1", True), ("2", False)]


def test_a_plan_says_what_it_does_in_sentences() -> None:
    found = make(GROUPS, [view(1, "web"), view(2, "web"), view(3, "old")])
    assert found.sentences == (
        "A machine of worker is made in lcl",
        "A machine of worker is made in lcl that stands by for the first",
        "2 machines of web: updated in place, 1 at a time",
        "Machine 00000000000003 is destroyed: the config has no group old",
    )


def test_machines_that_no_deploy_made_are_left_and_that_is_said_where_there_are_no_others() -> (
    None
):
    stranger = view(1, config={"metadata": {}})
    console = view(2, config={"metadata": {"fly_process_group": "fly_app_console"}})
    found = make(ALONE, [stranger, console, view(3, state="destroyed", config={"metadata": {}})])
    assert found.sentences[0] == "Made by no deploy, left as they are: 00000000000001"
    assert [slot.key for slot in found.create] == ["app/0", "app/1"]
    beside = make(ALONE, [stranger, view(2)])
    assert not any("no deploy" in one for one in beside.sentences)


HUGE = {**WEB, "vm": [{"size": "performance-16x"}]}


@pytest.mark.parametrize(
    ("definition", "options", "code", "message"),
    [
        (HUGE, {}, "insufficient_capacity", "no host in lcl has room for a machine of app"),
        ({**WEB, "primary_region": "syd"}, {}, "invalid_argument", "'syd' has no hosts"),
        (MOUNTED, {"strategy": "canary"}, "invalid_argument", "a volume is in one machine only"),
        (MOUNTED, {}, "failed_precondition", "no volume named data"),
        (WEB, {"strategy": "sideways"}, "invalid_argument", "must be one of rolling"),
        (WEB, {"max_unavailable": 0}, "invalid_argument", "must be more than 0"),
        ({"app": "shop", "http_service": {"internal_port": "x"}}, {}, "invalid_argument", "port"),
        (
            {"app": "shop", "files": [{"guest_path": "/a", "local_path": "a"}]},
            {},
            "invalid_argument",
            "the content of a has to be in the definition",
        ),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_touched(
    yard: Yard, definition: dict[str, Any], options: dict[str, Any], code: str, message: str
) -> None:
    failure = await refused(yard.begin(definition, "nginx:1", **options))
    assert (failure.code, message in failure.message) == (code, True), failure.message
    assert yard.host.machines == {}
    assert await service.newest(yard.ctx, yard.who, "shop", 10) == []


async def test_an_image_that_is_not_there_is_refused(yard: Yard) -> None:
    assert (await refused(yard.begin(WEB, "missing:1"))).code == "manifest_unknown"
    assert (await refused(yard.begin(WEB, ""))).code == "invalid_argument"


async def test_twice_as_many_machines_have_to_be_allowed(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    yard.world = yard.world.options(org_machines=3)
    asked = len(yard.host.asked)
    failure = await refused(yard.begin(WEB, "nginx:2", strategy="bluegreen"))
    assert failure.message == "organization 'acme' may have 3 machines, not 2 more than it has"
    assert not any(verb == "machine.reserve" for verb, _ in yard.host.asked[asked:])
    await yard.deploy(WEB, "nginx:2", strategy="rolling")


async def test_twice_as_many_machines_have_to_have_room(yard: Yard) -> None:
    large = {**WEB, "vm": [{"memory": "2gb"}]}
    await yard.deploy(large, "nginx:1")
    yard.host.memory_mb = 7 * 1024
    failure = await refused(yard.begin(large, "nginx:2", strategy="bluegreen"))
    assert failure.code == "insufficient_capacity"
    said = "the hosts in lcl have room for 1 of 2 new machines of app (2048 MB each)"
    assert failure.message == said
    await yard.add_host("b2b2b2b2")
    await yard.deploy(large, "nginx:2", strategy="bluegreen")


async def test_bluegreen_needs_a_check_and_one_image(yard: Yard) -> None:
    bare = {"app": "shop", "http_service": {"internal_port": 80}}
    await yard.deploy(bare, "nginx:1")
    failure = await refused(yard.begin(bare, "nginx:2", strategy="bluegreen"))
    assert "bluegreen needs a check" in failure.message
    await yard.deploy(bare, "nginx:2", only_machines=[min(yard.host.machines)])
    checked = {**bare, "http_service": {"internal_port": 80, "checks": [CHECK]}}
    failure = await refused(yard.begin(checked, "nginx:3", strategy="bluegreen"))
    assert "the machines run 2 different images" in failure.message


async def test_a_plan_can_be_seen_without_deploying(yard: Yard) -> None:
    wanted = service.NewDeploy(GROUPS, "nginx:1")
    found = await service.show_plan(yard.ctx, yard.who, "shop", wanted)
    assert len(found.create) == 4
    assert yard.host.machines == {}
    assert await service.newest(yard.ctx, yard.who, "shop", 10) == []


def test_the_release_commands_machine_has_the_size_of_the_largest(yard: Yard) -> None:
    def guest(definition: dict[str, Any], machines: list[Any]) -> Any:
        config: Config = definitions.understand(definition)
        mark = configs.ReleaseMark("rel", 1)  # type: ignore[attr-defined]
        return configs.release_command(config, "x", "i", mark, machines)["guest"]

    small, large = (
        view(n, config={"guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": n * 256}})
        for n in (1, 2)
    )
    named = {**WEB, "deploy": {"release_command_vm": {"memory": "1gb"}}}
    assert guest(WEB, [])["cpus"] == 2
    assert guest(named, [small])["memory_mb"] == 1024
    assert guest({**WEB, "vm": [{"memory": 2048}]}, [])["memory_mb"] == 2048
    marked = {"metadata": {"fly_platform_version": "v2", "fly_process_group": "app"}}
    sized = [one.model_copy(update={"config": {**one.config, **marked}}) for one in (small, large)]
    assert guest(WEB, sized)["memory_mb"] == 512
