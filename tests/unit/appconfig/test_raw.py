import pytest

from godwit.appconfig import raw
from godwit.appconfig.model import Config


def test_the_experimental_spelling_wins():
    config = Config.model_validate(
        {"machine_config": "a.json", "experimental": {"machine_config": "b.json"}}
    )
    assert raw.named(config) == "b.json"
    assert raw.named(Config()) == ""


def test_json_in_the_file_is_read_and_a_name_is_not():
    assert raw.parse(' {"env": {"A": "1"}}') == {"env": {"A": "1"}}
    assert raw.parse("raw.json") == {}
    for wrong in ("{", "raw.yaml", "[1]"):
        with pytest.raises(ValueError, match=r"JSON"):
            raw.parse(wrong)


def test_json_as_deep_as_a_well_is_a_mistake():
    with pytest.raises(ValueError, match=r"nested too deeply|not JSON"):
        raw.parse('{"a":' * 100_000)


def test_all_of_it_is_the_base():
    config = Config(machine_config='{"containers": [{"name": "a"}], "schedule": "daily"}')
    assert raw.base(config) == {"containers": [{"name": "a"}], "schedule": "daily"}
