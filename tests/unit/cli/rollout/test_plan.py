from hypothesis import given
from hypothesis import strategies as st

from godwit.appconfig import groups
from godwit.appconfig.model import Config
from godwit.cli.rollout import plan
from godwit.client.records import Machine


def machine(number, group="app", state="started", platform="v2"):
    marks = {"fly_process_group": group, "fly_platform_version": platform}
    return Machine(id=f"{number:014x}", state=state, config={"metadata": marks})


MACHINES = st.lists(
    st.builds(
        machine,
        st.integers(0, 10**9),
        st.sampled_from(["app", "web", "worker", "fly_app_release_command"]),
        st.sampled_from(["started", "stopped", "suspended", "failed", "destroyed", "destroying"]),
        st.sampled_from(["v2", ""]),
    ),
    max_size=8,
    unique_by=lambda one: one.id,
)
CONFIGS = st.sampled_from([{}, {"web": ""}, {"web": "", "worker": ""}]).map(
    lambda processes: Config(processes=processes)
)


@given(CONFIGS, MACHINES)
def test_every_group_ends_with_a_machine_and_no_machine_is_touched_twice(config, machines):
    made = plan.make(config, machines)
    kept = {update.group for update in made.update} | set(made.create)
    assert kept == set(groups.names(config))
    touched = [one.id for one in made.destroy] + [one.machine.id for one in made.update]
    assert len(touched) == len(set(touched))
    assert set(touched) == {one.id for one in plan.managed(machines)}


@given(CONFIGS, MACHINES)
def test_only_machines_of_groups_that_are_gone_are_destroyed(config, machines):
    for one in plan.make(config, machines).destroy:
        assert one.managed()
        assert one.group() not in groups.names(config)


@given(CONFIGS, MACHINES)
def test_what_rests_goes_on_resting(config, machines):
    for update in plan.make(config, machines).update:
        assert update.launch == (update.machine.state not in ("stopped", "suspended"))


def test_updates_go_by_group_and_id():
    config = Config(processes={"web": "", "cron": ""})
    machines = [machine(3, "web"), machine(1, "web"), machine(2, "cron")]
    ids = [int(one.machine.id, 16) for one in plan.make(config, machines).update]
    assert ids == [2, 1, 3]
