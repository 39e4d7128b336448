import pytest

from godwit.appconfig import groups
from godwit.appconfig.model import Config, Restart


@pytest.mark.parametrize(
    ("processes", "names", "default"),
    [
        ({}, ["app"], "app"),
        ({"web": "", "app": ""}, ["app", "web"], "app"),
        ({"web": "", "cron": ""}, ["cron", "web"], "cron"),
    ],
)
def test_the_default_group_is_app_or_the_first_by_name(processes, names, default):
    config = Config(processes=processes)
    assert groups.names(config) == names
    assert groups.default(config) == default


def test_a_section_applies_to_the_groups_it_names():
    config = Config(processes={"web": "", "cron": ""})
    named, general = Restart(processes=["web"]), Restart()
    assert groups.of(config, [named, general], "web") == [named]
    assert groups.of(config, [named, general], "cron") == [general]
